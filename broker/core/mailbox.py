"""A subscription's bounded queue, its contract, and its ledger. Pure.

`Mailbox.offer` answers at once and never waits: it is called for every delivery, so it does next to
nothing. At every moment ``offered = delivered + conflated + dropped + pending`` (protocol, section 5).
The queue is always in the order of the tape, so what is taken up to an offset is a prefix of it, and a
cursor can stand between any two ticks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator
from enum import IntEnum
from typing import Literal

from msgspec import Struct

from broker.core.delivery import Delivery, DeliveryLimits
from broker.core.tape import Entry
from broker.core.topics import Topic

GapReason = Literal["overflow", "cursor_too_old", "feed_reset", "stale"]


class Verdict(IntEnum):
    """What an offered tick means for the subscriber; 0 is the common case: nothing to be done."""

    KEEP = 0
    #: The queue was empty: somebody has to see to it that it is flushed.
    WAKE = 1
    #: Over its limit: nothing more is offered, the session has to be closed.
    EVICT = 2


class LedgerEntry(Struct, frozen=True):
    """The account of one subscription (protocol, section 5); all in ticks."""

    sub: int
    offered: int
    delivered: int
    conflated: int
    dropped: int
    pending: int


class Missing(Struct):
    """A range of one topic that was not and will not be delivered; ``None``: not known."""

    topic: Topic
    first: int | None
    last: int | None
    reason: GapReason


class Mailbox(ABC):
    """What is common to both modes. Hashed by identity.

    Attributes:
        offered, conflated, dropped, delivered: ticks, since the subscription began.
        bytes: of the queued ticks, where the mode bounds them.
        peak: the most ticks that were ever queued.
    """

    __slots__ = (
        "_gaps",
        "_last_gap",
        "bytes",
        "conflated",
        "delivered",
        "delivery",
        "dropped",
        "limits",
        "offered",
        "owner",
        "peak",
        "topic_count",
    )

    def __init__(self, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        """``owner`` is handed back by the router with a verdict; the mailbox does not look at it."""
        self.delivery = delivery
        self.limits = limits
        self.owner = owner
        self.offered = self.delivered = self.conflated = self.dropped = 0
        self.bytes = 0
        self.peak = 0
        self.topic_count = 0
        self._gaps: list[Missing] = []
        self._last_gap: dict[Topic, Missing] = {}

    @abstractmethod
    def __len__(self) -> int:
        """Return how many ticks are queued."""

    @abstractmethod
    def offer(self, entry: Entry) -> Verdict:
        """Queue the next tick of one of the mailbox's topics."""

    @abstractmethod
    def first_offset(self) -> int:
        """Return the offset of the oldest queued tick. The queue must not be empty."""

    @abstractmethod
    def peek(self) -> Iterator[Entry]:
        """Iterate over the queue, oldest first, leaving it as it is."""

    @abstractmethod
    def take(self, upto: int | None = None) -> list[Entry]:
        """Remove and return the queued ticks, oldest first, up to an offset (inclusive) or all.

        They count as delivered: the caller hands them to the socket at once, or the session is over.
        """

    @abstractmethod
    def expire(self, before: float) -> None:
        """Drop the queued ticks put on the tape before this time (``max_age_ms``), as `stale` gaps."""

    def ledger(self, sub: int, backlog: int = 0) -> LedgerEntry:
        """Return the account; ``backlog`` ticks of a resume are offered, and still to be read."""
        return LedgerEntry(
            sub, self.offered + backlog, self.delivered, self.conflated, self.dropped, len(self) + backlog
        )

    def replayed(self, ticks: int) -> None:
        """Count ticks that went from the history to the socket without being queued."""
        self.offered += ticks
        self.delivered += ticks

    def lose(self, topic: Topic, first: int, last: int, reason: GapReason) -> None:
        """Count ticks that were offered and are gone unseen, and remember to say so."""
        self.offered += last - first + 1
        self._drop(topic, first, last, reason)

    def note_gap(self, topic: Topic, first: int | None, last: int | None, reason: GapReason) -> None:
        """Remember to tell of ticks that are outside the account: nobody knows them any more."""
        self._gaps.append(Missing(topic, first, last, reason))
        self._last_gap.pop(topic, None)

    @property
    def has_gaps(self) -> bool:
        """Whether there is something to be told before the next tick."""
        return bool(self._gaps)

    def take_gaps(self) -> list[Missing]:
        """Remove and return what has to be told; every tick of it lies before those in the queue."""
        gaps, self._gaps = self._gaps, []
        self._last_gap.clear()
        return gaps

    def _drop(self, topic: Topic, first: int, last: int, reason: GapReason) -> None:
        self.dropped += last - first + 1
        gap = self._last_gap.get(topic)
        if gap is not None and gap.reason == reason and gap.last is not None and gap.last + 1 == first:
            gap.last = last
        else:
            gap = self._last_gap[topic] = Missing(topic, first, last, reason)
            self._gaps.append(gap)


class EveryMailbox(Mailbox):
    """``mode = "every"``: all ticks in order, bounded by the contract in ticks and the operator in bytes."""

    __slots__ = ("_evicts", "_limit", "_limit_bytes", "_queue")

    def __init__(self, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        super().__init__(delivery, limits, owner)
        assert delivery.queue is not None
        self._queue: deque[Entry] = deque()
        self._limit = delivery.queue
        self._limit_bytes = limits.queue_bytes
        self._evicts = delivery.overflow == "evict"

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, entry: Entry) -> Verdict:
        """Queue one tick; over the limit the oldest are dropped, or the session is evicted, as agreed."""
        self.offered += 1
        queue = self._queue
        queue.append(entry)
        self.bytes += len(entry.packed)
        depth = len(queue)
        if depth > self.peak:
            self.peak = min(depth, self._limit)
        if depth > self._limit or self.bytes > self._limit_bytes:
            return self._overflow()
        return Verdict.WAKE if depth == 1 else Verdict.KEEP

    def _overflow(self) -> Verdict:
        if self._evicts and len(self._queue) > 1:
            # The queue stays as it was, within its bound, however many more come before the close.
            newest = self._queue.pop()
            self.bytes -= len(newest.packed)
            self._drop(newest.topic, newest.seq, newest.seq, "overflow")
            return Verdict.EVICT
        # One tick may be larger than the bound: a queue that can't hold it could never deliver it.
        while len(self._queue) > self._limit or (self.bytes > self._limit_bytes and len(self._queue) > 1):
            self._drop_oldest("overflow")
        return Verdict.WAKE if len(self._queue) == 1 else Verdict.KEEP

    def _drop_oldest(self, reason: GapReason) -> None:
        entry = self._queue.popleft()
        self.bytes -= len(entry.packed)
        self._drop(entry.topic, entry.seq, entry.seq, reason)

    def first_offset(self) -> int:
        return self._queue[0].offset

    def peek(self) -> Iterator[Entry]:
        return iter(self._queue)

    def take(self, upto: int | None = None) -> list[Entry]:
        queue = self._queue
        if upto is None or (queue and queue[-1].offset <= upto):
            taken = list(queue)
            queue.clear()
            self.bytes = 0
        else:
            taken = []
            while queue and queue[0].offset <= upto:
                taken.append(queue.popleft())
                self.bytes -= len(taken[-1].packed)
        self.delivered += len(taken)
        return taken

    def expire(self, before: float) -> None:
        while self._queue and self._queue[0].at < before:
            self._drop_oldest("stale")


class LatestMailbox(Mailbox):
    """``mode = "latest"``: the newest tick of each conflation key replaces the queued one.

    Bounded by the number of its topics; the changes of state that a `status` keeps come on top, up to
    the operator's ``queue_ticks``.
    """

    __slots__ = ("_queued",)

    def __init__(self, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        super().__init__(delivery, limits, owner)
        self._queued: dict[Hashable, Entry] = {}

    def __len__(self) -> int:
        return len(self._queued)

    def offer(self, entry: Entry) -> Verdict:
        """Queue one tick behind all others; the one that it replaces counts as conflated."""
        self.offered += 1
        queued = self._queued
        key = entry.key
        if key in queued:
            # To the back, not in place: the queue stays in the order of the tape.
            del queued[key]
            queued[key] = entry
            self.conflated += 1
            return Verdict.KEEP
        queued[key] = entry
        depth = len(queued)
        if depth > self.peak:
            self.peak = depth
        if depth == 1:
            return Verdict.WAKE
        if depth > self.limits.queue_ticks and depth > self.limits.queue_ticks + 2 * self.topic_count:
            return Verdict.EVICT
        return Verdict.KEEP

    def first_offset(self) -> int:
        return next(iter(self._queued.values())).offset

    def peek(self) -> Iterator[Entry]:
        return iter(self._queued.values())

    def take(self, upto: int | None = None) -> list[Entry]:
        queued = self._queued
        taken = list(queued.values())
        if upto is None or not taken or taken[-1].offset <= upto:
            queued.clear()
        else:
            taken = [entry for entry in taken if entry.offset <= upto]
            for entry in taken:
                del queued[entry.key]
        self.delivered += len(taken)
        return taken

    def expire(self, before: float) -> None:
        # At the end of the walk only: a dict must not change under it.
        for entry in [entry for entry in self._queued.values() if entry.at < before]:
            del self._queued[entry.key]
            self._drop(entry.topic, entry.seq, entry.seq, "stale")


def open_mailbox(delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> Mailbox:
    """Return an empty mailbox for a contract."""
    kind = LatestMailbox if delivery.mode == "latest" else EveryMailbox
    return kind(delivery, limits, owner)


def refill(new: Mailbox, old: Mailbox) -> Verdict:
    """Carry account, gaps and queued ticks over to the mailbox of a changed contract.

    Nothing is lost or doubled: what the new contract can't hold is dropped or conflated, and counted, as
    if it had come one by one.

    Returns:
        EVICT if the new contract says so of what is queued.
    """
    new._gaps, new._last_gap = old._gaps, old._last_gap
    new.topic_count = old.topic_count
    verdict = max((new.offer(entry) for entry in old.peek()), default=Verdict.KEEP)
    # The queued ticks had been counted as offered already.
    new.offered = old.offered
    new.delivered += old.delivered
    new.conflated += old.conflated
    new.dropped += old.dropped
    return verdict
