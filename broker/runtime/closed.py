"""The sessions that ended last: whoever could not be told why has somewhere to ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from broker.core import errors
from broker.core.errors import CloseReason
from broker.runtime.records import SessionRecord

#: So many are remembered, fewer if they take more than so many bytes.
MOST_SESSIONS = 10_000
MOST_BYTES = 32 << 20

#: What became of the `closing` message; ``none``: the client left first, or broke the protocol below it.
Closing: TypeAlias = Literal["under_way", "delivered", "undelivered", "none"]

_UNTOLD = (errors.ASKED, errors.CLIENT_GONE, errors.CLIENT_SILENT, errors.PROTOCOL_ERROR)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionRecord).decode


class ClosedSession(Struct, gc=False):
    """One of them, as small as it can be kept: its record is read again when somebody asks.

    Attributes:
        at_ns: when it ended; wall time.
        closing: what became of its `closing` message.
    """

    reason: CloseReason
    at_ns: int
    closing: Closing
    _packed: bytes

    @property
    def record(self) -> SessionRecord:
        """How it stood at its end."""
        return _decode(self._packed)

    @property
    def size(self) -> int:
        """What its record takes, in bytes."""
        return len(self._packed)

    def may_contain(self, text: bytes) -> bool:
        """Tell, for little, whether a text (in UTF-8) could be part of the record; false is certain."""
        return text in self._packed


class ClosedSessions:
    """A ring of them."""

    def __init__(self, most: int = MOST_SESSIONS, most_bytes: int = MOST_BYTES) -> None:
        self._ring: deque[ClosedSession] = deque()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._ring)

    def __iter__(self) -> Iterator[ClosedSession]:
        """Iterate over them, the last one first."""
        return reversed(self._ring)

    def add(self, record: SessionRecord, reason: CloseReason, at_ns: int) -> ClosedSession:
        """Remember one, forget the oldest; the caller notes what becomes of its `closing`."""
        closing: Closing = "none" if reason in _UNTOLD else "under_way"
        closed = ClosedSession(reason, at_ns, closing, _encode(record))
        self._ring.append(closed)
        self._bytes += closed.size
        while len(self._ring) > self._most or (self._bytes > self._most_bytes and len(self._ring) > 1):
            self._bytes -= self._ring.popleft().size
        return closed
