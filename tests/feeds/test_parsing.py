"""The simplest adapters: what is sent for them, what is made of their ticks, and that a book has no hole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError, FrameError
from broker.core.ticks import Book, Quote, Status, Tick, Trade
from feeds.parsing import Frames, ParseFeed, read_json
from feeds.venue import VenueRefused
from tests.feeds.fakes import FakeContext, run_until, scripted_venue

RTS = 7


class Lab(ParseFeed):
    """Frames that are ticks already, but for symbol and times."""

    api_version = 1
    venue = "LAB"
    url = "ws://lab.invalid"
    subscribe: ClassVar[Any] = {
        "quote": {"op": "subscribe", "quotes": "{symbols}"},
        "trade": [{"op": "subscribe", "trades": "{symbol}"}, "hello {symbol}"],
    }

    def venue_name(self, name: str) -> str:
        return name.replace("-", "").lower()

    def parse(self, frame: str | bytes, rts: int) -> Iterable[Tick]:
        for each in read_json(frame):
            kind = {"quote": Quote, "trade": Trade, "book": Book, "status": Status}[each.pop("ch")]
            name = each.pop("name")
            yield kind(**{"sym": self.symbol(name), "ts": rts, "rts": rts, **each})


def options(**changes: Any) -> ParseFeed.Options:
    return ParseFeed.Options(**{"type": "x", "symbols": ("BTC-USD", "ETH-USD"), **changes})


def quote(name: str = "btcusd", **changes: Any) -> dict[str, Any]:
    return {
        "ch": "quote",
        "name": name,
        "bid": "1",
        "bid_size": "1",
        "ask": None,
        "ask_size": None,
        **changes,
    }


def book(kind: str, name: str = "btcusd", **changes: Any) -> dict[str, Any]:
    return {"ch": "book", "name": name, "kind": kind, "bids": [["1", "1"]], "asks": [], **changes}


def frame(*ticks: Any) -> bytes:
    return orjson.dumps(ticks)


# ── the table ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("table", "sent"),
    [
        ("hello", ["hello"]),
        ({"op": "all"}, ['{"op":"all"}']),
        (["one", {"to": "two"}], ["one", '{"to":"two"}']),
        ({"s": "{symbol}@t"}, ['{"s":"btcusd@t"}', '{"s":"ethusd@t"}']),
        ({"s": ["{symbol}"], "n": 1}, ['{"s":["btcusd"],"n":1}', '{"s":["ethusd"],"n":1}']),
        ({"s": "{symbols}"}, ['{"s":["btcusd","ethusd"]}']),
        ('{"s": "{symbols}"}', ['{"s": ["btcusd","ethusd"]}']),
        ((), []),
    ],
)
def test_frames_are_filled_in_with_the_venues_names(table: Frames, sent: list[str]) -> None:
    class Table(Lab):
        subscribe: ClassVar[Any] = table

    assert Table(options()).subscribe_frames() == sent


def test_table_by_channel_asks_for_what_is_configured() -> None:
    assert Lab(options(channels=("trade",))).subscribe_frames() == [
        '{"op":"subscribe","trades":"btcusd"}',
        '{"op":"subscribe","trades":"ethusd"}',
        "hello btcusd",
        "hello ethusd",
    ]
    assert Lab(options(channels=("book", "quote"))).subscribe_frames() == [
        '{"op":"subscribe","quotes":["btcusd","ethusd"]}'
    ]


def test_symbols_map_both_ways() -> None:
    feed = Lab(options())
    assert list(feed.symbols) == ["LAB:BTC-USD", "LAB:ETH-USD"]
    assert feed.symbol("btcusd") == "LAB:BTC-USD"
    for name in ("BTC-USD", "", None, ["btcusd"]):
        with pytest.raises(FrameError, match="was not subscribed to"):
            feed.symbol(name)  # type: ignore[arg-type]
        assert not feed.has(name)
    assert feed.has("btcusd")


def test_url_of_the_options_wins() -> None:
    assert Lab(options()).stream_url() == "ws://lab.invalid"
    assert Lab(options(url="ws://127.0.0.1:1/x")).stream_url() == "ws://127.0.0.1:1/x"


def test_numbers_of_a_frame_keep_their_digits() -> None:
    assert read_json(b'{"p": 1.10, "n": 7}') == {"p": "1.10", "n": 7}
    with pytest.raises(FrameError, match="not JSON"):
        read_json("{")


# ── frames ───────────────────────────────────────────────────────────────────────────────────────


def parsed(*frames: bytes, **changes: Any) -> tuple[list[Tick], list[FrameError], list[Any], str]:
    """Return ticks, refusals, gaps, and why the connection would be given up."""
    parser = Lab(options(**changes)).new_parser()
    ticks: list[Tick] = []
    errors: list[FrameError] = []
    for each in frames:
        try:
            ticks += parser.parse(each, RTS)
        except FrameError as error:
            errors.append(error)
    return ticks, errors, parser.take_gaps(), parser.broken  # type: ignore[attr-defined]


def test_ticks_of_a_frame_are_those_of_the_function() -> None:
    ticks, errors, _, _ = parsed(frame(quote(), quote("ethusd", bid="2")))
    assert [(tick.sym, tick.ts, tick.rts) for tick in ticks] == [
        ("LAB:BTC-USD", RTS, RTS),
        ("LAB:ETH-USD", RTS, RTS),
    ]
    assert errors == []


def test_channels_that_are_not_configured_are_left_out_but_states_are_not() -> None:
    status = {"ch": "status", "name": "btcusd", "state": "halted"}
    ticks, errors, _, _ = parsed(frame(quote(), status), frame(quote()), channels=("trade",))
    assert [tick.ch for tick in ticks] == ["status"]
    assert errors == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (b"{", "not JSON"),
        (b"7", "TypeError: 'int' object is not iterable"),
        (frame({"ch": "quote"}), "KeyError: 'name'"),
        (frame({"ch": "odd"}), "KeyError: 'odd'"),
        (frame(quote("doge")), "'doge' was not subscribed to"),
        (frame(quote(colour=1)), "TypeError: Unexpected keyword argument 'colour'"),
        (frame(quote(bid=1)), "not a tick: bid = 1 of a Quote: it must be a decimal number as text"),
        (frame(quote(bid="x")), "not a tick"),
        (frame(quote(bid="1\n")), "not a tick: bid = '1\\n'"),
        (frame(quote(bid_size="-1")), "not a tick: bid_size = '-1'"),
        (frame(quote(ts=-1)), "not a tick: ts = -1"),
        (frame(quote(sym="OTHER:A")), "not a tick: sym = 'OTHER:A': it must be LAB:SYMBOL"),
    ],
)
def test_whatever_goes_wrong_in_the_function_refuses_the_frame_as_a_whole(wrong: bytes, text: str) -> None:
    ticks, [error], gaps, broken = parsed(wrong, frame(quote()))
    assert len(ticks) == 1
    assert str(error).startswith(text)
    assert error.frame == wrong
    assert (gaps, broken) == ([], ""), "no book was being served"


def test_function_that_returns_nothing_says_that_there_is_no_news() -> None:
    class Mute(Lab):
        def parse(self, frame: str | bytes, rts: int) -> Any:
            return None

    assert Mute(options()).new_parser().parse(b"x", RTS) == []


@given(st.binary(max_size=60) | st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["ch", "name", "bid", "bids", "kind"]), inner, max_size=4),
).map(msgspec.json.encode))  # fmt: skip
def test_any_frame_gives_well_formed_ticks_or_a_frame_error(raw: bytes) -> None:
    try:
        ticks = Lab(options()).new_parser().parse(raw, RTS)
    except FrameError:
        return
    assert [msgspec.convert(msgspec.to_builtins(tick), type(tick)) for tick in ticks] == ticks


# ── books ────────────────────────────────────────────────────────────────────────────────────────


def test_delta_before_its_snapshot_is_refused_and_breaks_no_other_book() -> None:
    ticks, [error], gaps, broken = parsed(
        frame(book("snapshot")), frame(book("delta", "ethusd")), frame(book("delta"), book("delta", "ethusd"))
    )
    assert [tick.sym for tick in ticks] == ["LAB:BTC-USD", "LAB:BTC-USD"]
    assert "before its snapshot" in str(error)
    assert (gaps, broken) == ([], "")


def test_frame_that_can_not_be_read_breaks_every_book_that_is_served() -> None:
    frames = [
        frame(book("snapshot"), book("snapshot", "ethusd")),
        frame(book("delta", bids=7)),
        frame(book("delta")),
    ]
    ticks, errors, gaps, broken = parsed(*frames)
    assert len(ticks) == 2
    assert len(errors) == 2, "what follows is refused, too"
    assert gaps == [("book", "LAB:BTC-USD"), ("book", "LAB:ETH-USD")]
    assert broken


# ── a connection ─────────────────────────────────────────────────────────────────────────────────


def sends(*frames: bytes) -> Callable[[WebSocketConnection, str], Any]:
    async def script(socket: WebSocketConnection, path: str) -> None:
        for _ in range(5):
            await socket.get_message()
        for each in frames:
            await socket.send_message(each)

    return script


async def test_connection_that_ends_leaves_gaps_where_books_were() -> None:
    ctx = FakeContext()
    async with scripted_venue(sends(frame(book("snapshot"), quote()))) as url:
        with pytest.raises(FeedError, match="closed with 1000"):
            await run_until(Lab(options(url=url)), ctx, lambda ctx: bool(ctx.gaps) and False)
    assert len(ctx.ticks) == 2
    assert ctx.gaps == [("book", "LAB:BTC-USD")]


async def test_unreadable_frame_beside_a_book_ends_the_connection() -> None:
    ctx = FakeContext()
    async with scripted_venue(
        sends(frame(quote()), b"{", frame(book("snapshot")), b"{", frame(quote()))
    ) as url:
        with pytest.raises(
            FeedError, match="connecting again, as a frame may have been a part of a book: not JSON"
        ):
            await run_until(Lab(options(url=url)), ctx, lambda ctx: False)
    assert len(ctx.ticks) == 2
    assert len(ctx.refusals) == 2
    assert ctx.gaps == [("book", "LAB:BTC-USD")]


async def test_adapter_may_say_that_the_venue_refuses() -> None:
    class Refusing(Lab):
        def parse(self, frame: str | bytes, rts: int) -> Iterable[Tick]:
            raise VenueRefused("no such market", permanent=False)

    async with scripted_venue(sends(b"x")) as url:
        with pytest.raises(FeedError, match="no such market"):
            await run_until(Refusing(options(url=url)), FakeContext(), lambda ctx: False)


class SilentSocket:
    """A venue that says nothing, and notes when it hears what."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str | bytes]] = []

    async def send(self, message: str | bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard.append((trio.current_time(), message))

    async def receive(self) -> str | bytes:
        await trio.sleep(25.0)
        return frame(quote())


async def test_venue_that_wants_a_ping_of_its_own_gets_it_in_time(autojump_clock: object) -> None:
    class Pinged(Lab):
        subscribe: ClassVar[Any] = "begin"
        keepalive: ClassVar[Any] = {"op": "ping"}
        keepalive_s: ClassVar[float] = 10.0

    socket = SilentSocket()

    class Context(FakeContext):
        @asynccontextmanager
        async def connect_ws(self, url: str, *, max_message_bytes: int = 0) -> AsyncIterator[Any]:
            yield socket

    ctx = Context()
    began = trio.current_time()
    with trio.move_on_after(51.0):
        await Pinged(options()).run(ctx)  # type: ignore[arg-type]
    at = [(round(when - began), message) for when, message in socket.heard]
    assert at == [(0, "begin"), *((10 * n, '{"op":"ping"}') for n in range(1, 6))]
