"""Kraken's feed: its names and options, and connections to a venue that follows a script."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from pydantic import ValidationError
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from broker.core.books import BookState
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.ticks import Book, Level
from feeds.kraken import Kraken
from feeds.kraken_names import symbol_of, venue_pair
from feeds.recordings import read_file
from tests.feeds.fakes import FakeContext, golden, recording, run_until, scripted_venue
from tests.feeds.kraken_frames import checksum, v1_snapshot, v1_update, v2_book

SYM = "KRAKEN:BTC-USD"
BIDS: list[Level] = [("9.0", "1.00"), ("8.0", "2.00")]
ASKS: list[Level] = [("10.0", "1.00")]
V2_SNAPSHOT = v2_book("snapshot", BIDS, ASKS, checksum(BIDS, ASKS))
V1_SNAPSHOT = v1_snapshot(BIDS, ASKS)


def kraken(url: str = "ws://127.0.0.1:1", **options: Any) -> Kraken:
    return Kraken(Kraken.Options(**{"symbols": ("BTC-USD",), "url": url, "depth": 10, **options}))


def story(ctx: FakeContext) -> list[Any]:
    return [each if isinstance(each, tuple) else each.ch for each in ctx.story]


@pytest.mark.parametrize(
    ("written", "v1", "v2", "symbol"),
    [
        ("BTC-USD", "XBT/USD", "BTC/USD", "KRAKEN:BTC-USD"),
        ("XBT-USD", "XBT/USD", "BTC/USD", "KRAKEN:BTC-USD"),
        ("XBT/USD", "XBT/USD", "BTC/USD", "KRAKEN:BTC-USD"),
        ("XDG-XBT", "XDG/XBT", "DOGE/BTC", "KRAKEN:DOGE-BTC"),
        ("KSM-BTC", "KSM/XBT", "KSM/BTC", "KRAKEN:KSM-BTC"),
        ("AAPLx-USD", "AAPLx/USD", "AAPLx/USD", "KRAKEN:AAPLX-USD"),
        ("USDT/ZUSD", "USDT/ZUSD", "USDT/ZUSD", "KRAKEN:USDT-ZUSD"),
        ("ETH.S-EUR", "ETH.S/EUR", "ETH.S/EUR", "KRAKEN:ETH.S-EUR"),
    ],
)
def test_names_map_both_ways(written: str, v1: str, v2: str, symbol: str) -> None:
    assert (venue_pair(written, "v1"), venue_pair(written, "v2")) == (v1, v2)
    assert (symbol_of("KRAKEN", v1), symbol_of("KRAKEN", v2)) == (symbol, symbol)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btc-usd"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["KRAKEN:BTC-USD"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["XBTUSD"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTC-USD\n"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTC-USD", "XBT/USD"]}, "listed twice: XBT is BTC"),
        ({"symbols": ["BTC-USD"], "depth": 50}, "10, 25, 100, 500 or 1000"),
        ({"symbols": ["BTC-USD"], "api": "v3"}, "'v1' or 'v2'"),
        ({"symbols": ["BTC-USD"], "url": "http://x"}, "must be ws:// or wss:// and a host"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Kraken.Options(**options)


def test_each_api_has_its_own_address_unless_there_is_another() -> None:
    urls = [Kraken(Kraken.Options(symbols=("BTC-USD",), api=api)).stream_url() for api in ("v1", "v2")]
    assert urls == ["wss://ws.kraken.com", "wss://ws.kraken.com/v2"]
    assert kraken("ws://x/").stream_url() == "ws://x"


def test_v2_is_asked_for_best_prices_new_trades_and_books_of_the_depth() -> None:
    feed = kraken(symbols=("XBT-USD", "DOGE-EUR"), depth=500)
    assert feed.symbols == [SYM, "KRAKEN:DOGE-EUR"]
    symbols = ["BTC/USD", "DOGE/EUR"]
    assert [json.loads(frame) for frame in feed.subscribe_frames()] == [
        {"method": "subscribe", "params": params}
        for params in (
            {"channel": "ticker", "symbol": symbols, "event_trigger": "bbo"},
            {"channel": "trade", "symbol": symbols, "snapshot": False},
            {"channel": "book", "symbol": symbols, "depth": 500},
        )
    ]


def test_v1_is_asked_in_its_own_spelling() -> None:
    feed = kraken(symbols=("BTC-USD", "DOGE-EUR"), api="v1", depth=1000)
    assert feed.symbols == [SYM, "KRAKEN:DOGE-EUR"]
    assert [json.loads(frame) for frame in feed.subscribe_frames()] == [
        {"event": "subscribe", "pair": ["XBT/USD", "XDG/EUR"], "subscription": subscription}
        for subscription in ({"name": "spread"}, {"name": "trade"}, {"name": "book", "depth": 1000})
    ]


def test_many_pairs_are_asked_for_in_several_requests() -> None:
    feed = kraken(symbols=tuple(f"A{number}-USD" for number in range(450)), channels=("book",))
    requests = [json.loads(frame) for frame in feed.subscribe_frames()]
    assert [len(request["params"]["symbol"]) for request in requests] == [200, 200, 50]


Say = Callable[[str], Awaitable[None]]


class Venue:
    """A venue of one of the two APIs, in frames written after its description."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.requests: list[Any] = []

    @property
    def snapshot(self) -> str:
        return V1_SNAPSHOT if self.api == "v1" else V2_SNAPSHOT

    def update(self, *, is_corrupt: bool = False) -> str:
        after: list[Level] = [("9.0", "5.00"), BIDS[1]]
        check = checksum(after, ASKS) ^ (1 if is_corrupt else 0)
        if self.api == "v1":
            return v1_update([("9.0", "5.00")], [], check)
        return v2_book("update", [("9.0", "5.00")], [], check)

    def refusal(self, text: str) -> str:
        if self.api == "v1":
            return json.dumps({"event": "subscriptionStatus", "status": "error", "errorMessage": text})
        return json.dumps({"method": "subscribe", "success": False, "error": text})

    async def hear(self, socket: WebSocketConnection, count: int = 1) -> None:
        for _ in range(count):
            self.requests.append(json.loads(await socket.get_message()))

    def book_requests(self) -> list[Any]:
        """Return what a book is asked for again with."""
        if self.api == "v1":
            rest = {"pair": ["XBT/USD"], "subscription": {"name": "book", "depth": 10}}
            return [{"event": event, **rest} for event in ("unsubscribe", "subscribe")]
        params = {"channel": "book", "symbol": ["BTC/USD"], "depth": 10}
        return [{"method": method, "params": params} for method in ("unsubscribe", "subscribe")]


@pytest.fixture(params=["v1", "v2"])
def venue(request: pytest.FixtureRequest) -> Venue:
    return Venue(request.param)


async def test_feed_subscribes_and_publishes_what_the_venue_sends(venue: Venue) -> None:
    frames = golden(f"kraken-{venue.api}.jsonl")

    async def script(socket: WebSocketConnection, path: str) -> None:
        await venue.hear(socket, 3)
        for frame in frames:
            await socket.send_message(frame.decode())
        await socket.get_message()

    ctx = FakeContext()
    symbols = ("BTC-USD", "DOGE-EUR") if venue.api == "v1" else ("BTC-USD", "DOGE-USD")
    async with scripted_venue(script) as url:
        feed = kraken(url, symbols=symbols, api=venue.api)
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 7)
    assert venue.requests == [json.loads(frame) for frame in feed.subscribe_frames()]
    assert sorted(tick.ch for tick in ctx.ticks) == ["book"] * 3 + ["quote"] * 2 + ["trade"] * 2
    assert ctx.refusals == []
    assert ctx.gaps == []


async def test_checksum_that_differs_is_a_gap_and_the_book_is_asked_for_again(venue: Venue) -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await venue.hear(socket)
        for frame in (venue.snapshot, venue.update(is_corrupt=True)):
            await socket.send_message(frame)
        await venue.hear(socket, 2)
        for frame in (venue.update(), venue.snapshot, venue.update()):
            await socket.send_message(frame)
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = kraken(url, api=venue.api, channels=("book",))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 3)
    assert venue.requests[1:] == venue.book_requests()
    assert story(ctx) == ["book", ("gap", "book", SYM), "book", "book"]
    assert [tick.kind for tick in ctx.ticks if isinstance(tick, Book)] == ["snapshot", "snapshot", "delta"]
    assert [str(error) for error in ctx.refusals] == [f"the book of {SYM} does not match its checksum"]


async def test_torn_change_is_a_gap_and_the_book_is_asked_for_again(venue: Venue) -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await venue.hear(socket)
        await socket.send_message(venue.snapshot)
        await socket.send_message(venue.update()[:-25])
        await venue.hear(socket, 2)
        await socket.send_message(venue.snapshot)
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = kraken(url, api=venue.api, channels=("book",))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 2)
    assert venue.requests[1:] == venue.book_requests()
    assert story(ctx) == ["book", ("gap", "book", SYM), "book"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Currency pair not supported BTC/USD", FeedPermanentError),
        ("Subscription depth not supported", FeedPermanentError),
        ("Exceeded msg rate", FeedError),
        ("Service:Unavailable", FeedError),
    ],
)
async def test_refusal_of_the_venue_ends_the_feed_with_its_text(
    venue: Venue, text: str, kind: type[FeedError]
) -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await venue.hear(socket)
        await socket.send_message(venue.refusal(text))
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match=text) as caught:
            await kraken(url, api=venue.api).run(FakeContext())
    assert type(caught.value) is kind


async def test_daily_disconnect_is_a_feed_error_and_the_next_connection_begins_anew(venue: Venue) -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await venue.hear(socket)
        await socket.send_message(venue.update())
        await socket.send_message(venue.snapshot)
        await socket.aclose(1012, "restarting")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = kraken(url, api=venue.api, channels=("book",))
        for _ in range(2):
            with trio.fail_after(60), pytest.raises(FeedError, match=r"1012.*restarting") as caught:
                await feed.run(ctx)
    assert not isinstance(caught.value, FeedPermanentError)
    assert [tick.kind for tick in ctx.ticks if isinstance(tick, Book)] == ["snapshot", "snapshot"]
    assert len(venue.requests) == 2


class QuietSocket:
    """A venue's socket in memory that has a heartbeat every second; the clock may jump over the pauses."""

    def __init__(self, heartbeat: str, *before: str) -> None:
        self._before = list(before)
        self._heartbeat = heartbeat
        self.sent: list[tuple[float, str]] = []

    async def __aenter__(self) -> QuietSocket:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def send(self, message: str) -> None:
        self.sent.append((trio.current_time(), message))
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str:
        await trio.sleep(1)
        return self._before.pop(0) if self._before else self._heartbeat


@pytest.mark.parametrize(
    ("api", "heartbeat", "ping"),
    [
        ("v1", '{"event":"heartbeat"}', '{"event":"ping"}'),
        ("v2", '{"channel":"heartbeat"}', '{"method":"ping"}'),
    ],
)
async def test_ping_is_sent_every_thirty_seconds(
    api: str, heartbeat: str, ping: str, autojump_clock: MockClock
) -> None:
    ctx, socket = FakeContext(), QuietSocket(heartbeat)
    ctx.connect_ws = lambda url, **_: socket  # type: ignore[method-assign, assignment, misc]
    start = trio.current_time()
    with trio.move_on_after(95):
        await kraken(api=api, channels=("quote",)).run(ctx)
    assert [(at - start, message) for at, message in socket.sent[1:]] == [(30, ping), (60, ping), (90, ping)]
    assert ctx.refusals == []


async def test_book_that_has_come_may_be_quiet_for_ever(autojump_clock: MockClock) -> None:
    ctx, socket = FakeContext(), QuietSocket('{"channel":"heartbeat"}', V2_SNAPSHOT)
    ctx.connect_ws = lambda url, **_: socket  # type: ignore[method-assign, assignment, misc]
    with trio.move_on_after(3600) as scope:
        await kraken().run(ctx)
    assert scope.cancelled_caught


async def test_recorded_frames_come_through_a_real_connection_to_the_same_books() -> None:
    names = ("KRAKEN.ws.48.0.gz", "KRAKEN.ws.49.0.gz", "KRAKEN.ws.50.0.gz")
    paths = [recording(f"kraken-v1-2021-04-17/{name}") for name in names]
    frames = [
        record.payload.decode() for path in paths for record in read_file(path) if record.kind == "frame"
    ]
    pairs = ("KSM-BTC", "XMR-USD", "ETH-CHF", "OMG-USD", "GRT-ETH", "WAVES-EUR", "ADA-BTC", "BTC-CHF")

    async def script(socket: WebSocketConnection, path: str) -> None:
        for frame in frames:
            await socket.send_message(frame)
        await socket.aclose(1000, "that was all")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = kraken(url, symbols=(*pairs, "SC-EUR", "OCEAN-BTC"), api="v1", depth=1000)
        with trio.fail_after(60), pytest.raises(FeedError, match="that was all"):
            await feed.run(ctx)
    assert len(ctx.ticks) == 4279 + 18 + 10
    assert ctx.refusals == []
    assert ctx.early_gaps == []
    books: dict[str, BookState] = {}
    for tick in ctx.ticks:
        if isinstance(tick, Book):
            books.setdefault(tick.sym, BookState()).apply(tick)
    last = {json.loads(frame)[-1]: frame for frame in frames if '"c":"' in frame}
    assert {symbol_of("KRAKEN", pair) for pair in last} == set(books) == set(feed.symbols)
    for pair, frame in last.items():
        assert f'"c":"{checksum(*books[symbol_of("KRAKEN", pair)].levels())}"' in frame


async def test_subscription_that_the_venue_ends_is_begun_again_with_growing_pauses(
    autojump_clock: MockClock,
) -> None:
    ended = json.dumps(
        {"event": "subscriptionStatus", "status": "unsubscribed", "channelName": "trade", "pair": "XBT/USD"}
    )
    ctx, socket = FakeContext(), QuietSocket('{"event":"heartbeat"}', *[ended] * 8)
    ctx.connect_ws = lambda url, **_: socket  # type: ignore[method-assign, assignment, misc]
    start = trio.current_time()
    with trio.move_on_after(29):
        await kraken(api="v1", channels=("trade",)).run(ctx)
    again = {"event": "subscribe", "pair": ["XBT/USD"], "subscription": {"name": "trade"}}
    assert [(at - start, json.loads(sent)) for at, sent in socket.sent[1:]] == [
        (at, again) for at in (1, 2, 4, 8)
    ]
    assert ctx.refusals == []
