"""The newest when its time comes: ``latest`` with a ``max_rate``. Pure.

What is served together stays together: the bars of a symbol share one beat, whatever their interval, so none of
them overtakes another. A change of a ``status`` waits for nothing, and takes along what was held back before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from math import ceil

from broker.core.queues import Item, LatestQueue, offset_of, set_aside, size_of
from broker.core.tape import Entry
from broker.core.topics import Topic

#: What was due is sent in the next round. If that comes later than so many intervals, the beat is lost.
_LATE = 0.5


class PacedQueue(LatestQueue):
    """A tick waits until an interval has passed since the last one of its symbol.

    A symbol that was quiet is served at once, and from then on by the beat of the queue: so all the symbols that tick
    all the time are due together, and are sent in one write. An interval lies between two beats.
    """

    __slots__ = ("_beat", "_held", "_interval", "_next", "_now", "due")

    def __init__(self, *, merges: bool, max_rate: float) -> None:
        """``max_rate``: ticks of each symbol in a second, at the most, of a bar for each interval."""
        super().__init__(merges=merges)
        self._interval = 1 / max_rate
        #: Always in the order of the tape. No key is both here and among what may be taken.
        self._held: dict[Hashable, Item] = {}
        #: When what shares a beat may be served again; what lies in the past may be missing.
        self._next: dict[Hashable, float] = {}
        self._beat: float | None = None
        self._now = 0.0
        #: When something that is held may go; infinite if nothing is.
        self.due = float("inf")

    def __len__(self) -> int:
        return len(self._items) + len(self._held)

    def put(self, items: Sequence[Item]) -> int:
        before = len(self)
        changed: dict[Topic, None] = {}
        for item in items:
            at = item.at
            self._now = max(self._now, at)
            if self.due <= at:
                self.release(at)
            due = self._next.get(_beat_of(item), 0.0)
            if due > at:
                self._hold(item, due)
                continue
            self._queue_in(self._items, item)
            if item.topic.ch == "status":
                changed[item.topic] = None
        if changed and self._held:
            self.let_go(changed)
        return before + len(items) - len(self)

    def _hold(self, item: Item, due: float) -> None:
        waiting = self._items.get(item.key)
        if waiting is not None:
            # It may go already; what comes now may not.
            set_aside(self._items, waiting)
        self._queue_in(self._held, item)
        self.due = min(self.due, due)

    def _queue_in(self, queued: dict[Hashable, Item], item: Item) -> None:
        if self._merges:
            self._merge_into(queued, item)
            return
        older = queued.pop(item.key, None)
        if older is not None:
            self.bytes -= older.size
        queued[item.key] = item
        self.bytes += item.size

    def release(self, now: float) -> None:
        """Let go of what is due by now, seconds of the broker's clock."""
        self._now = max(self._now, now)
        if self.due > now:
            return
        self._free(lambda item: self._next.get(_beat_of(item), 0.0) <= now)
        if len(self._next) > 64 + 2 * len(self._held):
            late = now - self._interval
            self._next = {key: at for key, at in self._next.items() if at > late}

    def let_go(self, topics: Collection[Topic]) -> None:
        """Let go of all that is held of some topics, before its time."""
        self._free(lambda item: item.topic in topics)

    def _free(self, condition: Callable[[Item], bool]) -> None:
        freed = [key for key, item in self._held.items() if condition(item)]
        for key in freed:
            self._items[key] = self._held.pop(key)
        if freed:
            self._items = dict(sorted(self._items.items(), key=lambda pair: pair[1].offset))
        self._look_when_due()

    def _look_when_due(self) -> None:
        held = self._held.values()
        self.due = min((self._next.get(_beat_of(item), 0.0) for item in held), default=float("inf"))

    def take(self, upto: int | None) -> list[Entry]:
        taken = super().take(upto)
        for beat in dict.fromkeys(map(_beat_of, taken)):
            self._next[beat] = self._next_beat(self._next.get(beat))
        return taken

    def _next_beat(self, due: float | None) -> float:
        """Return when what is served now may be served again; ``due``: since when it might have been."""
        now, interval = self._now, self._interval
        if self._beat is None:
            self._beat = now
        if due is not None and due > now:
            # Let go of before its time, or left over when the others of its beat were served.
            return due
        if due is not None and now - due <= _LATE * interval:
            return due + interval
        beats = ceil((now - self._beat) / interval)
        return self._beat + (beats + 1) * interval

    def first_offset(self) -> int | None:
        firsts = (next(iter(waiting.values()), None) for waiting in (self._items, self._held))
        return min((item.offset for item in firsts if item is not None), default=None)

    def everything(self) -> list[Item]:
        return sorted([*self._items.values(), *self._held.values()], key=offset_of)

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        removed = super().remove(condition)
        held = [item for item in self._held.values() if condition(item)]
        self._discard(self._held, held)
        self.bytes -= sum(map(size_of, held))
        self._look_when_due()
        return sorted([*removed, *held], key=offset_of)


def _beat_of(item: Item) -> Hashable:
    """Return what is served by one beat: a symbol, or a state of it while it lasts."""
    return item.key if item.topic.ch == "status" else item.topic
