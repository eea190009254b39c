"""Playing a recording that a feed can read: the feed runs for one subscriber alone, and waits for it.

A feed waits in `flush` for whoever takes its ticks. For the ingest that is the broker; here it is one subscriber,
so recorded venue traffic goes through the very parsers that live traffic goes through. Its ticks are numbered
from 1, by topic and all together, over the whole recording: the same numbers each time it is played.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
import trio

from broker.core.encoding import pack_tick, tick_to_json
from broker.core.errors import FeedPermanentError, FrameError
from broker.core.replay import Item
from broker.core.ticks import Channel, Tick
from broker.runtime.feed_runner import Feed
from broker.runtime.replays import Player, Recording

log = structlog.get_logger()


class FeedRecording(Recording):
    """A recording that a feed plays: its epoch is ``~NAME``, which no tape has."""

    def __init__(self, name: str, new_feed: Callable[[], Feed], *, time_ns: Callable[[], int]) -> None:
        """``new_feed`` returns a feed that plays it once, as fast as it is let."""
        self.name = name
        self.epoch = f"~{name}"
        self._new_feed = new_feed
        self._time_ns = time_ns
        # The feed looks at the recording to know.
        self.venues: frozenset[str] | None = frozenset({new_feed().venue})

    def knows(self, epoch: str, offset: int) -> bool:
        """See `Recording.knows`."""
        return epoch == self.epoch

    async def play(self, player: Player) -> None:
        """See `Recording.play`."""
        context = _Context(player, self._time_ns)
        await player.put(player.head.turn(self.epoch, 0))
        await self._new_feed().run(context)
        await context.flush()


class _Context:
    """`feeds.base.FeedContext` for one subscriber's replay, as far as a recording needs one.

    Times are those of the venue (`ts`): the feed does not say when the recorder received a tick.
    """

    def __init__(self, player: Player, time_ns: Callable[[], int]) -> None:
        self.log = log.bind(replay=player.plan.recording)
        self.time_ns = time_ns
        self._player = player
        self._encode = pack_tick if player.is_binary else tick_to_json
        self._seqs: dict[tuple[str, str], int] = {}
        self._offset = 0
        self._at = 0
        self._items: list[Item] = []

    def publish(self, tick: Tick) -> None:
        """See `FeedContext`."""
        topic = tick.ch, tick.sym
        seq = tick.seq = self._seqs.get(topic, 0) + 1
        try:
            encoded = self._encode(tick)
        except (TypeError, ValueError, OverflowError):
            return self.refused(FrameError("a tick that can't be encoded", repr(tick)))
        self._seqs[topic] = seq
        self._offset += 1
        # Venues' clocks go back a little; time here must not.
        self._at = max(self._at, tick.ts)
        self._items += self._player.head.tick(self._offset, encoded, self._at)
        return None

    async def flush(self) -> None:
        """See `FeedContext`; what waits here is the file."""
        await trio.lowlevel.checkpoint()
        items, self._items = self._items, []
        await self._player.put(items)
        self._player.read_to(self._offset)

    def gap(self, ch: Channel, sym: str) -> None:
        """See `FeedContext`."""
        self._items += self._player.head.lose(self._offset, ch, sym)

    def rewind(self) -> None:
        """See `FeedContext`; a recording is played once."""

    def refused(self, error: FrameError) -> None:
        """See `FeedContext`; the feed that the recording may be elsewhere counts them, and this one is not live."""
        self.log.debug("frame refused", error=str(error), frame=error.frame[:200])

    def connect_ws(self, url: str, *, max_message_bytes: int = 16 << 20) -> AbstractAsyncContextManager[Any]:
        """See `FeedContext`."""
        raise FeedPermanentError(f"{url}: this is a recording; it connects to nobody")

    async def get_body(self, url: str) -> bytes:
        """See `FeedContext`."""
        raise FeedPermanentError(f"{url}: this is a recording; it asks nobody")
