"""Trades that are missing or come twice: told by the venue's numbers, or by a frame that can't be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from trio_websocket import WebSocketConnection

from broker.core.ticks import Trade
from feeds.bitstamp import Bitstamp
from feeds.coinbase import CoinbaseParser
from feeds.coinbase_advanced import CoinbaseAdvanced
from feeds.gemini import Gemini
from feeds.kraken import Kraken
from feeds.kraken_v2_frames import KrakenV2Parser
from feeds.trade_ids import TradeIds
from feeds.venue import VenueFeed, VenueParser
from tests.feeds.fakes import FakeContext, run_until, scripted_venue

RTS = 1_772_366_400_000_000_000
AT = "2026-03-01T12:00:00Z"


def test_numbers_that_follow_each_other_are_news_and_others_are_holes_or_old() -> None:
    ids = TradeIds()
    assert [ids.take("A", number) for number in (5, 6, 6, 5, 9, 8, 10)] == [
        *("next", "next", "old", "old", "hole", "old", "next")
    ]
    assert ids.take("B", 1) == "next", "each symbol has its own"
    ids.forget("A")
    assert ids.take("A", 3) == "next"


def test_venue_that_counts_anew_is_not_ignored_for_ever() -> None:
    ids = TradeIds()
    assert [ids.take("A", number) for number in (5_000_000, 1, 2)] == ["next", "hole", "next"]


def coinbase(number: int, kind: str = "match") -> str:
    return json.dumps(
        {
            "type": kind,
            "product_id": "BTC-USD",
            "trade_id": number,
            "price": "1.5",
            "size": "2",
            "side": "buy",
            "time": AT,
        }
    )


def kraken(number: int, kind: str = "update") -> str:
    trade = {"symbol": "BTC/USD", "side": "buy", "price": 1.5, "qty": 2, "trade_id": number, "timestamp": AT}
    return json.dumps({"channel": "trade", "type": kind, "data": [trade]})


@pytest.mark.parametrize(
    ("parser", "frame", "before"),
    [
        (CoinbaseParser("LAB"), coinbase, coinbase(6, "last_match")),
        (KrakenV2Parser("LAB"), kraken, kraken(6, "snapshot")),
    ],
)
def test_trade_that_comes_twice_is_served_once_and_one_that_does_not_come_is_a_gap(
    parser: VenueParser, frame: Callable[[int], str], before: str
) -> None:
    assert parser.parse(before, RTS) == []
    served = [[tick.id for tick in parser.parse(frame(number), RTS)] for number in (7, 8, 8, 7, 9)]  # type: ignore[union-attr]
    assert served == [["7"], ["8"], [], [], ["9"]]
    assert parser.take_gaps() == []
    assert len(parser.parse(frame(12), RTS)) == 1
    assert parser.take_gaps() == [("trade", "LAB:BTC-USD")]
    parser.reset()
    assert len(parser.parse(frame(40), RTS)) == 1
    assert parser.take_gaps() == [], "where a connection begins nothing is known"


def test_first_trade_behind_the_subscription_must_follow_the_last_before_it() -> None:
    parser = CoinbaseParser()
    parser.parse(coinbase(6, "last_match"), RTS)
    assert len(parser.parse(coinbase(8), RTS)) == 1
    assert parser.take_gaps() == [("trade", "COINBASE:BTC-USD")]


def advanced(number: int) -> str:
    trade = {
        "trade_id": str(number),
        "product_id": "BTC-USD",
        "price": "1.5",
        "size": "2",
        "side": "BUY",
        "time": AT,
    }
    events = [{"type": "update", "trades": [trade]}]
    return json.dumps({"channel": "market_trades", "timestamp": AT, "sequence_num": number, "events": events})


def bitstamp(number: int) -> str:
    trade = {
        "id": number,
        "price_str": "1.5",
        "amount_str": "2",
        "type": 0,
        "microtimestamp": "1772366400000000",
    }
    return json.dumps({"data": trade, "channel": "live_trades_btcusd", "event": "trade"})


def gemini(number: int) -> str:
    return json.dumps(
        {
            "type": "trade",
            "symbol": "BTCUSD",
            "event_id": number,
            "timestamp": 1_772_366_400_000,
            "price": "1.5",
            "quantity": "2",
            "side": "buy",
        }
    )


def kraken_v1(number: int) -> str:
    return json.dumps([337, [["1.5", str(number), "1772366400.1", "b", "m", ""]], "trade", "XBT/USD"])


#: Of each venue whose trades have no numbers to count by: its feed, a trade, and frames that can't be one.
UNCOUNTED: dict[str, tuple[type[VenueFeed], dict[str, Any], Callable[[int], str], list[str]]] = {
    "coinbase_advanced": (
        CoinbaseAdvanced,
        {},
        advanced,
        ['{"channel":"l2_data","timestamp":"2026', '{"channel":"new","events":[]}'],
    ),
    "bitstamp": (
        Bitstamp,
        {},
        bitstamp,
        ['{"data":{"microtimestamp":"1772366400000000","bids":[["1', '{"event":"new"}'],
    ),
    "gemini": (
        Gemini,
        {},
        gemini,
        ['{"type":"l2_updates","symbol":"BTCUSD","changes":[["b', '{"type":"new"}'],
    ),
    "kraken_v1": (Kraken, {"api": "v1"}, kraken_v1, ['[336,{"a":[["5541.3","2.5', "[1]"]),
}


@pytest.mark.parametrize("venue", UNCOUNTED)
async def test_frame_that_cannot_be_read_and_may_have_been_a_trade_is_a_gap(venue: str) -> None:
    kind, options, trade, others = UNCOUNTED[venue]

    async def script(socket: WebSocketConnection, path: str) -> None:
        unread = [trade(3)[:-30], trade(3), "{}", trade(4)[:9]]
        for frame in [trade(1), *others, trade(2), *unread]:
            await socket.send_message(frame)
        await socket.send_message(trade(5))
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        feed = kind(kind.Options(symbols=("BTC-USD",), channels=("trade",), url=url, **options))  # type: ignore[arg-type, call-arg]
        await run_until(feed, ctx, lambda ctx: len(ctx.ticks) == 4)
    told = ["trade" if isinstance(each, Trade) else each for each in ctx.story]
    gap = ("gap", "trade", f"{kind.venue}:BTC-USD")
    assert told == ["trade", "trade", gap, "trade", gap, "trade"]
