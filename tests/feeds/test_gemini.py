"""Gemini: its frames, its books, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Book, Quote, Tick, Trade
from feeds.gemini import Gemini
from feeds.gemini_frames import GeminiParser, name_of, native_of
from feeds.recordings import read_file
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, assert_well_formed, golden, recording, run_until, scripted_venue
from tests.feeds.mutations import frames
from tests.feeds.played import Played

RTS = 1_772_366_405_000_000_000
SYM = "GEMINI:BTC-USD"
GAPS = [("quote", SYM), ("book", SYM)]
DETAILS = "https://api.gemini.com/v1/symbols/details/"


def update(*changes: tuple[str, str, str], symbol: str = "BTCUSD", **more: Any) -> str:
    return json.dumps({"type": "l2_updates", "symbol": symbol, "changes": changes, **more})


def trade(event_id: int, **more: Any) -> dict[str, Any]:
    times = {"event_id": event_id, "timestamp": 1_772_366_400_000 + event_id}
    return {
        "type": "trade",
        "symbol": "BTCUSD",
        **times,
        "price": "10",
        "quantity": "1",
        "side": "buy",
        **more,
    }


def whole(*trades: int, symbol: str = "BTCUSD") -> str:
    return update(
        ("buy", "10", "1"), ("sell", "11", "2"), symbol=symbol, trades=[trade(each) for each in trades]
    )


def kinds(ticks: list[Any]) -> list[Any]:
    """Return gaps, of books their kind, of trades their id."""
    return [
        tick if isinstance(tick, tuple) else tick.kind if isinstance(tick, Book) else tick.id
        for tick in ticks
        if isinstance(tick, (Book, Trade, tuple))
    ]


def live() -> GeminiParser:
    parser = GeminiParser()
    assert kinds(parser.parse(whole(), RTS)) == ["snapshot"]
    return parser


def gemini(url: str = "ws://127.0.0.1:1", **options: Any) -> Gemini:
    return Gemini(Gemini.Options(**{"symbols": ("BTC-USD",), "url": url, **options}))


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = GeminiParser()
    ticks = [tick for frame in golden("gemini.jsonl") for tick in parser.parse(frame, RTS)]
    common = {"sym": SYM, "ts": RTS, "rts": RTS}
    assert ticks == [
        Book(
            kind="snapshot",
            bids=[("9122.04", "0.00121425"), ("9122.00", "1")],
            asks=[("9122.07", "0.98942292")],
            **common,
        ),
        Quote(bid="9122.04", bid_size="0.00121425", ask="9122.07", ask_size="0.98942292", **common),
        Book(kind="delta", bids=[], asks=[("9160.20", "0.1921229751")], **common),
        Book(kind="delta", bids=[("9122.05", "2.0"), ("9122.04", "0")], asks=[], **common),
        Quote(bid="9122.05", bid_size="2.0", ask="9122.07", ask_size="0.98942292", **common),
        Trade(
            sym=SYM,
            ts=1_772_366_401_231_000_000,
            rts=RTS,
            price="9122.07000000",
            size="0.09110000",
            side="buy",
            id="2840140800042678",
        ),
    ]
    assert_well_formed(ticks)


@pytest.mark.parametrize(
    ("native", "symbol"),
    [
        ("BTCUSD", "BTC-USD"),
        ("ETHBTC", "ETH-BTC"),
        ("BTCGUSD", "BTC-GUSD"),
        ("PAXGUSD", "PAXG-USD"),
        ("OMGUSD", "OMG-USD"),
        ("GUSDUSD", "GUSD-USD"),
        ("LTCBCH", "LTC-BCH"),
        ("BTCSGD", "BTC-SGD"),
        ("BTCUSDT", "BTC-USDT"),
        ("BTCGUSDPERP", "BTC-GUSD-PERP"),
        ("PERPUSD", "PERP-USD"),
    ],
)
def test_symbols_map_both_ways(native: str, symbol: str) -> None:
    assert name_of(native) == symbol
    assert native_of(symbol) == native


def test_names_are_learnt_from_the_venues_list() -> None:
    parser = GeminiParser()
    body = (
        b'{"symbol":"PAXGUSD","base_currency":"PAX","quote_currency":"GUSD","tick_size":1E-8,"status":"open"}'
    )
    assert parser.parse_body(DETAILS + "paxgusd", body, RTS) == []
    ticks = parser.parse(json.dumps(trade(1, symbol="PAXGUSD")), RTS)
    assert [tick.sym for tick in ticks] == ["GEMINI:PAX-GUSD"]
    assert parser.parse_body("https://api.gemini.com/v1/symbols", b'["btcusd"]', RTS) == []


def test_changes_before_the_whole_book_are_not_served() -> None:
    parser = GeminiParser()
    assert parser.parse(update(("buy", "10", "1")), RTS) == []
    assert parser.take_gaps() == []


def test_trades_from_before_the_subscription_are_no_news() -> None:
    parser = GeminiParser()
    assert kinds(parser.parse(whole(3, 2), RTS)) == ["snapshot"]
    assert kinds(parser.parse(json.dumps(trade(4)), RTS)) == ["4"]


def test_trades_that_were_missed_come_with_the_next_whole_book_once() -> None:
    parser = GeminiParser()
    parser.parse(whole(1), RTS)
    parser.parse(json.dumps(trade(2)), RTS)
    assert kinds(parser.parse(whole(4, 3, 2, 1), RTS)) == ["3", "4", "snapshot"]
    assert kinds(parser.parse(json.dumps(trade(4)), RTS)) == []
    assert kinds(parser.parse(json.dumps(trade(5)), RTS)) == ["5"]


def test_side_of_an_auctions_trade_is_nobodys() -> None:
    (tick,) = GeminiParser().parse(json.dumps(trade(1, side="auction")), RTS)
    assert isinstance(tick, Trade)
    assert tick.side is None


def test_book_that_stays_crossed_is_a_gap_and_asked_for_again() -> None:
    parser = live()
    crossed = parser.parse(update(("buy", "11.0", "1")), RTS)
    assert [tick.ch for tick in crossed] == ["book"]
    assert kinds(parser.parse(update(("buy", "9", "1")), RTS + 10**9)) == ["delta"]
    assert parser.parse(update(("buy", "9", "2")), RTS + 10**9 + 1) == []
    assert parser.take_gaps() == GAPS
    assert parser.take_lost() == {"BTCUSD"}
    assert not parser.is_live("GEMINI:BTC-USD")
    assert parser.parse(update(("buy", "9", "1")), RTS) == []
    assert kinds(parser.parse(whole(), RTS)) == ["snapshot"]
    assert parser.is_live("GEMINI:BTC-USD")


def test_hole_in_the_connections_count_breaks_all_books() -> None:
    parser = live()
    parser.parse(whole(symbol="ETHUSD"), RTS)
    parser.parse('{"type":"heartbeat","timestamp":1,"socket_sequence":7}', RTS)
    parser.parse('{"type":"heartbeat","timestamp":1,"socket_sequence":8}', RTS)
    assert parser.take_gaps() == []
    parser.parse('{"type":"heartbeat","timestamp":1,"socket_sequence":10}', RTS)
    assert parser.take_gaps() == [*GAPS, ("quote", "GEMINI:ETH-USD"), ("book", "GEMINI:ETH-USD")]
    assert parser.take_lost() == {"BTCUSD", "ETHUSD"}


@pytest.mark.parametrize(
    "frame",
    [
        update(("buy", "10", "x")),
        update(("buy", "10", "-1")),
        update(("buy", "1,0", "1")),
        update(("bid", "10", "1")),
        update(("buy", "10", "1"))[:-9],
        update(("buy", "10", "1")).replace("l2_updates", "l3_updates"),
        '{"type":"l2_updates","symbol":"BTCUSD"}',
        '{"type":"l2_updates","symbol":"BTCUSD","changes":[["buy",10.5,"1"]]}',
        update(("buy", "10", "1"))[25:],
        update(("buy", "10", "1")).replace("BTCUSD", "BTCUSE")[:-9],
        '{"type":"l2_upd',
        '{"ty',
    ],
)
def test_unreadable_change_stops_the_book_until_the_next_whole_one(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == GAPS
    assert parser.take_lost() == {"BTCUSD"}
    assert parser.parse(update(("buy", "10", "1")), RTS) == []
    assert kinds(parser.parse(whole(), RTS)) == ["snapshot"]
    assert kinds(parser.parse(update(("buy", "10", "2")), RTS)) == ["delta"]


@pytest.mark.parametrize(
    "frame",
    [
        "not a frame",
        json.dumps(trade(1, price=1.5)),
        json.dumps(trade(1, timestamp=10**18)),
        json.dumps(trade(1))[:-9],
        '{"type":"weather"}',
        update(("buy", "10", "x"), symbol="ETHUSD"),
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(frame: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == []
    assert kinds(parser.parse(update(("buy", "10", "2")), RTS)) == ["delta"]


def test_book_that_has_not_come_yet_is_asked_for_after_a_frame_that_may_have_been_it() -> None:
    parser = GeminiParser(names={"BTCUSD": "BTC-USD", "ETHUSD": "ETH-USD"})
    with pytest.raises(FrameError):
        parser.parse('{"typ', RTS)
    assert parser.take_lost() == {"BTCUSD", "ETHUSD"}
    assert parser.take_gaps() == []


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = live()
    parser.reset()
    assert parser.take_gaps() == GAPS
    assert parser.take_lost() == set()
    assert parser.parse(update(("buy", "10", "1")), RTS) == []


def test_frame_of_a_symbol_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'ETHUSD'"):
        GeminiParser(names={"BTCUSD": "BTC-USD"}).parse(whole(symbol="ETHUSD"), RTS)


@pytest.mark.parametrize(
    ("frame", "is_permanent"),
    [
        ({"result": "error", "reason": "InvalidSymbol", "message": "Supplied symbol is not supported"}, True),
        ({"result": "error", "reason": "RateLimit", "message": "Requests were made too frequently"}, False),
        ({"result": "error", "reason": "Maintenance", "message": "The system is down"}, False),
        ({"type": "error", "reason": "Something"}, False),
        ({"result": "error"}, False),
    ],
)
def test_error_of_the_venue_is_a_refusal(frame: dict[str, str], is_permanent: bool) -> None:
    with pytest.raises(VenueRefused, match=frame.get("reason", "without a text")) as caught:
        GeminiParser().parse(json.dumps(frame), RTS)
    assert caught.value.permanent is is_permanent


@given(st.lists(frames([*golden("gemini.jsonl"), whole(1, 2).encode()]), max_size=8))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = GeminiParser()
    ticks: list[Tick] = parser.parse(whole(1), RTS)
    for frame in sent:
        try:
            ticks += parser.parse(frame, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book", "quote"}


@given(frames([b'{"symbol":"BTCUSD","base_currency":"BTC","quote_currency":"USD","product_type":"spot"}']))
def test_any_body_teaches_a_name_or_is_a_frame_error(body: bytes | str) -> None:
    parser = GeminiParser()
    try:
        assert parser.parse_body(DETAILS + "btcusd", body, RTS) == []
        assert_well_formed(parser.parse(json.dumps(trade(1)), RTS))
    except FrameError:
        return


def test_recording_comes_out_whole_and_its_quotes_are_the_tops_of_its_books() -> None:
    played = Played(recording("gemini-2021-06-24"), GeminiParser())
    assert played.counts == {"book": 655, "quote": 232, "trade": 16}
    assert (played.refused, played.gaps, played.crossed(), played.differing()) == ({}, [], [], [])
    assert len(played.books) == 10


def test_names_of_the_recorded_list_are_those_that_would_be_guessed() -> None:
    records = read_file(recording("gemini-2021-06-24/GEMINI.0.gz"))
    details = [json.loads(each.payload) for each in records if "/details/" in each.url]
    assert len(details) > 50
    for each in details:
        assert name_of(each["symbol"]) == f"{each['base_currency']}-{each['quote_currency']}"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btcusd"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTCUSD"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["PAXG-USD", "PAX-GUSD"]}, "the same to the venue"),
        ({"symbols": ["BTC-USD"], "url": "http://x"}, "must be ws:// or wss:// and a host"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Gemini.Options(**options)


async def test_feed_subscribes_once_and_publishes_what_the_venue_sends() -> None:
    requests: list[Any] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        requests.append((path, json.loads(await socket.get_message())))
        await socket.ping(b"are you there")
        for frame in golden("gemini.jsonl"):
            await socket.send_message(frame.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = gemini(f"{url}/v2/marketdata", symbols=("BTC-USD", "ETH-BTC"))
        assert feed.symbols == [SYM, "GEMINI:ETH-BTC"]
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 6)
    subscription = {"name": "l2", "symbols": ["BTCUSD", "ETHBTC"]}
    assert requests == [("/v2/marketdata", {"type": "subscribe", "subscriptions": [subscription]})]
    assert [tick.ch for tick in ctx.ticks] == ["book", "quote", "book", "book", "quote", "trade"]
    assert ctx.refusals == []


async def test_only_the_channels_that_were_asked_for_are_published() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        for frame in golden("gemini.jsonl"):
            await socket.send_message(frame.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = gemini(url, channels=("quote", "trade"))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 3)
    assert [tick.ch for tick in ctx.ticks] == ["quote", "quote", "trade"]


async def test_feed_asks_for_a_broken_book_again_on_the_same_connection() -> None:
    requests: list[Any] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message(whole(1))
        await socket.send_message(json.dumps(trade(2)))
        await socket.send_message('{"type":"l2_updates","symbol":"BTCUSD","changes":[["buy","1')
        requests.extend([json.loads(await socket.get_message()), json.loads(await socket.get_message())])
        await socket.send_message(update(("buy", "9", "1")))
        await socket.send_message(whole(3, 2, 1))
        await socket.send_message(update(("buy", "9", "1")))
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = gemini(url, channels=("trade", "book"))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 5)
    subscriptions = [{"name": "l2", "symbols": ["BTCUSD"]}]
    assert requests == [
        {"type": "unsubscribe", "subscriptions": subscriptions},
        {"type": "subscribe", "subscriptions": subscriptions},
    ]
    assert kinds(ctx.story) == ["snapshot", "2", ("gap", "book", SYM), "3", "snapshot", "delta"]
    assert len(ctx.refusals) == 1


async def test_recorded_frames_over_a_real_socket_make_the_recorded_ticks() -> None:
    records = list(read_file(recording("gemini-2021-06-24/GEMINI.ws.1.0.gz")))
    payloads = [record.payload for record in records if record.kind == "frame"]
    natives = {json.loads(payload)["symbol"] for payload in payloads if b'"symbol"' in payload}

    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        for payload in payloads:
            await socket.send_message(payload.decode())
        await socket.aclose(1001, "a day is over")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = gemini(url, symbols=tuple(sorted(name_of(native) for native in natives)))
        with trio.fail_after(60), pytest.raises(FeedError, match="a day is over"):
            await feed.run(ctx)
    assert len(ctx.ticks) == 655 + 232 + 16
    assert (ctx.refusals, ctx.early_gaps) == ([], [])


async def test_symbol_that_the_venue_refuses_ends_the_feed_for_good() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message('{"result":"error","reason":"InvalidSymbol","message":"No such symbol"}')
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedPermanentError, match="No such symbol"):
            await gemini(url).run(FakeContext())


class Socket:
    """A venue in memory: a heartbeat every five seconds, and what else is due."""

    def __init__(self, *due: tuple[float, str]) -> None:
        self._due = sorted([*due, *((at, '{"type":"heartbeat","timestamp":1}') for at in range(0, 300, 5))])
        self.sent: list[str] = []

    async def __aenter__(self) -> Socket:
        self._began = trio.current_time()
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(str(message))

    async def receive(self) -> str:
        if not self._due:
            await trio.sleep_forever()
        at, message = self._due.pop(0)
        await trio.sleep_until(self._began + at)
        return message


def in_memory(socket: Socket) -> FakeContext:
    ctx = FakeContext()
    ctx.connect_ws = lambda url, **_: socket  # type: ignore[method-assign, assignment]
    return ctx


async def test_venue_without_a_heartbeat_is_given_up(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(FeedError, match="nothing has come for 30 s, not even a heartbeat"):
        await gemini().run(in_memory(Socket((1, whole()))))
    assert trio.current_time() - began == 295 + 30
