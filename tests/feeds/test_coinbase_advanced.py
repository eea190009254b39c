"""Coinbase Advanced Trade: its frames, their count, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Book, Quote, Tick, Trade, iso_to_ns
from feeds.coinbase_advanced import CoinbaseAdvanced
from feeds.coinbase_advanced_frames import CoinbaseAdvancedParser
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, assert_well_formed, golden, recording, run_until, scripted_venue
from tests.feeds.mutations import frames

RTS = 1_772_366_405_000_000_000
SYM = "COINBASE:BTC-USD"
BOOK = ("book", SYM)


def frame(channel: str, sequence: int | None, *events: dict[str, Any]) -> str:
    envelope: dict[str, Any] = {"channel": channel, "timestamp": "2026-03-01T12:00:00Z"}
    if sequence is not None:
        envelope["sequence_num"] = sequence
    return json.dumps({**envelope, "events": events})


def change(price: str, size: str, side: str = "bid") -> dict[str, str]:
    return {"side": side, "event_time": "2026-03-01T12:00:00Z", "price_level": price, "new_quantity": size}


def book(kind: str, *changes: dict[str, str], product: str = "BTC-USD") -> dict[str, Any]:
    return {"type": kind, "product_id": product, "updates": changes or [change("10", "1")]}


def snapshot(sequence: int | None, product: str = "BTC-USD") -> str:
    return frame("l2_data", sequence, book("snapshot", change("10", "1"), product=product))


def update(sequence: int | None, product: str = "BTC-USD") -> str:
    return frame("l2_data", sequence, book("update", change("10", "2"), product=product))


def trades(sequence: int | None, product: str = "BTC-USD") -> str:
    trade = {"trade_id": "7", "product_id": product, "price": "1", "size": "1", "side": "BUY"}
    trade["time"] = "2026-03-01T12:00:00Z"
    return frame("market_trades", sequence, {"type": "update", "trades": [trade]})


def ticker(sequence: int | None) -> str:
    tickers = [{"type": "ticker", "product_id": "BTC-USD", "best_bid": "1", "best_ask": "2"}]
    return frame("ticker", sequence, {"type": "update", "tickers": tickers})


def beat(sequence: int) -> str:
    return frame("heartbeats", sequence, {"heartbeat_counter": 1})


def kinds(ticks: list[Any]) -> list[Any]:
    return [
        each if isinstance(each, tuple) else each.kind if isinstance(each, Book) else each.ch
        for each in ticks
    ]


def live() -> CoinbaseAdvancedParser:
    """Return a parser that serves the book of BTC-USD, and has seen the frame 1."""
    parser = CoinbaseAdvancedParser()
    assert kinds(parser.parse(snapshot(1), RTS)) == ["snapshot"]
    return parser


def advanced(url: str = "ws://127.0.0.1:1", **options: Any) -> CoinbaseAdvanced:
    return CoinbaseAdvanced(CoinbaseAdvanced.Options(**{"symbols": ("BTC-USD",), "url": url, **options}))


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = CoinbaseAdvancedParser()
    ticks = [tick for each in golden("coinbase_advanced.jsonl") for tick in parser.parse(each, RTS)]
    common = {"sym": SYM, "rts": RTS}
    assert ticks == [
        Book(
            ts=iso_to_ns("2026-03-01T12:00:01.032003Z"),
            kind="snapshot",
            bids=[("21921.73", "0.06317902"), ("21921.3", "0.02")],
            asks=[("21922.50", "1.0")],
            **common,
        ),
        Book(
            ts=iso_to_ns("2026-03-01T12:00:01.5Z"),
            kind="delta",
            bids=[("21921.73", "0")],
            asks=[("21922.40", "0.5")],
            **common,
        ),
        Quote(
            ts=iso_to_ns("2026-03-01T12:00:01.600000123Z"),
            bid="21921.3",
            bid_size="0.02",
            ask="21922.40",
            ask_size="0.50000000",
            **common,
        ),
        Trade(
            ts=iso_to_ns("2026-03-01T12:00:01.5Z"),
            price="21921.30",
            size="0.3",
            side="sell",
            id="1000",
            **common,
        ),
        Trade(
            ts=iso_to_ns("2026-03-01T12:00:01.699Z"),
            price="21922.40",
            size="0.06",
            side="buy",
            id="1001",
            **common,
        ),
    ]
    assert_well_formed(ticks)
    assert parser.take_gaps() == []


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("subscriptions", []),
        ("l2_data_snapshot", ["snapshot"]),
        ("l2_data_update", ["delta"]),
        ("market_trades", ["trade", "trade"]),
        ("ticker", ["quote"]),
        ("candles", []),
        ("heartbeats", []),
    ],
)
def test_recorded_example_of_each_channel_is_understood(name: str, served: list[str]) -> None:
    parser = CoinbaseAdvancedParser()
    parser.parse(snapshot(None), RTS)
    path = recording("current-single-frames/coinbase-advanced-trade") / f"ws_{name}.json"
    ticks = parser.parse(path.read_bytes(), RTS)
    assert kinds(ticks) == served
    assert_well_formed(ticks)


def test_changes_before_the_snapshot_are_not_served() -> None:
    parser = CoinbaseAdvancedParser()
    assert parser.parse(update(0), RTS) == []
    assert parser.take_gaps() == []


def test_one_frame_may_be_of_several_books() -> None:
    parser = CoinbaseAdvancedParser()
    events = [book("snapshot"), book("update"), book("update", product="ETH-USD")]
    ticks = parser.parse(frame("l2_data", 0, *events), RTS)
    assert kinds(ticks) == ["snapshot", "delta"]


# ── the count of frames ──────────────────────────────────────────────────────────────────────────


def test_hole_in_the_count_is_a_gap_of_all_that_was_served_and_a_new_book() -> None:
    parser = live()
    for each in (trades(2), ticker(3), beat(4)):
        parser.parse(each, RTS)
    assert parser.take_gaps() == []
    assert parser.parse(update(6), RTS) == []
    assert parser.take_gaps() == [BOOK, ("quote", SYM), ("trade", SYM)]
    assert parser.take_lost() == {"BTC-USD"}
    assert parser.parse(update(7), RTS) == []
    assert kinds(parser.parse(snapshot(8), RTS)) == ["snapshot"]
    assert kinds(parser.parse(update(9), RTS)) == ["delta"]
    assert parser.take_gaps() == []


def test_frame_that_comes_late_is_not_served() -> None:
    parser = live()
    parser.parse(update(2), RTS)
    assert parser.parse(update(2), RTS) == []
    assert kinds(parser.parse(update(3), RTS)) == ["delta"]
    assert parser.take_gaps() == []


def test_count_that_begins_anew_is_a_new_connection() -> None:
    parser = live()
    assert parser.parse(beat(0), RTS) == []
    assert parser.take_gaps() == [BOOK]
    assert parser.parse(update(1), RTS) == []
    assert kinds(parser.parse(snapshot(2), RTS)) == ["snapshot"]


def test_unreadable_frame_had_a_number_and_is_no_hole() -> None:
    parser = live()
    parser.parse(trades(2), RTS)
    with pytest.raises(FrameError):
        parser.parse(trades(3)[:-9], RTS)
    assert kinds(parser.parse(update(4), RTS)) == ["delta"]
    with pytest.raises(FrameError):
        parser.parse("noise that is none of the venue's", RTS)
    assert kinds(parser.parse(update(5), RTS)) == ["delta"]
    assert parser.take_gaps() == []
    parser.parse(update(7), RTS)
    assert parser.take_gaps() == [BOOK, ("trade", SYM)]


# ── frames that make no sense ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sent",
    [
        update(2).replace('"2"', '"x"'),
        update(2).replace('"2"', '"-1"'),
        update(2).replace('"bid"', '"both"'),
        update(2).replace('"update"', '"upgrade"'),
        update(2).replace("l2_data", "l3_data"),
        update(2).replace("2026-03-01T", "yesterday "),
        update(2)[:-9],
        update(2)[:30],
        update(2)[40:],
        update(2).replace("BTC-USD", "BTC-USE")[:-2] + "]",
        frame("l2_data", 2, book("update", product="ETH-USD"), book("update"))[:150],
        frame("l2_data", 2, book("update"), {"type": "update", "product_id": "ETH-USD", "updates": 7}),
        '{"cha',
    ],
)
def test_unreadable_change_stops_the_book_until_the_next_snapshot(sent: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(sent, RTS)
    assert parser.take_gaps() == [BOOK]
    assert "BTC-USD" in parser.take_lost()
    assert parser.parse(update(3), RTS) == []
    assert kinds(parser.parse(snapshot(4), RTS)) == ["snapshot"]
    assert kinds(parser.parse(update(5), RTS)) == ["delta"]


@pytest.mark.parametrize(
    "sent",
    [
        "not a frame",
        trades(2)[:-9],
        trades(2).replace('"1"', "1"),
        ticker(2).replace('"1"', '"one"'),
        frame("weather", 2),
        update(2, product="ETH-USD").replace('"2"', '"x"'),
    ],
)
def test_unreadable_frame_that_is_no_change_of_a_book_leaves_it_alone(sent: str) -> None:
    parser = live()
    with pytest.raises(FrameError):
        parser.parse(sent, RTS)
    assert parser.take_gaps() == []
    assert kinds(parser.parse(update(3), RTS)) == ["delta"]


def test_reset_breaks_the_books_that_were_served() -> None:
    parser = live()
    parser.reset()
    assert parser.take_gaps() == [BOOK]
    assert parser.parse(update(9), RTS) == []


def test_frame_of_a_product_that_nobody_subscribed_to_is_refused() -> None:
    with pytest.raises(FrameError, match="nobody subscribed to 'ETH-USD'"):
        CoinbaseAdvancedParser(products=["BTC-USD"]).parse(trades(1, product="ETH-USD"), RTS)


@pytest.mark.parametrize(
    ("message", "is_permanent"),
    [
        ("FOO-BAR is not a valid product", True),
        ("authentication failure", True),
        ("rate limit exceeded, invalid for now", False),
        ("failure to subscribe", False),
    ],
)
def test_error_of_the_venue_is_a_refusal(message: str, is_permanent: bool) -> None:
    with pytest.raises(VenueRefused, match=message) as caught:
        CoinbaseAdvancedParser().parse(json.dumps({"type": "error", "message": message}), RTS)
    assert caught.value.permanent is is_permanent


@given(st.lists(frames(golden("coinbase_advanced.jsonl")), max_size=8))
def test_any_frame_becomes_well_formed_ticks_or_a_frame_error(sent: list[bytes | str]) -> None:
    parser = live()
    ticks: list[Tick] = []
    for each in sent:
        try:
            ticks += parser.parse(each, RTS)
        except FrameError:
            continue
    assert_well_formed(ticks)
    assert {ch for ch, _ in parser.take_gaps()} <= {"book", "quote", "trade"}


# ── live ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btc-usd"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTCUSD"]}, "write it like 'BTC-USD'"),
        ({"symbols": ["BTC-USDC"]}, "comes as 'BTC-USD', whose order book is the same"),
        ({"symbols": ["BTC-USD", "BTC-USD"]}, "'BTC-USD' is listed twice"),
    ],
)
def test_wrong_options_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        CoinbaseAdvanced.Options(**options)


def test_products_in_usdc_that_are_their_own_are_taken() -> None:
    assert advanced(symbols=("EURC-USDC", "BTC-PERP-INTX")).symbols == [
        "COINBASE:EURC-USDC",
        "COINBASE:BTC-PERP-INTX",
    ]


async def test_feed_subscribes_to_heartbeats_and_each_channel() -> None:
    requests: list[Any] = []

    async def script(socket: WebSocketConnection, path: str) -> None:
        requests.extend([json.loads(await socket.get_message()) for _ in range(4)])
        await socket.ping()
        for each in golden("coinbase_advanced.jsonl"):
            await socket.send_message(each.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        await run_until(advanced(url), ctx, lambda ctx: len(ctx.ticks) == 5)
    products = {"type": "subscribe", "product_ids": ["BTC-USD"]}
    assert requests == [
        {"type": "subscribe", "channel": "heartbeats"},
        {**products, "channel": "ticker"},
        {**products, "channel": "market_trades"},
        {**products, "channel": "level2"},
    ]
    assert kinds(ctx.story) == ["snapshot", "delta", "quote", "trade", "trade"]
    assert ctx.refusals == []


async def test_hole_makes_the_feed_ask_for_all_books_again_on_the_same_connection() -> None:
    requests: list[Any] = []
    products = ("BTC-USD", "ETH-USD")

    async def script(socket: WebSocketConnection, path: str) -> None:
        for _ in range(2):
            await socket.get_message()
        for number, product in enumerate(products):
            await socket.send_message(snapshot(number, product))
        await socket.send_message(update(3))
        requests.extend([json.loads(await socket.get_message()), json.loads(await socket.get_message())])
        await socket.send_message(update(4))
        for number, product in enumerate(products, 5):
            await socket.send_message(snapshot(number, product))
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = advanced(url, symbols=products, channels=("book",))
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 4)
    request = {"product_ids": ["BTC-USD", "ETH-USD"], "channel": "level2"}
    assert requests == [{"type": "unsubscribe", **request}, {"type": "subscribe", **request}]
    gaps = [("gap", *BOOK), ("gap", "book", "COINBASE:ETH-USD")]
    assert kinds(ctx.story) == ["snapshot", "snapshot", *gaps, "snapshot", "snapshot"]


async def test_refusal_of_the_venue_ends_the_feed_with_its_text() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        await socket.send_message('{"type":"error","message":"X-Y is not a valid product"}')
        await socket.get_message()

    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedPermanentError, match="X-Y is not a valid product"):
            await advanced(url).run(FakeContext())


async def test_connection_that_drops_is_a_feed_error_that_can_be_retried() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        for _ in range(4):
            await socket.get_message()
        await socket.send_message(snapshot(0))
        await socket.aclose(1012, "restarting")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match=r"1012.*restarting") as caught:
            await advanced(url).run(ctx)
    assert not isinstance(caught.value, FeedPermanentError)
    assert kinds(ctx.ticks) == ["snapshot"]
    assert ctx.gaps == [("book", ctx.ticks[0].sym)]
