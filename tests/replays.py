"""A market whose tape is recorded, and readers that replay it, without sockets or threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from broker.core.codecs import JSON
from broker.core.delivery import DeliveryRequest
from broker.core.framing import NdjsonFraming
from broker.core.history import HistoryLimits
from broker.core.messages import Ack, ReplayRequest, Subscribe
from broker.core.router import Router
from broker.core.session import SessionLimits
from broker.core.tape import Tape
from broker.core.topics import Topics
from broker.runtime.fanout import Fanout
from broker.runtime.recorder import Recorder, What
from broker.runtime.replays import Recording, Replays
from broker.runtime.subscriber import Subscriber
from broker.runtime.tape_files import TapeWriter
from broker.runtime.tape_recording import TapeRecording
from tests.fakes import SYMBOLS
from tests.wires import FakeWire, Reader

START_NS = 1_700_000_000_000_000_000


class Disk:
    """Runs what touches the disk at once, or when the test says so.

    Attributes:
        calls: how many there were.
        failure: raised instead of the next calls, if set.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.failure: OSError | None = None
        self._go = trio.Event()
        self._go.set()

    async def __call__(self, call: Callable[..., Any], /, *arguments: Any) -> Any:
        await self._go.wait()
        await trio.lowlevel.checkpoint()
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return call(*arguments)

    def stall(self) -> None:
        """Let every call wait from now on."""
        self._go = trio.Event()

    def go_on(self) -> None:
        """End `stall`."""
        self._go.set()


class RecordedMarket:
    """A tape with its fan-out, its recorder, and those who replay it."""

    def __init__(
        self,
        folder: Path,
        *,
        epoch: str = "e1",
        history: HistoryLimits | None = None,
        what: What | None = None,
        others: tuple[Recording, ...] = (),
        most: int = 100,
        file_bytes: int = 1 << 20,
        max_bytes: int = 1 << 30,
        records: bool = True,
    ) -> None:
        self.topics = Topics()
        self.topics.declare("SIM", SYMBOLS)
        self.tape = Tape(epoch, self.topics, history or HistoryLimits())
        self.router = Router(self.topics, self.tape)
        self.fanout = Fanout(self.router, max_gap_s=0.01)
        self.disk, self.reading = Disk(), Disk()
        self.folder = folder
        writer = TapeWriter(folder, file_bytes=file_bytes, max_bytes=max_bytes)
        self.recorder = Recorder(
            "tape", self.tape, writer, what=what, time_ns=self.time_ns, in_thread=self.disk
        )
        recorder = self.recorder if records else None
        recording = TapeRecording("tape", folder, recorder, in_thread=self.reading)
        self.replays = Replays(self.tape, [recording, *others], most=most)
        self.records = records

    def time_ns(self) -> int:
        """Return wall time: Trio's clock, from a fixed moment on."""
        return START_NS + round(trio.current_time() * 1e9)

    def reader(self) -> Reader:
        """Return a reader with a session of its own and no subscription."""
        wire = FakeWire()
        subscriber = Subscriber(
            f"s{len(self.router.mailboxes)}",
            router=self.router,
            fanout=self.fanout,
            wire=wire,
            codec=JSON,
            framing=NdjsonFraming(chunked=False),
            limits=SessionLimits(),
            peer="test",
            finish=lambda reason: b"",
        )
        subscriber.session.welcome("test", 10)
        subscriber.session.replays = self.replays.of(subscriber)
        return Reader(subscriber, wire)

    def subscribe(
        self,
        reader: Reader,
        ch: str,
        *symbols: str,
        replay: ReplayRequest | None = None,
        cursor: str | None = None,
        **delivery: Any,
    ) -> Ack:
        """Add a subscription to a reader's session."""
        request = Subscribe(
            id=1,
            ch=ch,
            symbols=list(symbols) or ["*"],
            delivery=DeliveryRequest(**delivery),
            cursor=cursor,
            replay=replay,
        )
        ack = reader.subscriber.session.subscribe(request, trio.current_time())
        reader.subscriber.wake()
        return ack

    def replay(self, ch: str = "trade", *symbols: str, cursor: str | None = None, **fields: Any) -> Reader:
        """Return a reader that replays the tape's recording on one channel."""
        reader = self.reader()
        request = ReplayRequest(**{"recording": "tape", **fields})
        self.subscribe(reader, ch, *symbols, replay=request, cursor=cursor)
        return reader

    async def run(self) -> None:
        """Run all of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.fanout.run)
            nursery.start_soon(self.replays.run)
            if self.records:
                nursery.start_soon(self.recorder.run)


@asynccontextmanager
async def recorded_market(folder: Path, **changes: Any) -> AsyncIterator[RecordedMarket]:
    """Run a recorded market."""
    market = RecordedMarket(folder, **changes)
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.run)
            await trio.testing.wait_all_tasks_blocked()
            yield market
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait, on a clock that jumps, until something is so that others bring about."""
    while not condition():  # noqa: ASYNC110  # whatever the condition looks at
        await trio.sleep(0.02)


def seqs(reader: Reader, ch: str = "trade") -> dict[str, list[int]]:
    """Return the numbers of the ticks of all updates, by symbol."""
    found: dict[str, list[int]] = {}
    for tick in reader.ticks():
        if tick["ch"] == ch:
            found.setdefault(tick["sym"], []).append(tick["seq"])
    return found
