"""Counting ticks and taking their ages out of raw bytes, without decoding them.

Every tick has an ``rts`` right behind its ``ts`` (protocol, section 1), so the bytes between the two are found
once in each tick and nowhere else; ``ts`` stands in front of them. Each read costs a pass of ``count`` (1.9 µs for
20 ticks of 3.3 kB on a 2026 cloud core) and the ages.

With ``ends`` (1.5 µs a read) the ages of its oldest and its newest tick are taken, and its ticks are counted
as spread evenly between the two: on the wire they are in the order of the tape, so their times ascend. The
largest age is exact. With ``every`` (0.2 µs a tick) each tick's age is taken.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgpack

from bench.histogram import SHIFT

#: Nanoseconds since the epoch have 19 digits until the year 2286.
_DIGITS = 19
_JSON_MARK = b'","rts":"'
#: A str of three characters, and the head of a uint64 (MessagePack specification).
_PACKED_MARK = b"\xa3rts\xcf"
_JSON_LEDGER = re.compile(rb'"ledger":\[?(\{[^}]*\})')
_PACKED_LEDGER = b"\xa6ledger"


class Count:
    """What has been counted of one stream of bytes.

    Attributes:
        ticks: so far.
        tail: behind the last tick; where one may have begun.
    """

    __slots__ = ("tail", "ticks")

    def __init__(self) -> None:
        self.ticks = 0
        self.tail = b""


class Ages:
    """Ages of many streams together: ``age_ns >> SHIFT`` to count. Cleared by whoever merges it."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.max_ns = 0


class Counter(Protocol):
    """Counts one codec's ticks."""

    def read(self, count: Count, data: bytes, now_ns: int, ages: Ages) -> None:
        """Count the ticks in what was read, and note their ages."""

    def ledger(self, data: bytes) -> tuple[int, dict[str, int]] | None:
        """Return where the first whole account in ``data`` begins, and it; ``None`` if there is none."""


class JsonCounter:
    """Ticks as JSON, with ``ts`` as a string: this broker's, and what is published to the peers."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def read(self, count: Count, data: bytes, now_ns: int, ages: Ages) -> None:
        seen = count.tail + data
        ticks = seen.count(_JSON_MARK)
        if not ticks:
            count.tail = seen[-_DIGITS - len(_JSON_MARK) :]
            return
        count.ticks += ticks
        last = seen.rfind(_JSON_MARK)
        rest = last + len(_JSON_MARK)
        count.tail = seen[max(rest, len(seen) - _DIGITS - len(_JSON_MARK)) :]
        if self._every and ticks > 1:
            parts = seen[:last].split(_JSON_MARK)
            _note_every([now_ns - int(part[-_DIGITS:]) for part in parts], ages)
            return
        newest = now_ns - int(seen[last - _DIGITS : last])
        if ticks == 1:
            _note(newest, 1, ages)
            return
        first = seen.find(_JSON_MARK)
        _note_between(newest, now_ns - int(seen[first - _DIGITS : first]), ticks, ages)

    def ledger(self, data: bytes) -> tuple[int, dict[str, int]] | None:
        match = _JSON_LEDGER.search(data)
        if match is None:
            return None
        fields = re.findall(rb'"(\w+)":(\d+)', match[1])
        return match.start(), {name.decode(): int(number) for name, number in fields}


class PackedCounter:
    """Ticks as MessagePack, with ``ts`` as a uint64."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def read(self, count: Count, data: bytes, now_ns: int, ages: Ages) -> None:
        seen = count.tail + data
        ticks = seen.count(_PACKED_MARK)
        if not ticks:
            count.tail = seen[-8 - len(_PACKED_MARK) :]
            return
        count.ticks += ticks
        last = seen.rfind(_PACKED_MARK)
        rest = last + len(_PACKED_MARK)
        count.tail = seen[max(rest, len(seen) - 8 - len(_PACKED_MARK)) :]
        read = int.from_bytes
        if self._every and ticks > 1:
            parts = seen[:last].split(_PACKED_MARK)
            _note_every([now_ns - read(part[-8:], "big") for part in parts], ages)
            return
        newest = now_ns - read(seen[last - 8 : last], "big")
        if ticks == 1:
            _note(newest, 1, ages)
            return
        first = seen.find(_PACKED_MARK)
        _note_between(newest, now_ns - read(seen[first - 8 : first], "big"), ticks, ages)

    def ledger(self, data: bytes) -> tuple[int, dict[str, int]] | None:
        start = data.find(_PACKED_LEDGER)
        while start >= 0:
            unpacker = msgpack.Unpacker()
            unpacker.feed(data[start + len(_PACKED_LEDGER) :])
            try:
                ledger = unpacker.unpack()
            except msgpack.OutOfData:
                return None
            if ledger:
                return start, dict(ledger[0] if isinstance(ledger, list) else ledger)
            start = data.find(_PACKED_LEDGER, start + 1)
        return None


def _note(age_ns: int, ticks: int, ages: Ages) -> None:
    counts = ages.counts
    bucket = age_ns >> SHIFT
    counts[bucket] = counts.get(bucket, 0) + ticks
    if age_ns > ages.max_ns:
        ages.max_ns = age_ns


def _note_between(newest_ns: int, oldest_ns: int, ticks: int, ages: Ages) -> None:
    """Count so many ticks as spread evenly between two ages: in the middles of as many as four parts."""
    parts = 4 if ticks >= 4 else ticks
    each, more = divmod(ticks, parts)
    counts = ages.counts
    step = (oldest_ns - newest_ns) // (2 * parts)
    age_ns = newest_ns + step
    for part in range(parts):
        bucket = age_ns >> SHIFT
        counts[bucket] = counts.get(bucket, 0) + (each + 1 if part < more else each)
        age_ns += 2 * step
    if oldest_ns > ages.max_ns:
        ages.max_ns = oldest_ns


def _note_every(found: list[int], ages: Ages) -> None:
    counts = ages.counts
    for age_ns in found:
        bucket = age_ns >> SHIFT
        counts[bucket] = counts.get(bucket, 0) + 1
    largest = max(found)
    if largest > ages.max_ns:
        ages.max_ns = largest


def open_counter(codec: str, *, every: bool) -> Counter:
    """Return the counter of a codec, ``json`` or ``msgpack``."""
    return PackedCounter(every=every) if codec == "msgpack" else JsonCounter(every=every)
