"""The ticks that the tape keeps for those who resume, bounded in ticks, bytes and age. Pure.

A tick is written once, mostly never read, and let go of when it has long left the processor's cache: what it costs
is how many places in memory it has. So the ticks lie side by side, encoded, in chunks of `CHUNK`; a chunk is made
and freed as one. Each topic has the offsets of its own ticks, so that a resume costs by what the subscriber missed,
not by what everybody else got; they are shortened when somebody asks, or in turn, not with every tick.

A tick is kept as it was first encoded: as JSON where somebody gets every tick of its topic as JSON, else as
MessagePack.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from msgspec import Struct

from broker.core.topics import Topic

#: Ticks in a chunk.
CHUNK = 128
#: What a kept tick costs beside its bytes: in its chunk its end and its topic, in its topic its offset, twice.
OVERHEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How much of the tape is kept for those who resume; 0 of any keeps nothing."""

    ticks: int = 200_000
    bytes: int = 32 << 20
    age_s: float = 300.0


class Chunk(Struct, gc=False):
    """Ticks whose offsets follow each other.

    Attributes:
        before: bytes of all ticks before it, since the tape began, as the history counts them.
        ends: the same for those in it, each one with its predecessors, from here on.
        ticks: all of them.
        topics: whose they are.
    """

    before: int
    ends: array[int]
    ticks: bytes
    topics: list[Topic]


def _chunk(before: int, encoded: Sequence[bytes], topics: list[Topic]) -> Chunk:
    ends = array("Q", accumulate([len(tick) + OVERHEAD_BYTES for tick in encoded]))
    return Chunk(before, ends, b"".join(encoded), topics)


class History:
    """What is kept of the tape: the longest stretch up to its newest tick that is within every bound.

    Attributes:
        oldest, newest: offsets of the first and of the last tick; nothing is kept if the first is the greater.
        keeps: whether anything is ever kept.
    """

    def __init__(self, limits: HistoryLimits, all_topics: Callable[[], Sequence[Topic]]) -> None:
        """``all_topics`` is asked now and then which there are."""
        self.limits = limits
        self.oldest, self.newest = 1, 0
        self.keeps = bool(limits.ticks and limits.bytes and limits.age_s)
        self._all_topics = all_topics
        #: By their number: the n-th has the ticks from offset n * CHUNK + 1 on. The last ones are open yet.
        self._chunks: dict[int, Chunk] = {}
        self._open: list[bytes] = []
        self._open_topics: list[Topic] = []
        #: Bytes of all ticks before the open ones, before the oldest one, and of all there were.
        self._sealed_bytes = self._forgotten_bytes = self._bytes = 0
        #: (when, offset of its last tick) of each batch, for the age.
        self._batches: deque[tuple[float, int]] = deque()
        self._sweep: Iterator[Topic] = iter(())
        self._to_sweep = self._topic_count = 0

    @property
    def kept_ticks(self) -> int:
        """How many are kept."""
        return self.newest - self.oldest + 1

    @property
    def kept_bytes(self) -> int:
        """What they take in memory."""
        return self._bytes - self._forgotten_bytes

    def add(self, encoded: list[bytes], topics: list[Topic], at: float) -> None:
        """Keep a batch whose offsets follow the newest one, and forget what becomes too much.

        Args:
            encoded, topics: the ticks and whose they are; their offsets are in `Topic.offsets` already.
            at: now, in seconds of the broker's clock.
        """
        self.newest += len(encoded)
        self._bytes += sum(map(len, encoded)) + len(encoded) * OVERHEAD_BYTES
        self._open += encoded
        self._open_topics += topics
        while len(self._open) >= CHUNK:
            self._seal()
        if encoded:
            self._batches.append((at, self.newest))
        self._forget(at)
        self._trim_some(len(encoded))

    def skip(self, offset: int) -> None:
        """Note that ticks up to an offset came, of which nothing is kept."""
        self.oldest, self.newest = offset + 1, offset

    def _seal(self) -> None:
        """Make a chunk of the first open ticks."""
        sealed = _chunk(self._sealed_bytes, self._open[:CHUNK], self._open_topics[:CHUNK])
        del self._open[:CHUNK], self._open_topics[:CHUNK]
        self._chunks[(self.newest - len(self._open)) // CHUNK - 1] = sealed
        self._sealed_bytes += sealed.ends[-1]

    def _forget(self, now: float) -> None:
        """Let go of the oldest ticks until the bounds are kept."""
        batches, limits = self._batches, self.limits
        oldest = max(self.oldest, self.newest - limits.ticks + 1)
        while batches and batches[0][0] <= now - limits.age_s:
            oldest = max(oldest, batches.popleft()[1] + 1)
        oldest = self._first_within(self._bytes - limits.bytes, oldest)
        if oldest == self.oldest:
            return
        for number in range((self.oldest - 1) // CHUNK, (oldest - 1) // CHUNK):
            self._chunks.pop(number, None)
        self.oldest = oldest
        self._forgotten_bytes = self._bytes_before(oldest)
        while batches and batches[0][1] < oldest:
            batches.popleft()

    def _first_within(self, spent: int, oldest: int) -> int:
        """Return the first offset, from ``oldest`` on, before which there were ``spent`` bytes or more."""
        if self._bytes_before(oldest) >= spent:
            return oldest
        number = (oldest - 1) // CHUNK
        while (chunk := self._get_chunk(number)).before + chunk.ends[-1] < spent:
            number += 1
        return number * CHUNK + bisect_left(chunk.ends, spent - chunk.before) + 2

    def _bytes_before(self, offset: int) -> int:
        number, index = divmod(offset - 1, CHUNK)
        if offset > self.newest:
            return self._bytes
        chunk = self._get_chunk(number)
        return chunk.before + (chunk.ends[index - 1] if index else 0)

    def _get_chunk(self, number: int) -> Chunk:
        sealed = self._chunks.get(number)
        return _chunk(self._sealed_bytes, self._open, self._open_topics) if sealed is None else sealed

    def time_of(self, offset: int) -> float:
        """Return when a tick was put on the tape, in seconds of the broker's clock; 0 if that has been forgotten."""
        found = 0.0
        # From the newest back: who asks has mostly waited for little.
        for at, last in reversed(self._batches):
            if last < offset:
                break
            found = at
        return found if offset >= self.oldest else 0.0

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def get(self, offset: int) -> bytes:
        """Return a tick as it was encoded; it must be there."""
        number, index = divmod(offset - 1, CHUNK)
        chunk = self._chunks.get(number)
        return self._open[index] if chunk is None else _tick(chunk, index)

    def stretch(self, first: int, most: int) -> tuple[list[Topic], list[bytes]]:
        """Return at most so many ticks from ``first`` on, with their topics; the first one must be there."""
        topics: list[Topic] = []
        ticks: list[bytes] = []
        end = min(first + most, self.newest + 1)
        while first < end:
            number, index = divmod(first - 1, CHUNK)
            chunk = self._get_chunk(number)
            part = range(index, min(index + end - first, len(chunk.topics)))
            topics += chunk.topics[part.start : part.stop]
            ticks += [_tick(chunk, each) for each in part]
            first += len(part)
        return topics, ticks

    # ── the offsets of each topic ────────────────────────────────────────────────────────────────

    def trim(self, topic: Topic) -> None:
        """Take what has been forgotten from a topic's offsets; to be called before they are looked at."""
        offsets = topic.offsets
        gone = bisect_left(offsets, self.oldest)
        if gone:
            topic.forgotten = offsets[gone - 1]
            del offsets[:gone]

    def _trim_some(self, ticks: int) -> None:
        """Trim topics in turn: all of them while as many ticks come as may be kept."""
        self._to_sweep += ticks * self._topic_count
        turns, self._to_sweep = divmod(self._to_sweep, self.limits.ticks)
        for topic in islice(self._sweep, turns):
            self.trim(topic)
            turns -= 1
        if turns or not self._topic_count:
            topics = self._all_topics()
            self._sweep, self._topic_count = iter(topics), len(topics)


def _tick(chunk: Chunk, index: int) -> bytes:
    start = chunk.ends[index - 1] - index * OVERHEAD_BYTES if index else 0
    return chunk.ticks[start : chunk.ends[index] - (index + 1) * OVERHEAD_BYTES]
