"""The account of one symbol's ``seq``: what came, what is missing, what came twice. Pure."""

from __future__ import annotations

#: Gaps remembered ahead of the ticks; a broker merges adjacent ones, so a handful is the most in practice.
MAX_HOLES = 256


class Sequence:
    """Where one ``(ch, sym)`` stands within an epoch.

    Attributes:
        last: the highest ``seq`` that is accounted for; ``None``: not known, the next one is right.
        is_lost: the epoch that it belonged to is over, and the application has not been told yet.
        has_gap: a gap was told since the subscription was last taken up, so a snapshot is news.
        has_state: a snapshot has been shown in this epoch.
    """

    __slots__ = ("_floor", "_holes", "_snapshot", "has_gap", "has_state", "is_lost", "last")

    def __init__(self) -> None:
        self.last: int | None = None
        self.is_lost = False
        self.has_gap = False
        self.has_state = False
        self._holes: list[tuple[int, int]] = []
        self._snapshot = 0
        self._floor: int | None = None

    def tick(self, seq: int) -> int | None:
        """Take in a tick of an update.

        Returns:
            How many before it were neither received nor told as a gap; ``None`` if it has come before.
        """
        last = self.last
        self.last = seq if last is None or seq > last else last
        if last is None:
            self._holes.clear()
            return 0
        if seq <= last:
            return None
        skipped = seq - last - 1
        return skipped - self._fill(last, seq) if skipped and self._holes else skipped

    def _fill(self, last: int, seq: int) -> int:
        """Return how much of the open range (``last``, ``seq``) was told as gaps; forget those."""
        told = sum(max(0, min(b, seq - 1) - max(a, last + 1) + 1) for a, b in self._holes)
        self._holes = [(a, b) for a, b in self._holes if b > seq]
        return min(told, seq - last - 1)

    def gap(self, first: int | None, last: int | None) -> tuple[int | None, int | None] | None:
        """Take in a gap.

        Returns:
            Its bounds, completed and cut by what is known here; ``None`` if nothing of it is missing.
        """
        if self.is_lost or self.last is None or last is None:
            if self.is_lost or self.last is None:
                self.last = last
            elif first is not None:
                # With the end unknown, wherever the stream goes on is right.
                self.last = None
            self.is_lost = False
            self.has_gap = True
            return first, last
        first = self.last + 1 if first is None else max(first, self.last + 1)
        if first > last:
            return None
        self.has_gap = True
        if first == self.last + 1:
            self.last = last
        else:
            self._holes = [*self._holes[1 - MAX_HOLES :], (first, last)]
        return first, last

    def snapshot(self, seq: int, number: int, *, is_aside: bool, is_whole: bool = False) -> tuple[bool, int]:
        """Take in a tick of a snapshot.

        Args:
            number: of the snapshot; several ticks of one snapshot may be of one symbol (bars).
            is_aside: every tick since a cursor is sent too, so this one does not move the account.
            is_whole: it is no tick of the flow but what all of them amount to (a book), so it is news to
                those who have the flow only.

        Returns:
            Whether it is news, and how many ticks it jumped over.
        """
        if number != self._snapshot:
            self._snapshot = number
            self._floor = None if self.has_gap else self.last
        is_news = self._floor is None or seq > self._floor or (is_whole and not self.has_state)
        self.has_state = self.has_state or is_news
        if is_aside and not self.has_gap:
            return is_news, 0
        skipped = 0
        if self.last is not None and seq > self.last and not self.has_gap and self._floor is not None:
            skipped = seq - self.last - 1
            skipped -= self._fill(self.last, seq)
        self.last = seq if self.last is None else max(seq, self.last)
        return is_news, skipped

    def taken_up(self, *, is_new_epoch: bool) -> None:
        """Begin again on another connection, in the same epoch or in one that numbers from 1."""
        self.has_gap = False
        self._holes.clear()
        if is_new_epoch:
            self.is_lost = True
            self.has_state = False
            self.last = None
