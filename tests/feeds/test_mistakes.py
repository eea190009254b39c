"""Mistakes that newcomers make in an adapter: each is said with the name, the value, and what would have been right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest

from broker.core.errors import FrameError
from broker.core.ticks import Book, Quote, Tick, Trade
from feeds.base import Feed
from feeds.parsing import ParseFeed
from feeds.plugins import BrokenFeed, make_feed

TRADE: dict[str, Any] = {
    "sym": "LAB:A",
    "ts": 10**18,
    "rts": 10**18,
    "price": "1.10",
    "size": "2",
    "side": None,
    "id": "7",
}


@dataclasses.dataclass
class OwnTick:
    sym: str


class Right(ParseFeed):
    """Does nothing, rightly."""

    api_version = 1
    venue = "LAB"
    url = "wss://lab.example"

    def parse(self, frame: str | bytes, rts: int) -> Iterable[Tick]:
        return ()


def without(*names: str, **changes: Any) -> type[Feed]:
    """Return the class without some of its attributes, and with others."""
    own = {name: value for name, value in vars(Right).items() if name not in names}
    return type("Wrong", (ParseFeed,), {**own, **changes})


def reason(feed: type[Feed], **changes: Any) -> str:
    """Return why it can't be used, empty if it can."""
    made = make_feed(feed, ParseFeed.Options(**{"type": "x", "symbols": ("A",), **changes}))
    return made.reason if isinstance(made, BrokenFeed) else ""


async def waits(self: Any, frame: str, rts: int) -> None: ...


async def yields(self: Any, frame: str, rts: int) -> Any:
    yield None


@pytest.mark.parametrize(
    ("feed", "says"),
    [
        (without("venue"), "venue = None: must be 1 to 32 capital letters"),
        (without(venue="lab"), "venue = 'lab': must be 1 to 32 capital letters"),
        (without(venue="L-B"), "venue = 'L-B': must be"),
        (without("url"), "url = None: must be where the venue's WebSocket is"),
        (without(url="https://lab.example"), "url = 'https://lab.example': must be where"),
        (without("parse"), "parse: is missing: def parse(self, frame, rts)"),
        (without(parse=waits), "parse: must be a plain function"),
        (without(parse=yields), "parse: must be a plain function"),
        (without(parse=lambda self, frame: ()), "parse: must take a frame and the time of its receipt"),
        (without(subscribe={"trade": {}, "quotes": {}}), "subscribe: 'quotes' is no channel; there are quote, trade"),
    ],
)  # fmt: skip
def test_adapter_that_can_not_be_right_is_refused_before_it_connects(feed: type[Feed], says: str) -> None:
    assert says in reason(feed)


def test_symbols_in_the_venues_own_spelling_are_explained() -> None:
    assert "symbols: 'btc/usd' must be capital letters" in reason(Right, symbols=("BTC-USD", "btc/usd"))


@pytest.mark.parametrize(
    "feed",
    [
        Right,
        without("url", url=""),
        without(parse=lambda self, frame, rts, more=1: ()),
        without(parse=lambda self, *everything: ()),
        without(subscribe={"op": "subscribe", "trades": "{symbols}"}),
        without(subscribe={"trade": {"op": "x"}}),
    ],
)
def test_adapter_that_may_be_right_is_taken(feed: type[Feed]) -> None:
    assert reason(feed, url="ws://127.0.0.1:1") == ""


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ([Trade(**{**TRADE, "price": 1.5})], "price = 1.5 of a Trade: it must be a decimal number as text"),
        ([Trade(**{**TRADE, "size": None})], "size = None of a Trade: it must be a decimal number as text"),
        ([Trade(**{**TRADE, "side": "B"})], "side = 'B' of a Trade: it must be 'buy' or 'sell'"),
        ([Trade(**{**TRADE, "id": 7})], "id = 7 of a Trade: it must be text"),
        ([Trade(**{**TRADE, "ts": "now"})], "ts = 'now' of a Trade: it must be an int, in nanoseconds"),
        ([Trade(**{**TRADE, "ts": 1.5e18})], "ts = 1.5e+18 of a Trade: it must be an int, in nanoseconds"),
        ([Trade(**{**TRADE, "price": "1,5"})], "price = '1,5' of a Trade: it must be a decimal number"),
        ([Trade(**{**TRADE, "sym": "A"})], "sym = 'A': it must be LAB:SYMBOL"),
        ([Trade(**{**TRADE, "sym": "lab:a"})], "sym = 'lab:a': it must be LAB:SYMBOL"),
        ([Trade(**{**TRADE, "sym": None})], "sym = None: it must be LAB:SYMBOL"),
        ([Trade(**{**TRADE, "sym": "SIM:A"})], "sym = 'SIM:A': it must be LAB:SYMBOL"),
        (
            [Quote(sym="LAB:A", ts=1, rts=1, bid=0.1, bid_size=None, ask=None, ask_size=None)],  # type: ignore[arg-type]
            "bid = 0.1 of a Quote: it must be a decimal number as text, e.g. \"101.50\", or None if there is none",
        ),
        (
            [Book(sym="LAB:A", ts=1, rts=1, kind="snapshot", bids=[{"px": "1", "sz": "2"}], asks=[])],  # type: ignore[list-item]
            "bids = [{'px': '1', 'sz': '2'}] of a Book: it must be a list of (price, size), both as text",
        ),
        ([Book(sym="LAB:A", ts=1, rts=1, kind="full", bids=[], asks=[])], "kind = 'full' of a Book"),  # type: ignore[arg-type]
        ([OwnTick("LAB:A")], "is a OwnTick; make a Quote, a Trade or a Book"),
        ({"sym": "LAB:A"}, "'sym' is a str; make a Quote, a Trade or a Book"),
        ([None], "None is a NoneType; make a Quote"),
        (Trade(**TRADE), "parse() returned one Trade: it must return a list of ticks"),
        (7, "parse() returned 7: it must return a list of ticks"),
    ],
)  # fmt: skip
def test_what_is_no_tick_says_what_would_be_one(made: Any, says: str) -> None:
    class Wrong(Right):
        subscribe: ClassVar[Any] = ()

        def parse(self, frame: str | bytes, rts: int) -> Any:
            return made

    parser = Wrong(ParseFeed.Options(type="x", symbols=("A",))).new_parser()
    with pytest.raises(FrameError) as refused:
        parser.parse(b"x", 7)
    assert says in str(refused.value)


def test_refusals_for_one_reason_count_together() -> None:
    prices = iter((1.5, 2.5))

    class Wrong(Right):
        def parse(self, frame: str | bytes, rts: int) -> Any:
            return [Trade(**{**TRADE, "price": next(prices)})]

    parser = Wrong(ParseFeed.Options(type="x", symbols=("A",))).new_parser()
    kinds = set()
    for _ in range(2):
        with pytest.raises(FrameError) as refused:
            parser.parse(b"x", 7)
        kinds.add(refused.value.kind)
    assert kinds == {"not a tick: price"}
