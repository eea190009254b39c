"""What a resuming subscriber has missed, read from the tape's history."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

from broker.core.tape import Tape
from broker.core.topics import Topic


class Backlog:
    """What a resuming subscriber still has to read from the history, in the order of the tape, lazily.

    It holds no ticks: they stay where the tape bounds them. Should it be read more slowly than the
    history forgets, it says so in `lost`.
    """

    __slots__ = ("_heap", "_next", "_tape")

    def __init__(self, tape: Tape, first: dict[Topic, int]) -> None:
        """``first``: for each topic, the ``seq`` of the first tick to be read; the history has it."""
        self._tape = tape
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
            self._tape.history.trim(topic)
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
            encoded = self._tape.history.get(offset)
            size -= len(encoded)
            if (upto is not None and offset > upto) or (size < 0 and taken):
                break
            taken.append((offset, topic, encoded))
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
