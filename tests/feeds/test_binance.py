"""Binance: its frames, the joining of its books, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from broker.core.books import BookState
from broker.core.errors import FeedError, FrameError
from broker.core.ticks import Book, Quote, Tick, Trade
from feeds.binance import Binance
from feeds.binance_depth import DepthChain, DepthEvent
from feeds.binance_frames import BinanceParser, split_symbol, symbol_of_depth_url
from feeds.recordings import find_files, read_merged
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, assert_well_formed, golden, recording, run_until, scripted_venue
from tests.feeds.mutations import frames

RTS = 1_772_366_400_000_000_000
BOOK = ("book", "BINANCE:BTC-USDT")


def depth(first: int, last: int, *, symbol: str = "BTCUSDT", **more: Any) -> str:
    event = {"e": "depthUpdate", "E": 1672515782136, "s": symbol, "U": first, "u": last}
    return json.dumps({**event, "b": [[f"{last}", "1"]], "a": [], **more})


def snapshot(last: int) -> str:
    return json.dumps({"lastUpdateId": last, "bids": [["10", "1"]], "asks": [["11", "1"]]})


def kinds(ticks: list[Tick]) -> list[str]:
    """Return ``snapshot`` or the price of a delta, which `depth` makes its last id."""
    return [t.kind if t.kind == "snapshot" else t.bids[0][0] for t in ticks if isinstance(t, Book)]


def binance(url: str = "ws://127.0.0.1:1", **options: Any) -> Binance:
    return Binance(Binance.Options(**{"symbols": ("BTC-USDT",), "url": url, **options}))


def book(kind: Any, ts: int, bids: list[Any], asks: list[Any]) -> Book:
    return Book(sym="BINANCE:BNB-BTC", ts=ts, rts=RTS, kind=kind, bids=bids, asks=asks)


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = BinanceParser()
    ticks = [tick for frame in golden("binance.jsonl") for tick in parser.parse(frame, RTS)]
    ms = 1_000_000
    assert ticks == [
        book("snapshot", RTS, [("0.0024", "10"), ("0.0023", "1")], [("0.0026", "100")]),
        book("delta", 1672515782236 * ms, [("0.0025", "7"), ("0.0024", "0")], []),
        book("delta", 1672515782336 * ms, [], [("0.0027", "3.50")]),
        Quote(
            sym="BINANCE:BNB-BTC", ts=RTS, rts=RTS, bid="0.0025", bid_size="7", ask="0.0026", ask_size="100"
        ),
        Trade(
            sym="BINANCE:BNB-BTC",
            ts=1672515782136 * ms,
            rts=RTS,
            price="0.001",
            size="100",
            side="sell",
            id="12345",
        ),
        Trade(
            sym="BINANCE:ETH-USDT",
            ts=1672515782135 * ms,
            rts=RTS,
            price="1200.10",
            size="0.5",
            side="buy",
            id="7",
        ),
        Quote(
            sym="BINANCE:ETH-USDT",
            ts=RTS,
            rts=RTS,
            bid=None,
            bid_size=None,
            ask="1200.20",
            ask_size="1.000",
        ),
    ]
    assert_well_formed(ticks)


def test_times_in_microseconds_are_told_from_milliseconds() -> None:
    trade = {"e": "trade", "s": "BTCUSDT", "t": 1, "p": "1", "q": "1", "T": 1672515782136123, "m": True}
    (tick,) = BinanceParser().parse(json.dumps(trade), RTS)
    assert tick.ts == 1672515782136123_000


@pytest.mark.parametrize(
    ("native", "name"),
    [
        ("BTCUSDT", "BTC-USDT"),
        ("BTCFDUSD", "BTC-FDUSD"),
        ("ETHBTC", "ETH-BTC"),
        ("RUNEEUR", "RUNE-EUR"),
        ("USDT", "USDT"),
        ("BTCUSDT_240927", "BTCUSDT_240927"),
    ],
)
def test_symbol_is_split_before_its_longest_quote_asset(native: str, name: str) -> None:
    assert split_symbol(native) == name


@pytest.mark.parametrize(
    ("url", "symbol"),
    [
        ("https://api.binance.com/api/v3/depth?symbol=NKNUSDT&limit=1000", "NKNUSDT"),
        ("https://api.binance.com/api/v3/exchangeInfo", None),
        ("https://api.binance.com/api/v3/depth?limit=5", None),
        ("https://[", None),
    ],
)
def test_depth_url_names_its_symbol(url: str, symbol: str | None) -> None:
    assert symbol_of_depth_url(url) == symbol


def test_book_waits_for_its_snapshot_and_joins_it_without_a_hole() -> None:
    parser = BinanceParser()
    assert parser.parse(depth(1, 5), RTS) == []
    assert parser.take_wanted() == {"BTCUSDT"}
    assert parser.parse(depth(6, 8), RTS) == []
    assert parser.parse(depth(9, 10), RTS) == []
    assert parser.take_wanted() == set()
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(7), RTS)) == ["snapshot", "8", "10"]
    assert kinds(parser.parse(depth(11, 11), RTS)) == ["11"]
    assert parser.take_gaps() == []


def test_snapshot_that_is_newer_than_all_events_is_served_and_continued() -> None:
    parser = BinanceParser()
    parser.parse(depth(1, 5), RTS)
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(9), RTS)) == ["snapshot"]
    assert parser.parse(depth(6, 9), RTS) == []
    assert kinds(parser.parse(depth(8, 12), RTS)) == ["12"]


def test_snapshot_before_any_event_is_held_until_one_joins() -> None:
    parser = BinanceParser()
    assert parser.parse_snapshot("BTCUSDT", snapshot(7), RTS) == []
    assert kinds(parser.parse(depth(7, 9), RTS)) == ["snapshot", "9"]


def test_snapshot_that_is_too_old_is_a_gap_and_another_one_is_wanted() -> None:
    parser = BinanceParser()
    parser.parse(depth(10, 12), RTS)
    assert parser.parse_snapshot("BTCUSDT", snapshot(8), RTS) == []
    assert parser.take_gaps() == [BOOK]
    assert parser.wants_snapshot("BTCUSDT")
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(11), RTS)) == ["snapshot", "12"]


def test_missing_book_is_told_once_however_many_snapshots_are_too_old() -> None:
    parser = BinanceParser()
    parser.parse(depth(10, 12), RTS)
    for old in (7, 8, 8):
        assert parser.parse_snapshot("BTCUSDT", snapshot(old), RTS) == []
    assert parser.take_gaps() == [BOOK]
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(11), RTS)) == ["snapshot", "12"]
    parser.parse(depth(20, 21), RTS)
    for old in (13, 14):
        assert parser.parse_snapshot("BTCUSDT", snapshot(old), RTS) == []
    assert parser.take_gaps() == [BOOK]


def test_book_that_a_reset_told_of_is_not_told_again_by_an_old_snapshot() -> None:
    parser = BinanceParser()
    parser.parse(depth(10, 12), RTS)
    parser.parse_snapshot("BTCUSDT", snapshot(11), RTS)
    parser.reset()
    assert parser.take_gaps() == [BOOK]
    parser.parse(depth(20, 21), RTS)
    parser.parse_snapshot("BTCUSDT", snapshot(13), RTS)
    assert parser.take_gaps() == []


def test_hole_in_the_chain_is_a_gap_and_nothing_is_served_until_a_new_snapshot() -> None:
    parser = BinanceParser()
    parser.parse(depth(1, 5), RTS)
    parser.take_wanted()
    parser.parse_snapshot("BTCUSDT", snapshot(5), RTS)
    parser.parse(depth(6, 6), RTS)
    assert parser.parse(depth(8, 9), RTS) == []
    assert parser.take_gaps() == [BOOK]
    assert parser.take_wanted() == {"BTCUSDT"}
    assert parser.parse(depth(10, 11), RTS) == []
    assert parser.take_gaps() == []
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(8), RTS)) == ["snapshot", "9", "11"]


def test_event_that_comes_twice_is_served_once() -> None:
    parser = BinanceParser()
    parser.parse(depth(1, 5), RTS)
    parser.parse_snapshot("BTCUSDT", snapshot(5), RTS)
    assert kinds(parser.parse(depth(6, 8), RTS)) == ["8"]
    assert parser.parse(depth(6, 8), RTS) == []
    assert kinds(parser.parse(depth(9, 9), RTS)) == ["9"]


def test_futures_chain_by_the_id_of_the_event_before() -> None:
    parser = BinanceParser("BINANCE_USDM")
    parser.parse(depth(100, 120, pu=90), RTS)
    parser.parse(depth(130, 140, pu=120), RTS)
    assert kinds(parser.parse_snapshot("BTCUSDT", snapshot(120), RTS)) == ["snapshot", "120", "140"]
    assert kinds(parser.parse(depth(150, 160, pu=140), RTS)) == ["160"]
    assert parser.parse(depth(180, 190, pu=170), RTS) == []
    assert parser.take_gaps() == [("book", "BINANCE_USDM:BTC-USDT")]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["event", "lost", "twice", "snapshot"])), max_size=60
    )
)
def test_book_that_is_served_is_the_venues_book_whatever_is_lost(steps: list[tuple[int, str]]) -> None:
    """The venue's book counts its changes at one price: what is served shows up to which id it is right."""
    chain = DepthChain()
    last, served = 0, None
    for changes, step in steps:
        if step == "snapshot":
            books = chain.snapshot(last, book("snapshot", 0, [("1", str(last))], []))
        else:
            first, last = last + 1, last + changes
            event = DepthEvent(first, last, None, book("delta", first, [("1", str(last))], []))
            books = [] if step == "lost" else chain.event(event)
            books += chain.event(event) if step == "twice" else []
        if chain.is_broken:
            chain.is_broken, served = False, None
            assert books == []
        for each in books:
            # Each continues what was served before: a snapshot begins, a delta names the id before its first.
            assert each.kind == "snapshot" or served is not None
            assert each.kind == "snapshot" or served + 1 >= each.ts  # type: ignore[operator]
            served = int(each.bids[0][1])


def test_snapshot_without_a_name_needs_exactly_one_symbol() -> None:
    parser = BinanceParser()
    with pytest.raises(FrameError, match="no symbol has depth events"):
        parser.parse(snapshot(5), RTS)
    parser.parse(depth(1, 5), RTS)
    assert kinds(parser.parse(snapshot(5), RTS)) == ["snapshot"]
    parser.parse(depth(1, 5, symbol="ETHUSDT"), RTS)
    with pytest.raises(FrameError, match="2 symbols have depth events"):
        parser.parse(snapshot(5), RTS)


def test_trades_of_a_symbol_with_both_streams_count_once() -> None:
    parser = BinanceParser()
    trade = {"e": "trade", "s": "BTCUSDT", "t": 1, "p": "1", "q": "1", "T": 1, "m": True}
    aggregate = {"e": "aggTrade", "s": "BTCUSDT", "a": 1, "p": "1", "q": "1", "T": 1, "m": True}
    assert len(parser.parse(json.dumps(aggregate), RTS)) == 1
    assert parser.parse(json.dumps(trade), RTS) == []
    assert len(parser.parse(json.dumps(aggregate | {"a": 2}), RTS)) == 1
    assert parser.take_gaps() == []


@pytest.mark.parametrize(("kind", "number"), [("trade", "t"), ("aggTrade", "a")])
def test_trade_that_comes_twice_is_served_once_and_one_that_does_not_come_is_a_gap(
    kind: str, number: str
) -> None:
    parser = BinanceParser()
    trade = {"e": kind, "s": "BTCUSDT", "p": "1", "q": "1", "T": 1, "m": True}

    def served(at: int) -> int:
        return len(parser.parse(json.dumps(trade | {number: at}), RTS))

    assert [served(at) for at in (7, 8, 8, 7, 9)] == [1, 1, 0, 0, 1]
    assert parser.take_gaps() == []
    assert served(12) == 1
    assert parser.take_gaps() == [("trade", "BINANCE:BTC-USDT")]
    assert served(11) == 0, "it was told to be missing"
    parser.reset()
    assert (served(50), parser.take_gaps()) == (1, [])


def test_futures_trade_that_is_left_out_makes_no_hole() -> None:
    parser = BinanceParser()
    trade = {"e": "trade", "s": "BTCUSDT", "p": "1", "q": "1", "T": 1, "m": True}
    kinds = [(1, "MARKET"), (2, "NA"), (3, "INSURANCE_FUND"), (4, "MARKET")]
    ticks = [parser.parse(json.dumps(trade | {"t": at, "X": origin}), RTS) for at, origin in kinds]
    assert [len(each) for each in ticks] == [1, 0, 0, 1]
    assert parser.take_gaps() == []


def test_futures_trade_that_is_no_public_execution_is_left_out() -> None:
    trade = {"e": "trade", "s": "BTCUSDT", "t": 1, "p": "0", "q": "0", "T": 1, "m": True, "X": "NA"}
    assert BinanceParser().parse(json.dumps(trade), RTS) == []


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "[]",
        "{}",
        '{"stream":"btcusdt@trade"}',
        '{"stream":"btcusdt@trade","data":7}',
        '{"stream":"btcusdt","data":{}}',
        '{"stream":"ethusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}}',
        '{"u":1,"s":"BTCUSDT","b":1.5,"B":"1","a":"2","A":"1"}',
        '{"u":1,"s":"BTCUSDT","b":"1 ","B":"1","a":"2","A":"1"}',
        '{"u":1,"s":"btcusdt","b":"1","B":"1","a":"2","A":"1"}',
        depth(5, 4),
        depth(1, 2, E=10**17),
        depth(1, 2, b=[["1"]]),
        '{"lastUpdateId":1.5,"bids":[],"asks":[]}',
    ],
)
def test_frame_that_makes_no_sense_is_a_frame_error(frame: str) -> None:
    with pytest.raises(FrameError):
        BinanceParser().parse(frame, RTS)


def test_error_of_the_venue_is_a_refusal_that_can_be_retried() -> None:
    with pytest.raises(VenueRefused, match=r"Invalid request \(2\)") as caught:
        BinanceParser().parse('{"code":2,"msg":"Invalid request","id":1}', RTS)
    assert not caught.value.permanent


def test_symbol_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'ETHUSDT'"):
        BinanceParser(names={"BTCUSDT": "BTC-USDT"}).parse(depth(1, 2, symbol="ETHUSDT"), RTS)


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = BinanceParser()
    parser.parse(depth(1, 5), RTS)
    parser.parse(snapshot(5), RTS)
    parser.reset()
    assert parser.take_gaps() == [BOOK]
    assert parser.parse(depth(6, 6), RTS) == []


@given(
    st.lists(frames(golden("binance.jsonl")), max_size=8),
    st.lists(frames(golden("binance.jsonl")), max_size=2),
)
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(
    sent: list[bytes | str], bodies: list[bytes | str]
) -> None:
    parser = BinanceParser()
    ticks: list[Tick] = []
    for frame in sent:
        try:
            ticks += parser.parse(frame, RTS)
        except FrameError:
            continue
    for body in bodies:
        try:
            ticks += parser.parse_snapshot("BNBBTC", body, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("binance-spot/btcusdt-2024-08-08.frames.gz", {"quote": 28040, "trade": 9757, "book": 3450}),
        ("binance-spot-2021-10-12", {"quote": 84, "trade": 2, "book": 176}),
    ],
)
def test_recording_comes_out_whole_and_its_books_agree_with_its_quotes(
    name: str, counts: dict[str, int]
) -> None:
    parser = BinanceParser()
    seen: Counter[str] = Counter()
    books: dict[str, BookState] = {}
    touches: Counter[bool] = Counter()
    with read_merged(find_files(str(recording(name)))) as records:
        for record in records:
            if record.kind == "frame":
                ticks = parser.parse(record.payload, record.at)
            else:
                ticks = (
                    parser.parse_body(record.url, record.payload, record.at) if record.kind == "body" else []
                )
            for tick in ticks:
                assert_well_formed([tick])
                seen[tick.ch] += 1
                if isinstance(tick, Book):
                    books.setdefault(tick.sym, BookState()).apply(tick)
            touches.update(
                _agrees(books, tick) for tick in ticks if isinstance(tick, Quote) and len(ticks) == 1
            )
    assert seen == counts
    assert parser.take_gaps() == []
    # The book is up to 100 ms behind the quotes, so in a busy market they differ now and then.
    assert touches[True] > touches[False]


def _agrees(books: dict[str, BookState], quote: Quote) -> bool:
    if quote.sym not in books:
        return False
    bids, asks = books[quote.sym].levels()
    return bids[0][0] == quote.bid and asks[0][0] == quote.ask


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btcusdt"]}, "write it like 'BTC-USDT'"),
        ({"symbols": ["BTC-USDT", "BTCUSDT"]}, "with and without a dash"),
        ({"symbols": ["BTC-USDT"], "rest_url": "ws://x"}, "must be http:// or https:// and a host"),
        ({"symbols": [f"A{n}-USDT" for n in range(400)]}, "1200 streams, and the venue allows 1024"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Binance.Options(**options)


def test_streams_are_part_of_the_url_if_they_fit_and_messages_if_not() -> None:
    few = binance("ws://x", symbols=("BTC-USDT", "ETHBTC"), channels=("quote", "book"))
    assert few.symbols == ["BINANCE:BTC-USDT", "BINANCE:ETH-BTC"]
    streams = "btcusdt@bookTicker/btcusdt@depth@100ms/ethbtc@bookTicker/ethbtc@depth@100ms"
    assert few.stream_url() == f"ws://x/stream?streams={streams}"
    assert few.subscribe_frames() == []
    many = binance("ws://x", symbols=tuple(f"A{n}-USDT" for n in range(300)))
    assert many.stream_url() == "ws://x/stream"
    requests = [json.loads(frame) for frame in many.subscribe_frames()]
    assert [request["id"] for request in requests] == [1, 2, 3, 4, 5]
    assert sum(len(request["params"]) for request in requests) == 900


async def test_feed_fetches_snapshots_until_one_joins_and_again_after_a_break(
    autojump_clock: MockClock,
) -> None:
    """The venue is in memory here: the clock may jump over the pauses between attempts."""
    ctx = FakeContext()
    answers = ["refused", snapshot(3), snapshot(7), snapshot(25)]
    asked: list[tuple[float, str]] = []
    say, hear = trio.open_memory_channel[str](0)

    async def get(url: str) -> bytes:
        asked.append((trio.current_time(), url))
        answer = answers.pop(0)
        if answer == "refused":
            raise FeedError("HTTP 429")
        return answer.encode()

    ctx.get = get
    ctx.connect_ws = lambda url, **_: FakeSocket(hear)  # type: ignore[method-assign, assignment, misc]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(binance(rest_url="http://rest").run, ctx)
        await say.send(depth(6, 8))
        await ctx.wait_for(lambda ctx: len(ctx.ticks) == 2)
        await say.send(depth(20, 22))
        await say.send(depth(23, 26))
        await ctx.wait_for(lambda ctx: len(ctx.ticks) == 4)
        ctx.is_over = True
        nursery.cancel_scope.cancel()
    assert {url for _, url in asked} == {"http://rest/api/v3/depth?symbol=BTCUSDT&limit=1000"}
    assert [at - asked[0][0] for at, _ in asked[:3]] == [0, 1, 3]
    assert [each if isinstance(each, tuple) else kinds([each])[0] for each in ctx.story] == [
        ("gap", *BOOK),
        "snapshot",
        "8",
        ("gap", *BOOK),
        "snapshot",
        "26",
    ]
    assert [event for event, _ in ctx.log.events] == ["snapshot_failed"]


class FakeSocket:
    """A venue's socket over a memory channel."""

    def __init__(self, hear: trio.MemoryReceiveChannel[str]) -> None:
        self._hear = hear

    async def __aenter__(self) -> FakeSocket:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> str:
        return await self._hear.receive()


async def test_feed_follows_a_venue_over_real_sockets_and_tells_its_end_as_it_is() -> None:
    paths: list[str] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        paths.append(path)
        for frame in golden("binance.jsonl"):
            if b"bnbbtc" in frame or b"lastUpdateId" in frame:
                await socket.send_message(frame.decode())
        await socket.aclose(1001, "24 hours are over")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match="24 hours are over"):
            await binance(url, symbols=("BNB-BTC",), rest_url="http://127.0.0.1:1").run(ctx)
    assert paths == ["/stream?streams=bnbbtc@bookTicker/bnbbtc@trade/bnbbtc@depth@100ms"]
    assert [tick.ch for tick in ctx.ticks] == ["book", "book", "book", "quote", "trade"]


async def test_garbled_frame_is_counted_and_the_feed_goes_on() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.send_message("garbage")
        await socket.send_message(b"\xff\x00")
        await socket.send_message('{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}')
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        await run_until(binance(url), ctx, lambda ctx: len(ctx.ticks) == 1)
    assert len(ctx.refusals) == 2
