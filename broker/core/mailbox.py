"""A subscription's bounded queue, its contract, and its ledger. Pure.

A tick is handed over with ``inbox.append``, a C call of 35 ns that the router makes for every delivery;
everything else is done once for many ticks, by `Mailbox.settle` or by `Mailbox.take`, as if they had come one
by one. Between two calls the inbox holds what one round of the fan-out brought, no more.

At every moment ``offered = delivered + conflated + dropped + pending`` (protocol, section 5). The queue is
always in the order of the tape, so what is taken up to an offset is a prefix of it, and a cursor can stand
between any two ticks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum, IntEnum
from math import inf
from typing import Any, Literal

from msgspec import Struct

from broker.core.conflation import REPLACEABLE
from broker.core.delivery import Delivery, DeliveryLimits
from broker.core.encoded import Encoded, EncodedQueue, Placed, Recall
from broker.core.marks import BEHIND_SNAPSHOT, Mark, Marks, Place
from broker.core.pacing import PacedQueue
from broker.core.queues import FifoQueue, Item, LatestQueue, Merged, Queue, first_seq, is_from
from broker.core.tape import Entry
from broker.core.ticks import Channel
from broker.core.topics import Topic

GapReason = Literal["overflow", "cursor_too_old", "feed_reset", "stale"]
NoticeState = Literal["pressed", "degraded", "recovered"]


#: A queue that is so full is sent, however long the contract lets it wait: nobody should lose anything by that.
FULL_ENOUGH = 0.5


class Verdict(IntEnum):
    """What the ticks that came mean for the subscriber."""

    KEEP = 0
    #: Over its limit: the session has to be closed.
    EVICT = 1


class Level(Enum):
    """Where a subscriber stands on the ladder; behind the last rung it is evicted."""

    LIVE = "live"
    #: Its queue has passed the high watermark, and not come down to the low one since.
    PRESSED = "pressed"
    #: Its queue was full, and the contract says that it gets the latest only, until it has caught up.
    DEGRADED = "degraded"


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


class Noted(Struct, frozen=True):
    """A step on the ladder, to be told; ``queued`` and ``limit`` in ticks."""

    state: NoticeState
    queued: int
    limit: int


class Missing(Struct):
    """A range of one topic that was not and will not be delivered; ``None``: not known."""

    topic: Topic
    first: int | None
    last: int | None
    reason: GapReason


class _Hot:
    """Slots of a base class come first: what every write looks at shares a line of the cache."""

    __slots__ = ("inbox", "is_clear", "is_deferred", "owner", "passed")


class Mailbox(_Hot):
    """Contract, queue and account of one subscription. Hashed by identity.

    Attributes:
        inbox: ticks handed over and not looked at yet; the same list for the mailbox's whole life.
        is_encoded: whether ticks come and wait as bytes, JSON or MessagePack, not as entries (`broker.core.encoded`).
        is_clear: whether nothing is queued, and nothing has to be told: all there is, is in the inbox.
        level: where it stands on the ladder.
        max_delay_s: as the contract has it; here, because it is asked for in every round.
        is_deferred: whether the contract may want its ticks later than in the next round.
        wants_json: whether every tick will be needed as JSON.
        passed: ticks that went straight from the inbox to the socket, since the subscription began.
        offered, conflated, dropped, delivered: all others, the inbox left out.
        peak: the most ticks that ever had to wait.
        verdict: EVICT once the contract has called for it, whoever it was that settled then.
        over_since: when the tick came that was too many for a contract that says so; seconds of the broker's clock.
    """

    __slots__ = (
        "_conflates",
        "_gaps",
        "_last_gap",
        "_marks",
        "_notices",
        "_overtaken",
        "_queue",
        "ch",
        "conflated",
        "delivered",
        "delivery",
        "dropped",
        "is_encoded",
        "level",
        "limits",
        "max_delay_s",
        "offered",
        "over_since",
        "peak",
        "topic_count",
        "verdict",
        "wants_json",
    )

    def __init__(self, ch: Channel, delivery: Delivery, limits: DeliveryLimits, owner: object = None) -> None:
        """``owner`` is for whoever finds the mailbox among those of a topic; it is not looked at here."""
        self.ch = ch
        self.limits = limits
        self.owner = owner
        self.inbox: list[Any] = []
        self.is_encoded = False
        self.is_clear = True
        self.level = Level.LIVE
        self.wants_json = False
        self.passed = self.offered = self.delivered = self.conflated = self.dropped = 0
        self.peak = 0
        self.topic_count = 0
        self.verdict = Verdict.KEEP
        self.over_since: float | None = None
        self._gaps: list[Missing] = []
        self._last_gap: dict[Topic, Missing] = {}
        self._marks = Marks()
        self._notices: list[Noted] = []
        #: Up to this offset a ``max_rate`` holds ticks back, or has held them back while it was in force.
        self._overtaken: float = 0
        self._set_contract(delivery)

    def _set_contract(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.max_delay_s = delivery.max_delay_ms / 1000
        self.is_deferred = bool(delivery.max_delay_ms or delivery.max_rate)
        self._set_queue(_open_queue(self.ch, delivery))
        if delivery.max_rate is not None:
            self._overtaken = inf

    def _set_queue(self, queue: Queue) -> None:
        self._queue = queue
        self._conflates = isinstance(queue, LatestQueue)

    def __len__(self) -> int:
        """Return how many ticks are queued, the inbox included."""
        self.admit()
        return len(self._queue)

    @property
    def bytes(self) -> int:
        """Bytes of the queued ticks, the inbox left out."""
        return self._queue.bytes

    @property
    def ready(self) -> int:
        """How many of the queued ticks may be taken now; the others are held back by ``max_rate``."""
        self.admit()
        return self._queue.ready

    @property
    def due(self) -> float | None:
        """When something that is held back may go, seconds of the broker's clock; ``None`` without a ``max_rate``."""
        return self._queue.due if isinstance(self._queue, PacedQueue) else None

    def release(self, now: float) -> None:
        """Let go of what ``max_rate`` has held back until now, seconds of the broker's clock.

        And of everything if that is too much to be held: of large books, the newest of each can be.
        """
        queue = self._queue
        if isinstance(queue, PacedQueue):
            self.admit()
            queue.release(now)
            if queue.bytes >= self.limits.queue_bytes * FULL_ENOUGH:
                queue.let_go()

    # ── what comes ───────────────────────────────────────────────────────────────────────────────

    def admit(self) -> None:
        """Queue what is in the inbox; `settle` keeps the bounds, once it is known that it has to wait."""
        if self.inbox:
            came = self.inbox[:]
            self.inbox.clear()
            self.is_clear = False
            self.offered += len(came)
            self.conflated += self._queue.put(came)

    def settle(self) -> Verdict:
        """Queue what is in the inbox, and keep the bounds: drop, turn to the latest, or evict, by contract."""
        self.admit()
        queue = self._queue
        if isinstance(queue, FifoQueue | EncodedQueue):
            if len(queue) > self.limit or queue.bytes > self.limits.queue_bytes:
                self._overflow(queue)
        elif len(queue) > self.limit or (queue.bytes > self.limits.queue_bytes and len(queue) > 1):
            self.verdict = Verdict.EVICT
        self.peak = max(self.peak, len(self._queue))
        return self.verdict

    def offer(self, entry: Entry) -> Verdict:
        """Hand over and settle a single tick."""
        self.inbox.append(entry)
        return self.settle()

    @property
    def limit(self) -> int:
        """How many ticks may wait: the contract's ``queue``, or what the operator allows beyond one a topic."""
        if self.delivery.queue is not None and not self._conflates:
            return self.delivery.queue
        # The changes of state that a `status` keeps, and bars of different intervals, come on top.
        return self.limits.queue_ticks + 2 * self.topic_count

    def _overflow(self, queue: FifoQueue | EncodedQueue) -> None:
        if self.delivery.overflow == "degrade":
            self._degrade(queue)
            return
        bounds = self.limit, self.limits.queue_bytes
        if self.delivery.overflow == "evict":
            # It keeps what it had: the newest are those it did not take.
            gone = queue.drop_newest(*bounds)
            self._drop_items(gone, "overflow")
            if gone:
                self.verdict = Verdict.EVICT
                self.over_since = gone[0].at
        else:
            count, named = queue.drop_oldest(*bounds)
            self._drop_items(named, "overflow")
            self.dropped += count - len(named)

    def _degrade(self, queue: Queue) -> None:
        """Turn to the latest tick of each symbol until everything has been taken."""
        queued = len(queue)
        self._drop_before_marks()
        self._set_queue(LatestQueue(merges=self.ch not in REPLACEABLE))
        self.conflated += self._queue.put(queue.everything())
        self._move_to(Level.DEGRADED, Noted("degraded", queued, self.delivery.queue or 0))

    # ── the ladder ───────────────────────────────────────────────────────────────────────────────

    def press(self) -> None:
        """Note that the subscriber is slow, if its queue is over the high watermark; call it when it has to wait."""
        if self.level is Level.LIVE and self.fill() >= self.limits.high_watermark:
            self._move_to(Level.PRESSED, Noted("pressed", len(self._queue), self.limit))

    def fill(self) -> float:
        """Return how full the queue is, in ticks or in bytes; 1 is the bound."""
        self.admit()
        return max(len(self._queue) / self.limit, self._queue.bytes / self.limits.queue_bytes)

    def _look_whether_recovered(self) -> None:
        if self.level is Level.LIVE:
            return
        if self.level is Level.PRESSED and self.fill() <= self.limits.low_watermark:
            self._move_to(Level.LIVE, Noted("recovered", len(self._queue), self.limit))
        elif self.level is Level.DEGRADED and not len(self._queue):
            self._set_queue(_open_queue(self.ch, self.delivery))
            self._move_to(Level.LIVE, Noted("recovered", 0, self.limit))

    def _move_to(self, level: Level, noted: Noted) -> None:
        self.level = level
        self._notices.append(noted)
        self.is_clear = False

    @property
    def has_notices(self) -> bool:
        """Whether a step on the ladder has to be told."""
        return bool(self._notices)

    def take_notices(self) -> list[Noted]:
        """Remove and return the steps on the ladder that have not been told yet."""
        notices, self._notices = self._notices, []
        self._look_whether_clear()
        return notices

    # ── what goes ────────────────────────────────────────────────────────────────────────────────

    def first_offset(self) -> int | None:
        """Return the offset of the oldest tick that waits in its turn; ``None`` if there is none."""
        self.admit()
        first = self._queue.first_offset()
        if first is None or first > self._overtaken:
            return first
        if self._overtaken == inf:
            return None
        return next((item.offset for item in self._queue.peek() if item.offset > self._overtaken), None)

    def first_overtaken(self) -> int | None:
        """Return the offset of the oldest tick that later ones of other queues may have overtaken."""
        self.admit()
        first = self._queue.first_offset()
        return first if first is not None and first <= self._overtaken else None

    def peek(self) -> Iterator[Item]:
        """Iterate over what may be taken, oldest first, leaving it as it is."""
        self.admit()
        return self._queue.peek()

    def take(self, upto: int | None = None) -> list[Entry]:
        """Remove and return the queued ticks, oldest first, up to an offset (inclusive) or all.

        They count as delivered: the caller hands them to the socket at once, or the session is over.
        """
        self.admit()
        taken = self._queue.take(upto)
        self.delivered += len(taken)
        self._look_whether_recovered()
        self._look_whether_clear()
        return taken

    def take_fresh(self, most: int) -> list[Any] | None:
        """Do as `take`, for the common case: the last write took everything, and little came since.

        What the contract allows to wait does not matter, as nothing does. Not for a ``max_rate``.

        Returns:
            Ticks as they came: bytes if `is_encoded`, else entries. ``None``, with nothing changed, if it is another
            case: something was queued or has to be told first, or more than ``most`` ticks came.
        """
        inbox = self.inbox
        count = len(inbox)
        if not self.is_clear or count > most:
            return None
        taken = inbox[:]
        inbox.clear()
        if self._conflates and count > 1:
            taken = self._queue.collapse(taken)  # type: ignore[attr-defined]  # it is a LatestQueue
            self.offered += count - len(taken)
            self.conflated += count - len(taken)
        self.passed += len(taken)
        return taken

    def take_encoded(self, ticks: int, size: int, upto: int | None = None) -> list[Encoded]:
        """Do as `take` for ticks that wait as bytes: at most so many ticks, and bytes, but for a single larger one."""
        self.admit()
        assert isinstance(self._queue, EncodedQueue)
        taken = self._queue.take_encoded(ticks, size, upto)
        self.delivered += len(taken)
        self._look_whether_recovered()
        self._look_whether_clear()
        return taken

    def begin_encoded(self, recall: Recall, topics: Mapping[Topic, int]) -> bool:
        """Let ticks come as bytes from now on, if the contract lets nobody look at them; nothing must wait.

        Args:
            recall: knows what they are.
            topics: see `EncodedQueue`.

        Returns:
            Whether that is so. Then the topics must be told before the next tick (`Topic.routes`).
        """
        delivery = self.delivery
        if delivery.mode != "every" or delivery.overflow == "degrade" or delivery.max_age_ms is not None:
            return False
        if not recall.is_reliable:
            return False
        self.is_encoded = True
        self._set_queue(EncodedQueue(recall, topics))
        return True

    def end_encoded(self) -> bool:
        """Let ticks come as entries again, those that wait included; return whether they came as bytes.

        The topics must be told then.
        """
        if not self.is_encoded:
            return False
        self.admit()
        self._name_dropped()
        waiting = self._queue.everything()
        self.is_encoded = False
        self._set_queue(_open_queue(self.ch, self.delivery))
        self._queue.put(waiting)
        return True

    def expire(self, before: float) -> None:
        """Drop the queued ticks put on the tape before this time (``max_age_ms``), as `stale` gaps."""
        self.admit()
        self._drop_items(self._queue.remove(lambda item: item.at < before), "stale")
        self._look_whether_recovered()

    def let_go(self, topics: Collection[Topic]) -> None:
        """Hold nothing of some topics back any more: the ticks that follow go to another mailbox."""
        if isinstance(self._queue, PacedQueue):
            self.admit()
            self._queue.let_go(topics)

    def withdraw(self, first: dict[Topic, int], began: dict[Topic, int]) -> None:
        """Take back what is queued of these topics from these ``seq`` on: it is offered to another mailbox.

        Args:
            first: where to begin.
            began: the ``seq`` of the first tick of each that was offered here. What was replaced since then is
                taken back as well if nothing has gone, so that nobody counts it; later, who knows what it was.
        """
        self.admit()
        is_whole = not self.passed and not self.delivered and not self.dropped
        oldest_of = {topic: max(seq, began[topic]) for topic, seq in first.items()}
        for item in self._queue.remove(lambda item: is_from(item, first)):
            start = first[item.topic]
            oldest = first_seq(item)
            if is_whole and oldest_of[item.topic] <= item.seq:
                oldest = min(oldest, oldest_of[item.topic])
                oldest_of[item.topic] = item.seq + 1
            self.offered -= item.seq - max(start, oldest) + 1
            self.conflated -= item.seq - oldest
            if oldest < start:
                # It was merged into what is not for this mailbox any more.
                self._drop(item.topic, oldest, start - 1, "overflow")
        self._look_whether_recovered()
        self._look_whether_clear()

    def _drop_items(self, items: Sequence[Item | Placed], reason: GapReason) -> None:
        """Drop what stands for one tick each, or for several, all of which are lost with it.

        Stalled readers of every tick lose as many as the others get: this may be as hot as a delivery.
        """
        last_gap = self._last_gap
        for item in items:
            seq = item.seq
            oldest = item.first if type(item) is Merged else seq
            gap = last_gap.get(item.topic)
            if gap is not None and gap.last == oldest - 1 and gap.reason == reason:
                gap.last = seq
                self.dropped += seq - oldest + 1
            else:
                self._drop(item.topic, oldest, seq, reason)
            self.conflated -= seq - oldest

    # ── the contract ─────────────────────────────────────────────────────────────────────────────

    def change(self, delivery: Delivery) -> bool:
        """Put another contract into force, without losing or doubling a tick.

        What it can't hold is conflated or dropped, and counted, as if it had come one by one.

        Returns:
            False, with nothing changed, if it would evict at once.
        """
        self.admit()
        old = self._queue
        if delivery.overflow == "evict" and (
            len(old) > (delivery.queue or 0) or old.bytes > self.limits.queue_bytes
        ):
            return False
        if delivery.mode == "latest":
            self._drop_before_marks()
        waiting = old.everything()
        if self._overtaken == inf:
            self._overtaken = waiting[-1].offset if waiting else 0
        self._set_contract(delivery)
        self.conflated += self._queue.put(waiting)
        if self.level is not Level.LIVE:
            self._move_to(Level.LIVE, Noted("recovered", len(self._queue), self.limit))
        self.settle()
        self._look_whether_clear()
        return True

    # ── the account ──────────────────────────────────────────────────────────────────────────────

    def ledger(self, sub: int, backlog: int = 0) -> LedgerEntry:
        """Return the account; ``backlog`` ticks of a resume are offered, and still to be read."""
        self.admit()
        return LedgerEntry(
            sub,
            self.passed + self.offered + backlog,
            self.passed + self.delivered,
            self.conflated,
            self.dropped,
            len(self._queue) + backlog,
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
            if reason != "overflow":
                # That would grow by what is dropped next, which has to be counted.
                self._last_gap[topic] = gap
            self._gaps.append(gap)
            self.is_clear = False

    def note_reset(self, topic: Topic, offset: int, reason: GapReason) -> None:
        """Remember to tell that the feed missed something of a book, behind the tick at ``offset``, the tape's newest.

        A contract that conflates lets go of what waits of the book, which is worth nothing any more: it would be
        composed with what comes now, or, held back by a ``max_rate``, be sent when it is known to be wrong. Who wants
        every tick gets those first, and the gap in its place.
        """
        self.admit()
        if isinstance(self._queue, LatestQueue):
            self._drop_items(self._queue.remove_single(topic), "feed_reset")
            self._look_whether_recovered()
        self.mark(topic, (offset, BEHIND_SNAPSHOT), None, reason)

    def mark(self, topic: Topic, place: Place, last: int | None, reason: GapReason) -> None:
        """Remember to tell of a gap in its place, which is behind those of all other marks, or beside the last one.

        Args:
            topic: of which ticks are missing; nobody knows how many.
            place: behind what it stands.
            last: the ``seq`` of the last of them, if that is known.
        """
        self._marks.add(Mark(place, topic, last, reason))
        self.is_clear = False

    def first_mark(self) -> Place | None:
        """Return the place of the next mark; ``None`` if there is none."""
        return self._marks.first

    def reach(self, place: Place | None = None) -> None:
        """Have the gaps told whose marks stand up to a place, or all: what was before them has been sent."""
        for mark in self._marks.reach(place):
            self.note_gap(mark.topic, None, mark.last, mark.reason)

    def _drop_before_marks(self) -> None:
        """Let go of what would be conflated across a mark, or come behind one: see `note_reset`."""
        if self._marks:
            ends = self._marks.ends()
            gone = self._queue.remove(lambda item: item.offset <= ends.get(item.topic, 0))
            self._drop_items(gone, "feed_reset")

    @property
    def has_gaps(self) -> bool:
        """Whether there is something to be told before the next tick."""
        return bool(self._gaps) or (isinstance(self._queue, EncodedQueue) and self._queue.has_unnamed)

    def take_gaps(self) -> list[Missing]:
        """Remove and return what has to be told; every tick of it lies before those in the queue."""
        self._name_dropped()
        gaps, self._gaps = self._gaps, []
        self._last_gap.clear()
        self._look_whether_clear()
        return gaps

    def _name_dropped(self) -> None:
        """Note the gaps of what a queue of bytes has dropped and only counted."""
        queue = self._queue
        if isinstance(queue, EncodedQueue):
            if queue.has_unnamed:
                self.admit()
            for topic, first, last in queue.name_dropped():
                self._note_dropped(topic, first, last, "overflow")

    def _look_whether_clear(self) -> None:
        self.is_clear = not (self._gaps or self._marks or self._notices or len(self._queue))

    def _drop(self, topic: Topic, first: int, last: int, reason: GapReason) -> None:
        self.dropped += last - first + 1
        self._note_dropped(topic, first, last, reason)

    def _note_dropped(self, topic: Topic, first: int, last: int, reason: GapReason) -> None:
        gap = self._last_gap.get(topic)
        if gap is not None and gap.reason == reason and gap.last is not None and gap.last + 1 == first:
            gap.last = last
        else:
            gap = self._last_gap[topic] = Missing(topic, first, last, reason)
            self._gaps.append(gap)
            self.is_clear = False


def _open_queue(ch: Channel, delivery: Delivery) -> Queue:
    """Return the empty queue of a contract."""
    if delivery.mode == "every":
        return FifoQueue()
    merges = ch not in REPLACEABLE
    if delivery.max_rate is not None:
        return PacedQueue(merges=merges, by_state=ch == "status", max_rate=delivery.max_rate)
    return LatestQueue(merges=merges)
