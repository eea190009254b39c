"""One message to the bytes of a transport. The transports differ in nothing else.

WebSocket frames go from server to client unmasked, one frame a message (RFC 6455, section 5.2). An SSE
event has its message's type as `event` and its cursor as `id` (WHATWG HTML, section 9.2). On HTTP/1.1
each write is one chunk (RFC 9112, section 7.1).
"""

from __future__ import annotations

from typing import Protocol

_TEXT, _BINARY = 0x81, 0x82


class Framing(Protocol):
    """Wraps what goes to one subscriber.

    Attributes:
        name: the transport, as it stands in statistics.
    """

    name: str

    @property
    def shared(self) -> Framing:
        """The framing of this shape that keeps no state of a session."""

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        """Return a message ready to be sent.

        Args:
            kind: its `type`.
            payload: it, encoded.
            cursor: where resuming behind it would start; empty if it has none.
        """

    def batch(self, framed: bytes) -> bytes:
        """Wrap what goes into one write, one message or several."""


class WebSocketFraming:
    """One frame a message, text or binary by the codec."""

    name = "ws"

    def __init__(self, *, is_binary: bool) -> None:
        self._first = bytes((_BINARY if is_binary else _TEXT,))

    @property
    def shared(self) -> WebSocketFraming:
        return self

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        length = len(payload)
        if length < 126:
            return b"".join((self._first, bytes((length,)), payload))
        if length < 0x10000:
            return b"".join((self._first, b"\x7e", length.to_bytes(2, "big"), payload))
        return b"".join((self._first, b"\x7f", length.to_bytes(8, "big"), payload))

    def batch(self, framed: bytes) -> bytes:
        return framed


class SseFraming:
    """Server-sent events; the first event's block also carries ``retry``.

    The parts of a snapshot but the last have no ``id``: an `EventSource` that is cut off between two of
    them must not resume behind symbols it has not seen.
    """

    name = "sse"

    def __init__(self, *, chunked: bool, retry_ms: int | None) -> None:
        """``retry_ms``: ``None`` for what is not the first of a stream."""
        self._retry = b"retry: %d\n" % retry_ms if retry_ms is not None else b""
        self._chunked = chunked
        self._wrap = _chunk if chunked else _plain

    @property
    def shared(self) -> SseFraming:
        return _SSE[self._chunked]

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        retry, self._retry = self._retry, b""
        if cursor:
            return b"%bevent: %b\nid: %b\ndata: %b\n\n" % (retry, kind.encode(), cursor.encode(), payload)
        return b"%bevent: %b\ndata: %b\n\n" % (retry, kind.encode(), payload)

    def comment(self) -> bytes:
        """Return what keeps an idle stream alive."""
        return self.batch(b":\n\n")

    def batch(self, framed: bytes) -> bytes:
        return self._wrap(framed)


class NdjsonFraming:
    """One line a message."""

    name = "ndjson"

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self._wrap = _chunk if chunked else _plain

    @property
    def shared(self) -> NdjsonFraming:
        return _NDJSON[self._chunked]

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        return payload + b"\n"

    def batch(self, framed: bytes) -> bytes:
        return self._wrap(framed)


#: Stateless but for what they remember, so shared by all sessions of a kind.
WEBSOCKET_TEXT = WebSocketFraming(is_binary=False)
WEBSOCKET_BINARY = WebSocketFraming(is_binary=True)

#: Ends a chunked body.
LAST_CHUNK = b"0\r\n\r\n"


def _chunk(framed: bytes) -> bytes:
    # A chunk of length 0 would end the body.
    return b"%x\r\n%b\r\n" % (len(framed), framed) if framed else b""


def _plain(framed: bytes) -> bytes:
    return framed


_SSE = {chunked: SseFraming(chunked=chunked, retry_ms=None) for chunked in (False, True)}
_NDJSON = {chunked: NdjsonFraming(chunked=chunked) for chunked in (False, True)}
