"""A venue recorded over a real WebSocket: its recording served again, and held against the adapter."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from broker.core.encoding import pack_tick
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.raw_recording import Begun, Event, Published, Received, Started, encode_block
from broker.core.ticks import Book, Tick
from feeds import FEEDS
from feeds.raw_playback import Verdict, verify
from feeds.recordings import find_files, read_merged
from feeds.replay import Replay
from tests.fakes import quote
from tests.feeds.fakes import NOW, FakeContext, FakeLog, recording, scripted_venue
from tests.feeds.recorded import Context, change, events_in, record_coinbase, recording_of, run_life


def verified(path: Path, **changed: Any) -> Verdict:
    events = events_in(path)
    [begun] = [event for event in events if isinstance(event, Begun)][:1]
    kind = FEEDS[begun.kind]
    feed = kind(kind.Options.model_validate({"type": begun.kind, **begun.options, **changed}))
    return trio.run(verify, path, feed, FakeLog(), clock=MockClock(autojump_threshold=0))


def changed(path: Path, change_: Callable[[Event], Event | None]) -> None:
    """Write the recording anew, with each event changed, or left out."""
    kept = [made for event in events_in(path) if (made := change_(event)) is not None]
    path.write_bytes(encode_block(kept))


async def replayed(path: Path, **options: Any) -> FakeContext:
    ctx = FakeContext()
    await Replay(Replay.Options(path=str(path), **{"speed": "max", **options})).run(ctx)
    return ctx


def plain(tick: Tick) -> bytes:
    """Return a tick but for when it was received."""
    tick.rts = 0
    return pack_tick(tick)


@pytest.fixture
async def coinbase(tmp_path: Path) -> tuple[Path, list[Tick]]:
    return tmp_path / "coinbase", await record_coinbase(tmp_path / "coinbase")


async def test_replay_of_a_recorded_venue_gives_its_ticks(coinbase: tuple[Path, list[Tick]]) -> None:
    path, published = coinbase
    ctx = await replayed(path)
    assert len(published) == 16
    assert list(map(plain, ctx.ticks)) == list(map(plain, published))
    assert ctx.refusals == []


async def test_adapter_makes_the_recorded_ticks_of_the_recorded_frames_byte_for_byte(
    coinbase: tuple[Path, list[Tick]],
) -> None:
    path, published = coinbase
    verdict = await trio.to_thread.run_sync(verified, path)
    assert not verdict.differs
    assert (verdict.lives, verdict.ticks, verdict.ignored, verdict.holes) == (2, len(published), 0, 0)
    assert verdict.refused == 2


async def test_frames_of_a_recorded_feed_can_be_replayed_through_the_parsers(
    coinbase: tuple[Path, list[Tick]],
) -> None:
    path, published = coinbase
    ctx = await replayed(path, format="coinbase")
    assert [(tick.ch, tick.sym) for tick in ctx.ticks] == [(tick.ch, tick.sym) for tick in published]
    assert len(ctx.refusals) == 2


async def test_first_difference_is_shown(coinbase: tuple[Path, list[Tick]]) -> None:
    path, published = coinbase
    second = pack_tick(published[1])
    other = second.replace(b"\xa19", b"\xa17")
    changed(path, lambda event: Published(other) if event == Published(second) else event)
    verdict = await trio.to_thread.run_sync(verified, path)
    assert verdict.differs
    assert verdict.ticks == 1
    assert '[["7","3"]]' in (verdict.expected or "")
    assert '[["9","3"]]' in (verdict.found or "")


async def test_tick_that_is_made_no_more_or_anew_is_a_difference(coinbase: tuple[Path, list[Tick]]) -> None:
    path, published = coinbase
    last = Published(pack_tick(published[-1]))
    first = path.read_bytes()
    changed(path, lambda event: None if event == last else event)
    verdict = await trio.to_thread.run_sync(verified, path)
    # The end of the connection is all that was recorded behind it.
    assert (verdict.differs, verdict.expected) == (True, "a gap on book of COINBASE:BTC-USD")
    path.write_bytes(first)
    frame = change("8").encode()
    changed(path, lambda event: None if isinstance(event, Received) and event.frame == frame else event)
    verdict = await trio.to_thread.run_sync(verified, path)
    assert verdict.differs
    assert '[["8","3"]]' in (verdict.expected or "")


async def test_recording_that_was_cut_off_has_no_difference(coinbase: tuple[Path, list[Tick]]) -> None:
    path, _ = coinbase
    events = events_in(path)
    for cut in range(1, len(events)):
        path.write_bytes(encode_block(events[:cut]))
        verdict = await trio.to_thread.run_sync(verified, path)
        assert not verdict.differs, events[cut - 1]


async def test_hole_breaks_the_books_until_their_next_snapshot(coinbase: tuple[Path, list[Tick]]) -> None:
    path, _ = coinbase
    events = events_in(path)
    middle = next(number for number, event in enumerate(events) if isinstance(event, Published)) + 1
    path.write_bytes(encode_block(events[:middle]) + b"garbage" + encode_block(events[middle:]))
    ctx = await replayed(path)
    [refusal] = ctx.refusals
    assert "7 bytes" in str(refusal)
    story = [
        each if isinstance(each, tuple) else each.kind for each in ctx.story if isinstance(each, tuple | Book)
    ]
    assert story[:3] == ["snapshot", ("gap", "book", "COINBASE:BTC-USD"), "snapshot"]
    verdict = await trio.to_thread.run_sync(verified, path)
    assert (verdict.differs, verdict.holes, verdict.lives) == (False, 1, 2)


async def test_books_of_a_recorder_that_ended_do_not_go_on_with_the_next(
    coinbase: tuple[Path, list[Tick]],
) -> None:
    path, _ = coinbase
    path.write_bytes(path.read_bytes() * 2)
    ctx = await replayed(path)
    kinds = [
        each if isinstance(each, tuple) else each.kind for each in ctx.story if isinstance(each, tuple | Book)
    ]
    gap = ("gap", "book", "COINBASE:BTC-USD")
    # Each has two connections; the end of each is a gap as well.
    assert kinds.count(gap) >= 3
    books = [each for each in kinds if not isinstance(each, tuple) or each == gap]
    assert all(following in (gap, "snapshot") for one, following in pairwise(books) if one == gap)


async def test_recording_without_a_tick_is_permanent(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(encode_block([Begun(NOW, "x", "x", "SIM", {}, "")]))
    with pytest.raises(FeedPermanentError, match="no ticks in it"):
        await replayed(tmp_path / "empty")


async def test_recorded_times_pace_the_replay(
    coinbase: tuple[Path, list[Tick]], autojump_clock: MockClock
) -> None:
    path, published = coinbase
    start = trio.current_time()
    await replayed(path, speed=0.000_01)
    lasted = (published[-1].rts - published[0].rts) / 1e9 / 0.000_01
    assert trio.current_time() - start == pytest.approx(lasted, rel=0.1)


async def test_recording_may_be_gzipped_and_its_venue_renamed(coinbase: tuple[Path, list[Tick]]) -> None:
    path, published = coinbase
    packed = path.with_name("packed.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    ctx = await replayed(packed, venue="MINE")
    assert {tick.sym for tick in ctx.ticks} == {"MINE:BTC-USD"}
    assert len(ctx.ticks) == len(published)


async def test_packed_recording_that_is_cut_off_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    blocks = [encode_block([Published(pack_tick(quote(n=n)))]) for n in range(1000)]
    packed = gzip.compress(encode_block([Begun(NOW, "x", "x", "SIM", {}, "")]) + b"".join(blocks))
    (tmp_path / "packed").write_bytes(packed[: len(packed) // 2])
    ctx = await replayed(tmp_path / "packed")
    assert 100 < len(ctx.ticks) < 900
    assert [tick.ts for tick in ctx.ticks] == list(range(len(ctx.ticks)))
    assert len(ctx.refusals) >= 1


async def test_answers_over_http_are_recorded_and_given_again(tmp_path: Path) -> None:
    path, ctx = tmp_path / "binance", Context()
    answer = {"lastUpdateId": 10, "bids": [["1.0", "2"]], "asks": [["1.5", "1"]]}
    step = {"e": "depthUpdate", "E": 5, "s": "BTCUSDT", "U": 11, "u": 12, "b": [["1.0", "0"]], "a": []}

    async def get(url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        return json.dumps(answer).encode()

    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message(json.dumps({"stream": "btcusdt@depth@100ms", "data": step}))
        await ctx.wait_for(lambda ctx: len(ctx.ticks) >= 2)
        await socket.aclose(1000)

    ctx.get = get
    async with scripted_venue(script) as url:
        keys = {"symbols": ["BTC-USDT"], "channels": ["book"], "url": url, "rest_url": "http://127.0.0.1:1"}
        async with recording_of(path, ctx, "binance", **keys) as feed:
            await run_life(feed, ctx)
    assert [tick.kind for tick in ctx.ticks if isinstance(tick, Book)] == ["snapshot", "delta"]
    verdict = await trio.to_thread.run_sync(verified, path)
    assert not verdict.differs
    assert (verdict.ticks, verdict.ignored) == (2, 0)


async def test_refused_connection_is_recorded_and_refused_again(tmp_path: Path) -> None:
    path, ctx = tmp_path / "coinbase", Context()
    async with recording_of(path, ctx, "coinbase", symbols=["BTC-USD"], url="ws://127.0.0.1:1") as feed:
        await run_life(feed, ctx)
    verdict = await trio.to_thread.run_sync(verified, path)
    assert (verdict.lives, verdict.differs, verdict.ignored) == (1, False, 0)


async def test_feed_that_makes_its_ticks_itself_has_nothing_to_be_compared(tmp_path: Path) -> None:
    path, ctx = tmp_path / "sim", Context()
    async with recording_of(path, ctx, "simulated", symbols=2, ticks_per_second=1000) as feed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            await ctx.wait_for(lambda ctx: len(ctx.ticks) > 50)
            nursery.cancel_scope.cancel()
    published = ctx.ticks
    ctx_played = await replayed(path)
    assert list(map(plain, ctx_played.ticks)) == list(map(plain, published))


@pytest.fixture(scope="module")
def coinbase_events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    path = tmp_path_factory.mktemp("recorded") / "coinbase"
    trio.run(record_coinbase, path)
    return events_in(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_events_in_any_order_are_played_to_their_end(
    tmp_path_factory: pytest.TempPathFactory, coinbase_events: list[Event], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(coinbase_events), max_size=25))
    path = tmp_path_factory.mktemp("shuffled") / "coinbase"
    path.write_bytes(encode_block([coinbase_events[0], Started(NOW), *chosen]))
    verdict = verified(path)
    assert verdict.lives >= 1
    assert verdict.differs == (verdict.expected is not None or verdict.found is not None)


async def test_adapter_that_asks_for_less_is_told_so(coinbase: tuple[Path, list[Tick]]) -> None:
    path, published = coinbase
    frame = Received(NOW, 7, b"of a connection that it does not open", True)
    events = events_in(path)
    path.write_bytes(encode_block([*events[:6], frame, *events[6:]]))
    verdict = await trio.to_thread.run_sync(verified, path)
    assert (verdict.differs, verdict.ignored, verdict.ticks) == (False, 1, len(published))


class RecordedVenue(Context):
    """A context whose venue says what a recording of it holds, and hangs up."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__()
        with read_merged(find_files(str(path))) as records:
            kept = list(islice((each for each in records if each.kind in ("frame", "body")), most))
        self._frames = [each.payload.decode() for each in kept if each.kind == "frame"]
        self._bodies = {each.url: each.payload for each in kept if each.kind == "body"}
        self.get = self._get

    async def _get(self, url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        question = url.partition("?")[2].partition("&")[0]
        return next((body for asked, body in self._bodies.items() if question and question in asked), b"[]")

    @asynccontextmanager
    async def connect_ws(self, url: str, *, max_message_bytes: int = 16 << 20) -> AsyncGenerator[Any, None]:
        yield RecordedSocket(self._frames)


class RecordedSocket:
    def __init__(self, frames: list[str]) -> None:
        self._frames = iter(frames)

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        for frame in self._frames:
            return frame
        raise FeedError("the recording is at its end")


@pytest.mark.parametrize(
    ("name", "folder", "keys"),
    [
        ("coinbase", "coinbase-exchange-2021-04-17", {}),
        ("binance", "binance-spot-2021-10-12", {}),
        ("bitstamp", "bitstamp-2022-01-05", {}),
        ("gemini", "gemini-2021-06-24", {}),
        ("kraken", "kraken-v1-2021-04-17", {"api": "v1"}),
    ],
)
async def test_ticks_of_a_real_venue_are_made_again_byte_for_byte(
    tmp_path: Path, name: str, folder: str, keys: dict[str, Any]
) -> None:
    known = await replayed(recording(folder))
    symbols = sorted({tick.sym.partition(":")[2] for tick in known.ticks})
    ctx = RecordedVenue(recording(folder), most=2000)
    async with recording_of(tmp_path / "again", ctx, name, symbols=symbols, **keys) as feed:
        with pytest.raises((FeedError, ExceptionGroup)):
            await feed.run(ctx)
    assert len(ctx.ticks) >= 10
    verdict = await trio.to_thread.run_sync(verified, tmp_path / "again")
    assert not verdict.differs
    assert (verdict.ticks, verdict.refused) == (len(ctx.ticks), len(ctx.refusals))
