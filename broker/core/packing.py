"""Ticks to one write, for all who get the same in the same shape."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.codecs import Codec
from broker.core.framing import Framing
from broker.core.tape import Entry


class Packer:
    """One codec in one framing. Remembers the last write: a crowd on one topic shares it for a comparison."""

    __slots__ = ("_codec", "_cursor", "_data", "_entries", "_framing", "_resumable")

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self._codec = codec
        self._framing = framing
        self._entries: Sequence[Entry] = ()
        self._cursor = self._resumable = ""
        self._data = b""

    def update(self, entries: Sequence[Entry], cursor: str, resumable: str) -> bytes:
        """Return an `update`, the same object as last time if nothing is different.

        Args:
            entries: in order.
            cursor: as the message says it.
            resumable: where resuming behind it would start; empty while it would miss something.
        """
        # Entries are compared by identity, and lists mostly differ in the first.
        if entries == self._entries and cursor == self._cursor and resumable == self._resumable:
            return self._data
        codec, framing = self._codec, self._framing
        payload = codec.update(cursor, codec.ticks(entries))
        self._data = framing.batch(framing.frame("update", payload, resumable))
        self._entries, self._cursor, self._resumable = entries, cursor, resumable
        return self._data


def shared_packer(codec: Codec, framing: Framing) -> Packer:
    """Return the packer of a codec and a framing, both of which keep no state of a session."""
    packer = _PACKERS.get((codec, framing))
    if packer is None:
        packer = _PACKERS[codec, framing] = Packer(codec, framing)
    return packer


#: There are as many as there are shapes, not sessions.
_PACKERS: dict[tuple[Codec, Framing], Packer] = {}
