"""Between a feed and the broker: what the feed has published goes into the ingest's channel, or waits.

A feed that can pause waits in `Gate.flush` until there is room. A venue does not wait: if its socket were not
read, it would hang up sooner or later, and what it had sent until then would be old. So the flush of a live feed
takes one checkpoint, and what the channel has no room for waits in a `FeedQueue`, which conflates what becomes
too much. A task of the ingest's hands it on in large batches; it stands in the same line for the channel as the
feeds that pause, so none of them starves another. As long as the channel has room none of this runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from broker.core.errors import FrameError
from broker.core.feed_queue import FeedQueue, Item, Missed, Rewound
from broker.core.ticks import Book, Trade
from broker.runtime.shapes import fault_of

if TYPE_CHECKING:
    from broker.runtime.feed_runner import FeedRunner

#: Ticks in one batch: what a feed sends at once, and what is put on the tape in one step.
BATCH_TICKS = 256
#: Batches that may wait for the broker, of all feeds together.
CHANNEL_BATCHES = 32
#: Ticks that a feed may publish without a flush; above, they wait at the gate, where they are conflated.
BUFFER_TICKS = 65_536
#: Between two looks for ticks that a feed has published and does not flush.
LOOK_S = 0.5
#: A gate that was full says so again only if it has not been full for so long.
CALM_S = 10.0


class Batch(Struct):
    """What goes through the channel: in order, at most `BATCH_TICKS` items."""

    feed: FeedRunner
    items: list[Item]


class Gate:
    """What one feed has published, until the broker takes it.

    Attributes:
        queue: what the channel had no room for.
        flushes: how often the feed has flushed, since the start.
    """

    def __init__(self, owner: FeedRunner, channel: trio.MemorySendChannel[Batch], *, can_pause: bool) -> None:
        """``owner``: the feed; it counts what is refused, and hears that the feed is alive."""
        self.queue = FeedQueue()
        self.flushes = 0
        self._owner = owner
        self._channel = channel
        self._can_pause = can_pause
        self._buffer: list[Item] = []
        #: Items in the channel, or in a batch that waits for room in it.
        self._sent = 0
        #: As long as something is, or was just, in `queue`, nothing may overtake it.
        self._is_holding = False
        self._held = trio.Event()
        self._released = trio.Event()
        #: Set with the next batch that is taken, if somebody waits for it.
        self._taken: trio.Event | None = None
        self._has_overflown = False
        self._flushes_seen = -1
        self._has_been_late = False
        self._last_full_at = float("-inf")

    @property
    def waiting(self) -> int:
        """How many ticks and marks were published and not taken yet, a conflated one counted once."""
        return len(self._buffer) + len(self.queue) + self._sent

    def publish(self, item: Item) -> None:
        """Gather a tick or a mark for the next flush. Never blocks."""
        self._buffer.append(item)
        if len(self._buffer) > BUFFER_TICKS:
            self._overflow()

    def _overflow(self) -> None:
        if not self._has_overflown:
            self._has_overflown = True
            self._owner.log.warning("the feed publishes without ever flushing; its ticks are conflated")
        # It is not the broker that is behind.
        self._last_full_at = trio.current_time()
        self._hold()

    async def flush(self) -> None:
        """Send what has gathered, or leave it here. Always a checkpoint; no more than that for a live feed.

        Cancelled while waiting for room, what was not sent stays for the next flush.
        """
        self.flushes += 1
        if not self._can_pause:
            self.leave()
            await trio.lowlevel.checkpoint()
            return
        if not self._buffer:
            await trio.lowlevel.checkpoint()
        while self._buffer:
            if self._is_holding:
                await self._released.wait()
                continue
            items = self._buffer[:BATCH_TICKS]
            del self._buffer[:BATCH_TICKS]
            # Counted first: it may be taken before this task goes on.
            self._sent += len(items)
            try:
                await self._channel.send(Batch(self._owner, items))
            except BaseException:
                self._sent -= len(items)
                self._buffer[:0] = items
                raise

    def look(self) -> None:
        """Send what a live feed has left lying since the last look, as it forgets to flush; called every `LOOK_S`."""
        if not self._buffer or self._can_pause:
            self._flushes_seen = -1
            return
        if self.flushes == self._flushes_seen:
            if not self._has_been_late:
                self._has_been_late = True
                self._owner.log.warning(
                    "the feed publishes and does not flush; its ticks come late: await ctx.flush() behind ctx.publish()"
                )
            self.leave()
        self._flushes_seen = self.flushes

    def leave(self) -> None:
        """Send what has gathered, or hold it for `run`, whether the feed can pause or not. Never blocks."""
        while (items := self._buffer) and not self._is_holding:
            rest: list[Item] = []
            if len(items) > BATCH_TICKS:
                items, rest = items[:BATCH_TICKS], items[BATCH_TICKS:]
            try:
                self._channel.send_nowait(Batch(self._owner, items))
            except trio.WouldBlock:
                break
            self._sent += len(items)
            self._buffer = rest
        if self._buffer:
            self._hold()

    def _hold(self) -> None:
        """Put what has gathered into the queue, to be handed on by `run`."""
        items, self._buffer = self._buffer, []
        # The broker is behind, so it does not hear that the feed is anything but mute.
        self._owner.stay_alive()
        was_conflating, waiting = self.queue.is_conflating, self.waiting + len(items)
        self.queue.add(sound for item in items if (sound := self._sound(item)) is not None)
        if self.queue.is_conflating and not was_conflating:
            self._tell_full(waiting)
        if self.queue and not self._is_holding:
            self._is_holding = True
            self._released = trio.Event()
            self._held.set()

    def _sound(self, item: Item) -> Item | None:
        """Return an item that can be conflated: itself, or what stands for one that is no tick, if anything does."""
        if isinstance(item, Missed | Rewound):
            return item
        fault = fault_of(item)
        if not fault:
            return item
        self._owner.refused(FrameError(fault, repr(item)))
        if isinstance(item, Book | Trade) and isinstance(item.sym, str):
            return Missed(item.ch, item.sym)
        return None

    def _tell_full(self, waiting: int) -> None:
        now = trio.current_time()
        if now - self._last_full_at > CALM_S:
            self._owner.log.warning("the broker is behind; the feed's ticks are conflated", waiting=waiting)
        self._last_full_at = now

    async def run(self) -> None:
        """Hand on what is held as the channel takes it, for ever."""
        while True:
            await self._held.wait()
            while self.queue:
                items = self.queue.take(BATCH_TICKS)
                self._sent += len(items)
                await self._channel.send(Batch(self._owner, items))
            self._is_holding = False
            self._held = trio.Event()
            self._released.set()

    def taken(self, batch: Batch) -> None:
        """Note that the broker has dealt with a batch."""
        self._sent -= len(batch.items)
        if self._taken is not None:
            self._taken.set()

    async def wait_until_taken(self) -> None:
        """Wait until the broker has dealt with everything that was flushed."""
        while self.waiting:
            self._taken = trio.Event()
            await self._taken.wait()
