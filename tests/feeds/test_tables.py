"""Ticks in CSV, NDJSON and Parquet: every channel, every mistake with its place, and the pace of a replay."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from broker.core.errors import FeedPermanentError, FrameError
from broker.core.ticks import Bar, Book, Quote, Status, Tick, Trade, iso_to_ns
from feeds.replay import Replay
from feeds.tables import COLUMNS, is_table
from feeds.tick_files import TickFileParser
from tests.feeds.fakes import NOW, FakeContext, assert_well_formed
from tests.feeds.mutations import frames

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an extra, and not installed"
)
AT = iso_to_ns("2024-08-08T13:30:00.25Z")
IBM = "NYSE:IBM"

MARKET = f"""\
ch,sym,ts,bid,bid_size,ask,ask_size,price,size,side,id,kind,bids,asks
quote,{IBM},2024-08-08T13:30:00.25Z,191.10,300,191.12,,,,,,,,
trade,{IBM},{AT},,,,,191.11,100,buy,T-1,,,
trade,{IBM},{AT},,,,,191.110,1,,,,,
book,{IBM},{AT},,,,,,,,,snapshot,191.10:300 191.09:10,191.12:5
book,{IBM},{AT},,,,,,,,,delta,,"[[""191.12"",""0""]]"
"""
TICKS: list[Tick] = [
    Quote(sym=IBM, ts=AT, rts=NOW, bid="191.10", bid_size="300", ask="191.12", ask_size=None),
    Trade(sym=IBM, ts=AT, rts=NOW, price="191.11", size="100", side="buy", id="T-1"),
    Trade(sym=IBM, ts=AT, rts=NOW, price="191.110", size="1", side=None, id=""),
    Book(
        sym=IBM,
        ts=AT,
        rts=NOW,
        kind="snapshot",
        bids=[("191.10", "300"), ("191.09", "10")],
        asks=[("191.12", "5")],
    ),
    Book(sym=IBM, ts=AT, rts=NOW, kind="delta", bids=[], asks=[("191.12", "0")]),
]


def put(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


async def replayed(path: Path, **options: Any) -> FakeContext:
    ctx = FakeContext()
    await Replay(Replay.Options(path=str(path), **{"speed": "max", **options})).run(ctx)
    return ctx


@pytest.mark.parametrize(
    "packed",
    [
        MARKET.encode(),
        gzip.compress(MARKET.encode()),
        b"\xef\xbb\xbf" + MARKET.replace("\n", "\r\n").encode(),
        MARKET.replace("ch,sym", '"Ch", SYM').encode().rstrip(b"\n") + b"\n\n\n",
    ],
    ids=["plain", "gzip", "as of Windows", "quoted"],
)
async def test_csv_of_all_kinds_of_ticks_is_played(tmp_path: Path, packed: bytes) -> None:
    ctx = await replayed(put(tmp_path / "ticks.csv", packed))
    assert ctx.refusals == []
    assert ctx.ticks == TICKS
    assert_well_formed(ctx.ticks)


async def test_csv_of_bars_and_states_is_played(tmp_path: Path) -> None:
    text = (
        "sym,ch,ts,interval,start,open,high,low,close,volume,count,final,state,text\n"
        f"{IBM},bar,{AT},1m,2024-08-08T13:30:00Z,1.0,2,0.5,1.5,1e3,7,True,,\n"
        f"{IBM},status,{AT},,,,,,,,,,halted,\n"
    )
    ctx = await replayed(put(tmp_path / "ticks.csv", text))
    start = iso_to_ns("2024-08-08T13:30:00Z")
    bar = Bar(
        sym=IBM, ts=AT, rts=NOW, interval="1m", start=start, open="1.0", high="2", low="0.5", close="1.5",
        volume="1e3", count=7, final=True,
    )  # fmt: skip
    assert ctx.ticks == [bar, Status(sym=IBM, ts=AT, rts=NOW, state="halted", text="")]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (f"quote,{IBM},{AT},1,1,x,1", r"ask: .x. is not right: it must be a decimal number as text"),
        (f"quote,{IBM},{AT},1,-1,2,1", r"bid_size: .-1. is not right: .*not negative"),
        (f"quote,{IBM},,1,1,2,1", r"ts: is missing; .*RFC 3339"),
        (f"quote,{IBM},yesterday,1,1,2,1", r"ts: .yesterday. is not right"),
        (f"quote,{IBM},2024-13-08T13:30:00Z,1,1,2,1", r"ts: .2024-13-08T13:30:00Z. is not right: .*RFC 3339"),
        (f"quote,{IBM},2024-08-08T13:30:00,1,1,2,1", r"ts: .* is not right: .*2024-08-08T23:55:00.25Z"),
        (f"quote,nyse:ibm,{AT},1,1,2,1", r"sym: .nyse:ibm. is not right: it must be VENUE:SYMBOL"),
        (
            f"quotes,{IBM},{AT},1,1,2,1",
            r"ch: .quotes. is not right: it must be one of .*did you mean .quote.",
        ),
        (f"trade,{IBM},{AT},1,,,", r"bid: .* is for a field that a trade does not have"),
        (f"trade,{IBM},{AT},,,,", "price: is missing"),
        (f"quote,{IBM},{AT},1,1,2", "number of cells is not that of the first row, 7"),
        (f'quote,{IBM},{AT},1,1,2,"1', "not CSV: unexpected end of data"),
    ],
)
async def test_wrong_row_is_refused_with_its_line_and_what_is_right(
    tmp_path: Path, row: str, text: str
) -> None:
    good = f"quote,{IBM},{AT},1,1,2,1"
    header = "ch,sym,ts,bid,bid_size,ask,ask_size"
    ctx = await replayed(put(tmp_path / "ticks.csv", f"{header}\n{good}\n{row}\n"))
    [error] = ctx.refusals
    with pytest.raises(FrameError, match=text):
        raise error
    assert len(ctx.ticks) == 1
    assert error.frame.startswith(b"ticks.csv:3: ")  # type: ignore[arg-type]


async def test_wrong_rows_of_one_kind_count_as_one_kind(tmp_path: Path) -> None:
    rows = [f"quote,{IBM},{AT},{number}x,1,2,1" for number in range(5)]
    ctx = await replayed(
        put(tmp_path / "ticks.csv", "\n".join(["ch,sym,ts,bid,bid_size,ask,ask_size", *rows]))
    )
    assert {error.kind for error in ctx.refusals} == {"bid"}
    assert len(ctx.refusals) == 5


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("ch,sym,ts,bit,ask", r"no column .bit.; did you mean .bid.\?; there are ch, sym, ts"),
        ("sym,ts,bid,ask", "the column ch is missing; it must be one of quote"),
        ("ch,sym,bid", "the column ts is missing"),
        ("ch,sym,ts,bid,bid", "the column .bid. is there twice"),
        ("ch;sym;ts;bid", "separated by commas, not semicolons"),
        ("ch,sym,ts\rtrade,X:A,1", "the first row: not CSV"),
        ("ch,sym,ts,", "no column"),
    ],
)
async def test_table_without_the_right_columns_is_refused_as_a_whole(
    tmp_path: Path, header: str, text: str
) -> None:
    with pytest.raises(FeedPermanentError, match=text):
        await replayed(put(tmp_path / "ticks.csv", header + "\n"))


def test_recorded_traffic_is_not_taken_for_a_table() -> None:
    assert not is_table(b'{"type":"update","data":[{"ch":"quote","sym":"A:B","ts":"1"}]}\n')
    assert not is_table(b'1633998512.5: ["ch","sym","ts"]\n')
    assert not is_table(b"")
    assert is_table(",".join(COLUMNS).encode())


def line(**fields: Any) -> str:
    return json.dumps({"ch": "quote", "sym": IBM, "ts": str(AT), "bid": "1", "bid_size": "1", "ask": "2",
                       "ask_size": "1", **fields})  # fmt: skip


async def test_lines_of_ticks_are_played_with_times_of_either_kind(tmp_path: Path) -> None:
    lines = [line(), line(ts="2024-08-08T13:30:00.25Z"), line(ts=AT), line(ts="2024-08-08T15:30:00.25+02:00")]
    ctx = await replayed(put(tmp_path / "ticks.ndjson", "\n".join(lines)))
    assert ctx.refusals == []
    assert [tick.ts for tick in ctx.ticks] == [AT] * 4


async def test_lines_of_several_venues_keep_them_unless_renamed(tmp_path: Path) -> None:
    path = put(tmp_path / "ticks", "\n".join([line(), line(sym="ARCA:IBM")]))
    assert [tick.sym for tick in (await replayed(path)).ticks] == [IBM, "ARCA:IBM"]
    assert [tick.sym for tick in (await replayed(path, venue="MINE")).ticks] == ["MINE:IBM"] * 2


async def test_line_that_may_have_been_of_a_book_breaks_it(tmp_path: Path) -> None:
    book = {"ch": "book", "sym": IBM, "ts": str(AT), "bids": [["1", "1"]], "asks": []}
    lines = [
        {**book, "kind": "snapshot"},
        {**book, "kind": "delta", "bids": [["x", "1"]]},
        {**book, "kind": "delta"},
    ]
    ctx = await replayed(put(tmp_path / "ticks", "\n".join(map(json.dumps, lines))), venue="MINE")
    assert ctx.gaps == [("book", "MINE:IBM")]
    assert len(ctx.ticks) == 1


async def test_output_of_watch_is_played_and_its_gaps_break_books(tmp_path: Path) -> None:
    book = {
        "ch": "book",
        "sym": IBM,
        "seq": 1,
        "ts": str(AT),
        "rts": str(AT),
        "bids": [["1", "1"]],
        "asks": [],
    }
    lines = [
        {**book, "kind": "snapshot"},
        {"type": "gap", "sub": 1, "ch": "book", "sym": None, "from": None, "to": None, "reason": "stale"},
        {"type": "gap", "sub": 1, "ch": "book", "sym": IBM, "from": 2, "to": 3, "reason": "overflow"},
        {**book, "kind": "snapshot", "seq": 4},
        {"type": "verdict", "is_final": True},
    ]
    ctx = await replayed(put(tmp_path / "ticks", "\n".join(map(json.dumps, lines))))
    assert ctx.refusals == []
    assert [each if isinstance(each, tuple) else each.ch for each in ctx.story] == [
        "book",
        ("gap", "book", IBM),
        "book",
    ]


async def test_pace_is_that_of_rts_or_else_of_ts(tmp_path: Path, autojump_clock: MockClock) -> None:
    second = 1_000_000_000
    lines = [
        line(rts=str(AT)),
        line(ts=str(AT + 100 * second), rts=AT + 2 * second),
        line(ts="2024-08-08T13:30:05.25Z"),
    ]
    start = trio.current_time()
    await replayed(put(tmp_path / "ticks", "\n".join(lines)), speed=2)
    assert trio.current_time() - start == pytest.approx(2.5)


async def test_tables_are_merged_by_time(tmp_path: Path) -> None:
    for name, offsets in (("a.csv", (0, 20)), ("b.csv", (10, 30))):
        rows = [f"status,NYSE:{name[0].upper()},{AT + offset},live" for offset in offsets]
        put(tmp_path / name, "\n".join(["ch,sym,ts,state", *rows]))
    ctx = await replayed(tmp_path)
    assert [tick.sym for tick in ctx.ticks] == ["NYSE:A", "NYSE:B"] * 2


@given(frames([line().encode(), line(ts="2024-08-08T13:30:00.25Z", rts=AT).encode()]))
def test_any_line_is_a_well_formed_tick_or_a_frame_error(frame: bytes | str) -> None:
    try:
        ticks = TickFileParser().parse(frame, 0)
    except FrameError:
        return
    assert_well_formed(ticks)
    assert all(0 <= tick.rts < 2**63 for tick in ticks)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_any_csv_at_all_is_played_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "ticks.csv"
    put(path, "ch,sym,ts,state\n" + f"status,{IBM},{AT},live\n" + ",".join(cells).replace("\ud800", ""))
    ctx = trio.run(replayed, path)
    assert len(ctx.ticks) >= 1
    assert len(ctx.refusals) <= 20


# --- Parquet ----------------------------------------------------------------------------------------


async def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FeedPermanentError, match=r"pip install 'tapecast\[parquet\]'"):
        await replayed(put(tmp_path / "ticks.parquet", b"PAR1xxxx"))


def parquet(path: Path, **columns: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@needs_pyarrow
async def test_parquet_with_decimals_and_timestamps_is_played(tmp_path: Path) -> None:
    from decimal import Decimal

    import pyarrow as pa

    path = parquet(
        tmp_path / "ticks",
        ch=["trade", "book"],
        sym=[IBM, IBM],
        ts=pa.array([AT, AT + 1], pa.timestamp("ns", "UTC")),
        price=pa.array([Decimal("191.1100"), None], pa.decimal128(12, 4)),
        size=["100", None],
        side=[None, None],
        id=["T-1", None],
        kind=[None, "snapshot"],
        bids=pa.array([None, [["1", "2"]]], pa.list_(pa.list_(pa.string()))),
        asks=pa.array([None, []], pa.list_(pa.list_(pa.string()))),
    )
    ctx = await replayed(path)
    assert ctx.refusals == []
    assert ctx.ticks == [
        Trade(sym=IBM, ts=AT, rts=NOW, price="191.1100", size="100", side=None, id="T-1"),
        Book(sym=IBM, ts=AT + 1, rts=NOW, kind="snapshot", bids=[("1", "2")], asks=[]),
    ]


@needs_pyarrow
@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"price": [1.5]}, "the column .price. is of type double: .*must be text or decimal"),
        ({"size": [1]}, "the column .size. is of type int64"),
        ({"cost": ["1"]}, "no column .cost."),
    ],
)
async def test_parquet_of_other_columns_is_refused(
    tmp_path: Path, columns: dict[str, Any], text: str
) -> None:
    with pytest.raises(FeedPermanentError, match=text):
        await replayed(parquet(tmp_path / "ticks", ch=["trade"], sym=[IBM], ts=[AT], **columns))


@needs_pyarrow
async def test_parquet_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "ticks", ch=["status"], sym=[IBM], ts=[AT], state=["live"])
    put(path, path.read_bytes()[:-20])
    with pytest.raises(FeedPermanentError, match="Parquet that can't be read"):
        await replayed(path)
