"""Which books an unreadable frame may have changed, by what it still shows. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from feeds.frames import is_json, is_part_of_object


@dataclass(frozen=True, slots=True)
class BookSigns:
    """How a venue's frames show that they are of a book, and of which.

    A torn or garbled frame mostly still shows what it was. What shows no kind but begins or ends like a frame may
    have been for any book; what does neither was none.

    Attributes:
        kind: finds the kind of a frame, its only group, as far as that is there.
        kinds: those that change books.
        mark: finds what only such frames have, whatever kind they show.
        name: finds the names of books, its only group.
        of_several: one frame may be of several books, so that a torn one may have been of more than it shows.
    """

    kind: re.Pattern[str]
    kinds: tuple[str, ...]
    mark: re.Pattern[str]
    name: re.Pattern[str]
    of_several: bool = False

    def suspects(self, frame: str | bytes, known: Collection[str]) -> list[str]:
        """Return the names of the books that an unreadable frame may have changed, in order.

        Args:
            frame: as received.
            known: the books that there are, or that may have come in this frame.
        """
        text = frame if isinstance(frame, str) else frame.decode("utf-8", "replace")
        kind = self.kind.search(text)
        if kind is None:
            return sorted(known) if is_part_of_object(text) else []
        if not any(each.startswith(kind[1]) for each in self.kinds) and not self.mark.search(text):
            return []
        shown = set(self.name.findall(text))
        # Where a frame is damaged, a name in it may be too.
        is_sure = is_json(frame) or (shown.issubset(known) and not self.of_several)
        return sorted(shown if shown and is_sure else known)
