"""The live table of `tapecast watch`, and its plain lines for what is no terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from broker.client.board import Board, Row, age, printable, short
from broker.client.events import ClientStatistics
from broker.client.verdict import Verdict

#: Columns: title, width in a narrow terminal (80) and in a wide one, right-justified.
COLUMNS = (
    ("symbol", 14, 22, False),
    ("ch", 6, 6, False),
    ("price", 19, 30, True),
    ("size", 9, 22, True),
    ("/s", 5, 6, True),
    ("age", 4, 5, True),
    ("seq", 6, 10, True),
    ("confl", 5, 7, True),
    ("gaps", 4, 6, True),
)
WIDE = sum(wide for _, _, wide, _ in COLUMNS) + len(COLUMNS) - 1
STATE_STYLES = {
    "connected": "bold green",
    "connecting": "yellow",
    "reconnecting": "bold yellow",
    "closed": "red",
}


def render(
    board: Board, client: ClientStatistics, verdict: Verdict, now: float, *, width: int, height: int
) -> RenderableType:
    """Return the whole picture, at most ``height - 1`` lines of ``width`` columns."""
    lines = [_status(client), _totals(board, client)]
    lines += [Text(note, style="yellow", no_wrap=True, overflow="ellipsis") for note in board.notes[-3:]]
    # One line each for the column titles, for what is left out, for the verdict, and for the cursor.
    room = max(1, height - len(lines) - 4)
    rows = board.busiest(room)
    left_out = len(board.rows) - len(rows)
    parts: list[RenderableType] = [*lines]
    if rows:
        parts.append(_table(rows, now, is_wide=width >= WIDE, is_live=client.state == "connected"))
    elif client.state == "connected":
        parts.append(Text("nothing has happened yet on these symbols", style="dim"))
    if left_out:
        parts.append(Text(f"and {left_out} more, less busy; a taller terminal shows them", style="dim"))
    style = "dim" if verdict.agrees else "bold red"
    parts.append(Text(ledger_line(verdict), style=style, no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def ledger_line(verdict: Verdict) -> str:
    """Return what the ledgers have shown, in one line."""
    return f"ledger: {printable(str(verdict))}"


def _status(client: ClientStatistics) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"● {client.state}", style=STATE_STYLES[client.state])
    text.append(f"  {client.url}")
    if client.state == "connected":
        text.append(f"  {printable(client.server)}", style="dim")
    elif client.last_error:
        tried = f" (attempt {client.attempts + 1})" if client.attempts else ""
        text.append(f"{tried}  {printable(client.last_error)}", style="yellow")
    return text


def _totals(board: Board, client: ClientStatistics) -> Text:
    missing = f" ({board.missing:,} missing)" if board.missing else ""
    pressure = f"  {printable(board.pressure)}" if board.pressure else ""
    return Text(
        f"{board.ticks:,} ticks  {short(board.rate)}/s  {board.conflated:,} conflated  "
        f"{board.gaps:,} gaps{missing}  {client.reconnects} reconnects{pressure}",
        style="bold",
        no_wrap=True,
        overflow="ellipsis",
    )


def _table(rows: list[Row], now: float, *, is_wide: bool, is_live: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for title, narrow, wide, is_number in COLUMNS:
        width = wide if is_wide else narrow
        justify = "right" if is_number else "left"
        table.add_column(title, width=width, no_wrap=True, overflow="ellipsis", justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*_cells(row, now, is_wide=is_wide), style=None if is_live else "dim")
    return table


def _cells(row: Row, now: float, *, is_wide: bool) -> list[Text]:
    seq = row.tick.seq
    side = getattr(row.tick, "side", None)
    colour = {"buy": "green", "sell": "red"}.get(side or "", "")
    return [
        Text(row.sym, style="bold"),
        Text(_channel(row)),
        Text(row.price(), style=colour),
        Text(row.size(), style=colour),
        Text(short(row.rate)),
        Text(age(now - row.at)),
        Text(str(seq) if is_wide or seq < 1_000_000 else short(seq)),
        Text(short(row.conflated)),
        Text(short(row.gaps), style="bold red" if row.gaps else ""),
    ]


def _channel(row: Row) -> str:
    interval = getattr(row.tick, "interval", "")
    return f"{row.ch} {interval}" if interval else row.ch


def plain_lines(board: Board, client: ClientStatistics, now: float, *, most: int) -> list[str]:
    """Return one line on the whole, and one for each of the busiest rows."""
    missing = f" ({board.missing} missing)" if board.missing else ""
    why = f": {printable(client.last_error)}" if client.state != "connected" and client.last_error else ""
    pressure = f", {printable(board.pressure)}" if board.pressure else ""
    lines = [
        f"{client.state}{why}; {board.ticks} ticks, {short(board.rate)}/s, {board.conflated} conflated, "
        f"{board.gaps} gaps{missing}, {client.reconnects} reconnects{pressure}"
    ]
    rows = board.busiest(most)
    lines += [
        f"  {row.sym:<20} {_channel(row):<7} {row.price():>25} {row.size():>20} {short(row.rate):>5}/s "
        f"age {age(now - row.at):>4} seq {row.tick.seq} conflated {row.conflated} gaps {row.gaps}"
        for row in rows
    ]
    if len(board.rows) > len(rows):
        lines.append(f"  and {len(board.rows) - len(rows)} more")
    return lines
