"""Writes what a feed does (`broker.core.raw_recording`) to disk, and never holds the feed up.

Events wait in memory for a task that writes them in a thread. While the disk is full, or more waits than may, events
are lost: they are counted, the recording says how many and where, and the log says it once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio

from broker.core.raw_recording import Event, Lost
from broker.runtime.raw_files import RawFile

log = structlog.get_logger()

#: How often what waits is written: what the machine's sudden end can cost.
INTERVAL_S = 0.5
#: After the disk has refused something, it is tried again after so long.
RETRY_S = 2.0
#: Events of so many bytes are written at once, and lie in one block.
BLOCK_BYTES = 256 << 10
#: Of events that wait; what would be more is lost.
MOST_WAITING_BYTES = 16 << 20
#: What an event takes besides its text: a guess that is nearer than none.
_EVENT_BYTES = 64


class InThread(Protocol):
    """Runs what may block, as `trio.to_thread.run_sync` does."""

    def __call__(self, call: Callable[..., Any], /, *arguments: Any) -> Awaitable[Any]: ...


class RawRecorder:
    """One feed's recording.

    Attributes:
        name: of the feed.
        events, frames, ticks: since the start: all that were taken in, and what of the feed's life was noted.
        lost: events that are not in the recording.
        written_bytes: on disk, since the start.
        failure: why nothing can be written at present; empty if it can.
        is_over: whether the feed has no more to give, or never will.
    """

    def __init__(
        self,
        name: str,
        file: RawFile,
        *,
        time_ns: Callable[[], int],
        in_thread: InThread = trio.to_thread.run_sync,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
    ) -> None:
        self.name = name
        self.time_ns = time_ns
        self.events = self.frames = self.ticks = self.lost = self.written_bytes = 0
        self.failure = ""
        self.is_over = False
        self._file = file
        self._in_thread = in_thread
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting: list[Event] = []
        self._waiting_bytes = 0
        #: Lost since the last event that was taken.
        self._losing = 0
        self._wake = trio.Event()
        self._connections = 0

    def put(self, event: Event, size: int = 0) -> None:
        """Take in one event; never blocks. ``size`` is that of its text, in bytes."""
        # Once something was lost, until all that waits is written: one hole is better than many.
        if self._waiting_bytes >= self._most_waiting_bytes or (self._losing and self._waiting):
            self._lose_one()
            return
        if self._losing:
            self._waiting.append(Lost(self.time_ns(), self._losing))
            self._losing = 0
        self.events += 1
        self._waiting.append(event)
        self._waiting_bytes += size + _EVENT_BYTES
        if self._waiting_bytes >= BLOCK_BYTES:
            self._wake.set()

    def new_connection(self) -> int:
        """Return a number that no other connection of this recorder has."""
        self._connections += 1
        return self._connections

    async def run(self) -> None:
        """Write for ever; cancelled, what waits is written first, unless the disk has failed."""
        try:
            while True:
                if self.failure:
                    # Not for every block: nothing is gained by that with a full disk.
                    await trio.sleep(RETRY_S)
                else:
                    with trio.move_on_after(INTERVAL_S):
                        await self._wake.wait()
                self._wake = trio.Event()
                await self._write()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RETRY_S):
                if not self.failure:
                    await self._write()
            self._file.close()

    async def _write(self) -> None:
        """Write all that waits, as one block."""
        if not self._waiting:
            return
        events, self._waiting, self._waiting_bytes = self._waiting, [], 0
        try:
            self.written_bytes += await self._in_thread(self._file.write, events)
        except (OSError, ValueError, OverflowError) as exc:
            # Not only the disk's doing: options of a plug-in may hold what can't be written.
            taken = [event for event in events if type(event) is not Lost]
            self.lost += len(taken)
            self._losing += len(taken) + sum(event.events for event in events if type(event) is Lost)
            self._set_failure(f"{self._file.path}: {getattr(exc, 'strerror', None) or exc}")
        else:
            self._set_failure("")

    def _lose_one(self) -> None:
        if not self.lost:
            log.warning("a feed's recording has holes: the disk is too slow for it", feed=self.name)
        self.lost += 1
        self._losing += 1

    def _set_failure(self, text: str) -> None:
        if text and not self.failure:
            log.error("a feed's recording can't be written", feed=self.name, error=text)
        elif self.failure and not text:
            log.info("a feed's recording is written again", feed=self.name, lost=self.lost)
        self.failure = text
