"""Snapshots by REST: fetched until one joins, left alone when the venue asks for it, and not served too late."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from broker.core.errors import FeedError
from broker.core.ticks import Book, Tick
from feeds.binance import Binance
from feeds.binance_frames import BinanceParser
from feeds.rest_snapshots import RestSnapshots
from tests.feeds.fakes import FakeContext
from tests.feeds.test_on_demand import Venue

BTC = "BINANCE:BTC-USDT"


def binance(*symbols: str) -> Binance:
    return Binance(
        Binance.Options(symbols=symbols, url="ws://venue", rest_url="http://rest", channels=("book",))
    )


def depth(first: int, last: int, native: str = "BTCUSDT") -> str:
    event = {
        "e": "depthUpdate",
        "E": 1,
        "s": native,
        "U": first,
        "u": last,
        "b": [["10", str(last)]],
        "a": [],
    }
    return json.dumps({"stream": f"{native.lower()}@depth@100ms", "data": event})


def snapshot(last: int) -> bytes:
    return json.dumps({"lastUpdateId": last, "bids": [["10", "1"]], "asks": [["11", "1"]]}).encode()


class Eager(BinanceParser):
    """Serves whatever it gets."""

    def wants_snapshot(self, native: str) -> bool:
        return True

    def parse_snapshot(self, native: str, body: str | bytes, rts: int) -> list[Tick]:
        return [Book(sym=BTC, ts=1, rts=1, kind="snapshot", bids=[], asks=[])]


@pytest.mark.parametrize(("ends_after_s", "books"), [(0.4, 0), (0.6, 1)])
async def test_snapshot_that_comes_behind_the_connections_end_is_not_served(
    autojump_clock: MockClock, ends_after_s: float, books: int
) -> None:
    ctx: Any = FakeContext()

    async def get(url: str) -> bytes:
        await trio.sleep(0.5)
        return snapshot(4)

    ctx.get = get
    async with trio.open_nursery() as nursery:
        snapshots = RestSnapshots(ctx, nursery, lambda native: native, lambda ctx: ctx.flush())
        snapshots.fetch("BTCUSDT", Eager())
        await trio.sleep(ends_after_s)
        snapshots.stop()
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    assert len(ctx.ticks) == books


async def test_venue_that_asks_to_be_left_alone_is_not_asked_for_any_symbol(
    autojump_clock: MockClock,
) -> None:
    ctx = FakeContext()
    venue = Venue(ctx)
    asked: list[tuple[float, str]] = []

    async def get(url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        asked.append((trio.current_time(), url))
        if len(asked) == 1:
            raise FeedError("HTTP 429", reason="refused", retry_after_s=40.0)
        return snapshot(4)

    ctx.get = get
    venue.say(depth(4, 5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, binance("BTC-USDT", "ETH-USDT"), ctx)
        await trio.sleep(5)
        venue.say(depth(4, 5, "ETHUSDT"))
        await trio.sleep(300)
        ctx.is_over = True
        nursery.cancel_scope.cancel()
    assert [round(at - asked[0][0]) for at, _ in asked] == [0, 40, 40]
    assert {tick.sym for tick in ctx.ticks if isinstance(tick, Book)} == {BTC, "BINANCE:ETH-USDT"}


async def test_failures_that_go_on_are_one_line_in_the_log(autojump_clock: MockClock) -> None:
    ctx = FakeContext()
    venue = Venue(ctx)
    asked: list[float] = []

    async def get(url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        asked.append(trio.current_time())
        if len(asked) % 20:
            raise FeedError("HTTP 500")
        return b"{}"

    ctx.get = get
    venue.say(depth(4, 5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, binance("BTC-USDT"), ctx)
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert len(asked) > 30
    assert [event for event, _ in ctx.log.events] == ["snapshot_failed"] * 2


async def _run(feed: Any, ctx: FakeContext) -> None:
    await feed.run(ctx)
