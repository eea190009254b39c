"""Ticks to one write, for all who get the same in the same shape."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.codecs import JSON, Codec
from broker.core.framing import WEBSOCKET_TEXT, Framing
from broker.core.tape import Entry


class Packer:
    """One codec in one framing. Remembers the last write: a crowd on one topic shares it for a comparison."""

    __slots__ = ("_codec", "_cursor", "_data", "_framing", "_resumable", "_ticks")

    def __init__(self, codec: Codec, framing: Framing) -> None:
        self._codec = codec
        self._framing = framing
        #: Of the last write: what it was made of, and it.
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

    def update_encoded(self, ticks: Sequence[bytes], cursor: str) -> bytes:
        """Do as `update` for ticks that are encoded already, in this codec; resuming behind them misses nothing."""
        if ticks == self._ticks and cursor == self._cursor == self._resumable:
            return self._data
        return self._remember(ticks, ticks, cursor, cursor)

    def _remember(
        self, key: Sequence[Entry] | Sequence[bytes], ticks: Sequence[bytes], cursor: str, resumable: str
    ) -> bytes:
        payload = self._codec.update(cursor, ticks)
        self._data = self._framing.batch(self._framing.frame("update", payload, resumable))
        self._ticks, self._cursor, self._resumable = key, cursor, resumable
        return self._data


class JsonWebSocketPacker(Packer):
    """JSON in text frames, the shape that most have: the same bytes, with less said about them.

    Every write to most subscribers passes here; two calls for each, and one copy of it, are saved.
    """

    __slots__ = ("_opening", "_opening_cursor")

    def __init__(self) -> None:
        super().__init__(JSON, WEBSOCKET_TEXT)
        #: How an update with the newest cursor begins.
        self._opening, self._opening_cursor = b"", ""

    def update_encoded(self, ticks: Sequence[bytes], cursor: str) -> bytes:
        if ticks == self._ticks and cursor == self._cursor == self._resumable:
            return self._data
        if cursor != self._opening_cursor:
            self._opening, self._opening_cursor = JSON.update_opening(cursor), cursor
        self._ticks, self._cursor, self._resumable = ticks, cursor, cursor
        opening = self._opening
        body = b",".join(ticks)
        length = len(opening) + len(body) + 2
        if length < 126 or length >= 0x10000:
            self._data = WEBSOCKET_TEXT.frame("update", b"%b%b]}" % (opening, body))
        else:
            self._data = b"".join((b"\x81\x7e", length.to_bytes(2, "big"), opening, body, b"]}"))
        return self._data


def shared_packer(codec: Codec, framing: Framing) -> Packer:
    """Return the packer of a codec and a framing, both of which keep no state of a session."""
    packer = _PACKERS.get((codec, framing))
    if packer is None:
        is_usual = codec is JSON and framing is WEBSOCKET_TEXT
        packer = _PACKERS[codec, framing] = JsonWebSocketPacker() if is_usual else Packer(codec, framing)
    return packer


#: There are as many as there are shapes, not sessions.
_PACKERS: dict[tuple[Codec, Framing], Packer] = {}
