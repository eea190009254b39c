"""Gaps that are told in their place, between what was on the tape when they happened and what came later. Pure.

Other gaps name ticks that a subscriber does not get, and go ahead of everything: what it gets is right with or without
them. A feed that missed something of a book is another matter. A snapshot and deltas from before, sent behind such a
gap, would make a book again, and it would be wrong until the feed's next snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from broker.core.topics import Topic

if TYPE_CHECKING:
    from broker.core.mailbox import GapReason

#: Where a mark stands beside a snapshot that is valid at the same offset.
BEFORE_SNAPSHOT, AT_SNAPSHOT, BEHIND_SNAPSHOT = 0, 1, 2
#: An offset of the tape, and one of those.
Place = tuple[int, int]


class Mark(Struct):
    """A gap, and behind what it stands; ``last``: the ``seq`` of the last tick that is missing, if that is known."""

    place: Place
    topic: Topic
    last: int | None
    reason: GapReason


class Marks:
    """Those of one subscription, in the order of their places."""

    __slots__ = ("_marks", "_newest")

    def __init__(self) -> None:
        #: There is seldom one, and an empty deque is ten times as large.
        self._marks: list[Mark] = []
        #: Of each topic, where its last mark is.
        self._newest: dict[Topic, int] = {}

    def __bool__(self) -> bool:
        return bool(self._marks)

    @property
    def first(self) -> Place | None:
        """The place of the next one; ``None`` if there is none."""
        return self._marks[0].place if self._marks else None

    def add(self, mark: Mark) -> None:
        """Add one, behind all others or beside the last.

        Not if its topic has had no tick since the one before: a feed that fails over and over says the same each time.
        """
        topic = mark.topic
        if self._newest.get(topic, -1) < topic.offset:
            self._newest[topic] = mark.place[0]
            self._marks.append(mark)

    def reach(self, place: Place | None) -> list[Mark]:
        """Remove and return those up to a place, inclusive, or all."""
        reached = [mark for mark in self._marks if place is None or mark.place <= place]
        del self._marks[: len(reached)]
        for mark in reached:
            if self._newest.get(mark.topic) == mark.place[0]:
                del self._newest[mark.topic]
        return reached

    def ends(self) -> dict[Topic, int]:
        """Return the offset of the last mark of each topic."""
        return self._newest
