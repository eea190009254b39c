"""The tape: every tick gets its number, its place, and is kept for a while.

``seq`` counts the ticks of one topic, ``offset`` those of the whole tape; both start at 1. A cursor is
``<epoch>-<offset>``: everything up to and including that offset has been seen. The epoch is new with each
tape, so a cursor of an earlier life is never mistaken for one of this.

The history is bounded in ticks, bytes and age. Its ticks lie with their topics, so that a resume costs by
what the subscriber missed, not by what everybody else got; ``_order`` says which topic is to forget next.
They lie there as MessagePack, which is a third smaller than JSON and half as large as the objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

import msgspec

from broker.core.conflation import SINGLE, conflation_key
from broker.core.encoding import pack_tick, tick_to_json
from broker.core.ticks import Bar, Book, Tick
from broker.core.topics import Topic, Topics

#: What a kept tick costs beside its bytes: the object's head, the offset, three places in deques.
OVERHEAD_BYTES = 96


class Entry(msgspec.Struct, gc=False, eq=False):
    """A tick on the tape, shared by all mailboxes that hold it. Treated as immutable.

    Attributes:
        key: what a newer entry must share to take this one's place in a queue.
        at: when it was put on the tape, in seconds of the broker's clock.
        packed: the tick as MessagePack.
        size: of it, in bytes; by this queues and frames are measured, whatever the codec.
        json: the tick as JSON; made at once where somebody gets every tick as JSON, else when first needed.
    """

    topic: Topic
    key: Hashable
    seq: int
    offset: int
    at: float
    tick: Tick
    packed: bytes
    size: int
    json: bytes = b""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How much of the tape is kept for those who resume; 0 of any keeps nothing."""

    ticks: int = 200_000
    bytes: int = 32 << 20
    age_s: float = 300.0


class Tape:
    """Numbers ticks, keeps the newest state of each topic and a bounded history. Pure."""

    def __init__(self, epoch: str, topics: Topics, limits: HistoryLimits) -> None:
        """``epoch`` must never have been used before, and has no ``-`` in it."""
        self.epoch = epoch
        self.topics = topics
        self.limits = limits
        self.offset = 0
        self.kept_bytes = 0
        #: Ticks that an adapter filled with what no codec can carry; they are not on the tape.
        self.malformed = 0
        self._cursor_offset, self._cursor = 0, f"{epoch}-0"
        self._order: deque[Topic] = deque()
        #: (when, offset behind its last tick) of each batch in the history, for the age.
        self._batches: deque[tuple[float, int]] = deque()

    @property
    def kept_ticks(self) -> int:
        """How many ticks the history holds."""
        return len(self._order)

    def append(self, ticks: Iterable[Tick], at: float) -> list[Entry]:
        """Number a batch, in order, and return it as entries.

        Args:
            ticks: their ``seq`` is set here.
            at: now, in seconds of the broker's clock; never earlier than the last call's.
        """
        entries = []
        by_type = self.topics.by_type
        order, offset, kept = self._order, self.offset, self.kept_bytes
        for tick in ticks:
            topic = None
            json = b""
            try:
                topic = by_type[type(tick)].get(tick.sym) or self._new_topic(tick)
                tick.seq = topic.seq + 1
                packed = pack_tick(tick)
                if topic.wants_json:
                    json = tick_to_json(tick)
                if topic.book is not None:
                    topic.book.apply(tick)  # type: ignore[arg-type]  # a topic of ch "book" gets Books
                    topic.rendered = None
            except (TypeError, ValueError, OverflowError, AttributeError, LookupError):
                # Before anything has been counted: an adapter's mistake costs this tick only.
                self.malformed += 1
                if topic is not None:
                    self.topics.discard_unused(topic)
                continue
            if not topic.seq:
                self.topics.learn(topic)
            offset += 1
            topic.seq = tick.seq
            topic.offset = offset
            size = len(packed)
            if topic.ch in SINGLE:
                entry = Entry(topic, topic, tick.seq, offset, at, tick, packed, size, json)
                topic.current[""] = entry
            else:
                entry = Entry(
                    topic, conflation_key(topic, tick), tick.seq, offset, at, tick, packed, size, json
                )
                topic.current[tick.interval if type(tick) is Bar else ""] = entry
            topic.offsets.append(offset)
            topic.packed.append(packed)
            order.append(topic)
            kept += size + OVERHEAD_BYTES
            entries.append(entry)
        self.offset, self.kept_bytes = offset, kept
        self._batches.append((at, offset))
        self._forget(at)
        return entries

    def _new_topic(self, tick: Tick) -> Topic:
        if not isinstance(tick.sym, str):
            raise TypeError(f"sym: {tick.sym!r} is not text")
        return self.topics.get(tick.ch, tick.sym)

    def _forget(self, now: float) -> None:
        """Let go of the oldest ticks until every bound is kept."""
        batches, limits, order = self._batches, self.limits, self._order
        oldest = self.offset - len(order) + 1
        horizon = oldest
        while batches and batches[0][0] <= now - limits.age_s:
            horizon = batches.popleft()[1] + 1
        horizon = max(horizon, self.offset - limits.ticks + 1)
        kept, most = self.kept_bytes, limits.bytes
        while order and (oldest < horizon or kept > most):
            topic = order.popleft()
            kept -= len(topic.packed.popleft()) + OVERHEAD_BYTES
            topic.forgotten = topic.offsets.popleft()
            oldest += 1
        self.kept_bytes = kept
        while batches and batches[0][1] < oldest:
            batches.popleft()

    def snapshot(self, topic: Topic, at: float) -> list[Entry]:
        """Return the topic's whole present state: none before its first tick, usually one entry.

        The book of a topic is one tick of kind ``snapshot`` with the ``seq`` it is valid at; made once
        between two changes, so that a crowd that arrives together shares it.
        """
        if topic.book is None:
            return list(topic.current.values())
        if not topic.seq:
            return []
        if topic.rendered is None:
            bids, asks = topic.book.levels()
            ts, rts = topic.book.ts, topic.book.rts
            tick = Book(sym=topic.sym, seq=topic.seq, ts=ts, rts=rts, kind="snapshot", bids=bids, asks=asks)
            packed = pack_tick(tick)
            topic.rendered = Entry(topic, topic, topic.seq, topic.offset, at, tick, packed, len(packed))
        return [topic.rendered]

    def cursor(self, offset: int | None = None) -> str:
        """Return the cursor of an offset, of the newest one without."""
        if offset is None:
            offset = self.offset
        if offset != self._cursor_offset:
            # One round of the fan-out sends the same cursor to everybody.
            self._cursor_offset, self._cursor = offset, f"{self.epoch}-{offset}"
        return self._cursor

    def parse_cursor(self, cursor: str) -> int | None:
        """Return a cursor's offset, or ``None`` for one that this tape did not give out."""
        epoch, dash, number = cursor.rpartition("-")
        if not dash or epoch != self.epoch or not (number.isascii() and number.isdigit()) or len(number) > 19:
            return None
        offset = int(number)
        return offset if offset <= self.offset else None

    def first_after(self, topic: Topic, offset: int) -> int | None:
        """Return the ``seq`` of the topic's first tick behind ``offset``: ``seq + 1`` if there is none yet.

        Returns:
            ``None`` if the history no longer says: ticks behind ``offset`` have been forgotten.
        """
        if topic.forgotten > offset:
            return None
        if topic.offset <= offset:
            return topic.seq + 1
        # From the newest back: who resumes has mostly missed little.
        missed = 0
        for known in reversed(topic.offsets):
            if known <= offset:
                break
            missed += 1
        return topic.seq - missed + 1


class Backlog:
    """What a resuming subscriber still has to read from the history, in the order of the tape, lazily.

    It holds no ticks: they stay where the tape bounds them. Should it be read more slowly than the
    history forgets, it says so in `lost`.
    """

    __slots__ = ("_heap", "_next")

    def __init__(self, first: dict[Topic, int]) -> None:
        """``first``: for each topic, the ``seq`` of the first tick to be read; the history has it."""
        self._next = {topic: seq for topic, seq in first.items() if seq <= topic.seq}
        #: (offset, seq, topic) of each topic's next tick; offsets differ, so topics are never compared.
        self._heap = [
            (topic.offsets[seq - topic.first_kept], seq, topic) for topic, seq in self._next.items()
        ]
        heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._next)

    def __contains__(self, topic: Topic) -> bool:
        return topic in self._next

    def pending(self) -> int:
        """Return how many ticks are left, those of this moment included. O(topics)."""
        return sum(topic.seq - seq + 1 for topic, seq in self._next.items())

    def position(self) -> int:
        """Return the offset up to which everything has been read. There must be something left.

        What was forgotten before it was read, and not told yet, counts as unread: a cursor of this place
        finds it too old.
        """
        return self._head()[0] - 1

    def _head(self) -> tuple[int, int, Topic]:
        """Return where to go on; what `forget` has left in the heap goes now."""
        heap = self._heap
        while self._next.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0]

    def lost(self) -> Iterator[tuple[Topic, int, int]]:
        """Yield (topic, first, last) of what the history forgot before it was read; then go on behind it."""
        while self._next:
            _, seq, topic = self._head()
            first = topic.first_kept
            if seq >= first:
                # The history forgets in the order of the tape: what comes later is there as well.
                return
            self._advance(topic, first)
            yield topic, seq, first - 1

    def read(self, ticks: int, size: int, upto: int | None = None) -> list[tuple[int, Topic, bytes]]:
        """Read on, (offset, topic, tick), in the order of the tape. Call `lost` first.

        Args:
            ticks: at most so many.
            size: at most so many bytes, but for a single tick that is larger.
            upto: only ticks up to this offset, inclusive.
        """
        taken: list[tuple[int, Topic, bytes]] = []
        while self._next and len(taken) < ticks:
            offset, seq, topic = self._head()
            packed = topic.packed[seq - topic.first_kept]
            size -= len(packed)
            if (upto is not None and offset > upto) or (size < 0 and taken):
                break
            taken.append((offset, topic, packed))
            self._advance(topic, seq + 1)
        return taken

    def _advance(self, topic: Topic, seq: int) -> None:
        """Put another tick of the topic at the head into its place."""
        if seq > topic.seq:
            del self._next[topic]
            heappop(self._heap)
        else:
            self._next[topic] = seq
            heapreplace(self._heap, (topic.offsets[seq - topic.first_kept], seq, topic))

    def forget(self, topic: Topic) -> int | None:
        """Leave a topic out from now on; return the ``seq`` that would have come next, if any."""
        return self._next.pop(topic, None)
