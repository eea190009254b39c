"""What a feed has published and the broker has not taken yet, bounded. Pure.

First everything waits as it came. When that is too much, ticks are conflated until the queue has been emptied
once: a quote, a bar or a state takes the place of the older one, trades are merged, books are composed; the
outcome goes to the back. So the ticks of a topic stay in order, no volume is lost, and no book breaks. A change
of ``status.state`` is not conflated away.

Only where more topics wait than there is room for, the oldest quotes, bars and states are dropped, and a `Missed`
stands in their place, once for each topic. Merged trades and composed books are kept: there is one for each topic,
and the broker holds the book of each topic anyway.

A mark that comes again while the first one waits takes its place at the back, and what joins an older tick across a
mark stands behind it. But for a book: what is known of it ends at its mark, so what waits of it is dropped, and the
mark stands for that too. Else the old book and what follows would become one, which looks like a fresh snapshot.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from typing import TypeAlias

from msgspec import Struct

from broker.core.composing import BookComposer, TradeMerger
from broker.core.mailbox import GapReason
from broker.core.ticks import Bar, Book, Channel, FeedState, Status, Tick, Trade

#: What may wait before it is conflated; and how many of the ticks that can be dropped may wait after that.
QUEUE_TICKS = 8192
QUEUE_BYTES = 16 << 20
#: About what a tick costs, and a level of a book.
_TICK_BYTES, _LEVEL_BYTES = 256, 24


class Missed(Struct, frozen=True):
    """Stands between ticks: here ticks of a topic were missed, nobody knows how many."""

    ch: Channel
    sym: str
    reason: GapReason = "feed_reset"


class Rewound(Struct, frozen=True):
    """Stands between ticks: here event time begins anew."""


Item: TypeAlias = Tick | Missed | Rewound
_Slot: TypeAlias = Item | TradeMerger | BookComposer


class FeedQueue:
    """The ticks of one feed that wait for the broker, and the marks between them.

    Attributes:
        conflated: ticks that went into a later one, since the start.
        dropped: ticks that a `Missed` stands for, since the start.
        is_conflating: whether it has been too much since the queue was last empty.
    """

    __slots__ = (
        "_bytes",
        "_lost",
        "_most_bytes",
        "_most_ticks",
        "_plain",
        "_replaceable",
        "_slots",
        "_states",
        "conflated",
        "dropped",
        "is_conflating",
    )

    def __init__(self, most_ticks: int = QUEUE_TICKS, most_bytes: int = QUEUE_BYTES) -> None:
        self.conflated = self.dropped = 0
        self.is_conflating = False
        self._most_ticks = most_ticks
        self._most_bytes = most_bytes
        #: Everything as it came, until there is too much of it; then all is in `_slots`, oldest first.
        self._plain: deque[Item] = deque()
        self._bytes = 0
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        #: The keys in `_slots` of what can be dropped, oldest first.
        self._replaceable: OrderedDict[Hashable, None] = OrderedDict()
        #: Each symbol's newest state, and how often it has changed.
        self._states: dict[str, tuple[FeedState, int]] = {}
        #: Topics of which something was dropped, to be told before anything that is left.
        self._lost: dict[tuple[Channel, str], None] = {}

    def __len__(self) -> int:
        """Return how many ticks and marks wait; a conflated one counts once."""
        return len(self._plain) + len(self._slots)

    def __bool__(self) -> bool:
        return bool(self._plain or self._slots or self._lost)

    def add(self, items: Iterable[Item]) -> None:
        """Put ticks and marks behind the others. Amortised O(1) for each, O(levels) for a book.

        Raises:
            decimal.InvalidOperation: the size of a trade is not a number.
            TypeError, ValueError, AttributeError: the levels of a book are not pairs of texts.
        """
        for item in items:
            if self.is_conflating:
                self._conflate(item)
                continue
            self._plain.append(item)
            self._bytes += _bytes_of(item)
            if len(self._plain) > self._most_ticks or self._bytes > self._most_bytes:
                self._begin_conflating()

    def take(self, most: int) -> list[Item]:
        """Remove and return what comes first, at most so many; empty if nothing waits."""
        taken: list[Item] = []
        while self._lost and len(taken) < most:
            topic = next(iter(self._lost))
            del self._lost[topic]
            taken.append(Missed(*topic, "overflow"))
        while self._plain and len(taken) < most:
            taken.append(self._plain.popleft())
            self._bytes -= _bytes_of(taken[-1])
        while self._slots and len(taken) < most:
            key, slot = self._slots.popitem(last=False)
            self._replaceable.pop(key, None)
            taken.append(slot.tick() if isinstance(slot, TradeMerger | BookComposer) else slot)
        if not self:
            self.is_conflating = False
            self._states.clear()
        return taken

    def _begin_conflating(self) -> None:
        self.is_conflating = True
        waiting, self._plain = self._plain, deque()
        self._bytes = 0
        for item in waiting:
            self._conflate(item)

    def _conflate(self, item: Item) -> None:
        if isinstance(item, Missed) and item.ch == "book":
            self.dropped += self._slots.pop(("book", item.sym), None) is not None
        key = self._key(item)
        held = self._slots.get(key)
        if held is None:
            self._slots[key] = item
        else:
            self._slots[key] = _joined(held, item)
            # To the back, not in place: what came in between is older.
            self._slots.move_to_end(key)
            self.conflated += not isinstance(item, Missed | Rewound)
        if not isinstance(item, Trade | Book | Missed | Rewound):
            self._replaceable[key] = None
            self._replaceable.move_to_end(key)
            if len(self._replaceable) > self._most_ticks:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, _ = self._replaceable.popitem(last=False)
        tick = self._slots.pop(key)
        assert not isinstance(tick, TradeMerger | BookComposer | Rewound)
        self.dropped += 1
        self._lost[tick.ch, tick.sym] = None

    def _key(self, item: Item) -> Hashable:
        """Return what an item shares with the one that it joins, or takes the place of."""
        if isinstance(item, Rewound):
            return Rewound
        if isinstance(item, Missed):
            return Missed, item.ch, item.sym
        if isinstance(item, Bar):
            return item.ch, item.sym, item.interval
        if isinstance(item, Status):
            state, changes = self._states.get(item.sym, (item.state, 0))
            self._states[item.sym] = item.state, changes + (item.state != state)
            return item.ch, item.sym, self._states[item.sym][1]
        return item.ch, item.sym


def _joined(held: _Slot, item: Item) -> _Slot:
    """Return what an older and a newer item of the same key become."""
    if isinstance(item, Trade):
        if isinstance(held, TradeMerger):
            held.add(item)
            return held
        assert isinstance(held, Trade)
        merger = TradeMerger()
        merger.add(held)
        merger.add(item)
        return merger
    if isinstance(item, Book):
        if isinstance(held, BookComposer):
            held.add(item)
            return held
        assert isinstance(held, Book)
        composer = BookComposer()
        composer.add(held)
        composer.add(item)
        return composer
    return item


def _bytes_of(item: Item) -> int:
    if isinstance(item, Book):
        return _TICK_BYTES + _LEVEL_BYTES * (len(item.bids) + len(item.asks))
    return _TICK_BYTES
