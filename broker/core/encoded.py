"""Ticks that wait as bytes: for a subscriber who gets every tick, as one codec has it. Pure.

Such a subscriber's ticks are only counted and joined. So its inbox and its queue hold the bytes alone: a write is a
copy of a list and a join, and looks at nothing else; an entry lives no longer than it takes to hand it on; and what
waits for a stalled reader is 200 bytes a tick, not 500. What else there is to know of a tick is in its bytes, and
read from there where it is needed: for a gap, for a cursor, when the contract changes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
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

    def locate(self, ticks: Sequence[bytes]) -> tuple[list[Topic], list[int], list[int]]:
        """Return topics, ``seq`` and places on the tape of ticks of one channel that came lately, all in one codec.

        The place is 1 if the history has forgotten it: any cursor before it is too old then.
        """
        read = head_reader(ticks[0])
        heads = list(map(read, ticks))
        by_sym = self._topics.on_channel(heads[0].ch)
        topics, seqs, places = [], [], []
        for head in heads:
            topic, seq = by_sym[head.sym], head.seq
            offsets = topic.offsets
            # What `Topic.first_kept` says: once for each tick that a stalled reader misses.
            index = seq - topic.seq + len(offsets) - 1
            topics.append(topic)
            seqs.append(seq)
            places.append(offsets[index] if index >= 0 else 1)
        return topics, seqs, places

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
    """``every``, as bytes: all ticks, in order."""

    __slots__ = ("_gone", "_items", "_offsets", "_recall", "_seqs", "_topics")

    def __init__(self, recall: Recall) -> None:
        super().__init__()
        self._items: deque[bytes] = deque()
        #: Which each is, and where on the tape: once it waits for long, the history may not say any more. Those
        #: before `_gone` are of ticks that have gone; a deque would keep an object for each.
        self._offsets, self._seqs = array("Q"), array("Q")
        self._topics: list[Topic] = []
        self._gone = 0
        self._recall = recall

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ready(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[bytes]) -> int:  # type: ignore[override]  # whoever fills it knows what it holds
        if not items:
            return 0
        self._items.extend(items)
        topics, seqs, offsets = self._recall.locate(items)
        self._topics += topics
        self._seqs.extend(seqs)
        self._offsets.extend(offsets)
        self.bytes += sum(map(len, items))
        return 0

    def peek(self) -> Iterator[Item]:
        return map(self._recall.entry, self._items, islice(self._offsets, self._gone, None))

    def first_offset(self) -> int | None:
        return self._offsets[self._gone] if self._items else None

    def take_encoded(self, ticks: int, size: int, upto: int | None = None) -> list[bytes]:
        """Remove and return the oldest: at most so many ticks, and bytes, but for a single one that is larger.

        And none behind an offset, if there is one.
        """
        items = self._items
        if upto is not None:
            ticks = min(ticks, bisect_right(self._offsets, upto, self._gone) - self._gone)
        taken: list[bytes] = []
        while items and len(taken) < ticks:
            size -= len(items[0])
            if size < 0 and taken:
                break
            taken.append(items.popleft())
        self.bytes -= sum(map(len, taken))
        self._forget(len(taken))
        return taken

    def _forget(self, count: int) -> None:
        """Let go of what is known of the oldest."""
        self._gone += count
        if self._gone > len(self._items):
            for column in (self._offsets, self._seqs, self._topics):
                del column[: self._gone]
            self._gone = 0

    def take(self, upto: int | None) -> list[Entry]:
        last = inf if upto is None else upto
        entries = [entry for entry in self.everything() if entry.offset <= last]
        self.take_encoded(len(entries), self.bytes)
        return entries

    def everything(self) -> list[Entry]:  # type: ignore[override]  # a list of some items
        return list(map(self._recall.entry, self._items, self._offsets[self._gone :]))

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        entries = self.everything()
        removed: list[Item] = [entry for entry in entries if condition(entry)]
        kept = [entry for entry in entries if not condition(entry)]
        self._items = deque(entry.json or entry.packed for entry in kept)
        self._offsets = array("Q", [entry.offset for entry in kept])
        self._seqs = array("Q", [entry.seq for entry in kept])
        self._topics = [entry.topic for entry in kept]
        self._gone = 0
        self.bytes = sum(map(len, self._items))
        return removed

    def pop_excess(self, most: int, most_bytes: int, *, newest: bool) -> list[Placed]:
        """Remove what is more than so many ticks or bytes, as `FifoQueue.pop_excess` does; return which that was.

        Of the first of the newest the time is known as well.
        """
        items, size = self._items, self.bytes
        pop = items.pop if newest else items.popleft
        count = before = len(items)
        while count > 1 and (count > most or size > most_bytes):
            size -= len(pop())
            count -= 1
        self.bytes = size
        gone = before - count
        if not gone:
            return []
        first = self._gone + (count if newest else 0)
        part = slice(first, first + gone)
        placed = list(map(Placed, self._topics[part], self._seqs[part]))
        if newest:
            placed[0].at = self._recall.time_of(self._offsets[first])
            del self._offsets[part], self._seqs[part], self._topics[part]
        else:
            self._forget(gone)
        return placed
