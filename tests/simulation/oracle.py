"""Everything that went on the tape, written down beside it: what any client can be held against."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from math import inf
from typing import Any

from broker.app import Broker
from broker.core.mailbox import GapReason
from broker.core.ticks import Channel, Tick
from tests.simulation.world import World

Key = tuple[str, str]
Levels = dict[Decimal, str]
#: Bids and asks, size by price.
Book = tuple[Levels, Levels]

#: The order of the fields on the wire, and which of them are text in JSON (protocol, section 1).
FIELDS: dict[str, tuple[str, ...]] = {
    "quote": ("bid", "bid_size", "ask", "ask_size"),
    "trade": ("price", "size", "side", "id"),
    "book": ("kind", "bids", "asks"),
    "bar": ("interval", "start", "open", "high", "low", "close", "volume", "count", "final"),
    "status": ("state", "text"),
}
NANOS = ("ts", "rts", "start")

number = lru_cache(4096)(Decimal)


def plain(tick: Tick, seq: int) -> dict[str, Any]:
    """Return a tick as the protocol says it is in MessagePack."""
    fields: dict[str, Any] = {"ch": tick.ch, "sym": tick.sym, "seq": seq, "ts": tick.ts, "rts": tick.rts}
    for name in FIELDS[tick.ch]:
        fields[name] = getattr(tick, name)
    if tick.ch == "book":
        fields["bids"] = [list(level) for level in tick.bids]
        fields["asks"] = [list(level) for level in tick.asks]
    return fields


def as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the same as the protocol says it is in JSON."""
    return {name: str(value) if name in NANOS else value for name, value in fields.items()}


def apply_levels(book: Book, fields: dict[str, Any]) -> Book:
    """Return the book that one tick leaves of ``book``, which stays as it is."""
    empty = fields["kind"] == "snapshot"
    sides = []
    for side, levels in zip(book, (fields["bids"], fields["asks"]), strict=True):
        after: Levels = {} if empty else dict(side)
        for price, size in levels:
            if size == "0":
                after.pop(number(price), None)
            else:
                after[number(price)] = size
        sides.append(after)
    return sides[0], sides[1]


class Record:
    """One topic: its ticks by ``seq``, and when and where on the tape each of them is.

    Attributes:
        ticks, in_json: as they are on the wire; the first is ``seq`` 1.
        offsets: of each on the tape.
        times: of each, seconds of the simulated clock.
        books: on `book`: after each tick; ``None`` where the feed has missed something, and not shown a snapshot since.
        lost_at: since when that is so; infinite if it is not.
    """

    def __init__(self) -> None:
        self.ticks: list[dict[str, Any]] = []
        self.in_json: list[dict[str, Any]] = []
        self.offsets: list[int] = []
        self.times: list[float] = []
        self.books: list[Book | None] = []
        self.lost_at = inf

    @property
    def seq(self) -> int:
        """The newest ``seq``, 0 before the first tick."""
        return len(self.ticks)

    def seq_at(self, offset: int) -> int:
        """Return the newest ``seq`` up to an offset, inclusive."""
        return bisect_right(self.offsets, offset)

    def seqs_at(self, time: float) -> tuple[int, int]:
        """Return the least and the most that the newest ``seq`` was at a time."""
        return bisect_left(self.times, time - 1e-9), bisect_right(self.times, time + 1e-9)

    def append(self, tick: Tick, offset: int, at: float) -> None:
        """Write down the next tick."""
        fields = plain(tick, len(self.ticks) + 1)
        self.ticks.append(fields)
        self.in_json.append(as_json(fields))
        self.offsets.append(offset)
        self.times.append(at)
        if tick.ch == "book":
            if fields["kind"] == "snapshot":
                self.lost_at = inf
            before = self.books[-1] if self.books else None
            self.books.append(None if self.lost_at < inf else apply_levels(before or ({}, {}), fields))


class Oracle:
    """The record of a run.

    Attributes:
        topics: by channel and symbol, in the order of their first ticks.
        last_at: when the last tick went on the tape.
        faults: where the broker's numbering is not ours.
    """

    def __init__(self, world: World) -> None:
        self.topics: dict[Key, Record] = {}
        self.offset = 0
        self.epoch = ""
        self.last_at = 0.0
        self.faults: list[str] = []
        self._world = world

    def listen(self, broker: Broker) -> None:
        """Write down whatever is published from now on."""
        publish, gap = broker.fanout.publish, broker.fanout.gap
        self.epoch = broker.tape.epoch

        def published(ticks: Iterable[Tick]) -> None:
            batch = list(ticks)
            publish(batch)
            for tick in batch:
                self._write_down(tick)

        def missed(ch: Channel, sym: str, reason: GapReason = "feed_reset") -> None:
            gap(ch, sym, reason)
            if (ch, sym) in self.topics:
                record = self.topics[ch, sym]
                record.lost_at = min(record.lost_at, self._world.now)

        broker.fanout.publish = published  # type: ignore[method-assign]
        broker.fanout.gap = missed  # type: ignore[method-assign]

    def _write_down(self, tick: Tick) -> None:
        record = self.topics.setdefault((tick.ch, tick.sym), Record())
        self.offset += 1
        self.last_at = self._world.now
        record.append(tick, self.offset, self._world.now)
        if tick.seq != record.seq:
            self.faults.append(f"{tick.ch} {tick.sym}: the tape says seq {tick.seq}, it is {record.seq}")

    def record(self, key: Key) -> Record | None:
        """Return a topic's record, if it has had a tick."""
        return self.topics.get(key)

    def seq(self, key: Key) -> int:
        """Return the newest ``seq`` of a topic."""
        record = self.topics.get(key)
        return record.seq if record else 0

    def position(self, cursor: str) -> int | None:
        """Return the offset of a cursor of this epoch, else ``None``; today's cursors say it.

        What stands behind a ``~`` is about ticks that a ``max_rate`` holds back.
        """
        epoch, _, offset = cursor.rpartition("-")
        return int(offset.partition("~")[0]) if epoch == self.epoch else None

    def seq_at(self, key: Key, offset: int) -> int:
        """Return a topic's newest ``seq`` up to an offset, inclusive."""
        record = self.topics.get(key)
        return record.seq_at(offset) if record else 0
