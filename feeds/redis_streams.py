"""Where a reader of a Redis stream stands, and whether entries may be missing before what comes next. Pure.

An entry is missing if it was trimmed (``XADD ... MAXLEN``, ``XTRIM``), or deleted, before it was read. Redis counts the
entries that were ever added, and those that are there; so what is gone at the front is their difference, and if the
reader has read just as many, it missed none. Source: https://redis.io/docs/latest/commands/xinfo-stream (``length``,
``entries-added`` and ``last-generated-id``; the second since 7.0), read 2026-11-21.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

#: Milliseconds, mostly of Unix time, and a number within them.
EntryId: TypeAlias = tuple[int, int]
ZERO: EntryId = (0, 0)
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_MOST = 2**64 - 1


def entry_id(text: str) -> EntryId:
    """Return the id of ``ms-number``, or of ``ms`` alone.

    Raises:
        ValueError: it is none.
    """
    found = _ID.fullmatch(text)
    if found is None or max(parts := (int(found[1]), int(found[2] or 0))) > _MOST:
        raise ValueError(
            f'{text!r:.60} must be "$" (what comes from now on), "0" (all that is there) or an entry\'s id'
        )
    return parts


class StreamState(NamedTuple):
    """A stream at one moment.

    Attributes:
        first: the oldest entry that is there; ``None``: it is empty.
        last: the newest id that it has given, even if the entry is gone.
        length: entries that are there.
        added: entries that were ever added.
    """

    first: EntryId | None
    last: EntryId
    length: int
    added: int

    @property
    def gone(self) -> int:
        """How many entries are not there any more."""
        return self.added - self.length


@dataclass(slots=True)
class Position:
    """How far a stream was read.

    Attributes:
        at: the id that was read last.
        count: how many entries were ever added up to it, the gone ones included; ``None``: not known.
    """

    at: EntryId = ZERO
    count: int | None = 0

    @classmethod
    def begin(cls, start: str, state: StreamState | None) -> Position:
        """Return where to begin.

        Args:
            start: ``$``, or what `entry_id` takes: what stands behind that id.
            state: ``None``: there is no such stream yet, so all of it will be new.
        """
        if state is None:
            return cls()
        at = state.last if start == "$" else min(entry_id(start), state.last)
        if at == state.last:
            return cls(at, state.added)
        is_before_all = state.first is None or state.first > at
        return cls(at, state.gone if is_before_all else None)

    def resume(self, state: StreamState | None) -> bool:
        """Look whether the stream still is the one that was read, and tell whether entries may be missing.

        One that was deleted is read from its beginning when it comes back. One that has gone back, as after a crash of
        a server that had not saved all, goes on from its end: what is there may have been read.
        """
        if state is None:
            was_read = self.at != ZERO
            self.at, self.count = ZERO, 0
            return was_read
        if state.last < self.at:
            self.at, self.count = state.last, state.added
            return True
        return False

    def check(self, state: StreamState) -> bool:
        """Tell whether entries are missing between this and what was read from here on.

        Args:
            state: of the same moment as the reading.
        """
        if state.first is None or state.first <= self.at:
            return False
        is_missing = state.gone != self.count
        self.count = state.gone
        return is_missing

    def advance(self, to: EntryId) -> None:
        """Note that an entry was read."""
        self.at = to
        if self.count is not None:
            self.count += 1

    def settle(self, state: StreamState) -> None:
        """Count anew if all was read that was there; entries deleted in the middle had not been counted."""
        if self.at == state.last:
            self.count = state.added

    def __str__(self) -> str:
        return f"{self.at[0]}-{self.at[1]}"
