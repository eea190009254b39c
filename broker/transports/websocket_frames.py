"""The client's frames, read by wsproto, of which nothing is kept while a client is silent.

A wsproto connection takes two kilobytes, a fifth of what an idle session does, and remembers something only between
the beginning of a message and its end. So the frames' ends are followed here (RFC 6455, section 5.2), and what
comes next is read by a new one.
"""

from __future__ import annotations

from collections.abc import Iterator

from wsproto.connection import Connection as WsConnection
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Event
from wsproto.frame_protocol import Opcode

#: RFC 6455, section 5.5: a control frame carries 125 bytes, two of them the code.
CLOSE_REASON_BYTES = 123
#: Final, and without a payload: any pong at all is sign of life.
PING = bytes((0x80 | Opcode.PING, 0))
#: What it is answered with; the masking key follows.
EMPTY_PONG = bytes((0x80 | Opcode.PONG, 0x80))
EMPTY_PONG_BYTES = len(EMPTY_PONG) + 4


def pong(payload: bytes) -> bytes:
    """Return the answer to a ping, whose payload has at most 125 bytes."""
    return bytes((0x80 | Opcode.PONG, len(payload))) + payload


def close(code: int, reason: str | None) -> bytes:
    """Return the frame that begins the close; what is too long of the reason is cut off."""
    cut = None if reason is None else reason.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
    return bytes(WsConnection(ConnectionType.SERVER, []).send(CloseConnection(code, cut)))


def is_empty_pong(data: bytes) -> bool:
    """Tell whether a read brought the answer to `PING`, and nothing else."""
    return len(data) == EMPTY_PONG_BYTES and data.startswith(EMPTY_PONG)


class FrameReader:
    """Reads one or several messages, up to a moment `at rest`."""

    __slots__ = ("_head", "_is_in_message", "_left", "_ws")

    def __init__(self) -> None:
        self._ws = WsConnection(ConnectionType.SERVER, [])
        #: Of a frame, as long as it is cut; then how much of its payload is still to come.
        self._head = b""
        self._left = 0
        self._is_in_message = False

    def read(self, data: bytes) -> Iterator[Event]:
        """Return what was read, as wsproto has it, an event at a time."""
        self._follow(data)
        self._ws.receive_data(data)
        return self._ws.events()

    @property
    def has_valid_end(self) -> bool:
        """Whether a close that was read is the client's own: wsproto says by one as well what it can't read."""
        return self._ws.state is not ConnectionState.OPEN

    @property
    def is_at_rest(self) -> bool:
        """Whether all that was read was whole messages: then the next may be read by another reader."""
        return not (self._is_in_message or self._left or self._head)

    def _follow(self, data: bytes) -> None:
        """Go from frame to frame, up to the end of what was read. What is no frame ends the connection elsewhere."""
        position, end = min(self._left, len(data)), len(data)
        self._left -= position
        while position < end:
            missing = 14 - len(self._head)
            head = self._head + data[position : position + missing]
            size = _head_bytes(head)
            if len(head) < size:
                self._head = head
                return
            position += size - len(self._head)
            self._head = b""
            if not head[0] & 0x08:
                self._is_in_message = not head[0] & 0x80
            left = _payload_bytes(head)
            skipped = min(left, end - position)
            position += skipped
            self._left = left - skipped


def _head_bytes(head: bytes) -> int:
    """Return how long a frame's head is; at least two bytes of it tell."""
    if len(head) < 2:
        return 2
    return 2 + {126: 2, 127: 8}.get(head[1] & 0x7F, 0) + (4 if head[1] & 0x80 else 0)


def _payload_bytes(head: bytes) -> int:
    short = head[1] & 0x7F
    if short < 126:
        return short
    return int.from_bytes(head[2 : 4 if short == 126 else 10], "big")
