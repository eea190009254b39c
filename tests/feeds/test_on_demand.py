"""Venues of which only what somebody wants is subscribed to: what is sent, when, and what is served of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio
from trio.testing import MockClock

from broker.core.errors import FeedError
from broker.core.ticks import Book
from broker.runtime.sessions import SessionTimes
from feeds.binance import Binance
from feeds.binance_usdm import BinanceUsdm
from feeds.bitstamp import Bitstamp
from feeds.coinbase import Coinbase
from feeds.coinbase_advanced import CoinbaseAdvanced
from feeds.gemini import Gemini
from feeds.kraken import Kraken
from feeds.venue import DEMAND_S, VenueFeed
from tests.fakes import open_broker
from tests.feeds.fakes import FakeContext
from tests.feeds.test_parsing import Lab
from tests.feeds.test_parsing import book as lab_book
from tests.feeds.test_parsing import frame as lab_frame
from tests.raw import websocket

LINGER_S = 30.0


class Venue:
    """A venue in memory, over several connections.

    Attributes:
        sent: by connection, with the time.
    """

    def __init__(self, ctx: FakeContext) -> None:
        self.sent: list[list[tuple[float, str]]] = []
        self.urls: list[str] = []
        self.is_open = False
        self._say, self._hear = trio.open_memory_channel[str](1000)
        ctx.connect_ws = self._connect  # type: ignore[method-assign]

    def say(self, frame: str) -> None:
        self._say.send_nowait(frame)

    def _connect(self, url: str, **_: Any) -> Any:
        self.urls.append(url)
        return self

    async def __aenter__(self) -> Venue:
        await trio.lowlevel.checkpoint()
        self.sent.append([])
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent[-1].append((trio.current_time(), str(message)))

    async def receive(self) -> str:
        message = await self._hear.receive()
        if message == "hang up":
            raise FeedError("hung up")
        return message


@dataclass
class Case:
    """One venue's feed, and how it asks for symbols."""

    feed: type[VenueFeed]
    opening: list[str] = field(default_factory=list)
    btc: list[str] = field(default_factory=list)
    both: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    #: What turns a request to subscribe into one to unsubscribe.
    undo: Callable[[str], str] = lambda frame: frame.replace("subscribe", "unsubscribe", 1)
    names: tuple[str, str] = ("BTC-USD", "ETH-USD")


def _bitstamp(*pairs: str) -> list[str]:
    return [
        f'{{"event":"bts:subscribe","data":{{"channel":"{channel}_{pair}"}}}}'
        for pair in pairs
        for channel in ("diff_order_book", "live_trades")
    ]


def _advanced(*products: str) -> list[str]:
    names = ",".join(f'"{product}"' for product in products)
    return [
        f'{{"type":"subscribe","product_ids":[{names}],"channel":"{channel}"}}'
        for channel in ("ticker", "market_trades", "level2")
    ]


def _binance(*streams: str) -> list[str]:
    names = ",".join(
        f'"{stream}@{channel}"' for stream in streams for channel in ("bookTicker", "trade", "depth@100ms")
    )
    return [f'{{"method":"SUBSCRIBE","params":[{names}],"id":1}}']


def _kraken(*pairs: str) -> list[str]:
    names = ",".join(f'"{pair}"' for pair in pairs)
    return [
        f'{{"method":"subscribe","params":{{"channel":"ticker","symbol":[{names}],"event_trigger":"bbo"}}}}',
        f'{{"method":"subscribe","params":{{"channel":"trade","symbol":[{names}],"snapshot":false}}}}',
        f'{{"method":"subscribe","params":{{"channel":"book","symbol":[{names}],"depth":100}}}}',
    ]


def _coinbase(products: str) -> list[str]:
    channels = '["ticker","matches","level2_batch"]'
    return [f'{{"type":"subscribe","product_ids":[{products}],"channels":{channels}}}']


CASES = {
    "coinbase": Case(Coinbase, [], _coinbase('"BTC-USD"'), _coinbase('"ETH-USD"')),
    "coinbase_advanced": Case(
        CoinbaseAdvanced,
        ['{"type":"subscribe","channel":"heartbeats"}'],
        _advanced("BTC-USD"),
        _advanced("ETH-USD"),
    ),
    "kraken": Case(Kraken, [], _kraken("BTC/USD"), _kraken("ETH/USD")),
    "bitstamp": Case(Bitstamp, [], _bitstamp("btcusd"), _bitstamp("ethusd")),
    "gemini": Case(
        Gemini,
        [],
        ['{"type":"subscribe","subscriptions":[{"name":"l2","symbols":["BTCUSD"]}]}'],
        ['{"type":"subscribe","subscriptions":[{"name":"l2","symbols":["ETHUSD"]}]}'],
    ),
    "binance": Case(
        Binance,
        [],
        _binance("btcusdt"),
        _binance("ethusdt"),
        undo=lambda frame: frame.replace("SUBSCRIBE", "UNSUBSCRIBE"),
        names=("BTC-USDT", "ETH-USDT"),
    ),
    "binance_usdm": Case(
        BinanceUsdm,
        [],
        _binance("btcusdt"),
        _binance("ethusdt"),
        undo=lambda frame: frame.replace("SUBSCRIBE", "UNSUBSCRIBE"),
        names=("BTC-USDT", "ETH-USDT"),
    ),
}


class Hall(Lab):
    """The laboratory, with a request that ends each subscription."""

    subscribe: ClassVar[Any] = ["hello", {"op": "subscribe", "s": "{symbols}"}, "ticks of {symbol}"]
    unsubscribe: ClassVar[Any] = [{"op": "unsubscribe", "s": "{symbols}"}, "no ticks of {symbol}"]


def _hall(name: str) -> list[str]:
    return [f'{{"op":"subscribe","s":["{name}"]}}', f"ticks of {name}"]


CASES["parse"] = Case(
    Hall,
    ["hello"],
    _hall("btcusd"),
    _hall("ethusd"),
    {"type": "hall"},
    undo=lambda frame: frame.replace("subscribe", "unsubscribe", 1).replace("ticks of", "no ticks of"),
)


class Running:
    """A feed on demand, its venue, and what is wanted of it."""

    def __init__(self, case: Case) -> None:
        options: Any = case.feed.Options
        self.feed = case.feed(
            options(symbols=case.names, on_demand=True, linger_s=LINGER_S, url="ws://venue", **case.options)
        )
        self.ctx = FakeContext()
        self.venue = Venue(self.ctx)
        self.first, self.second = self.feed.symbols

    def want(self, symbol: str, *, ch: Any = "quote") -> None:
        self.ctx.demand.begin(ch, symbol)

    def leave(self, symbol: str, *, ch: Any = "quote") -> None:
        self.ctx.demand.end(ch, symbol)

    async def run(self) -> None:
        await self.feed.run(self.ctx)  # type: ignore[arg-type]  # its log is another

    @property
    def sent(self) -> list[str]:
        return [frame for _, frame in self.venue.sent[-1]]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_venue_is_asked_for_what_is_wanted_and_a_while_longer(
    autojump_clock: MockClock, case: Case
) -> None:
    running = Running(case)
    running.feed.silence_s = None  # type: ignore[misc]  # this venue says nothing
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(100)
        assert not running.venue.urls, "nobody wants anything"
        running.want(running.first)
        await trio.sleep(DEMAND_S)
        assert running.sent == [*case.opening, *case.btc]
        running.want(running.second, ch="bar")
        await trio.sleep(1.5 * DEMAND_S)
        assert running.sent == [*case.opening, *case.btc, *case.both]
        running.leave(running.first)
        await trio.sleep(LINGER_S - 3 * DEMAND_S)
        running.want(running.first)
        running.leave(running.first)
        await trio.sleep(LINGER_S - 2 * DEMAND_S)
        assert len(running.sent) == len([*case.opening, *case.btc, *case.both]), (
            "who comes back is not asked for"
        )
        await trio.sleep(4 * DEMAND_S)
        undone = [case.undo(frame) for frame in case.btc]
        assert running.sent[len([*case.opening, *case.btc, *case.both]) :] == undone
        running.leave(running.second, ch="bar")
        await trio.sleep(LINGER_S + 3 * DEMAND_S)
        assert not running.venue.is_open, "nothing is wanted any more"
        await trio.sleep(1000)
        assert len(running.venue.urls) == 1
        running.want(running.second)
        await trio.sleep(1)
        assert running.sent == [*case.opening, *case.both]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_pattern_wants_all_symbols_in_as_few_requests_as_the_configuration(
    autojump_clock: MockClock, case: Case
) -> None:
    running = Running(case)
    running.ctx.demand.begin("trade", "*")
    declared: Any = running.ctx.wanted
    declared._declared = tuple(running.feed.symbols)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(1)
        assert running.sent == running.feed.subscribe_frames()
        nursery.cancel_scope.cancel()


SNAPSHOT = '{"type":"snapshot","product_id":"BTC-USD","bids":[["10","1"]],"asks":[["11","2"]]}'
UPDATE = (
    '{"type":"l2update","product_id":"BTC-USD","changes":[["buy","10","3"]],"time":"2026-03-01T12:00:00Z"}'
)
MATCH = (
    '{"type":"match","product_id":"BTC-USD","trade_id":1,"price":"10","size":"1","side":"buy",'
    '"time":"2026-03-01T12:00:00Z"}'
)


async def test_book_that_is_unsubscribed_from_is_a_gap_and_served_again_from_its_snapshot_only(
    autojump_clock: MockClock,
) -> None:
    running = Running(CASES["coinbase"])
    venue, ctx, btc = running.venue, running.ctx, running.first
    running.want(running.second)
    running.want(btc)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(1)
        for frame in (SNAPSHOT, UPDATE, MATCH):
            venue.say(frame)
        await trio.sleep(1)
        running.leave(btc)
        await trio.sleep(LINGER_S + 2)
        assert ctx.gaps == [("book", btc), ("trade", btc)]
        # Still on its way.
        venue.say(UPDATE)
        await trio.sleep(1)
        running.want(btc)
        await trio.sleep(2)
        for frame in (UPDATE, SNAPSHOT, UPDATE):
            venue.say(frame)
        await trio.sleep(1)
        ctx.is_over = True
        nursery.cancel_scope.cancel()
    kinds = [tick.kind for tick in ctx.ticks if isinstance(tick, Book)]
    assert kinds == ["snapshot", "delta", "snapshot", "delta"]


async def test_damaged_frame_does_not_bring_back_what_nobody_wants(autojump_clock: MockClock) -> None:
    running = Running(CASES["coinbase"])
    running.want(running.second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await trio.sleep(1)
        running.venue.say(SNAPSHOT.replace("BTC", "ETH"))
        running.venue.say('{"type":"l2up')
        await trio.sleep(1)
        asked = running.sent[1:]
        nursery.cancel_scope.cancel()
    assert len(asked) == 2
    assert all("ETH-USD" in frame and "BTC-USD" not in frame for frame in asked)


async def test_connection_that_ends_is_told_in_gaps_before_it_is_closed(autojump_clock: MockClock) -> None:
    ctx = FakeContext()
    venue = Venue(ctx)
    story_at_close: list[Any] = []

    async def close(*_: object) -> None:
        story_at_close.extend(ctx.story)

    venue.__class__ = type("Closing", (Venue,), {"__aexit__": staticmethod(close)})
    feed = Coinbase(Coinbase.Options(symbols=("BTC-USD",), url="ws://venue"))
    for frame in (SNAPSHOT, MATCH, "hang up"):
        venue.say(frame)
    with pytest.raises(FeedError, match="hung up"):
        await feed.run(ctx)
    gaps = [each for each in story_at_close if isinstance(each, tuple)]
    assert gaps == [("gap", "book", "COINBASE:BTC-USD"), ("gap", "trade", "COINBASE:BTC-USD")]
    assert ctx.flushed[-1][1] == 2
    assert len(ctx.gaps) == 2, "told once"


async def test_book_of_an_adapter_is_served_again_from_its_snapshot_only(autojump_clock: MockClock) -> None:
    running = Running(CASES["parse"])
    book, delta = (lab_frame(lab_book(kind)).decode() for kind in ("snapshot", "delta"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        running.want(running.second)
        running.want(running.first, ch="book")
        await trio.sleep(1)
        running.venue.say(book)
        await trio.sleep(1)
        running.leave(running.first, ch="book")
        await trio.sleep(LINGER_S + 2 * DEMAND_S)
        assert running.ctx.gaps == [("book", running.first)]
        # A change that was under way is nothing to be counted.
        running.venue.say(delta)
        await trio.sleep(1)
        running.want(running.first, ch="book")
        await trio.sleep(2 * DEMAND_S)
        for frame in (delta, book, delta):
            running.venue.say(frame)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    kinds = [tick.kind for tick in running.ctx.ticks if isinstance(tick, Book)]
    assert kinds == ["snapshot", "snapshot", "delta"]
    assert running.ctx.refusals == []
    assert len(running.venue.urls) == 1


@pytest.mark.parametrize("ends", [(), "bye", ["bye", {"op": "end of all"}]])
def test_adapter_that_can_not_end_single_subscriptions_can_not_be_on_demand(ends: Any) -> None:
    class Half(Hall):
        unsubscribe: ClassVar[Any] = ends

    with pytest.raises(ValueError, match="needs `subscribe` and `unsubscribe`"):
        Half.Options(type="half", symbols=("BTC-USD",), on_demand=True)
    assert Hall.Options(type="hall", symbols=("BTC-USD",), on_demand=True).on_demand


def test_adapter_that_has_one_request_for_everything_says_that_it_cannot_be_on_demand() -> None:
    with pytest.raises(ValueError, match="always subscribes to all"):
        Lab.Options(type="lab", symbols=("BTC-USD",), on_demand=True)


async def test_subscribers_who_come_and_go_reach_the_venue_through_the_whole_broker(
    autojump_clock: MockClock,
) -> None:
    feed: Any = Coinbase(
        Coinbase.Options(
            symbols=("BTC-USD", "ETH-USD"), url="ws://venue", on_demand=True, linger_s=5, stale_after_s=20
        )
    )
    venue = Venue(FakeContext())
    patient = SessionTimes(ping_interval_s=1e6)
    async with open_broker(feeds=[feed], times=patient, guard_s=1e4) as broker:
        broker.runner._upstream = SimpleNamespace(connect_ws=venue._connect)  # type: ignore[assignment]
        await trio.sleep(100)
        assert (broker.runner.state, venue.urls) == ("idle", [])
        async with websocket(broker.port) as ws:
            await ws.ask("subscribe", id=1, ch="book", symbols=["COINBASE:BTC-USD"])
            await trio.sleep(DEMAND_S)
            assert [frame for _, frame in venue.sent[-1]] == CASES["coinbase"].btc
            venue.say(SNAPSHOT)
            assert (await ws.receive_type("update"))["data"][0]["kind"] == "snapshot"
            assert broker.runner.state == "live"
            await trio.sleep(19)
            assert broker.runner.state == "live"
            await trio.sleep(2)
            assert broker.runner.failures == {"mute": 1}, "what is wanted has to come"
        await trio.sleep(100)
        assert (broker.runner.state, venue.is_open) == ("idle", False)
        assert broker.runner.failures == {"mute": 1}
