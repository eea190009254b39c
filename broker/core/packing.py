"""Ticks to one write, for all who get the same in the same shape."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.codecs import Codec
from broker.core.framing import Framing
from broker.core.tape import Entry


class Packer:
    """One codec in one framing. Remembers the last write: a crowd on one topic shares it for a comparison."""

    __slots__ = ("_codec", "_cursor", "_data", "_framing", "_resumable", "_ticks")

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self._codec = codec
        self._framing = framing
        self._ticks: Sequence[Entry] | Sequence[bytes] = ()
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
        if entries == self._ticks and cursor == self._cursor and resumable == self._resumable:
            return self._data
        return self._remember(entries, self._codec.ticks(entries), cursor, resumable)

    def update_encoded(self, ticks: Sequence[bytes], cursor: str, resumable: str) -> bytes:
        """Do as `update` for ticks that are encoded already, in this codec."""
        if ticks == self._ticks and cursor == self._cursor and resumable == self._resumable:
            return self._data
        return self._remember(ticks, ticks, cursor, resumable)

    def _remember(
        self, key: Sequence[Entry] | Sequence[bytes], ticks: Sequence[bytes], cursor: str, resumable: str
    ) -> bytes:
        payload = self._codec.update(cursor, ticks)
        self._data = self._framing.batch(self._framing.frame("update", payload, resumable))
        self._ticks, self._cursor, self._resumable = key, cursor, resumable
        return self._data


def shared_packer(codec: Codec, framing: Framing) -> Packer:
    """Return the packer of a codec and a framing, both of which keep no state of a session."""
    packer = _PACKERS.get((codec, framing))
    if packer is None:
        packer = _PACKERS[codec, framing] = Packer(codec, framing)
    return packer


#: There are as many as there are shapes, not sessions.
_PACKERS: dict[tuple[Codec, Framing], Packer] = {}
