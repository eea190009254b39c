"""One subscriber at run time: its session, and the wire it is written to.

What is said beside the data (answers, pongs, heartbeats, the last word) is handed to the wire at once. Data is
not, while the kernel refuses: it stays in the mailboxes, where it can still be conflated. So the wire's queue is
that of control: a message waits there for the rest of the one write that has begun, and for no other data.

    mailboxes ──(wire is free)──▶ ┌──────┐
    answers, pongs, closing ────▶ │ wire │ ──▶ kernel
                                  └──────┘

It is bounded, because who does not read his answers is not read either: the transport waits, after each, until
it has been taken. `MOST_UNREAD` holds whatever is said without having been asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import structlog
import trio
from msgspec import UNSET

from broker.core import errors
from broker.core.codecs import Codec
from broker.core.errors import CloseReason
from broker.core.framing import Framing
from broker.core.mailbox import Mailbox
from broker.core.messages import Message
from broker.core.outbox import Outbox
from broker.core.router import Router
from broker.core.session import Session, SessionLimits
from broker.core.subscription import Subscription
from broker.runtime.records import SessionRecord, oldest_tick_at, subscription_records
from broker.runtime.stream import Wire

if TYPE_CHECKING:
    from broker.runtime.fanout import Fanout

log = structlog.get_logger()

#: Writes for one subscriber before the others have their turn.
WRITES_PER_TURN = 4
#: Messages beside the data that may wait for the client to read.
MOST_UNREAD = 256
#: Then there is nobody who could hear why.
UNHEARD = (errors.WRITE_DEADLINE, errors.CLIENT_GONE, errors.CLIENT_SILENT)


class _Hot:
    """Slots of a base class come first: what every write looks at shares a line of the cache."""

    __slots__ = ("is_scheduled", "lane", "last_sent", "pack", "wire")


class Subscriber(_Hot):
    """Writes what a session has to say, as fast as the wire takes it, and never waits.

    Attributes:
        transport: how it is connected, for statistics.
        is_scheduled: whether the fan-out will flush it in its next round.
        lane, pack: `Outbox.lane` while the wire is free, and what makes writes of it: the usual case, for which the
            fan-out looks at nothing else.
        timers: when the fan-out will wake it because a contract's delay is over, the next one last; each
            earlier than those before it, so there are at most as many as there are different delays.
        ended: why it ends, once it does; the first reason stays.
        last: how it stood right before that.
        opened: when it was let in, in seconds of Trio's clock.
        last_heard: when the client last said anything, in seconds of Trio's clock.
    """

    # Used for every write: see `Outbox`.
    __slots__ = (
        "__weakref__",
        "_fanout",
        "_finish",
        "_unread",
        "codec",
        "ended",
        "last",
        "last_heard",
        "last_heartbeat",
        "opened",
        "outbox",
        "peer",
        "ping_sent_at",
        "scope",
        "session",
        "timers",
        "transport",
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
        self.pack = self.outbox.pack_encoded
        self.transport = framing.name
        self.codec = codec.name
        self.peer = peer
        self.wire = wire
        self.is_scheduled = False
        self.lane: Mailbox | None = None
        self.timers: list[float] = []
        self.ended: CloseReason | None = None
        self.last: SessionRecord | None = None
        self.scope = trio.CancelScope()
        self.opened = self.last_heard = self.last_heartbeat = self.last_sent = trio.current_time()
        self.ping_sent_at: float | None = None
        self._fanout = fanout
        self._finish = finish
        self._unread = 0
        wire.on_blocked = self._blocked
        self.session.on_change = self._changed
        wire.on_drained = self._drained

    def wake(self) -> None:
        """See to it that what waits is written in the next round."""
        if not self.is_scheduled and self.ended is None:
            self.is_scheduled = True
            self._fanout.schedule(self)

    def _drained(self) -> None:
        self._unread = 0
        self.wake()

    def _blocked(self) -> None:
        self.lane = None
        self.note_behind()

    def _changed(self) -> None:
        self.lane = None
        self.outbox.forget_plain()

    def note_behind(self) -> None:
        """Have what waits for it counted, until nothing does (`broker.runtime.budget`)."""
        self._fanout.behind[self] = None

    def held(self) -> tuple[int, int]:
        """Return what waits: ticks in its queues, and bytes there and for the kernel."""
        ticks, size = 0, self.wire.pending_bytes
        for sub in self.session.subscriptions.values():
            ticks += len(sub.mailbox)
            size += sub.mailbox.bytes
        return ticks, size

    def take(self, now: float) -> bytes:
        """Return the next write, empty if there is none; `offer` it to the wire in the same step.

        While the wire is full it has notices only, which wait behind nothing but the frame that has begun.
        """
        if self.ended is not None:
            return b""
        outbox = self.outbox
        if not self.wire.is_blocked:
            data = outbox.take(now)
            self.lane = outbox.lane
            if outbox.due is not None:
                self._fanout.wake_at(self, outbox.due)
        else:
            outbox.press()
            data = outbox.notices()
        if outbox.evicted is not None:
            self._evict(outbox.evicted)
            return b""
        return data

    def write_on(self, now: float) -> None:
        """Write what is left behind a first write: until the wire is full, or the others have their turn."""
        if not self.outbox.may_have_more:
            return
        self.note_behind()
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
        since = sub.mailbox.over_since
        late_s = 0.0 if since is None else round(trio.current_time() - since, 3)
        queued, limit = len(sub.mailbox), sub.delivery.queue
        self.evict(errors.OVER_LIMIT, sub=sub.id, in_queue=queued, limit=limit, late_s=late_s)

    def evict(self, reason: CloseReason, **why: object) -> None:
        """End the session of a slow consumer, and log the numbers that led to it.

        Args:
            why: further numbers, for the log.
        """
        if self.ended is not None:
            return
        ticks, size = self.held()
        log.warning(
            "slow consumer evicted",
            session=self.session.id,
            peer=self.peer,
            reason=reason.name,
            queued=ticks,
            waiting_bytes=size,
            **why,
        )
        self.end(reason)

    def say(self, message: Message) -> None:
        """Send one message ahead of all that is queued: an answer never waits behind data."""
        if self.ended is not None:
            return
        if self.wire.is_blocked:
            self._unread += 1
            if self._unread > MOST_UNREAD:
                self.evict(errors.UNREAD_ANSWERS, unread=self._unread, limit=MOST_UNREAD)
                return
        self.wire.offer(self.outbox.message(message))

    def heartbeat(self, now: float, ts: int, made: dict[Hashable, bytes] | None = None) -> bytes:
        """Return a heartbeat for the wire, none if that is busy: then the data is sign of life enough.

        ``made``: as in `Outbox.heartbeat`.
        """
        self.last_heartbeat = now
        if self.ended is not None or self.wire.is_blocked:
            return b""
        return self.outbox.heartbeat(ts, made)

    def end(self, reason: CloseReason) -> None:
        """End the session: send `closing`, then wake the connection's task to take it down.

        The first reason stays; a second call changes nothing.
        """
        if self.ended is not None:
            return
        self.last = self.record(trio.current_time())
        closing = self.session.close(reason, is_heard=reason not in UNHEARD)
        closing.advice = reason.advice or UNSET
        self.ended = reason
        self.lane = None
        if reason not in UNHEARD:
            self.wire.offer(self.outbox.message(closing) + self._finish(reason))
        self.scope.cancel()

    def fail(self, what: str, **more: object) -> None:
        """Log a fault of ours, whatever it is, and end the session; called where the exception was caught.

        Args:
            what: has failed, for the log, with what ``more`` there is to know.
        """
        log.exception(what, session=self.session.id, **more)
        try:
            self.end(errors.FAULT)
        except Exception:
            # The fault is in its account: it ends all the same, without a word and without that.
            log.exception("the account of a failed session could not be made", session=self.session.id)
            self.session.closed()
            self.ended = errors.FAULT
            self.lane = None
            self.scope.cancel()

    def record(self, now: float) -> SessionRecord:
        """Return how it stands: as of now, or as it was right before it began to end."""
        if self.last is not None:
            return self.last
        ticks, size = self.held()
        unsent = self.wire.pending_bytes
        oldest = oldest_tick_at(self.session)
        return SessionRecord(
            id=self.session.id,
            peer=self.peer,
            transport=self.transport,
            codec=self.codec,
            lived_s=now - self.opened,
            silent_s=now - self.last_heard,
            requests=self.session.requests,
            queued_ticks=ticks,
            queued_bytes=size - unsent,
            unsent_bytes=unsent,
            oldest_s=None if oldest is None else now - oldest,
            subscriptions=subscription_records(self.session),
            subscriptions_total=len(self.session.subscriptions),
        )
