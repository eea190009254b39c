"""Bitstamp: its frames, the joining of its books, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Book, Quote, Tick, Trade
from feeds import bitstamp_depth
from feeds.bitstamp import Bitstamp
from feeds.bitstamp_depth import DiffChain
from feeds.bitstamp_frames import BitstampParser, name_of, native_of, pair_of_book_url
from feeds.recordings import find_files, read_merged
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, assert_well_formed, golden, recording, run_until, scripted_venue
from tests.feeds.mutations import frames
from tests.feeds.played import Played
from tests.feeds.rest import scripted_pages

RTS = 1_772_366_405_000_000_000
BASE = 1_772_366_400
SYM = "BITSTAMP:BTC-USD"
GAPS = [("quote", SYM), ("book", SYM)]
URL = "https://www.bitstamp.net/api/v2/order_book/btcusd/"
CONFIRMED = '{"event":"bts:subscription_succeeded","channel":"diff_order_book_btcusd","data":{}}'


def micros(at: float) -> str:
    return str(BASE * 1_000_000 + round(at * 1_000_000))


def diff(at: float, bid: str | None = None, pair: str = "btcusd") -> str:
    """Return a change at a time in seconds; its bid is the time, if not given, to be told by."""
    levels = [[f"{at:g}" if bid is None else bid, "1"]]
    content = {"timestamp": "0", "microtimestamp": micros(at), "bids": levels, "asks": []}
    return json.dumps({"data": content, "channel": f"diff_order_book_{pair}", "event": "data"})


def body(at: float, bids: str = "0.5", asks: str = "1000") -> bytes:
    sides = {"bids": [[bids, "1"]], "asks": [[asks, "1"]]}
    return json.dumps({"timestamp": "0", "microtimestamp": micros(at), **sides}).encode()


def trade(at: float) -> str:
    content = {"id": 1, "price_str": "1", "amount_str": "1", "type": 1, "microtimestamp": micros(at)}
    return json.dumps({"data": content, "channel": "live_trades_ethusd", "event": "trade"})


def bitstamp(url: str = "ws://127.0.0.1:1", **options: Any) -> Bitstamp:
    return Bitstamp(Bitstamp.Options(**{"symbols": ("BTC-USD",), "url": url, **options}))


def kinds(ticks: list[Any]) -> list[Any]:
    """Return gaps, and of books ``snapshot`` or the bid of a delta, which `diff` makes its time."""
    return [
        tick if isinstance(tick, tuple) else tick.kind if tick.kind == "snapshot" else tick.bids[0][0]
        for tick in ticks
        if isinstance(tick, (Book, tuple))
    ]


def live() -> BitstampParser:
    """Return a parser that serves the book of BTC-USD since second 1."""
    parser = BitstampParser()
    parser.parse(diff(1), RTS)
    assert kinds(parser.parse_snapshot("btcusd", body(1), RTS)) == ["snapshot"]
    parser.take_wanted()
    return parser


def test_golden_frames_and_a_snapshot_become_quotes_trades_and_books() -> None:
    parser = BitstampParser()
    first, *others = golden("bitstamp.jsonl")
    ticks = parser.parse(first, RTS)
    ticks += parser.parse_body(URL, body(1.0, "64999.50", "65010.00"), RTS)
    ticks += [tick for frame in others for tick in parser.parse(frame, RTS)]
    ns, common = BASE * 1_000_000_000, {"sym": SYM, "rts": RTS}
    second, third = ns + 2_000_001_000, ns + 2_100_000_000
    assert ticks == [
        Book(
            ts=ns + 1_000_000_000,
            kind="snapshot",
            bids=[("64999.50", "1")],
            asks=[("65010.00", "1")],
            **common,
        ),
        Quote(ts=ns + 1_000_000_000, bid="64999.50", bid_size="1", ask="65010.00", ask_size="1", **common),
        Book(
            ts=second,
            kind="delta",
            bids=[("65001", "1.25000000"), ("65000", "0")],
            asks=[("65003", "2.00000000")],
            **common,
        ),
        Quote(ts=second, bid="65001", bid_size="1.25000000", ask="65003", ask_size="2.00000000", **common),
        Book(ts=third, kind="delta", bids=[], asks=[("65009", "0.00100000")], **common),
        Trade(ts=ns + 2_587_000_000, price="65003", size="0.00280000", side="buy", id="412345678", **common),
    ]
    assert_well_formed(ticks)
    assert parser.take_gaps() == []


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("btcusd", "BTC-USD"),
        ("usdtusd", "USDT-USD"),
        ("btcusdt", "BTC-USDT"),
        ("usdceur", "USDC-EUR"),
        ("1incheur", "1INCH-EUR"),
        ("eurusd", "EUR-USD"),
        ("fetusd", "FET-USD"),
        ("pyusdusd", "PYUSD-USD"),
        ("xrprlusd", "XRP-RLUSD"),
        ("btcusd-perp", "BTC-USD-PERP"),
    ],
)
def test_symbols_map_both_ways(native: str, symbol: str) -> None:
    assert name_of(native) == symbol
    assert native_of(symbol) == native


@pytest.mark.parametrize(
    ("url", "pair"),
    [
        (URL, "btcusd"),
        ("https://www.bitstamp.net/api/v2/order_book/usdtusd", "usdtusd"),
        ("https://www.bitstamp.net/api/v2/order_book/btcusd-perp/?group=1", "btcusd-perp"),
        ("https://www.bitstamp.net/api/v2/ticker/btcusd/", None),
        ("https://www.bitstamp.net/api/v2/order_book/", None),
        ("https://[", None),
    ],
)
def test_order_book_url_names_its_pair(url: str, pair: str | None) -> None:
    assert pair_of_book_url(url) == pair


def test_names_are_learnt_from_the_venues_list() -> None:
    parser = BitstampParser()
    markets = (
        b'[{"name":"PER/LUSD","url_symbol":"perlusd"},{"name":"A/B","market_symbol":"ab"},{"name":"odd"}]'
    )
    assert parser.parse_body("https://www.bitstamp.net/api/v2/trading-pairs-info/", markets, RTS) == []
    ticks = parser.parse(trade(1).replace("ethusd", "perlusd"), RTS)
    assert [tick.sym for tick in ticks] == ["BITSTAMP:PER-LUSD"]


# ── joining ──────────────────────────────────────────────────────────────────────────────────────


def test_snapshot_drops_what_it_contains_and_is_continued_by_the_rest() -> None:
    parser = BitstampParser()
    for at in (1, 2, 3):
        assert parser.parse(diff(at), RTS) == []
    assert parser.take_wanted() == {"btcusd"}
    assert kinds(parser.parse_snapshot("btcusd", body(2), RTS)) == ["snapshot", "3"]
    assert kinds(parser.parse(diff(4), RTS)) == ["4"]
    assert parser.take_wanted() == set()
    assert parser.take_gaps() == []


def test_snapshot_that_is_older_than_the_first_change_is_asked_for_again() -> None:
    parser = BitstampParser()
    parser.parse(diff(2), RTS)
    parser.take_wanted()
    assert parser.parse_snapshot("btcusd", body(1.5), RTS) == []
    assert parser.take_wanted() == {"btcusd"}
    assert parser.wants_snapshot("btcusd")
    assert kinds(parser.parse_snapshot("btcusd", body(2), RTS)) == ["snapshot"]


def test_book_that_does_not_change_is_served_once_the_snapshot_is_surely_newer_than_the_subscription() -> (
    None
):
    parser = BitstampParser()
    parser.parse(CONFIRMED, RTS)
    assert parser.take_wanted() == {"btcusd"}
    assert parser.parse_snapshot("btcusd", body(4), RTS) == []
    assert kinds(parser.parse(trade(3), RTS)) == ["snapshot"]
    assert kinds(parser.parse(diff(3.5), RTS)) == []
    assert kinds(parser.parse(diff(5), RTS)) == ["5"]


def test_snapshot_that_may_be_older_than_the_subscription_does_not_join() -> None:
    parser = BitstampParser()
    parser.parse(CONFIRMED, RTS)
    parser.parse_snapshot("btcusd", body(3.9), RTS)
    assert kinds(parser.parse(trade(3), RTS)) == []
    assert parser.wants_snapshot("btcusd")


def test_change_that_goes_back_in_time_is_a_gap_and_a_new_snapshot() -> None:
    parser = live()
    assert kinds(parser.parse(diff(5), RTS)) == ["5"]
    assert parser.parse(diff(4.9), RTS) == []
    assert parser.take_gaps() == GAPS
    assert parser.take_wanted() == {"btcusd"}
    assert parser.parse(diff(6), RTS) == []
    assert parser.parse_snapshot("btcusd", body(5.5), RTS) == []
    assert kinds(parser.parse(diff(7), RTS)) == []
    assert kinds(parser.parse_snapshot("btcusd", body(6), RTS)) == ["snapshot", "7"]


def test_book_that_stays_crossed_is_a_gap_and_a_new_snapshot() -> None:
    parser = live()
    crossed = parser.parse(diff(5, bid="1000.00"), RTS)
    assert [tick.ch for tick in crossed] == ["book"]
    assert kinds(parser.parse(diff(6), RTS)) == ["6"]
    assert parser.parse(diff(6.1), RTS) == []
    assert parser.take_gaps() == GAPS
    assert parser.wants_snapshot("btcusd")
    assert kinds(parser.parse(diff(7), RTS)) == []
    assert kinds(parser.parse_snapshot("btcusd", body(7), RTS)) == ["snapshot"]


def test_snapshot_that_waiting_changes_tear_is_not_served_at_all() -> None:
    parser = BitstampParser()
    for at, bid in ((1, "1"), (2, "2000"), (4, "3")):
        parser.parse(diff(at, bid), RTS)
    assert parser.parse_snapshot("btcusd", body(1), RTS) == []
    assert parser.wants_snapshot("btcusd")


def test_snapshot_that_is_crossed_itself_is_what_the_venue_says() -> None:
    parser = BitstampParser()
    parser.parse(diff(1), RTS)
    assert kinds(parser.parse_snapshot("btcusd", body(1, "5", "4"), RTS)) == ["snapshot"]
    assert kinds(parser.parse(diff(2), RTS)) == ["2"]


@pytest.mark.parametrize(
    "frame",
    [
        diff(5, bid="x"),
        diff(5, bid="-1"),
        diff(5).replace(micros(5), "now"),
        diff(5).replace(micros(5), "9" * 17),
        diff(5).replace('"event": "data"', '"event": "dat"'),
        diff(5).replace("book_btcusd", "book_BTC/USD"),
        diff(5).replace("diff_", "dift_"),
        diff(5)[:-20],
        diff(5).replace("btcusd", "btcuse")[1:],
        diff(5)[:40],
        '{"da',
        '{"event":"data","channel":"diff_order_book_btcusd","data":[]}',
    ],
)
def test_unreadable_change_stops_the_book_until_the_next_snapshot(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == GAPS
    assert parser.take_wanted() == {"btcusd"}
    assert parser.parse(diff(6), RTS) == []
    assert kinds(parser.parse_snapshot("btcusd", body(6), RTS)) == ["snapshot"]
    assert kinds(parser.parse(diff(7), RTS)) == ["7"]


@pytest.mark.parametrize(
    "frame",
    [
        "not a frame",
        trade(5)[:-30],
        trade(5).replace('"1"', "1"),
        diff(5, bid="x", pair="ethusd"),
        '{"event":"weather","channel":"live_trades_btcusd","data":{}}',
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == []
    assert kinds(parser.parse(diff(6), RTS)) == ["6"]


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = live()
    parser.reset()
    assert parser.take_gaps() == GAPS
    assert parser.parse(diff(6), RTS) == []


def test_snapshot_joins_only_the_changes_that_could_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitstamp_depth, "_MAX_WAITING", 3)
    chain = DiffChain()
    for number in range(1, 6):
        chain.change(venue_book("delta", [number]))
    assert chain.snapshot(venue_book("snapshot", [2])) == []
    assert [each.kind for each in chain.snapshot(venue_book("snapshot", [3]))] == [
        "snapshot",
        "delta",
        "delta",
    ]


STEPS = st.sampled_from(["change", "change", "confirm", "hear", "torn", "again", "snapshot", "snapshot"])


#: An old change behind a torn one says nothing of what has been missed.
OLD_AFTER_TORN = [("change", 0), ("torn", 0), ("again", 1), ("snapshot", 1), ("change", 0)]


@example(0, OLD_AFTER_TORN)
@given(st.integers(0, 3), st.lists(st.tuples(STEPS, st.integers(0, 5)), max_size=40))
def test_book_that_is_served_has_no_hole_whatever_is_torn_late_or_old(
    missed: int, steps: list[tuple[str, int]]
) -> None:
    """Change ``n`` adds a bid at the price ``n``, so a served book is right if it has all bids up to its newest.

    The first changes come before the subscription. ``again`` is an old change, ``snapshot`` one of so many changes
    ago, ``hear`` the time of another channel's frame.
    """
    chain, now = DiffChain(), missed
    served: set[str] = set()
    for step, age in steps:
        books: list[Book] = []
        now += step in ("change", "torn")
        match step:
            case "change":
                books = chain.change(venue_book("delta", [now]))
            case "again" if now - age > missed:
                books = chain.change(venue_book("delta", [now - age]))
            case "snapshot":
                books = chain.snapshot(venue_book("snapshot", list(range(1, max(now - age, 0) + 1))))
            case "confirm":
                chain.is_confirmed = True
            case "hear":
                books = chain.hear(now * STEP_NS)
            case "torn":
                chain.reset()
        if chain.is_broken:
            chain.is_broken = False
            assert books == []
        for book in books:
            served = (set() if book.kind == "snapshot" else served) | {price for price, _ in book.bids}
        if chain.is_live:
            newest = max(map(int, served), default=0)
            assert served == {str(price) for price in range(1, newest + 1)}
            assert step != "change" or newest == now


#: Two seconds between two changes: more than the frames of different channels differ by.
STEP_NS = 2_000_000_000


def venue_book(kind: Any, prices: list[int]) -> Book:
    bids = [(str(price), "1") for price in reversed(prices)]
    return Book(sym=SYM, ts=max(prices, default=0) * STEP_NS, rts=RTS, kind=kind, bids=bids, asks=[])


@given(st.lists(frames(golden("bitstamp.jsonl")), max_size=8), st.lists(frames([body(1)]), max_size=2))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(
    sent: list[bytes | str], bodies: list[bytes | str]
) -> None:
    parser = live()
    ticks: list[Tick] = []
    calls: list[Callable[[], list[Tick]]] = [lambda each=each: parser.parse(each, RTS) for each in sent]  # type: ignore[misc]
    calls += [lambda each=each: parser.parse_body(URL, each, RTS) for each in bodies]  # type: ignore[misc]
    for call in calls:
        try:
            ticks += call()
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book", "quote"}


@pytest.mark.parametrize(
    ("message", "is_permanent"),
    [
        ("Invalid channel provided.", True),
        ("Bad subscription string.", True),
        ("Incorrect JSON format.", True),
        ("Too many invalid requests, try again later", False),
        ("Internal server error", False),
        ("", False),
    ],
)
def test_error_of_the_venue_is_a_refusal(message: str, is_permanent: bool) -> None:
    frame = {"event": "bts:error", "channel": "", "data": {"code": None, "message": message}}
    with pytest.raises(VenueRefused, match=message or "without a text") as caught:
        BitstampParser().parse(json.dumps(frame), RTS)
    assert caught.value.permanent is is_permanent


def test_recording_comes_out_whole_and_its_quotes_are_the_tops_of_its_books() -> None:
    played = Played(recording("bitstamp-2022-01-05"), BitstampParser())
    assert played.counts == {"book": 625, "quote": 182, "trade": 10}
    assert (played.refused, played.gaps, played.crossed(), played.differing()) == ({}, [], [], [])
    assert len(played.books) == 10


# ── live ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btcusd"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTCUSD"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["AB-CDE", "ABC-DE"]}, "the same pair to the venue"),
        ({"symbols": ["BTC-USD"], "rest_url": "ws://x"}, "must be http:// or https:// and a host"),
        ({"symbols": [f"A{n}-USD" for n in range(600)]}, "1200 subscriptions, and the venue allows 1024"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Bitstamp.Options(**options)


@pytest.mark.parametrize(
    ("channels", "prefixes"),
    [
        (("quote",), ["diff_order_book_"]),
        (("trade",), ["live_trades_"]),
        (("quote", "trade", "book"), ["diff_order_book_", "live_trades_"]),
    ],
)
def test_each_channel_is_subscribed_to_in_a_frame_of_its_own(channels: Any, prefixes: list[str]) -> None:
    sent = [json.loads(frame) for frame in bitstamp(channels=channels).subscribe_frames()]
    assert sent == [{"event": "bts:subscribe", "data": {"channel": f"{each}btcusd"}} for each in prefixes]


async def test_feed_joins_breaks_and_joins_again_over_real_sockets() -> None:
    requests: list[Any] = []
    asked: list[str] = []
    more = trio.Event()

    def pages(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return {1: (503, b"busy"), 2: (200, body(1)), 3: (200, body(9))}[len(asked)]

    async def script(socket: WebSocketConnection, path: str) -> None:
        for _ in range(2):
            requests.append(json.loads(await socket.get_message()))
        await socket.send_message(CONFIRMED)
        await socket.send_message(diff(1))
        await socket.send_message(diff(2))
        await more.wait()
        await socket.send_message('{"data":{"timestamp":"3","microtime')
        await socket.send_message(diff(8))
        await socket.send_message(diff(10))
        await socket.get_message()

    def is_enough(ctx: FakeContext) -> bool:
        if len(kinds(ctx.story)) == 2:
            more.set()
        return len(kinds(ctx.story)) == 6

    ctx = FakeContext()
    async with scripted_venue(script) as url, scripted_pages(pages) as rest_url:
        await run_until(bitstamp(url, rest_url=rest_url), ctx, is_enough)
    assert [request["data"]["channel"] for request in requests] == [
        "diff_order_book_btcusd",
        "live_trades_btcusd",
    ]
    assert asked == ["/api/v2/order_book/btcusd/"] * 3
    assert kinds(ctx.story) == [
        "snapshot",
        "2",
        ("gap", "quote", SYM),
        ("gap", "book", SYM),
        "snapshot",
        "10",
    ]
    assert len(ctx.refusals) == 1
    assert [event for event, _ in ctx.log.events] == ["snapshot_failed"]


async def test_only_the_channels_that_were_asked_for_are_published() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message(diff(1))
        await socket.send_message(diff(2))
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url, scripted_pages(lambda path: (200, body(1))) as rest_url:
        feed = bitstamp(url, rest_url=rest_url, channels=("quote",))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 2)
    assert [tick.bid for tick in ctx.ticks if isinstance(tick, Quote)] == ["0.5", "2"]


async def test_recorded_frames_over_real_sockets_make_the_recorded_books() -> None:
    path = recording("bitstamp-2022-01-05")
    with read_merged(find_files(str(path))) as records:
        kept = [record for record in records if record.kind in ("frame", "body")]
    payloads = [record.payload for record in kept if record.kind == "frame"]
    bodies = {record.url.rpartition("/")[2]: record.payload for record in kept if "order_book" in record.url}
    symbols = tuple(name_of(pair) for pair in bodies)

    async def script(socket: WebSocketConnection, path: str) -> None:
        for _ in range(2 * len(bodies)):
            await socket.get_message()
        for payload in payloads:
            await socket.send_message(payload.decode())
        await socket.get_message()

    def pages(path: str) -> tuple[int, bytes]:
        return 200, bodies[path.split("/")[-2]]

    ctx = FakeContext()
    async with scripted_venue(script) as url, scripted_pages(pages) as rest_url:
        feed = bitstamp(url, rest_url=rest_url, symbols=symbols)
        await run_until(feed, ctx, lambda ctx: sum(tick.ch == "book" for tick in ctx.ticks) == 625)
    assert ctx.refusals == []
    assert ctx.gaps == []


async def test_wish_of_the_venue_to_reconnect_ends_the_connection_and_can_be_retried() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message('{"event":"bts:request_reconnect","channel":"","data":""}')
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match="asks to connect again") as caught:
            await bitstamp(url).run(FakeContext())
    assert not isinstance(caught.value, FeedPermanentError)


async def test_subscription_that_is_refused_ends_the_feed_for_good() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message(
            '{"event":"bts:error","channel":"diff_order_book_x","data":{"code":4,"message":"Bad subscription string."}}'
        )
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedPermanentError, match="Bad subscription string"):
            await bitstamp(url).run(FakeContext())


class QuietSocket:
    """A venue in memory that answers heartbeats for a while, and then no more."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._say, self._hear = trio.open_memory_channel[str](100)
        self._say.send_nowait(CONFIRMED)
        self.beats: list[float] = []

    async def __aenter__(self) -> QuietSocket:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        if message == '{"event":"bts:heartbeat"}':
            self.beats.append(trio.current_time())
            if len(self.beats) <= self._answers:
                await self._say.send('{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}')

    async def receive(self) -> str:
        return await self._hear.receive()


async def test_quiet_market_is_told_from_a_dead_connection_by_heartbeats(autojump_clock: MockClock) -> None:
    socket = QuietSocket(answers=10)
    ctx = FakeContext()
    ctx.connect_ws = lambda url, **_: socket  # type: ignore[method-assign, assignment]
    began = trio.current_time()
    with pytest.raises(FeedError, match="nothing has come for 60 s, not even a heartbeat"):
        await bitstamp(channels=("trade",)).run(ctx)
    assert [beat - began for beat in socket.beats[:3]] == [20, 40, 60]
    assert trio.current_time() - began == 260


async def test_book_that_breaks_again_and_again_is_asked_for_with_growing_pauses(
    autojump_clock: MockClock,
) -> None:
    say, hear = trio.open_memory_channel[str](100)

    class Socket(QuietSocket):
        async def send(self, message: str | bytes) -> None:
            await trio.lowlevel.checkpoint()

        async def receive(self) -> str:
            return await hear.receive()

    ctx = FakeContext()
    ctx.connect_ws = lambda url, **_: Socket(0)  # type: ignore[method-assign, assignment]
    at = 1
    asked: list[float] = []

    async def get(url: str) -> bytes:
        asked.append(trio.current_time())
        return body(at)

    async def venue() -> None:
        nonlocal at
        while True:
            await say.send(diff(at))
            await trio.sleep(0.5)
            at += 1
            await say.send(diff(at - 0.5, bid="x"))

    ctx.get = get
    with trio.move_on_after(250):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(venue)
            await bitstamp(channels=("book",)).run(ctx)
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses[:8] == [pytest.approx(each, abs=1.1) for each in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert kinds(ctx.story).count("snapshot") == len(asked)
