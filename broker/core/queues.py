"""How ticks wait for one subscriber: all of them, or the newest (when its time comes: `broker.core.pacing`). Pure.

A queue decides what waits and in which order; who owns it keeps the account (`broker.core.mailbox`). What may
be taken is always in the order of the tape, so what is taken up to an offset is a prefix of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from decimal import InvalidOperation
from itertools import takewhile
from operator import attrgetter

from broker.core.composing import BookComposer, TradeMerger
from broker.core.encoding import pack_tick
from broker.core.tape import Entry
from broker.core.ticks import Book
from broker.core.topics import Topic

#: A composed delta that is larger than this, and has more levels than the book, is sent as the whole book instead.
WHOLE_BYTES = 16 << 10

offset_of: Callable[[Entry | Merged], int] = attrgetter("offset")
size_of: Callable[[Entry | Merged], int] = attrgetter("size")


class Merged:
    """Several trades or books of one topic in one, for one subscriber alone; looks like an `Entry` in a queue.

    Attributes:
        first, seq: ``seq`` of the oldest and of the newest in it; all between them are in it as well.
        offset, at: those of the newest.
        size: about, in bytes.
    """

    __slots__ = ("_is_whole", "_part", "at", "first", "key", "offset", "seq", "size", "topic")

    def __init__(self, entry: Entry) -> None:
        self.topic = entry.topic
        self.key = entry.key
        self.first = entry.seq
        self._is_whole = False
        self._part: BookComposer | TradeMerger = BookComposer() if type(entry.tick) is Book else TradeMerger()
        self.add(entry)

    def add(self, entry: Entry) -> None:
        """Put the topic's next tick in. Raises InvalidOperation, having changed nothing, for a size that is none."""
        tick = entry.tick
        self._part.add(tick)  # type: ignore[arg-type]  # a topic has ticks of one kind
        self.seq, self.offset, self.at = entry.seq, entry.offset, entry.at
        self.size = self._part.size
        if type(tick) is Book:
            self._is_whole |= tick.kind == "snapshot"
            is_current = self.seq == self.topic.seq and not self.topic.is_lost
            if self.size > WHOLE_BYTES and not self._is_whole and is_current:
                self._replace_by_book(tick)

    def _replace_by_book(self, last: Book) -> None:
        """Hold the whole book, as it is now, instead of more levels than that has."""
        assert self.topic.book is not None
        bids, asks = self.topic.book.levels()
        composer = BookComposer()
        composer.add(
            Book(sym=last.sym, seq=last.seq, ts=last.ts, rts=last.rts, kind="snapshot", bids=bids, asks=asks)
        )
        if composer.size < self.size:
            self._part, self._is_whole, self.size = composer, True, composer.size

    def to_entry(self) -> Entry:
        """Return it as one tick, encoded."""
        tick = self._part.tick()
        packed = pack_tick(tick)
        return Entry(b"", packed, self.topic, self.key, self.seq, self.offset, self.at, tick, len(packed))


Item = Entry | Merged


def _as_entry(item: Item) -> Entry:
    return item.to_entry() if isinstance(item, Merged) else item


def first_seq(item: Item) -> int:
    """Return the ``seq`` of the oldest tick that is in an item."""
    return item.first if isinstance(item, Merged) else item.seq


class Queue(ABC):
    """What is common to all.

    Attributes:
        bytes: of all that waits.
    """

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0

    @abstractmethod
    def __len__(self) -> int:
        """Return how many ticks wait."""

    @property
    @abstractmethod
    def ready(self) -> int:
        """How many of them may be taken now."""

    @abstractmethod
    def put(self, items: Sequence[Item]) -> int:
        """Queue ticks, newer than all before; return how many went into others, or were replaced."""

    @abstractmethod
    def peek(self) -> Iterator[Item]:
        """Iterate over what may be taken, oldest first."""

    def first_offset(self) -> int | None:
        """Return the offset of the oldest tick that waits; ``None`` if there is none."""
        return next((item.offset for item in self.peek()), None)

    @abstractmethod
    def take(self, upto: int | None) -> list[Entry]:
        """Remove and return what may be taken, oldest first, up to an offset (inclusive) or all."""

    @abstractmethod
    def everything(self) -> list[Item]:
        """Return all that waits, oldest first, without removing it."""

    @abstractmethod
    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        """Remove and return what meets a condition, oldest first."""


class FifoQueue(Queue):
    """``every``: all ticks, in order."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        super().__init__()
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ready(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[Item]) -> int:
        self._items.extend(items)
        self.bytes += sum(map(size_of, items))
        return 0

    def peek(self) -> Iterator[Item]:
        return iter(self._items)

    def take(self, upto: int | None) -> list[Entry]:
        items = self._items
        if upto is None or (items and items[-1].offset <= upto):
            taken = list(items)
            items.clear()
            self.bytes = 0
        else:
            taken = list(takewhile(lambda item: item.offset <= upto, items))
            for _ in taken:
                items.popleft()
            self.bytes -= sum(map(size_of, taken))
        return list(map(_as_entry, taken))

    def everything(self) -> list[Item]:
        return list(self._items)

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        removed = [item for item in self._items if condition(item)]
        if removed:
            self._items = deque(item for item in self._items if not condition(item))
            self.bytes -= sum(map(size_of, removed))
        return removed

    def drop_newest(self, most: int, most_bytes: int) -> list[Item]:
        """Remove and return what is more than so many ticks, or bytes, oldest first.

        But never the only one: a bound that can't hold it could never let it through.
        """
        return self._pop_excess(self._items.pop, most, most_bytes)[::-1]

    def drop_oldest(self, most: int, most_bytes: int) -> tuple[int, list[Item]]:
        """Do the same with the oldest; return how many as well, as `EncodedQueue` does, which may not name them all."""
        gone = self._pop_excess(self._items.popleft, most, most_bytes)
        return len(gone), gone

    def _pop_excess(self, pop: Callable[[], Item], most: int, most_bytes: int) -> list[Item]:
        items, size = self._items, self.bytes
        count = len(items)
        gone: list[Item] = []
        while count > 1 and (count > most or size > most_bytes):
            item = pop()
            gone.append(item)
            size -= item.size
            count -= 1
        self.bytes = size
        return gone


class LatestQueue(Queue):
    """``latest``: the newest tick of each conflation key; trades are merged, books composed."""

    __slots__ = ("_has_aside", "_items", "_merges")

    def __init__(self, *, merges: bool) -> None:
        """``merges``: whether an older tick goes into the newer one, instead of making way for it."""
        super().__init__()
        #: Whether something may have been set aside, under a key that is not its own.
        self._has_aside = False
        self._items: dict[Hashable, Item] = {}
        self._merges = merges

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ready(self) -> int:
        return len(self._items)

    def put(self, items: Sequence[Item]) -> int:
        queued = self._items
        before = len(queued)
        if self._merges:
            for item in items:
                self._merge_into(queued, item)
        else:
            size = 0
            for item in items:
                # To the back, not in place: the queue stays in the order of the tape.
                older = queued.pop(item.key, None)
                if older is not None:
                    size -= older.size
                queued[item.key] = item
                size += item.size
            self.bytes += size
        return before + len(items) - len(queued)

    def _merge_into(self, queued: dict[Hashable, Item], item: Item) -> None:
        older = queued.get(item.key)
        if older is None:
            queued[item.key] = item
            self.bytes += item.size
            return
        was = older.size
        merged = _combine(older, item)
        if merged is None:
            self._has_aside = True
            set_aside(queued, older)
            merged, was = item, 0
        else:
            # To the back, not in place: the queue stays in the order of the tape.
            del queued[item.key]
        queued[item.key] = merged
        self.bytes += merged.size - was

    def peek(self) -> Iterator[Item]:
        return iter(self._items.values())

    def take(self, upto: int | None) -> list[Entry]:
        items = list(self._items.values())
        if upto is None or not items or items[-1].offset <= upto:
            self._items.clear()
            self._has_aside = False
        else:
            items = [item for item in items if item.offset <= upto]
            self._discard(self._items, items)
        self.bytes -= sum(map(size_of, items))
        return list(map(_as_entry, items))

    @staticmethod
    def _discard(items: dict[Hashable, Item], gone: Iterable[Item]) -> None:
        for item in gone:
            # It may have been set aside.
            del items[item.key if items.get(item.key) is item else item.offset]

    def everything(self) -> list[Item]:
        return list(self._items.values())

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        removed = [item for item in self._items.values() if condition(item)]
        self._discard(self._items, removed)
        self.bytes -= sum(map(size_of, removed))
        return removed

    def remove_single(self, topic: Topic) -> list[Item]:
        """Do as `remove` for all of a topic that is its own key (`Topic.is_single`). O(1), mostly."""
        if self._has_aside:
            return self.remove(lambda item: item.topic is topic)
        item = self._items.pop(topic, None)
        if item is None:
            return []
        self.bytes -= item.size
        return [item]

    def collapse(self, entries: list[Entry]) -> list[Entry]:
        """Return what `put` and `take` would make of some ticks; nothing must wait."""
        newest = {entry.key: entry for entry in entries}
        if len(newest) == len(entries):
            return entries
        if not self._merges:
            return sorted(newest.values(), key=offset_of)
        self.put(entries)
        return self.take(None)


def _combine(older: Item, item: Item) -> Item | None:
    """Return one item for two; ``None`` if they can't be one."""
    if first_seq(item) != older.seq + 1:
        # Those in between went to another subscription: what is merged is a whole range.
        return None
    entry = _as_entry(item)
    try:
        merged = older if isinstance(older, Merged) else Merged(older)
        merged.add(entry)
    except InvalidOperation:
        # A size that is no number can't be added to.
        return None
    return merged


def set_aside(queued: dict[Hashable, Item], item: Item) -> None:
    """Leave an item in its place under a key of its own, so that nothing goes into it any more. O(n), and rare."""
    kept = {item.offset if other is item else key: other for key, other in queued.items()}
    queued.clear()
    queued.update(kept)


def is_from(item: Item, first: dict[Topic, int]) -> bool:
    """Tell whether an item has ticks of a topic from a ``seq`` on."""
    start = first.get(item.topic)
    return start is not None and item.seq >= start
