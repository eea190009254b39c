"""Bytes as they come, cut into numbered lines of a bounded length. Pure."""

from __future__ import annotations

from collections.abc import Iterator

#: A book of some thousand levels fits; what is longer is no tick.
MOST_LINE_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"


class Lines:
    """Cuts a stream of bytes into lines, wherever its pieces end.

    Attributes:
        number: of the last line that ended, from 1 on; empty ones count.
        overlong: how the line begins that was just found too long; ``None`` for any other.
    """

    def __init__(self, most: int = MOST_LINE_BYTES) -> None:
        self.number = 0
        self.overlong: bytes | None = None
        self._most = most
        self._begun: list[bytes] = []
        self._held = 0
        self._is_skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield each line that ends in ``data``, without its end; a line too long is empty, see `overlong`."""
        first, *rest = data.split(b"\n")
        if not rest:
            self._hold(first)
            return
        yield self._whole(first)
        for line in rest[:-1]:
            yield self._whole(line)
        self._hold(rest[-1])

    def end(self) -> Iterator[bytes]:
        """Yield what stands behind the last line's end, if anything does."""
        if self._held or self._is_skipping:
            yield self._whole(b"")

    def _hold(self, piece: bytes) -> None:
        if self._is_skipping or not piece:
            return
        self._begun.append(piece)
        self._held += len(piece)
        if self._held > self._most:
            # Only its beginning is kept, for whoever has to say which line it was.
            self._begun = [b"".join(self._begun)[:512]]
            self._held = 0
            self._is_skipping = True

    def _whole(self, last: bytes) -> bytes:
        self._hold(last)
        line = b"".join(self._begun)
        self.overlong = line if self._is_skipping else None
        self._begun, self._held, self._is_skipping = [], 0, False
        self.number += 1
        if self.overlong is not None:
            return b""
        if self.number == 1:
            line = line.removeprefix(_BOM)
        return line.strip()
