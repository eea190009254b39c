"""The venues in memory, each as it answers requests for books: also for symbols that it lacks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from broker.core.errors import FeedError
from broker.core.ticks import Book, Status
from feeds.bitstamp import Bitstamp
from feeds.coinbase import Coinbase
from feeds.coinbase_advanced import CoinbaseAdvanced
from feeds.gemini import Gemini
from feeds.kraken import Kraken
from feeds.venue import VenueFeed
from tests.feeds.fakes import FakeContext

NAMES = ("BTC-USD", "FOO-USD", "ETH-USD")
Reply = Callable[[Any], Iterator[dict[str, Any] | list[Any]]]


class Venue:
    """A venue in memory that lacks some symbols; it has a heartbeat every 0.7 s.

    Attributes:
        missing: in its own spelling.
        requests: of all connections, in order.
        connections: how many there were.
    """

    def __init__(self, case: Case, ctx: FakeContext) -> None:
        self.case = case
        self.missing: set[str] = set()
        self.requests: list[str] = []
        self.connections = 0
        self.hangs_up = False
        self._due: deque[str] = deque()
        ctx.connect_ws = self._connect  # type: ignore[method-assign, assignment]
        ctx.get = self._get

    def say(self, *frames: Any) -> None:
        self._due.extend(each if isinstance(each, str) else json.dumps(each) for each in frames)

    def asked_for(self, native: str) -> int:
        return sum(f'"{native}"' in each or f"_{native}" in each for each in self.requests)

    def _connect(self, url: str, **_: Any) -> Venue:
        return self

    async def __aenter__(self) -> Venue:
        await trio.lowlevel.checkpoint()
        self.connections += 1
        self._due.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def send(self, message: str) -> None:
        await trio.lowlevel.checkpoint()
        self.requests.append(message)
        self.say(*self.case.reply(self, json.loads(message)))

    async def receive(self) -> str:
        if self.hangs_up:
            self.hangs_up = False
            raise FeedError("hung up")
        if not self._due:
            await trio.sleep(0.7)
            return self.case.heartbeat
        await trio.lowlevel.checkpoint()
        return self._due.popleft()

    async def _get(self, url: str) -> bytes:
        native = self.case.native_in(url)
        await trio.sleep(0.1)
        if native in self.missing:
            raise FeedError(f"GET {url}: {self.case.page_error}", reason="refused")
        return self.case.page.encode()


@dataclass
class Case:
    """How one venue answers.

    Attributes:
        reply: to a request.
        torn: a frame that can't be read, of the book of ``@``.
        natives: the venue's spelling of `NAMES`.
        words: some of what it says as it refuses.
    """

    feed: type[VenueFeed]
    natives: tuple[str, str, str]
    reply: Callable[[Venue, Any], Iterator[Any]]
    heartbeat: str
    torn: str
    words: str
    options: dict[str, Any] = field(default_factory=dict)
    page: str = ""
    page_error: str = ""
    names: tuple[str, ...] = NAMES

    def native_in(self, url: str) -> str:
        return next(each for each in self.natives if each in url)


def _coinbase(venue: Venue, request: Any) -> Iterator[Any]:
    if request["type"] != "subscribe":
        return
    wrong = [each for each in request["product_ids"] if each in venue.missing]
    if wrong:
        # It names one, and ignores the request as a whole.
        reason = f"{wrong[0]} is not a valid product"
        yield {"type": "error", "message": "Failed to subscribe", "reason": reason}
        return
    for product in request["product_ids"]:
        if "level2_batch" in request["channels"]:
            yield {"type": "snapshot", "product_id": product, "bids": [["10", "1"]], "asks": [["11", "1"]]}


def _advanced(venue: Venue, request: Any) -> Iterator[Any]:
    if request["type"] != "subscribe" or request["channel"] != "level2":
        return
    wrong = [each for each in request["product_ids"] if each in venue.missing]
    if wrong:
        yield {"type": "error", "message": f"invalid product: {wrong[0]}."}
        return
    for product in request["product_ids"]:
        levels = [{"side": "bid", "price_level": "10", "new_quantity": "1"}]
        event = {"type": "snapshot", "product_id": product, "updates": levels}
        yield {"channel": "l2_data", "events": [event]}


def _gemini(venue: Venue, request: Any) -> Iterator[Any]:
    if request["type"] != "subscribe":
        return
    natives = request["subscriptions"][0]["symbols"]
    wrong = [each for each in natives if each in venue.missing]
    if wrong:
        text = f"Supplied value '{wrong[0].lower()}' is not a valid symbol"
        yield {"result": "error", "reason": "InvalidSymbol", "message": text}
        return
    for native in natives:
        changes = [["buy", "10", "1"], ["sell", "11", "1"]]
        yield {"type": "l2_updates", "symbol": native, "changes": changes, "trades": []}


#: The checksum is that of its only level.
_KRAKEN_BOOK = (
    '{"channel":"book","type":"snapshot","data":[{"symbol":"@","bids":[{"price":10,"qty":1}],"asks":[],'
    '"checksum":1416650876}]}'
)


def _kraken_v2(venue: Venue, request: Any) -> Iterator[Any]:
    if request["method"] != "subscribe":
        return
    # Each pair of a request is answered on its own.
    for pair in request["params"]["symbol"]:
        if pair in venue.missing:
            error = f"Currency pair not supported {pair}"
            yield {"error": error, "method": "subscribe", "success": False, "symbol": pair}
        elif request["params"]["channel"] == "book":
            yield _KRAKEN_BOOK.replace("@", pair)


def _kraken_v1(venue: Venue, request: Any) -> Iterator[Any]:
    if request["event"] != "subscribe":
        return
    for pair in request["pair"]:
        if pair in venue.missing:
            status = {
                "event": "subscriptionStatus",
                "status": "error",
                "subscription": request["subscription"],
            }
            yield {**status, "pair": pair, "errorMessage": f"Currency pair not supported {pair}"}
        elif request["subscription"]["name"] == "book":
            levels = {"as": [["11", "1", "1600000000.1"]], "bs": [["10", "1", "1600000000.1"]]}
            yield [1, levels, "book-100", pair]


def _bitstamp(venue: Venue, request: Any) -> Iterator[Any]:
    if request["event"] != "bts:subscribe":
        return
    channel = request["data"]["channel"]
    if channel.rpartition("_")[2] in venue.missing:
        text = "Bad subscription string."
        yield {"event": "bts:error", "channel": channel, "data": {"code": None, "message": text}}
        return
    yield {"event": "bts:subscription_succeeded", "channel": channel, "data": {}}
    if channel.startswith("diff_order_book_"):
        content = {"microtimestamp": "1600000001000000", "bids": [["10", "2"]], "asks": []}
        yield {"event": "data", "channel": channel, "data": content}


def _bitstamp_nameless(venue: Venue, request: Any) -> Iterator[Any]:
    for answer in _bitstamp(venue, request):
        yield {**answer, "channel": ""} if answer["event"] == "bts:error" else answer


_PAGE = '{"microtimestamp":"1600000002000000","bids":[["10","1"]],"asks":[["11","1"]]}'
_BITSTAMP: dict[str, Any] = {
    "natives": ("btcusd", "foousd", "ethusd"),
    "heartbeat": '{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}',
    "torn": '{"event":"data","channel":"diff_order_book_@","data":{"microtimestamp":"x"}}',
    "page": _PAGE,
    "page_error": "HTTP 404: not found",
}
_PRODUCTS = ("BTC-USD", "FOO-USD", "ETH-USD")
CASES = {
    "coinbase": Case(
        Coinbase,
        _PRODUCTS,
        _coinbase,
        '{"type":"heartbeat"}',
        '{"type":"l2update","product_id":"@","changes":7}',
        "FOO-USD is not a valid product",
    ),
    "coinbase_advanced": Case(
        CoinbaseAdvanced,
        _PRODUCTS,
        _advanced,
        '{"channel":"heartbeats"}',
        '{"channel":"l2_data","events":[{"type":"update","product_id":"@"}]}',
        "invalid product: FOO-USD",
    ),
    "gemini": Case(
        Gemini,
        ("BTCUSD", "FOOUSD", "ETHUSD"),
        _gemini,
        '{"type":"heartbeat","timestamp":1}',
        '{"type":"l2_updates","symbol":"@","changes":7}',
        "'foousd' is not a valid symbol",
    ),
    "kraken_v2": Case(
        Kraken,
        ("BTC/USD", "FOO/USD", "ETH/USD"),
        _kraken_v2,
        '{"channel":"heartbeat"}',
        '{"channel":"book","type":"update","data":[{"symbol":"@","bids":7,"checksum":1}]}',
        "Currency pair not supported FOO/USD",
    ),
    "kraken_v1": Case(
        Kraken,
        ("XBT/USD", "FOO/USD", "ETH/USD"),
        _kraken_v1,
        '{"event":"heartbeat"}',
        '[1,{"b":7},"book-100","@"]',
        "Currency pair not supported FOO/USD",
        {"api": "v1"},
    ),
    "bitstamp": Case(Bitstamp, reply=_bitstamp, words="Bad subscription string", **_BITSTAMP),
    "bitstamp without names": Case(
        Bitstamp, reply=_bitstamp_nameless, words="Bad subscription string", **_BITSTAMP
    ),
}


class Running:
    """A feed of three symbols, and its venue."""

    def __init__(self, case: Case, **options: Any) -> None:
        self.case = case
        keys: dict[str, Any] = {"url": "ws://venue", "symbols": case.names, **case.options, **options}
        kind: Any = case.feed
        self.feed: VenueFeed = kind(kind.Options.model_validate(keys))
        self.ctx = FakeContext()
        self.venue = Venue(case, self.ctx)
        self.first, self.foo, self.last = self.feed.symbols

    async def run(self, seconds: float) -> None:
        """Run the feed for so long; what it tells as it is stopped is left out."""
        self.ctx.is_over = False
        failure: FeedError | None = None
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await trio.sleep(seconds)
                self.ctx.is_over = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            try:
                await self.feed.run(self.ctx)  # type: ignore[arg-type]  # its log is another
            except FeedError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @property
    def books(self) -> set[str]:
        return {tick.sym for tick in self.ctx.ticks if isinstance(tick, Book)}

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(tick.sym, tick.state) for tick in self.ctx.ticks if isinstance(tick, Status)]

    @property
    def refusals_logged(self) -> list[dict[str, Any]]:
        return [fields for event, fields in self.ctx.log.events if event == "symbol refused"]
