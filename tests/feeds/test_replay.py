"""Replay: pace, pauses, loops, and recordings that are broken, missing or of somebody else."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.core.errors import FeedPermanentError, FrameError
from broker.core.ticks import Book, Quote, Tick, is_symbol
from feeds.own_ticks import OwnTicksParser
from feeds.replay import Replay
from tests.feeds.fakes import NOW, FakeContext, assert_well_formed, recording
from tests.feeds.mutations import frames

START = 1_700_000_000


def replay(path: Path, **options: Any) -> Replay:
    return Replay(Replay.Options(path=str(path), **options))


def ticker(at: float, bid: str = "1") -> str:
    frame = {"type": "ticker", "product_id": "BTC-USD", "best_bid": bid, "best_ask": "2"}
    return f"{START + at}: {json.dumps(frame)}"


def snapshot(at: float) -> str:
    frame = {"type": "snapshot", "product_id": "BTC-USD", "bids": [["1", "1"]], "asks": [["2", "1"]]}
    return f"{START + at}: {json.dumps(frame)}"


def change(at: float) -> str:
    frame = {"type": "l2update", "product_id": "BTC-USD", "changes": [["buy", "1", "3"]]}
    return f"{START + at}: {json.dumps(frame)}"


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def written(path: Path, *lines: str) -> Path:
    put(path, ("\n".join(lines) + "\n").encode())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recording"


async def played(feed: Replay) -> FakeContext:
    ctx = FakeContext()
    await feed.run(ctx)
    return ctx


@pytest.mark.parametrize(
    ("speed", "times"), [(1, [0, 2, 6]), (2, [0, 1, 3]), (0.5, [0, 4, 12]), ("max", [0, 0, 0])]
)
async def test_gaps_of_the_recording_are_kept_scaled_or_left_out(
    file: Path, speed: Any, times: list[float], autojump_clock: trio.testing.MockClock
) -> None:
    ctx = TimingContext()
    start = trio.current_time()
    await replay(written(file, ticker(10), ticker(12), ticker(16)), speed=speed).run(ctx)
    assert [at - start for at in ctx.published_at] == pytest.approx(times)


class TimingContext(FakeContext):
    """Notes when each tick came, and spends time in every flush as a busy broker does."""

    def __init__(self) -> None:
        super().__init__()
        self.published_at: list[float] = []

    def publish(self, tick: Tick) -> None:
        self.published_at.append(trio.current_time())
        super().publish(tick)


async def test_pause_by_backpressure_does_not_shift_what_comes_after(
    file: Path, autojump_clock: trio.testing.MockClock
) -> None:
    ctx = TimingContext()
    start = trio.current_time()
    ctx.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay(written(file, ticker(0), ticker(1), ticker(5))).run, ctx)
        await trio.sleep(3)
        assert len(ctx.ticks) == 1
        ctx.gate.set()
    assert [at - start for at in ctx.published_at] == pytest.approx([0, 3, 5])


async def test_full_speed_publishes_at_most_256_ticks_before_it_waits_for_room(file: Path) -> None:
    feed = replay(written(file, *(ticker(n / 1000) for n in range(1000))), speed="max")
    ctx = await played(feed)
    counts = [0, *(count for _, count in ctx.flushed)]
    assert counts[-1] == 1000
    assert max(after - before for before, after in pairwise(counts)) <= 256


async def test_recorded_times_stay_but_rts_is_when_the_broker_received_it(file: Path) -> None:
    ctx = await played(replay(written(file, ticker(1))))
    assert [(tick.ts, tick.rts) for tick in ctx.ticks] == [((START + 1) * 1_000_000_000, NOW)]


async def test_loop_begins_again_with_new_parsers(file: Path, autojump_clock: trio.testing.MockClock) -> None:
    ctx = FakeContext()
    with trio.move_on_after(5):
        await replay(written(file, change(0), snapshot(1), change(2)), loop=True).run(ctx)
    kinds = [tick.kind for tick in ctx.ticks if isinstance(tick, Book)]
    # A change before the snapshot is not served in any round.
    assert kinds == ["snapshot", "delta"] * 2
    assert ctx.gaps == []


async def test_loop_of_a_recording_of_one_moment_lets_others_run(file: Path) -> None:
    ctx = FakeContext()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replay(written(file, ticker(0)), loop=True, speed="max").run, ctx)
        await ctx.wait_for(lambda ctx: len(ctx.ticks) > 100)
        nursery.cancel_scope.cancel()


async def test_broken_line_is_counted_with_its_place_and_the_replay_goes_on(file: Path) -> None:
    lines = [ticker(0), "not a line", f'{START + 1}: {{"type":"ticker","product_id":7}}', ticker(2)]
    ctx = await played(replay(written(file, *lines), speed="max"))
    assert len(ctx.ticks) == 2
    assert [error.frame.split(b": ")[0] for error in map(_bytes, ctx.refusals)] == [
        b"recording:2",
        b"recording:3",
    ]
    assert "product_id" in str(ctx.refusals[1])


def _bytes(error: Any) -> Any:
    assert isinstance(error.frame, bytes)
    return error


async def test_broken_lines_of_one_kind_have_one_text(file: Path) -> None:
    ctx = await played(replay(written(file, ticker(0), *["junk"] * 5), speed="max"))
    assert len({str(error) for error in ctx.refusals}) == 1
    assert len(ctx.refusals) == 5


async def test_change_that_is_torn_stops_its_book_until_the_next_snapshot(file: Path) -> None:
    lines = [snapshot(0), change(1), change(2)[:-25], change(3), snapshot(4), change(5)]
    ctx = await played(replay(written(file, *lines), speed="max"))
    assert [each[0] if isinstance(each, tuple) else each.kind for each in ctx.story] == [  # type: ignore[union-attr]
        "snapshot",
        "delta",
        "gap",
        "snapshot",
        "delta",
    ]


async def test_recorder_that_connected_again_begins_its_books_again(file: Path) -> None:
    opened = f"wss://ws-feed.pro.coinbase.com <-> {START}"
    ctx = await played(
        replay(written(file, opened, snapshot(0), opened, change(1), snapshot(2)), speed="max")
    )
    assert [each[0] if isinstance(each, tuple) else each.kind for each in ctx.story] == [  # type: ignore[union-attr]
        "snapshot",
        "gap",
        "snapshot",
    ]


async def test_gzip_that_is_cut_off_is_played_as_far_as_it_goes(file: Path) -> None:
    packed = gzip.compress("\n".join(ticker(n / 100, str(n * 7919)) for n in range(5000)).encode())
    put(file, packed[: len(packed) // 2])
    ctx = await played(replay(file, speed="max"))
    assert len(ctx.ticks) > 1000
    assert len(ctx.refusals) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file"),
        ("", "nothing recognised; a replay can play coinbase, .*, ticks"),
        ("junk\n" * 10, "nothing recognised"),
        ("wss://ws.okx.com <-> 1618677816.8\n1618677816.9: [1]\n", "traffic of ws.okx.com"),
        ("https://api.binance.com/api/v3/exchangeInfo -> 1633998511.1: {}\n", "no frames in it"),
    ],
)
async def test_nothing_to_play_is_permanent_and_names_the_path(
    file: Path, content: str | None, text: str
) -> None:
    if content is not None:
        put(file, content.encode())
    feed = replay(file)
    with pytest.raises(FeedPermanentError, match=text) as caught:
        await feed.run(FakeContext())
    assert str(file) in str(caught.value)


async def test_empty_gzip_is_permanent_too(file: Path) -> None:
    put(file, gzip.compress(b""))
    with pytest.raises(FeedPermanentError, match="nothing recognised"):
        await replay(file).run(FakeContext())


async def test_format_that_the_file_does_not_hold_is_permanent(file: Path) -> None:
    with pytest.raises(FeedPermanentError, match="no recorded traffic of binance"):
        await replay(written(file, ticker(0)), format="binance").run(FakeContext())


async def test_files_of_two_venues_are_not_mixed(tmp_path: Path) -> None:
    written(tmp_path / "a", ticker(0))
    written(tmp_path / "b", f'{START}: {{"e":"trade","s":"BTCUSDT","t":1,"p":"1","q":"1","T":1,"m":true}}')
    with pytest.raises(FeedPermanentError, match=r"several venues \(BINANCE, COINBASE\)"):
        await replay(tmp_path).run(FakeContext())
    ctx = await played(replay(tmp_path, format="binance"))
    assert [tick.sym for tick in ctx.ticks] == ["BINANCE:BTC-USDT"]
    assert [event for event, _ in ctx.log.events] == ["file left out: not of this recording"]


def test_venue_is_known_before_it_runs(file: Path, tmp_path: Path) -> None:
    assert replay(written(file, ticker(0))).venue == "COINBASE"
    assert replay(file, venue="MINE").venue == "MINE"
    assert replay(tmp_path / "missing").venue == "REPLAY"
    assert replay(tmp_path / "missing", format="binance").venue == "BINANCE"
    assert replay(file).symbols is None


async def test_venue_can_be_renamed(file: Path) -> None:
    ctx = await played(replay(written(file, ticker(0)), venue="MINE"))
    assert [tick.sym for tick in ctx.ticks] == ["MINE:BTC-USD"]


def own(sym: str, seq: int, **more: Any) -> dict[str, Any]:
    tick = {"ch": "quote", "sym": sym, "seq": seq, "ts": "5", "rts": f"{START + seq}000000000"}
    return {**tick, "bid": "1", "bid_size": "1", "ask": None, "ask_size": None, **more}


def own_book(seq: int, kind: str) -> dict[str, Any]:
    book = own("SIM:ACME", seq, ch="book", kind=kind, bids=[["1", "1"]], asks=[])
    return {key: value for key, value in book.items() if key not in ("bid", "ask", "bid_size", "ask_size")}


async def test_saved_stream_of_our_own_is_played_at_its_pace(
    file: Path, autojump_clock: trio.testing.MockClock
) -> None:
    messages = [
        {"type": "welcome", "session": "x"},
        {"type": "snapshot", "sub": 1, "cursor": "e-1", "data": [own_book(4, "snapshot")]},
        {"type": "update", "cursor": "e-2", "data": [own("SIM:ACME", 5), own_book(5, "delta")]},
        {"type": "update", "cursor": "e-3", "data": [own_book(9, "delta")]},
        {"type": "update", "cursor": "e-4", "data": [own("SIM:ACME", 10, bid="1.5")]},
        {"type": "heartbeat", "ts": "5"},
    ]
    ctx = TimingContext()
    start = trio.current_time()
    feed = replay(written(file, *map(json.dumps, messages)))
    await feed.run(ctx)
    assert feed.venue == "SIM"
    assert [each if isinstance(each, tuple) else each.ch for each in ctx.story] == [
        "book",
        "quote",
        "book",
        ("gap", "book", "SIM:ACME"),
        "quote",
    ]
    assert [at - start for at in ctx.published_at] == pytest.approx([0, 1, 1, 6])
    assert_well_formed(ctx.ticks)
    assert all(tick.ts == 5 and tick.rts == NOW for tick in ctx.ticks)


OWN_MESSAGES = [
    json.dumps(message).encode()
    for message in (
        {"type": "snapshot", "sub": 1, "data": [own_book(4, "snapshot")]},
        {"type": "update", "data": [own("SIM:ACME", 5), own_book(5, "delta")]},
        {"type": "gap", "ch": "book", "sym": "SIM:ACME"},
    )
]


@given(st.lists(frames(OWN_MESSAGES), max_size=6))
def test_any_saved_message_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = OwnTicksParser()
    ticks: list[Tick] = []
    for frame in sent:
        try:
            ticks += parser.parse(frame, 0)
        except FrameError:
            continue
    for tick in ticks:
        assert is_symbol(tick.sym)
        assert msgspec.convert(msgspec.to_builtins(tick), type(tick)) == tick
        assert 0 <= tick.ts < 2**63


async def test_saved_stream_of_several_venues_keeps_them_unless_renamed(file: Path) -> None:
    update = {"type": "update", "data": [own("SIM:ACME", 1), own("OTHER:ACME", 2)]}
    feed = replay(written(file, json.dumps(update)), speed="max")
    assert [tick.sym for tick in (await played(feed)).ticks] == ["SIM:ACME", "OTHER:ACME"]
    renamed = replay(file, venue="MINE", speed="max")
    assert [tick.sym for tick in (await played(renamed)).ticks] == ["MINE:ACME", "MINE:ACME"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"speed": 0}, "greater than 0"),
        ({"speed": "fast"}, "'max'"),
        ({"speed": float("inf")}, "finite"),
        ({"format": "csv"}, "'auto', 'coinbase', .* or 'ticks'"),
        ({"venue": "lower"}, "pattern"),
        ({"path": ""}, "at least 1 character"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Replay.Options(**{"path": "x", **options})


@pytest.mark.parametrize(
    ("name", "counts", "symbols"),
    [
        ("coinbase-exchange-2021-04-17", {"book": 5556, "quote": 77, "trade": 72}, 5),
        ("binance-spot-2021-10-12", {"book": 176, "quote": 84, "trade": 2}, 4),
        ("kraken-v1-2021-04-17", {"book": 4279, "quote": 18, "trade": 10}, 10),
        ("binance-spot", {"book": 6883, "quote": 52117, "trade": 15863}, 2),
        ("bitstamp-2022-01-05", {"book": 625, "quote": 182, "trade": 10}, 10),
        ("gemini-2021-06-24", {"book": 655, "quote": 232, "trade": 16}, 10),
    ],
)
async def test_folder_of_recordings_comes_out_whole(name: str, counts: dict[str, int], symbols: int) -> None:
    ctx = await played(replay(recording(name), speed="max"))
    assert Counter(tick.ch for tick in ctx.ticks) == counts
    assert ctx.refusals == []
    assert ctx.gaps == []
    assert (
        len({tick.sym for tick in ctx.ticks if isinstance(tick, Book) and tick.kind == "snapshot"}) == symbols
    )


async def test_recording_lasts_as_long_as_it_did(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    ctx = await played(replay(recording("coinbase-exchange-2021-04-17"), speed=10))
    assert trio.current_time() - start == pytest.approx(3.0, abs=0.1)
    assert any(isinstance(tick, Quote) for tick in ctx.ticks)
