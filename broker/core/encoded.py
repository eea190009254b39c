"""Ticks that wait as bytes: for a subscriber who gets every tick, as one codec has it. Pure.

Such a subscriber's ticks are only counted and joined. So its inbox and its queue hold the bytes alone: a write is a
copy of a list and a join, and looks at nothing else; an entry lives no longer than it takes to hand it on; and what
waits for a stalled reader is 200 bytes a tick, not 500. What else there is to know of a tick is in its bytes, and
read from there where it is needed: for a gap, for a cursor, when the contract changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import TypeAlias

from msgspec import Struct

from broker.core.conflation import conflation_key
from broker.core.encoding import JSON_OPENS, head_reader, read_tick
from broker.core.history import History
from broker.core.queues import Item, Queue
from broker.core.tape import Entry, Tape
from broker.core.topics import Topic

#: What a history must hold at least for ticks to wait as bytes.
LEAST_TICKS, LEAST_BYTES, LEAST_AGE_S = 50_000, 8 << 20, 5.0

#: A tick as JSON or as MessagePack.
Encoded: TypeAlias = bytes


class Placed(Struct, gc=False):
    """Which tick it is; and when it was put on the tape, where somebody wants to know."""

    topic: Topic
    seq: int
    at: float = 0.0


class Recall:
    """Finds out what encoded ticks of a tape are."""

    __slots__ = ("_history", "_topics")

    def __init__(self, tape: Tape) -> None:
        self._topics = tape.topics
        self._history: History = tape.history

    @property
    def is_reliable(self) -> bool:
        """Whether the history is long enough to have whatever was put on the tape in the last round of the fan-out."""
        limits = self._history.limits
        return limits.ticks >= LEAST_TICKS and limits.bytes >= LEAST_BYTES and limits.age_s >= LEAST_AGE_S

    def name(self, ticks: Sequence[bytes]) -> list[Placed]:
        """Return topic and ``seq`` of ticks of one channel, all in one codec."""
        if not ticks:
            return []
        heads = list(map(head_reader(ticks[0]), ticks))
        by_sym = self._topics.on_channel(heads[0].ch)
        return [Placed(by_sym[head.sym], head.seq) for head in heads]

    def offset(self, placed: Placed) -> int:
        """Return the place on the tape; 1 if the history has forgotten it.

        Any cursor before that place is too old then.
        """
        topic = placed.topic
        index = placed.seq - topic.first_kept
        return topic.offsets[index] if index >= 0 else 1

    def time_of(self, offset: int) -> float:
        """Return when it was put on the tape, in seconds of the broker's clock; 0 if that has been forgotten."""
        return self._history.time_of(offset)

    def entry(self, encoded: bytes, offset: int) -> Entry:
        """Return a tick as it was on the tape."""
        tick = read_tick(encoded)
        topic = self._topics.on_channel(tick.ch)[tick.sym]
        key = topic if topic.is_single else conflation_key(topic, tick)
        json, packed = (encoded, b"") if encoded[0] == JSON_OPENS else (b"", encoded)
        return Entry(json, packed, topic, key, tick.seq, offset, self.time_of(offset), tick, len(encoded))


class EncodedQueue(Queue):
    """``every``, as bytes: all ticks, in order.

    A stalled reader misses as many ticks as the others get, so a tick that is dropped has to cost less than one that is
    sent. The first ones are named as they go. Once as many have gone as may wait, they are only counted: those of a
    topic are one range, up to the first that waits, so who asks for their names (`name_dropped`) can be told.
    """

    __slots__ = ("_expected", "_items", "_named", "_recall", "_topics")

    def __init__(self, recall: Recall, topics: Mapping[Topic, int]) -> None:
        """``topics``: those whose ticks come, each with the first ``seq`` that does; kept up to date elsewhere."""
        super().__init__()
        self._items: deque[bytes] = deque()
        self._recall = recall
        self._topics = topics
        #: How many of those dropped have been named since somebody last asked.
        self._named = 0
        #: The next tick of each topic when it was decided to name no more; ``None``: it was not.
        self._expected: dict[Topic, int] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ready(self) -> int:
        return len(self._items)

    @property
    def has_unnamed(self) -> bool:
        """Whether ticks were dropped that have not been named."""
        return self._expected is not None

    def put(self, items: Sequence[bytes]) -> int:  # type: ignore[override]  # whoever fills it knows what it holds
        self._items.extend(items)
        self.bytes += sum(map(len, items))
        return 0

    def peek(self) -> Iterator[Item]:
        # One by one: who asks mostly looks at the first only.
        return (self._recall.entry(item, self._offsets([item])[0]) for item in self._items)

    def first_offset(self) -> int | None:
        return self._offsets([self._items[0]])[0] if self._items else None

    def _offsets(self, items: Sequence[bytes]) -> list[int]:
        return list(map(self._recall.offset, self._recall.name(items)))

    def take_encoded(self, ticks: int, size: int, upto: int | None = None) -> list[bytes]:
        """Remove and return the oldest: at most so many ticks, and bytes, but for a single one that is larger.

        And none behind an offset, if there is one.
        """
        items = self._items
        if upto is not None:
            ticks = min(ticks, bisect_right(self._offsets(list(items)), upto))
        taken: list[bytes] = []
        while items and len(taken) < ticks:
            size -= len(items[0])
            if size < 0 and taken:
                break
            taken.append(items.popleft())
        self.bytes -= sum(map(len, taken))
        return taken

    def take(self, upto: int | None) -> list[Entry]:
        last = inf if upto is None else upto
        entries = [entry for entry in self.everything() if entry.offset <= last]
        self.take_encoded(len(entries), self.bytes)
        return entries

    def everything(self) -> list[Entry]:  # type: ignore[override]  # a list of some items
        items = list(self._items)
        return list(map(self._recall.entry, items, self._offsets(items)))

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        entries = self.everything()
        removed: list[Item] = [entry for entry in entries if condition(entry)]
        self._items = deque(entry.json or entry.packed for entry in entries if not condition(entry))
        self.bytes = sum(map(len, self._items))
        return removed

    def drop_newest(self, most: int, most_bytes: int) -> list[Placed]:
        """Remove what is more than so many ticks or bytes; return which, oldest first, with the time of the first."""
        items, size = self._items, self.bytes
        gone: list[bytes] = []
        while len(items) > 1 and (len(items) > most or size > most_bytes):
            gone.append(items.pop())
            size -= len(gone[-1])
        self.bytes = size
        placed = self._recall.name(gone[::-1])
        if placed:
            placed[0].at = self._recall.time_of(self._recall.offset(placed[0]))
        return placed

    def drop_oldest(self, most: int, most_bytes: int) -> tuple[int, list[Placed]]:
        """Remove what is more than so many ticks or bytes; return how many that was, and those that are named."""
        items, size = self._items, self.bytes
        if self._expected is None and self._named >= len(items):
            self._expected = self._next_seqs()
        gone: list[bytes] = []
        count = before = len(items)
        while count > 1 and (count > most or size > most_bytes):
            tick = items.popleft()
            size -= len(tick)
            count -= 1
            if self._expected is None:
                gone.append(tick)
        self.bytes = size
        self._named += len(gone)
        return before - count, self._recall.name(gone)

    def name_dropped(self) -> list[tuple[Topic, int, int]]:
        """Return which ticks were dropped unnamed, as first and last ``seq`` of topics; name the next ones again."""
        expected, self._expected = self._expected, None
        self._named = 0
        if expected is None:
            return []
        return [
            (topic, first, upto - 1)
            for topic, upto in self._next_seqs().items()
            if (first := expected.get(topic, self._topics[topic])) < upto
        ]

    def _next_seqs(self) -> dict[Topic, int]:
        """Return the ``seq`` of each topic's next tick: the first that waits, or that is to come."""
        following = {topic: topic.seq + 1 for topic in self._topics}
        for placed in reversed(self._recall.name(list(self._items))):
            following[placed.topic] = placed.seq
        return following
