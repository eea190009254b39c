"""As much of WebSocket as a load client needs: requests, masked frames, and where one frame ends.

The mask is zero: RFC 6455 (section 5.3) wants an unpredictable one to protect proxies, of which there are none
here, and a zero mask costs this process nothing.
"""

from __future__ import annotations

import base64
import os

TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A


def upgrade(host: str, path: str, subprotocol: str = "") -> bytes:
    """Return the request that opens a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """Return a masked frame; ``first`` is its first byte."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 0x10000:
        head = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


class Walk:
    """Follows the server's frames through reads that end anywhere, to find pings among them.

    Attributes:
        frames: whole frames so far.
    """

    __slots__ = ("_head", "_kind", "_skip", "frames")

    def __init__(self) -> None:
        self.frames = 0
        #: Bytes of the frame's payload that are still to come, and its first byte.
        self._skip = 0
        self._kind = 0
        #: A header that was cut, or a ping up to its end.
        self._head = b""

    @property
    def is_between_frames(self) -> bool:
        """Whether what was read ends where a frame does."""
        return not self._skip and not self._head

    def read(self, data: bytes) -> list[bytes]:
        """Walk over what was read; return the payloads of the pings that ended in it."""
        length = len(data)
        # The common case: a read is one whole data frame of 126 to 65,535 bytes.
        if (
            not self._skip
            and not self._head
            and length > 4
            and data[1] == 126
            and (data[2] << 8 | data[3]) + 4 == length
            and data[0] != PING
        ):
            self.frames += 1
            return []
        return self._walk(data)

    def _walk(self, data: bytes) -> list[bytes]:
        pings: list[bytes] = []
        if self._head:
            data, self._head = self._head + data, b""
        position, end = 0, len(data)
        if self._skip:
            position = min(self._skip, end)
            self._skip -= position
            if self._skip:
                return pings
            self.frames += 1
        while position < end:
            size = _whole(data, position)
            is_ping = data[position] == PING
            if not size or (is_ping and position + size > end):
                self._head = data[position:]
                return pings
            if is_ping:
                pings.append(data[position + 2 : position + size])
            position += size
            if position > end:
                self._skip = position - end
                return pings
            self.frames += 1
        return pings


def _whole(data: bytes, at: int) -> int:
    """Return the size of the frame that begins at ``at``, its header included; 0 if the header is cut."""
    have = len(data) - at
    if have < 2:
        return 0
    length = data[at + 1]
    if length < 126:
        return length + 2
    extra = 2 if length == 126 else 8
    if have < 2 + extra:
        return 0
    return int.from_bytes(data[at + 2 : at + 2 + extra], "big") + 2 + extra
