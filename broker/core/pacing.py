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

    __slots__ = ("_beat", "_by_state", "_held", "_interval", "_next", "_now", "due")

    def __init__(self, *, merges: bool, by_state: bool, max_rate: float) -> None:
        """Open an empty one.

        Args:
            merges: as in `LatestQueue`.
            by_state: whether each state of a symbol is paced by itself while it lasts, as on ``status``.
            max_rate: ticks of each symbol in a second, at the most, of a bar for each interval.
        """
        super().__init__(merges=merges)
        self._by_state = by_state
        self._interval = 1 / max_rate
        #: In any order. No key is both here and among what may be taken.
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
        if not items:
            return 0
        return self._put_each(items) if self._merges or self._by_state else self._put_newest(items)

    def _put_newest(self, items: Sequence[Item]) -> int:
        """Do as `_put_each`, where the newest is all that matters: a busy symbol has many ticks to one that goes."""
        now = items[-1].at
        self._now = max(self._now, now)
        if self.due <= now:
            self.release(now)
        before = len(self)
        newest = {item.key: item for item in items}
        if not newest.keys() <= self._held.keys():
            self._let_pass(newest, now)
        held = self._held
        self.bytes += sum(map(size_of, newest.values()))
        self.bytes -= sum(map(size_of, map(held.__getitem__, newest.keys() & held.keys())))
        held.update(newest)
        return before + len(items) - len(self)

    def _let_pass(self, newest: dict[Hashable, Item], now: float) -> None:
        """Take from ``newest`` what may go at once; see to it that the rest finds its time."""
        beats, waiting = self._next, self._items
        free = [item for item in newest.values() if beats.get(item.topic, 0.0) <= now]
        for item in sorted(free, key=offset_of):
            del newest[item.key]
            self._queue_in(waiting, item)
        if waiting:
            for key in newest.keys() & waiting.keys():
                # It may go already; what comes now may not.
                self._has_aside = True
                set_aside(waiting, waiting[key])
        self.due = min([self.due, *[beats[item.topic] for item in newest.values()]])

    def _put_each(self, items: Sequence[Item]) -> int:
        before = len(self)
        changed: dict[Topic, None] = {}
        for item in items:
            at = item.at
            self._now = max(self._now, at)
            if self.due <= at:
                self.release(at)
            due = self._next.get(self._beat_of(item), 0.0)
            if due > at:
                self._hold(item, due)
                continue
            self._queue_in(self._items, item)
            if self._by_state:
                changed[item.topic] = None
        if changed and self._held:
            self.let_go(changed)
        return before + len(items) - len(self)

    def _hold(self, item: Item, due: float) -> None:
        waiting = self._items.get(item.key)
        if waiting is not None:
            # It may go already; what comes now may not.
            self._has_aside = True
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
        beats, beat_of = self._next, self._beat_of
        self._free([key for key, item in self._held.items() if beats.get(beat_of(item), 0.0) <= now])
        if len(beats) > 64 + 2 * len(self._held):
            late = now - self._interval
            self._next = {key: at for key, at in beats.items() if at > late}

    def let_go(self, topics: Collection[Topic] | None = None) -> None:
        """Let go of all that is held of some topics, or of all, before its time."""
        self._free([key for key, item in self._held.items() if topics is None or item.topic in topics])

    def _free(self, keys: list[Hashable]) -> None:
        for key in keys:
            self._items[key] = self._held.pop(key)
        if keys:
            self._items = dict(sorted(self._items.items(), key=lambda pair: pair[1].offset))
        self._look_when_due()

    def _look_when_due(self) -> None:
        beats, beat_of = self._next, self._beat_of
        self.due = min([beats.get(beat_of(item), 0.0) for item in self._held.values()], default=float("inf"))

    def _beat_of(self, item: Item) -> Hashable:
        """Return what is served by one beat: a symbol, or a state of it."""
        return item.key if self._by_state else item.topic

    def take(self, upto: int | None) -> list[Entry]:
        taken = super().take(upto)
        beats = self._next
        for beat in dict.fromkeys(map(self._beat_of, taken)):
            beats[beat] = self._next_beat(beats.get(beat))
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
        held = min(map(offset_of, self._held.values()), default=None)
        first = super().first_offset()
        return held if first is None or (held is not None and held < first) else first

    def everything(self) -> list[Item]:
        return sorted([*self._items.values(), *self._held.values()], key=offset_of)

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        removed = super().remove(condition)
        held = [item for item in self._held.values() if condition(item)]
        self._discard(self._held, held)
        self.bytes -= sum(map(size_of, held))
        self._look_when_due()
        return sorted([*removed, *held], key=offset_of)

    def remove_single(self, topic: Topic) -> list[Item]:
        removed = super().remove_single(topic)
        held = self._held.pop(topic, None)
        if held is None:
            return removed
        self.bytes -= held.size
        if not self._held:
            # Else it may be too early now, which costs a look at what is held.
            self.due = float("inf")
        return [*removed, held]
