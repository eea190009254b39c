"""Coinbase Exchange: its frames, its books, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio_websocket import WebSocketConnection

from broker.core.books import BookState
from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Book, Quote, Tick, Trade, iso_to_ns
from feeds.coinbase import Coinbase, CoinbaseParser
from feeds.recordings import read_merged
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, assert_well_formed, golden, recording, run_until, scripted_venue
from tests.feeds.mutations import frames

RTS = 1_772_366_400_000_000_000
SNAPSHOT = b'{"type":"snapshot","product_id":"BTC-USD","bids":[["10","1"]],"asks":[["11","2"]]}'


def update(*changes: tuple[str, str, str], product: str = "BTC-USD") -> bytes:
    return json.dumps(
        {
            "type": "l2update",
            "product_id": product,
            "changes": changes,
            "time": "2026-03-01T12:00:00Z",
        }
    ).encode()


def coinbase(url: str = "ws://127.0.0.1:1", **options: Any) -> Coinbase:
    return Coinbase(Coinbase.Options(**{"symbols": ("BTC-USD",), "url": url, **options}))


def test_book_that_stays_crossed_is_a_gap_and_asked_for_again() -> None:
    parser = CoinbaseParser()

    def at(second: int, *changes: tuple[str, str, str]) -> list[Tick]:
        frame = json.loads(update(*changes)) | {"time": f"2026-03-01T12:00:0{second}.1Z"}
        return parser.parse(json.dumps(frame), RTS)

    parser.parse(SNAPSHOT, RTS)
    assert len(at(1, ("buy", "11", "1"))) == 1, "what one order does may come in several messages"
    assert len(at(1, ("sell", "11", "0"))) == 1
    assert len(at(2, ("sell", "10.5", "1"))) == 1
    assert len(at(3, ("sell", "12", "1"))) == 1
    assert at(4, ("sell", "12", "2")) == []
    assert parser.take_gaps() == [("book", "COINBASE:BTC-USD")]
    assert parser.take_lost() == {"BTC-USD"}
    assert at(5, ("sell", "10.5", "0")) == []
    assert len(parser.parse(SNAPSHOT, RTS)) == 1
    assert parser.is_live("COINBASE:BTC-USD")


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = CoinbaseParser()
    ticks = [tick for frame in golden("coinbase.jsonl") for tick in parser.parse(frame, RTS)]
    sym = "COINBASE:BTC-USD"
    delta_at = iso_to_ns("2026-03-01T12:00:01.123456Z")
    assert ticks == [
        Book(
            sym=sym,
            ts=RTS,
            rts=RTS,
            kind="snapshot",
            bids=[("10101.10", "0.45054140"), ("10100.00", "2")],
            asks=[("10102.55", "0.57753524")],
        ),
        Book(
            sym=sym,
            ts=delta_at,
            rts=RTS,
            kind="delta",
            bids=[("10101.90", "3.0"), ("10101.80", "0.162567"), ("10101.10", "0")],
            asks=[("10102.50", "1.5")],
        ),
        Quote(
            sym=sym,
            ts=iso_to_ns("2026-03-01T12:00:01.5Z"),
            rts=RTS,
            bid="10101.80",
            bid_size="0.16256700",
            ask="10102.50",
            ask_size="1.50000000",
        ),
        Trade(
            sym=sym,
            ts=iso_to_ns("2026-03-01T12:00:02.028459Z"),
            rts=RTS,
            price="400.23",
            size="5.23512",
            side="buy",
            id="10",
        ),
    ]
    assert_well_formed(ticks)


def test_quote_without_sizes_as_of_2021_has_none() -> None:
    frame = '{"type":"ticker","product_id":"A-B","best_bid":"0.7900","best_ask":"0"}'
    (quote,) = CoinbaseParser().parse(frame, RTS)
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("0.7900", None, None, None)


def test_changes_before_the_snapshot_are_not_served() -> None:
    parser = CoinbaseParser()
    assert parser.parse(update(("buy", "10", "1")), RTS) == []
    assert parser.take_gaps() == []


@pytest.mark.parametrize(
    "frame",
    [
        update(("buy", "10", "x")),
        update(("buy", "10", "-1")),
        update(("buy", "10,5", "1")),
        update(("bid", "10", "1")),
        update(("buy", "10", "1"))[:-20],
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy",10.5,"1"]]}',
        b'{"type":"l2upd',
        b'{"ty',
        update(("buy", "10", "1"))[1:],
        update(("buy", "10", "1"))[40:],
        update(("buy", "10", "1")).replace(b"l2update", b"l2up!date"),
        update(("buy", "10", "1")).replace(b'"l2update"', b'"l3update'),
    ],
)
def test_unreadable_change_stops_the_book_until_the_next_snapshot(frame: bytes) -> None:
    parser = CoinbaseParser()
    parser.parse(SNAPSHOT, RTS)
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == [("book", "COINBASE:BTC-USD")]
    assert parser.take_lost() == {"BTC-USD"}
    assert parser.parse(update(("buy", "10", "1")), RTS) == []
    assert len(parser.parse(SNAPSHOT, RTS)) == 1
    assert len(parser.parse(update(("buy", "10", "1")), RTS)) == 1


@pytest.mark.parametrize(
    "frame",
    [
        b"not a frame",
        b'{"type":"ticker","product_id":"BTC-USD","best_bid":1}',
        b'{"type":"match","product_id":"BTC-USD"',
        update(("buy", "10", "x"), product="ETH-USD"),
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(frame: bytes) -> None:
    parser = CoinbaseParser()
    parser.parse(SNAPSHOT, RTS)
    with pytest.raises(FrameError):
        parser.parse(frame, RTS)
    assert parser.take_gaps() == []
    assert len(parser.parse(update(("buy", "10", "1")), RTS)) == 1


def test_product_that_a_damaged_frame_shows_is_not_believed_unless_there_is_such_a_book() -> None:
    parser = CoinbaseParser(products=["BTC-USD", "ETH-USD"])
    for product in (b"BTC", b"ETH"):
        parser.parse(SNAPSHOT.replace(b"BTC", product), RTS)
    with pytest.raises(FrameError):
        parser.parse(update(("buy", "10", "1"), product="BTX-USD")[:-1], RTS)
    assert parser.take_lost() == {"BTC-USD", "ETH-USD"}
    parser.take_gaps()
    parser.parse(SNAPSHOT, RTS)
    with pytest.raises(FrameError):
        parser.parse(update(("buy", "10", "1"))[:-1], RTS)
    assert parser.take_lost() == {"BTC-USD"}


def test_snapshot_that_is_damaged_is_asked_for_again() -> None:
    parser = CoinbaseParser(products=["BTC-USD"])
    with pytest.raises(FrameError):
        parser.parse(SNAPSHOT[:-5], RTS)
    assert parser.take_lost() == {"BTC-USD"}


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = CoinbaseParser()
    parser.parse(SNAPSHOT, RTS)
    parser.reset()
    assert parser.take_gaps() == [("book", "COINBASE:BTC-USD")]
    assert parser.parse(update(("buy", "10", "1")), RTS) == []


def test_frame_of_a_product_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'ETH-USD'"):
        CoinbaseParser(products=["BTC-USD"]).parse(SNAPSHOT.replace(b"BTC", b"ETH"), RTS)


@pytest.mark.parametrize(
    ("message", "reason", "is_permanent"),
    [
        ("Failed to subscribe", "FOO-BAR is not a valid product", True),
        ("Authentication Failed", None, True),
        ("Failed to subscribe", "rate limit exceeded", False),
        ("Something else", None, False),
    ],
)
def test_error_of_the_venue_is_a_refusal(message: str, reason: str | None, is_permanent: bool) -> None:
    frame = json.dumps({"type": "error", "message": message, "reason": reason})
    with pytest.raises(VenueRefused, match=message) as caught:
        CoinbaseParser().parse(frame, RTS)
    assert caught.value.permanent is is_permanent


@given(st.lists(frames(golden("coinbase.jsonl")), max_size=6))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = CoinbaseParser()
    ticks: list[Tick] = parser.parse(SNAPSHOT, RTS)
    for frame in sent:
        try:
            ticks += parser.parse(frame, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book"}


def test_recording_comes_out_whole() -> None:
    path = recording("coinbase-exchange-2021-04-17/COINBASE.ws.28.0.five-products.gz")
    parser = CoinbaseParser()
    counts: Counter[str] = Counter()
    books: dict[str, BookState] = {}
    with read_merged([path]) as records:
        for record in records:
            for tick in parser.parse(record.payload, record.at) if record.kind == "frame" else []:
                assert_well_formed([tick])
                counts[tick.ch] += 1
                if isinstance(tick, Book):
                    books.setdefault(tick.sym, BookState()).apply(tick)
    assert counts == {"book": 5556, "quote": 77, "trade": 72}
    for book in books.values():
        bids, asks = book.levels()
        assert Decimal(bids[0][0]) < Decimal(asks[0][0])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btc-usd"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["COINBASE:BTC-USD"]}, "write it like 'BTC-USD'"),
        ({"symbols": []}, "at least 1 item"),
        ({"symbols": ["BTC-USD", "BTC-USD"]}, "'BTC-USD' is listed twice"),
        ({"symbols": ["BTC-USD"], "url": "http://x"}, "must be ws:// or wss:// and a host"),
        ({"symbols": ["BTC-USD"], "channels": ["bar"]}, "'quote', 'trade' or 'book'"),
        ({"symbols": ["BTC-USD"], "colour": 1}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Coinbase.Options(**options)


async def test_feed_subscribes_and_publishes_what_the_venue_sends() -> None:
    requests: list[Any] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        requests.append(json.loads(await socket.get_message()))
        for frame in golden("coinbase.jsonl"):
            await socket.send_message(frame.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = coinbase(url)
        assert feed.symbols == ["COINBASE:BTC-USD"]
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 4)
    assert requests == [
        {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker", "matches", "level2_batch"]}
    ]
    assert [tick.ch for tick in ctx.ticks] == ["book", "book", "quote", "trade"]
    assert ctx.refusals == []


async def test_feed_asks_for_a_broken_book_again_on_the_same_connection() -> None:
    requests: list[Any] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message(SNAPSHOT.decode())
        await socket.send_message('{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1"]]}')
        requests.extend([json.loads(await socket.get_message()), json.loads(await socket.get_message())])
        await socket.send_message(update(("buy", "9", "1")).decode())
        await socket.send_message(SNAPSHOT.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        await run_until(coinbase(url), ctx, lambda ctx: len(ctx.ticks) == 2)
    channels = {"product_ids": ["BTC-USD"], "channels": ["level2_batch"]}
    assert requests == [{"type": "unsubscribe", **channels}, {"type": "subscribe", **channels}]
    assert [each if isinstance(each, tuple) else each.ch for each in ctx.story] == [
        "book",
        ("gap", "book", "COINBASE:BTC-USD"),
        "book",
    ]
    assert len(ctx.refusals) == 1


async def test_refusal_of_the_venue_ends_the_feed_with_its_text() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message(
            '{"type":"error","message":"Failed to subscribe","reason":"X is not a valid product"}'
        )
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedPermanentError, match="X is not a valid product"):
            await coinbase(url).run(FakeContext())


async def test_connection_that_drops_is_a_feed_error_that_can_be_retried() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message(SNAPSHOT.decode())
        await socket.aclose(1012, "restarting")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match=r"1012.*restarting") as caught:
            await coinbase(url).run(ctx)
    assert not isinstance(caught.value, FeedPermanentError)
    assert len(ctx.ticks) == 1
