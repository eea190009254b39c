"""`tapecast watch`: lines of JSON, plain lines, and the table."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator

import pytest
import trio
from rich.console import Console
from trio.testing import MockClock, wait_all_tasks_blocked

from broker.client import (
    ClientStatistics,
    Gap,
    LedgerEntry,
    Notice,
    Snapshot,
    SubscriptionVerdict,
    Update,
    Verdict,
)
from broker.client.board import Board, age, short
from broker.client.screen import plain_lines, render
from broker.client.watch import JsonLines, Output, PlainLines, follow
from broker.core.ticks import Bar, Book, Quote, Status, Tick, Trade
from tests.client.fakes import Peer, fake_broker

URL = "ws://broker.test:8765/v1/ws"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A reading and a writing end, both closed in the end."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            # The test has closed it.
            continue


def read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    return os.read(fd, 1 << 20)


async def test_json_lines_are_the_ticks_and_gaps_of_the_protocol(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await peer.send(**{
            "type": "gap", "sub": 1, "ch": "trade", "sym": "SIM:A", "from": 2, "to": 3, "reason": "overflow",
        })  # fmt: skip
        await peer.update(4)
        await peer.closing(4403, "not allowed", None)

    reader, writer = pipe
    async with fake_broker(monkeypatch, script):
        code = await follow(URL, ["SIM:A"], channels=["trade"], view=JsonLines(Output(writer)))
    assert code == 1
    lines = [json.loads(line) for line in read_all(reader).splitlines()]
    assert [line.get("seq") for line in lines] == [1, None, 4, None]
    assert list(lines[0]) == ["ch", "sym", "seq", "ts", "rts", "price", "size", "side", "id"]
    assert lines[0]["ts"] == "1700000000000000001"
    assert lines[1] == {
        "type": "gap", "sub": 1, "ch": "trade", "sym": "SIM:A", "from": 2, "to": 3, "reason": "overflow",
    }  # fmt: skip
    assert lines[3]["type"] == "verdict"
    assert "4403" in capsys.readouterr().err


async def test_reader_that_leaves_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1)
        await peer.end(await peer.request(), offered=1, delivered=1)
        await trio.sleep_forever()

    reader, writer = pipe
    os.close(reader)
    async with fake_broker(monkeypatch, script):
        code = await follow(URL, ["SIM:A"], channels=["trade"], view=JsonLines(Output(writer)))
    assert code == 0
    assert capsys.readouterr().err == ""


async def test_broker_that_is_away_is_named_and_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async with fake_broker(monkeypatch):
        code = await follow(URL, ["SIM:A"], channels=["trade"], view=JsonLines(Output(pipe[1])))
    assert code == 1
    assert capsys.readouterr().err == f"tapecast: cannot connect to {URL}: connection refused\n"


async def test_url_that_is_none_is_a_mistake_in_the_usage(
    pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await follow("ftp://x", ["*"], channels=["trade"], view=JsonLines(Output(pipe[1]))) == 2
    assert "'ftp'" in capsys.readouterr().err


async def test_refused_channel_is_told_and_the_other_goes_on(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(2):
            asked = await peer.request()
            if asked["ch"] == "trade":
                await peer.acknowledge(asked)
            else:
                await peer.refuse(asked["id"], "unknown_channel", "no such channel")
        await peer.update(1)
        await peer.closing(4401, "who are you", None)

    async with fake_broker(monkeypatch, script):
        code = await follow(URL, ["*"], channels=["tirade", "trade"], view=JsonLines(Output(pipe[1])))
    assert code == 1
    assert json.loads(read_all(pipe[0]).splitlines()[0])["seq"] == 1
    said = capsys.readouterr().err
    assert "no such channel" in said
    assert "who are you" in said


async def test_every_channel_refused_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(2):
            asked = await peer.request()
            await peer.refuse(asked["id"], "unknown_symbol", "never heard of it")
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script):
        assert await follow(URL, ["NO:PE"], channels=["quote", "trade"], view=JsonLines(Output(pipe[1]))) == 1
    assert "never heard of it" in capsys.readouterr().err


async def test_lost_connection_is_told_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.closing(4403, "enough", None)

    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)
    async with fake_broker(monkeypatch, first, second):
        await follow(URL, ["*"], channels=["trade"], view=JsonLines(Output(pipe[1])))
    said = capsys.readouterr().err.splitlines()
    assert "lost the connection" in said[0]
    assert f"connected to {URL} again" in said[1]
    assert len(said) == 3


async def test_plain_lines_come_where_there_is_no_terminal(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1, 2)
        await wait_all_tasks_blocked()
        # By hand: an autojump clock runs away while the writing thread works.
        mock_clock.jump(1.0)
        await trio.lowlevel.wait_readable(pipe[0])
        await peer.closing(4403, "enough", None)

    async with fake_broker(monkeypatch, script):
        await follow(URL, ["*"], channels=["trade"], view=PlainLines(Output(pipe[1])))
    first, second = read_all(pipe[0]).decode().splitlines()[:2]
    assert first.startswith("connected; 2 ticks")
    assert second.split()[:3] == ["SIM:A", "trade", "1.50"]


async def test_ledger_that_is_not_true_is_shown_and_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.update(1, 2)
        await peer.heartbeat(offered=3, delivered=3)
        # The subscription that is no longer read when the watcher leaves.
        os.close(pipe[0])
        await peer.update(3)
        await trio.sleep_forever()

    async with fake_broker(monkeypatch, script):
        code = await follow(URL, ["SIM:A"], channels=["trade"], view=JsonLines(Output(pipe[1])))
    assert code == 1
    assert "delivered: the ledger says 3, and 2 ticks came" in capsys.readouterr().err


async def test_verdict_comes_with_heartbeats_and_at_the_end(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.accept()
        await peer.heartbeat()
        await wait_all_tasks_blocked()
        # By hand: an autojump clock runs away while the writing thread works.
        mock_clock.jump(1.0)
        await trio.lowlevel.wait_readable(pipe[0])
        await peer.closing(4403, "enough", None)

    async with fake_broker(monkeypatch, script):
        await follow(URL, ["*"], channels=["trade"], view=JsonLines(Output(pipe[1])))
    first, last = map(json.loads, read_all(pipe[0]).splitlines())
    assert first == {
        "type": "verdict", "agrees": True, "exact": True, "subscriptions": 1, "ticks": 0, "differences": [],
        "final": False,
    }  # fmt: skip
    assert last == {**first, "final": True}


# ── the picture ──────────────────────────────────────────────────────────────────────────────────


def statistics(state: str = "connected", **more: object) -> ClientStatistics:
    fields = {"session": "s", "server": "fake/1", "epoch": "e", "reconnects": 0, "attempts": 0}
    rest = {"messages": 0, "puzzles": 0, "strays": 0, "last_error": ""}
    return ClientStatistics(**{"state": state, "url": URL, **fields, **rest, **more})  # type: ignore[arg-type]


def draw(
    board: Board,
    client: ClientStatistics,
    now: float = 1.0,
    width: int = 80,
    height: int = 24,
    verdict: Verdict | None = None,
) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(board, client, verdict or Verdict(), now, width=width, height=height))
    return [line.rstrip() for line in console.export_text().splitlines()]


def trade(sym: str = "SIM:A", seq: int = 1, price: str = "1.50", size: str = "2") -> Trade:
    return Trade(sym=sym, seq=seq, ts=1, rts=1, price=price, size=size, side="buy", id="x")


def quote(sym: str = "SIM:A", seq: int = 1, bid: str | None = "61837.63000000") -> Quote:
    return Quote(sym=sym, seq=seq, ts=1, rts=1, bid=bid, bid_size="0.50000000", ask="61838.01", ask_size="3")


def book(seq: int, kind: str, bids: list[tuple[str, str]]) -> Book:
    return Book(sym="SIM:A", seq=seq, ts=1, rts=1, kind=kind, bids=bids, asks=[("9", "1")])  # type: ignore[arg-type]


def bar(seq: int, interval: str) -> Bar:
    numbers = {"open": "1", "high": "1", "low": "1", "close": "7.50", "volume": "3", "count": 1}
    return Bar(sym="SIM:A", seq=seq, ts=1, rts=1, interval=interval, start=0, final=True, **numbers)  # type: ignore[arg-type]


def filled(*ticks: Tick, mode: str = "every") -> Board:
    board = Board(0.0)
    for tick in ticks:
        board.take(Update([tick], "e-1"), mode, 0.0)  # type: ignore[arg-type]
    board.sample(1.0)
    return board


def test_more_symbols_than_lines_fit_into_a_small_terminal_and_the_rest_is_counted() -> None:
    board = filled(*[trade(f"SIM:S{n:03}") for n in range(100)], *[trade("SIM:S042", seq) for seq in (2, 3)])
    lines = draw(board, statistics())
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert any("SIM:S042" in line for line in lines)
    shown = sum("SIM:S" in line for line in lines)
    assert f"and {100 - shown} more" in lines[-2]
    assert lines[-1] == "ledger: not verified yet"


def test_every_column_is_there_at_eighty_columns() -> None:
    lines = draw(filled(quote()), statistics())
    assert lines[2].split() == ["symbol", "ch", "price", "size", "/s", "age", "seq", "confl", "gaps"]
    assert "61837.63 / 61838.01" in lines[3]
    assert "0.5 / 3" in lines[3]


@pytest.mark.parametrize("height", [1, 4, 5])
def test_terminal_of_a_few_lines_is_no_error(height: int) -> None:
    assert draw(filled(*[trade(f"SIM:S{n}") for n in range(9)]), statistics(), width=20, height=height)


def test_verdict_is_the_last_line_of_the_picture() -> None:
    account = LedgerEntry(1, 12345, 12345, 0, 0, 0)
    fine = SubscriptionVerdict(1, "trade", ("SIM:*",), 1, 12345, True, 0, (), account)
    assert draw(filled(trade()), statistics(), verdict=Verdict((fine,)))[-1] == (
        "ledger: 1 subscription verified, 12,345 ticks, exact"
    )
    wrong = SubscriptionVerdict(1, "trade", ("SIM:*",), 1, 12345, False, 0, ("delivered: 1, not 2",), account)
    lines = draw(filled(trade()), statistics(), verdict=Verdict((wrong,)), width=120)
    assert lines[-1] == "ledger: DISAGREES: trade SIM:* (sub 1): delivered: 1, not 2"


def test_notice_is_shown_until_the_next() -> None:
    board = filled(trade())
    board.take(Notice(1, "pressed", 800, 1000), "every", 0.0)
    assert draw(board, statistics(), width=120)[1].endswith("0 reconnects  pressed")
    assert plain_lines(board, statistics(), 0.0, most=5)[0].endswith("0 reconnects, pressed")


def test_lost_connection_can_be_seen_with_its_reason() -> None:
    lines = draw(
        filled(trade()), statistics("reconnecting", attempts=2, last_error="connection refused"), width=120
    )
    assert "reconnecting" in lines[0]
    assert "attempt 3" in lines[0]
    assert "connection refused" in lines[0]


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    evil = Status(sym="SIM:A", seq=1, ts=1, rts=1, state="halted", text="\x1b[2J\x07now")
    lines = draw(filled(evil), statistics(), width=120)
    assert "\x1b[2J" not in "".join(lines)
    assert any("halted" in line and "now" in line for line in lines)
    assert "\x1b" not in "".join(plain_lines(filled(evil), statistics(), 0.0, most=5))


def test_conflated_ticks_are_jumps_that_no_gap_explains() -> None:
    board = filled(quote(seq=1), quote(seq=5), mode="latest")
    assert board.conflated == 3
    board.take(Gap(1, "quote", "SIM:A", 6, 9, "stale"), "latest", 0.0)
    board.take(Update([quote(seq=10)], "e-1"), "latest", 0.0)
    assert (board.conflated, board.gaps, board.missing) == (3, 1, 4)
    (row,) = board.busiest(5)
    assert (row.conflated, row.gaps) == (3, 1)


def test_bars_have_a_row_for_each_interval_and_share_their_numbering() -> None:
    board = filled(bar(1, "1s"), bar(2, "1m"), bar(3, "1s"), mode="latest")
    assert [(row.ch, row.price()) for row in board.busiest(5)] == [("bar", "7.50"), ("bar", "7.50")]
    assert board.conflated == 0


def test_book_is_put_together_and_unknown_behind_a_gap_until_its_next_snapshot() -> None:
    board = filled(book(1, "snapshot", [("5", "1"), ("4", "1")]), book(2, "delta", [("5", "0")]))
    (row,) = board.busiest(1)
    assert (row.price(), row.size()) == ("4 / 9", "1 × 1")
    board.take(Gap(1, "book", "SIM:A", 3, 4, "overflow"), "every", 0.0)
    board.take(Update([book(5, "delta", [("3", "1")])], "e-1"), "every", 0.0)
    assert row.price() == "- / -"
    board.take(Snapshot([book(6, "snapshot", [("2", "1")])], "e-1", True), "every", 0.0)
    assert row.price() == "2 / 9"


def test_snapshots_are_shown_and_not_counted_as_ticks() -> None:
    board = Board(0.0)
    board.take(Snapshot([quote(bid=None)], "e-1", True), "latest", 0.0)
    assert board.ticks == 0
    assert [row.price() for row in board.busiest(1)] == ["- / 61838.01"]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [("4.050", "4.050"), ("1.00000000", "1.00"), ("7", "7"), ("1e-9", "1e-9"), ("0.10000", "0.10")],
)
def test_price_keeps_its_digits_but_for_a_long_tail_of_zeros(sent: str, shown: str) -> None:
    assert filled(trade(price=sent)).busiest(1)[0].price() == shown


def test_rates_follow_what_comes() -> None:
    board = Board(0.0)
    for second in range(30):
        board.take(Update([trade(seq=second * 10 + n + 1) for n in range(10)], "e-1"), "every", float(second))
        board.sample(second + 1.0)
    assert board.rate == pytest.approx(10, rel=0.01)
    assert board.busiest(1)[0].rate == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (9.94, "9.9"), (999.4, "999"), (999.6, "1k"), (12_345, "12k"), (5e6, "5M")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0.0s"), (0.31, "0.3s"), (599, "599s"), (601, "10m"), (40_000, "11h")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text
