"""A feed recorded for a test: a scripted venue, over a real WebSocket, into a real file."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio_websocket import WebSocketConnection

from broker.core.errors import FeedError
from broker.core.raw_recording import Begun, Event, Hole, read_blocks
from broker.core.ticks import Tick
from broker.runtime.raw_files import RawFile
from broker.runtime.raw_recording import RawRecorder
from broker.runtime.recorded_feed import recorded
from feeds import FEEDS
from feeds.base import Feed
from tests.feeds.fakes import NOW, FakeContext, golden, scripted_venue

SNAPSHOT = '{"type":"snapshot","product_id":"BTC-USD","bids":[["10","1"]],"asks":[["11","2"]]}'


def change(price: str) -> str:
    return json.dumps({"type": "l2update", "product_id": "BTC-USD", "changes": [["buy", price, "3"]]})


class Context(FakeContext):
    """Its clock ticks: each look at it is a microsecond later."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = count(NOW, 1000)

    def time_ns(self) -> int:
        return next(self._looks)


@asynccontextmanager
async def recording_of(path: Path, ctx: Context, name: str, **keys: Any) -> AsyncGenerator[Feed, None]:
    """Record a feed of one of our types into a file; yields the feed to be run."""
    kind = FEEDS[name]
    feed = kind(kind.Options.model_validate({"type": name, **keys}))
    head = Begun(NOW, "gold", name, feed.venue, keys, "tapecast/1")
    recorder = RawRecorder("gold", RawFile(path, lambda: head), time_ns=ctx.time_ns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        yield cast(Feed, recorded(feed, recorder))
        nursery.cancel_scope.cancel()


async def run_life(feed: Feed, ctx: Context) -> None:
    """Run the feed until the venue hangs up."""
    with pytest.raises(FeedError):
        await feed.run(ctx)


def says(*frames: str | bytes) -> Callable[[WebSocketConnection, str], Awaitable[None]]:
    async def script(socket: WebSocketConnection, path: str) -> None:
        await socket.get_message()
        for frame in frames:
            await socket.send_message(frame)
        await socket.aclose(1001, "the day is over")

    return script


async def record_coinbase(path: Path) -> list[Tick]:
    """Record two lives of a scripted Coinbase into a file; returns the ticks as they were published."""
    ctx = Context()
    script = says(SNAPSHOT, change("9"), '{"type":"nonsense"}', change("8"), *golden("coinbase.jsonl"))
    async with scripted_venue(script) as url:
        async with recording_of(path, ctx, "coinbase", symbols=["BTC-USD"], url=url) as feed:
            await run_life(feed, ctx)
            await run_life(feed, ctx)
    return ctx.ticks


def events_in(path: Path) -> list[Event]:
    """Return the events of all whole blocks of a file."""
    with path.open("rb") as file:
        return [event for found in read_blocks(file.read) if not isinstance(found, Hole) for event in found]
