"""One subscriber at run time: its session, and the wire it is written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
import trio

from broker.core import errors
from broker.core.codecs import Codec
from broker.core.errors import CloseReason
from broker.core.framing import Framing
from broker.core.outbox import Outbox
from broker.core.router import Router
from broker.core.session import Session, SessionLimits
from broker.core.subscription import Subscription
from broker.runtime.stream import Wire

if TYPE_CHECKING:
    from broker.runtime.fanout import Fanout

log = structlog.get_logger()

#: Writes for one subscriber before the others have their turn.
WRITES_PER_TURN = 4


class Subscriber:
    """Writes what a session has to say, as fast as the wire takes it, and never waits.

    Attributes:
        transport: how it is connected, for statistics.
        is_scheduled: whether the fan-out will flush it in its next round.
        timers: when the fan-out will wake it because a contract's delay is over, the next one last; each
            earlier than those before it, so there are at most as many as there are different delays.
        ended: why it ends, once it does; the first reason stays.
        last_heard: when the client last said anything, in seconds of Trio's clock.
    """

    # Used for every write: see `Outbox`.
    __slots__ = (
        "__weakref__",
        "_fanout",
        "_finish",
        "codec",
        "ended",
        "is_scheduled",
        "last_heard",
        "last_heartbeat",
        "last_sent",
        "outbox",
        "peer",
        "ping_sent_at",
        "scope",
        "session",
        "timers",
        "transport",
        "wire",
    )

    def __init__(
        self,
        id_: str,
        *,
        router: Router,
        fanout: Fanout,
        wire: Wire,
        codec: Codec,
        framing: Framing,
        limits: SessionLimits,
        peer: str,
        finish: Callable[[CloseReason], bytes],
    ) -> None:
        """``finish`` returns what the transport itself sends behind the `closing` message."""
        self.session = Session(id_, router, codec, limits, owner=self)
        self.outbox = Outbox(self.session, codec, framing)
        self.transport = framing.name
        self.codec = codec.name
        self.peer = peer
        self.wire = wire
        self.is_scheduled = False
        self.timers: list[float] = []
        self.ended: CloseReason | None = None
        self.scope = trio.CancelScope()
        self.last_heard = self.last_heartbeat = self.last_sent = trio.current_time()
        self.ping_sent_at: float | None = None
        self._fanout = fanout
        self._finish = finish
        wire.on_drained = self.wake

    def wake(self) -> None:
        """See to it that what waits is written in the next round."""
        if not self.is_scheduled and self.ended is None:
            self.is_scheduled = True
            self._fanout.schedule(self)

    def take(self, now: float) -> bytes:
        """Return the next write, empty if there is none; `write` it in the same step.

        While the wire is full it has notices only, which wait behind nothing but the frame that has begun.
        """
        if self.ended is not None:
            return b""
        outbox = self.outbox
        if not self.wire.is_blocked:
            data = outbox.take(now)
            if outbox.due is not None:
                self._fanout.wake_at(self, outbox.due)
        else:
            outbox.press()
            data = outbox.notices()
        if outbox.evicted is not None:
            self._evict(outbox.evicted)
            return b""
        return data

    def write(self, data: bytes, now: float) -> None:
        """Write what was taken, and what is left: until the wire is full, or the others have their turn."""
        self.last_sent = now
        self.wire.offer(data)
        if not self.outbox.may_have_more:
            return
        for _ in range(WRITES_PER_TURN - 1):
            data = self.take(now)
            if not data:
                return
            self.wire.offer(data)
        # It is the others' turn, and what is left has to wait.
        evicted = self.outbox.press()
        if evicted is not None:
            self._evict(evicted)
        self.wake()

    def _evict(self, sub: Subscription) -> None:
        log.warning(
            "slow consumer evicted",
            session=self.session.id,
            peer=self.peer,
            reason=errors.OVER_LIMIT.name,
            sub=sub.id,
            queued=len(sub.mailbox),
            queued_bytes=sub.mailbox.bytes,
            limit=sub.delivery.queue,
        )
        self.end(errors.OVER_LIMIT)

    def say(self, message: Any) -> None:
        """Send one message ahead of all that is queued: an answer never waits behind data."""
        if self.ended is None:
            self.wire.offer(self.outbox.message(message))

    def heartbeat(self, now: float, ts: int) -> None:
        """Send a heartbeat, unless the wire is busy: then the data is sign of life enough."""
        self.last_heartbeat = now
        if self.ended is None and not self.wire.is_blocked:
            self.wire.offer(self.outbox.heartbeat(ts))

    def end(self, reason: CloseReason) -> None:
        """End the session: send `closing`, then wake the connection's task to take it down.

        The first reason stays; a second call changes nothing.
        """
        if self.ended is not None:
            return
        closing = self.session.close(reason)
        self.ended = reason
        if reason not in (errors.WRITE_DEADLINE, errors.CLIENT_GONE, errors.CLIENT_SILENT):
            self.wire.offer(self.outbox.message(closing) + self._finish(reason))
        self.scope.cancel()
