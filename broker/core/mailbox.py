"""A subscription's bounded queue, its contract, and its ledger. Pure.

A tick is handed over with ``inbox.append``, a C call of 35 ns that the router makes for every delivery;
everything else is done once for many ticks, by `Mailbox.settle` or by `Mailbox.take`, as if they had come one
by one. Between two calls the inbox holds what one round of the fan-out brought, no more.

At every moment ``offered = delivered + conflated + dropped + pending`` (protocol, section 5). The queue is
always in the order of the tape, so what is taken up to an offset is a prefix of it, and a cursor can stand
between any two ticks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from enum import IntEnum
from itertools import takewhile
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from broker.core.delivery import Delivery, DeliveryLimits
from broker.core.tape import Entry
from broker.core.topics import Topic

GapReason = Literal["overflow", "cursor_too_old", "feed_reset", "stale"]


_offset: Callable[[Entry], int] = attrgetter("offset")
_size: Callable[[Entry], int] = attrgetter("size")


class Verdict(IntEnum):
    """What the ticks that came mean for the subscriber."""

    KEEP = 0
    #: Over its limit: the session has to be closed.
    EVICT = 1


class LedgerEntry(Struct, frozen=True):
    """The account of one subscription (protocol, section 5); all in ticks.

    Attributes:
        sub: the number of the subscription.
        offered: published on its symbols since its ack, those that a resume replays included.
        delivered: handed to the socket.
        conflated: merged into a later one.
        dropped: named by a `gap`.
        pending: queued.
    """

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
        inbox: ticks handed over and not looked at yet; the same list for the mailbox's whole life.
        is_clear: whether nothing is queued, and nothing has to be told: all there is, is in the inbox.
        max_delay_s: as the contract has it; here, because it is asked for in every round.
        wants_json: whether every tick will be needed as JSON.
        offered, conflated, dropped, delivered: ticks, since the subscription began, the inbox left out.
        peak: the most ticks that were ever queued.
        verdict: EVICT once the contract has called for it, whoever it was that settled then.
    """

    __slots__ = (
        "_gaps",
        "_last_gap",
        "conflated",
        "delivered",
        "delivery",
        "dropped",
        "inbox",
        "is_clear",
        "limits",
        "max_delay_s",
        "offered",
        "owner",
        "peak",
        "topic_count",
        "verdict",
        "wants_json",
    )

    def __init__(self, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        """``owner`` is for whoever finds the mailbox among those of a topic; it is not looked at here."""
        self.delivery = delivery
        self.limits = limits
        self.owner = owner
        self.inbox: list[Entry] = []
        self.is_clear = True
        self.max_delay_s = delivery.max_delay_ms / 1000
        self.wants_json = False
        self.offered = self.delivered = self.conflated = self.dropped = 0
        self.peak = 0
        self.topic_count = 0
        self.verdict = Verdict.KEEP
        self._gaps: list[Missing] = []
        self._last_gap: dict[Topic, Missing] = {}

    @abstractmethod
    def __len__(self) -> int:
        """Return how many ticks are queued, the inbox included."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of the queued ticks, the inbox left out. O(1) where the mode bounds them, else 0."""

    @abstractmethod
    def settle(self) -> Verdict:
        """Queue what is in the inbox, tick by tick: conflate or bound it as the contract says."""

    def offer(self, entry: Entry) -> Verdict:
        """Hand over and settle a single tick."""
        self.inbox.append(entry)
        return self.settle()

    @abstractmethod
    def first_offset(self) -> int:
        """Return the offset of the oldest queued tick. There must be one."""

    @abstractmethod
    def peek(self) -> Iterator[Entry]:
        """Iterate over the queue, oldest first, leaving it as it is."""

    @abstractmethod
    def take(self, upto: int | None = None) -> list[Entry]:
        """Remove and return the queued ticks, oldest first, up to an offset (inclusive) or all.

        They count as delivered: the caller hands them to the socket at once, or the session is over.
        """

    @abstractmethod
    def take_fresh(self, most: int) -> list[Entry] | None:
        """Do as `take`, for the common case: the last write took everything, and little came since.

        Returns:
            ``None``, with nothing changed, if it is another case: something was queued or has to be told
            first, or more than ``most`` ticks came.
        """

    @abstractmethod
    def expire(self, before: float) -> None:
        """Drop the queued ticks put on the tape before this time (``max_age_ms``), as `stale` gaps."""

    @abstractmethod
    def withdraw(self, first: dict[Topic, int]) -> None:
        """Take back what is queued of these topics from these ``seq`` on: it is offered to another mailbox."""

    def ledger(self, sub: int, backlog: int = 0) -> LedgerEntry:
        """Return the account; ``backlog`` ticks of a resume are offered, and still to be read."""
        self.settle()
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
        gap = Missing(topic, first, last, reason)
        # A feed that fails over and over says the same each time; a stalled reader is told once.
        if self._last_gap.get(topic) != gap:
            self._last_gap[topic] = gap
            self._gaps.append(gap)
            self.is_clear = False

    @property
    def has_gaps(self) -> bool:
        """Whether there is something to be told before the next tick."""
        return bool(self._gaps)

    def take_gaps(self) -> list[Missing]:
        """Remove and return what has to be told; every tick of it lies before those in the queue."""
        gaps, self._gaps = self._gaps, []
        self._last_gap.clear()
        self._look_whether_clear()
        return gaps

    def _look_whether_clear(self) -> None:
        self.is_clear = not self._gaps and not self._has_queued()

    @abstractmethod
    def _has_queued(self) -> bool:
        """Tell whether something waits beside the inbox."""

    def _drop(self, topic: Topic, first: int, last: int, reason: GapReason) -> None:
        self.dropped += last - first + 1
        gap = self._last_gap.get(topic)
        if gap is not None and gap.reason == reason and gap.last is not None and gap.last + 1 == first:
            gap.last = last
        else:
            gap = self._last_gap[topic] = Missing(topic, first, last, reason)
            self._gaps.append(gap)
            self.is_clear = False


class EveryMailbox(Mailbox):
    """``mode = "every"``: all ticks in order, bounded by the contract in ticks and the operator in bytes."""

    __slots__ = ("_bytes", "_evicts", "_limit", "_limit_bytes", "_queue")

    def __init__(self, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        super().__init__(delivery, limits, owner)
        assert delivery.queue is not None
        self._queue: deque[Entry] = deque()
        self._bytes = 0
        self._limit = delivery.queue
        self._limit_bytes = limits.queue_bytes
        self._evicts = delivery.overflow == "evict"

    def __len__(self) -> int:
        return len(self._queue) + len(self.inbox)

    @property
    def bytes(self) -> int:
        return self._bytes

    def _has_queued(self) -> bool:
        return bool(self._queue)

    def settle(self) -> Verdict:
        """Queue the inbox; over the limit the oldest are dropped, or the session is to be evicted.

        With ``evict`` it is the newest that the queue does not take: it stays as it was until the close.
        """
        if not self.inbox:
            return self.verdict
        came = self.inbox[:]
        self.inbox.clear()
        self.offered += len(came)
        self.is_clear = False
        queue = self._queue
        size = sum(map(_size, came))
        if len(queue) + len(came) <= self._limit and self._bytes + size <= self._limit_bytes:
            queue.extend(came)
            self._bytes += size
            self.peak = max(self.peak, len(queue))
            return self.verdict
        for entry in came:
            size = entry.size
            # One tick may be larger than the bound: a queue that can't hold it could never deliver it.
            while queue and (len(queue) >= self._limit or self._bytes + size > self._limit_bytes):
                if self._evicts:
                    break
                self._drop_oldest("overflow")
            else:
                queue.append(entry)
                self._bytes += size
                continue
            self._drop(entry.topic, entry.seq, entry.seq, "overflow")
            self.verdict = Verdict.EVICT
        self.peak = max(self.peak, len(queue))
        return self.verdict

    def _drop_oldest(self, reason: GapReason) -> None:
        entry = self._queue.popleft()
        self._bytes -= entry.size
        self._drop(entry.topic, entry.seq, entry.seq, reason)

    def first_offset(self) -> int:
        return self._queue[0].offset if self._queue else self.inbox[0].offset

    def peek(self) -> Iterator[Entry]:
        self.settle()
        return iter(self._queue)

    def take(self, upto: int | None = None) -> list[Entry]:
        self.settle()
        queue = self._queue
        if upto is None or (queue and queue[-1].offset <= upto):
            taken = list(queue)
            queue.clear()
            self._bytes = 0
        else:
            taken = list(takewhile(lambda entry: entry.offset <= upto, queue))
            for _ in taken:
                queue.popleft()
            self._bytes -= sum(map(_size, taken))
        self.delivered += len(taken)
        self._look_whether_clear()
        return taken

    def take_fresh(self, most: int) -> list[Entry] | None:
        inbox = self.inbox
        count = len(inbox)
        if not self.is_clear or count > most or count > self._limit:
            return None
        taken = inbox[:]
        inbox.clear()
        self.offered += count
        self.delivered += count
        return taken

    def withdraw(self, first: dict[Topic, int]) -> None:
        self.settle()
        kept = [entry for entry in self._queue if not _is_from(entry, first)]
        self.offered -= len(self._queue) - len(kept)
        self._queue = deque(kept)
        self._bytes = sum(map(_size, kept))

    def expire(self, before: float) -> None:
        self.settle()
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
        if self.inbox:
            self.settle()
        return len(self._queued)

    @property
    def bytes(self) -> int:
        return 0

    def _has_queued(self) -> bool:
        return bool(self._queued)

    def settle(self) -> Verdict:
        """Queue the inbox, each tick behind all others; those that it replaces count as conflated."""
        if not self.inbox:
            return self.verdict
        came = self.inbox[:]
        self.inbox.clear()
        self.is_clear = False
        queued = self._queued
        before = len(queued)
        for entry in came:
            # To the back, not in place: the queue stays in the order of the tape.
            queued.pop(entry.key, None)
            queued[entry.key] = entry
        depth = len(queued)
        self.offered += len(came)
        self.conflated += before + len(came) - depth
        self.peak = max(self.peak, depth)
        if depth > self.limits.queue_ticks + 2 * self.topic_count:
            self.verdict = Verdict.EVICT
        return self.verdict

    def first_offset(self) -> int:
        self.settle()
        return next(iter(self._queued.values())).offset

    def peek(self) -> Iterator[Entry]:
        self.settle()
        return iter(self._queued.values())

    def take(self, upto: int | None = None) -> list[Entry]:
        self.settle()
        queued = self._queued
        taken = list(queued.values())
        if upto is None or not taken or taken[-1].offset <= upto:
            queued.clear()
        else:
            taken = [entry for entry in taken if entry.offset <= upto]
            for entry in taken:
                del queued[entry.key]
        self.delivered += len(taken)
        self._look_whether_clear()
        return taken

    def take_fresh(self, most: int) -> list[Entry] | None:
        inbox = self.inbox
        count = len(inbox)
        if not self.is_clear or count > most:
            return None
        taken = inbox[:]
        inbox.clear()
        self.offered += count
        if count > 1:
            newest = {entry.key: entry for entry in taken}
            if len(newest) != count:
                self.conflated += count - len(newest)
                taken = sorted(newest.values(), key=_offset)
        self.delivered += len(taken)
        return taken

    def withdraw(self, first: dict[Topic, int]) -> None:
        self.settle()
        kept = {key: entry for key, entry in self._queued.items() if not _is_from(entry, first)}
        self.offered -= len(self._queued) - len(kept)
        self._queued = kept

    def expire(self, before: float) -> None:
        self.settle()
        # At the end of the walk only: a dict must not change under it.
        for entry in [entry for entry in self._queued.values() if entry.at < before]:
            del self._queued[entry.key]
            self._drop(entry.topic, entry.seq, entry.seq, "stale")


def _is_from(entry: Entry, first: dict[Topic, int]) -> bool:
    start = first.get(entry.topic)
    return start is not None and entry.seq >= start


def open_mailbox(delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> Mailbox:
    """Return an empty mailbox for a contract."""
    kind = LatestMailbox if delivery.mode == "latest" else EveryMailbox
    return kind(delivery, limits, owner)


def refill(new: Mailbox, old: Mailbox) -> Verdict:
    """Carry account, gaps and queued ticks over to the mailbox of a changed contract.

    Nothing is lost or doubled: what the new contract can't hold is dropped or conflated, and counted, as
    if it had come one by one.

    Returns:
        EVICT if the new contract says so of what is queued; the old mailbox is then as it was.
    """
    new.topic_count = old.topic_count
    new.inbox += old.peek()
    verdict = new.settle()
    if verdict is Verdict.EVICT:
        return verdict
    # What the old contract had to tell lies before what the new one dropped.
    new._gaps[:0] = old.take_gaps()
    new.is_clear = not new._gaps and new.is_clear
    # The queued ticks had been counted as offered already.
    new.offered = old.offered
    new.delivered += old.delivered
    new.conflated += old.conflated
    new.dropped += old.dropped
    return verdict
