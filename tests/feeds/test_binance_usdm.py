"""Binance USD-M futures: what differs from spot, and a connection to a venue that follows a script."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from pydantic import ValidationError
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError
from broker.core.ticks import Book, Quote, Trade
from feeds.binance_frames import BinanceParser
from feeds.binance_usdm import BinanceUsdm
from feeds.recordings import read_file
from tests.feeds.fakes import FakeContext, golden, recording, run_until, scripted_venue
from tests.feeds.played import Played
from tests.feeds.rest import scripted_pages

RTS = 1_772_366_400_000_000_000
MS = 1_000_000
SYM = "BINANCE_USDM:BTC-USDT"
BOOK = ("book", SYM)
PATH = "/stream?streams=btcusdt@bookTicker/btcusdt@trade/btcusdt@depth@100ms"
DEPTH = "/fapi/v1/depth?symbol=BTCUSDT&limit=1000"


def usdm(url: str = "ws://127.0.0.1:1", **options: Any) -> BinanceUsdm:
    return BinanceUsdm(BinanceUsdm.Options(**{"symbols": ("BTC-USDT",), "url": url, **options}))


def depth(first: int, last: int, previous: int) -> str:
    event = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": first, "u": last, "pu": previous}
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": {**event, "b": [[f"{last}", "1"]], "a": []}})


def snapshot(last: int) -> bytes:
    return json.dumps({"lastUpdateId": last, "E": 1, "T": 1, "bids": [["1", "1"]], "asks": []}).encode()


def story(ctx: FakeContext) -> list[Any]:
    """Return gaps, and of books ``snapshot`` or the price of a delta, which `depth` makes its last id."""
    return [
        each if isinstance(each, tuple) else each.kind if each.kind == "snapshot" else each.bids[0][0]
        for each in ctx.story
        if isinstance(each, (tuple, Book))
    ]


def test_golden_frames_become_quotes_trades_and_books() -> None:
    parser = BinanceParser("BINANCE_USDM", {"BTCUSDT": "BTC-USDT"})
    ticks = [tick for frame in golden("binance_usdm.jsonl") for tick in parser.parse(frame, RTS)]
    at = 1_772_366_400_000 * MS
    common = {"sym": SYM, "rts": RTS}
    assert ticks == [
        Book(
            ts=at + 190 * MS,
            kind="snapshot",
            bids=[("65000.10", "10.000")],
            asks=[("65000.20", "100.000")],
            **common,
        ),
        Book(
            ts=at + 123 * MS,
            kind="delta",
            bids=[("65000.10", "10")],
            asks=[("65000.20", "100")],
            **common,
        ),
        Book(ts=at + 223 * MS, kind="delta", bids=[("65000.10", "0")], asks=[], **common),
        Quote(
            ts=at + 300 * MS, bid="65000.00", bid_size="31.210", ask="65000.20", ask_size="40.660", **common
        ),
        Trade(ts=at + 401 * MS, price="65000.20", size="0.002", side="buy", id="5200000000", **common),
    ]


def test_recording_comes_out_whole_and_its_book_is_never_crossed() -> None:
    path = recording("binance-usdm/btcusdt-2024-08-08.first20000.frames.gz")
    played = Played(path, BinanceParser("BINANCE_USDM"))
    assert played.counts == {"quote": 15377, "trade": 3024, "book": 1595}
    assert (played.refused, played.gaps, played.crossed()) == ({}, [], [])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"symbols": ["btcusdt"]}, "write it like 'BTC-USDT' or 'BTCUSDT_270326'"),
        ({"symbols": ["BTC-USDT_270326"]}, "write it like 'BTC-USDT' or 'BTCUSDT_270326'"),
        ({"symbols": ["BTC-USDT", "BTCUSDT"]}, "with and without a dash"),
    ],
)
def test_wrong_symbols_are_refused_with_what_is_right(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        BinanceUsdm.Options(**options)


def test_addresses_are_those_of_the_futures() -> None:
    feed = BinanceUsdm(BinanceUsdm.Options(symbols=("BTC-USDT", "BTCUSDT_270326"), channels=("trade",)))
    assert feed.symbols == [SYM, "BINANCE_USDM:BTCUSDT_270326"]
    streams = "btcusdt@trade/btcusdt_270326@trade"
    assert feed.stream_url() == f"wss://fstream.binance.com/public/stream?streams={streams}"
    assert feed.snapshot_url("BTCUSDT") == f"https://fapi.binance.com{DEPTH}"


async def test_hole_in_the_chain_is_a_gap_and_a_new_snapshot_over_real_sockets() -> None:
    asked: list[str] = []
    paths: list[str] = []
    more = trio.Event()

    def pages(path: str) -> tuple[int, bytes]:
        asked.append(path)
        return 200, snapshot({1: 10, 2: 30}[len(asked)])

    async def script(socket: WebSocketConnection, path: str) -> None:
        paths.append(path)
        await socket.send_message(depth(8, 12, 7))
        await more.wait()
        await socket.send_message(depth(20, 25, 19))
        await socket.send_message(depth(26, 33, 25))
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url, scripted_pages(pages) as rest_url:
        feed = usdm(url, rest_url=rest_url)

        def is_enough(ctx: FakeContext) -> bool:
            if len(ctx.ticks) == 2:
                more.set()
            return len(ctx.ticks) == 4

        await run_until(feed, ctx, is_enough)
    assert paths == [PATH]
    assert asked == [DEPTH, DEPTH]
    assert story(ctx) == ["snapshot", "12", ("gap", *BOOK), "snapshot", "33"]


async def test_end_after_a_day_is_an_error_that_can_be_retried() -> None:
    async def script(socket: WebSocketConnection, path: str) -> None:
        for frame in golden("binance_usdm.jsonl")[3:]:
            await socket.send_message(frame.decode())
        await socket.aclose(1001, "24 hours are over")

    ctx = FakeContext()
    async with scripted_venue(script) as url:
        with trio.fail_after(60), pytest.raises(FeedError, match="24 hours are over"):
            await usdm(url, rest_url="http://127.0.0.1:1").run(ctx)
    assert [tick.ch for tick in ctx.ticks] == ["quote", "trade"]


async def test_recorded_frames_over_real_sockets_make_the_same_book() -> None:
    """The venue sends the recorded frames, and its REST page the recorded snapshot."""
    path = recording("binance-usdm/btcusdt-2024-08-08.first20000.frames.gz")
    payloads = [record.payload for record in read_file(path) if record.kind == "frame"][:3000]
    (body,) = (payload for payload in payloads if payload.startswith(b'{"lastUpdateId"'))
    expected = BinanceParser("BINANCE_USDM")
    ticks = [tick for payload in payloads for tick in expected.parse(payload, RTS)]

    async def script(socket: WebSocketConnection, path: str) -> None:
        for payload in payloads:
            if payload is not body:
                await socket.send_message(payload.decode())
        await socket.get_message()

    ctx = FakeContext()
    async with scripted_venue(script) as url, scripted_pages(lambda path: (200, body)) as rest_url:
        await run_until(usdm(url, rest_url=rest_url), ctx, lambda ctx: len(ctx.ticks) == len(ticks))
    assert ctx.refusals == []
    assert ctx.gaps == []
    books = [[tick.bids, tick.asks] for tick in ctx.ticks if isinstance(tick, Book)]
    assert books == [[tick.bids, tick.asks] for tick in ticks if isinstance(tick, Book)]
