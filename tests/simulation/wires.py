"""The client's side of every transport, written from the protocol's text and not with the broker's code."""

from __future__ import annotations

import base64
import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import msgpack
import orjson

Message = dict[str, Any]
#: A message, and the cursor that came with it by the rules of the transport.
Received = tuple[Message, str | None]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class WireError(Exception):
    """What came is against the rules of its transport."""


def expect(holds: object, text: str) -> None:
    """Raise `WireError` unless something holds."""
    if not holds:
        raise WireError(text)


class Wire(ABC):
    """One connection, as its client sees it.

    Attributes:
        name: of the transport, with its codec or its version.
        status: of the HTTP answer, 0 before it.
        refusal: the body of an answer that opens no stream.
        has_ended: the transport's own end has come (a close frame, the last chunk).
    """

    #: Whether nanoseconds come as text.
    is_json = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 0
        self.refusal = b""
        self.has_ended = False
        self._raw = bytearray()

    def receive(self, data: bytes) -> Iterator[Received]:
        """Yield the messages that ``data`` completes.

        Raises:
            WireError: it is against the rules.
        """
        self._raw += data
        if not self.status:
            end = self._raw.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._raw[:end]).decode("latin-1").split("\r\n")
            del self._raw[: end + 4]
            self.status = int(head[0].split(" ")[1])
            self.headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            if self.status in (101, 200):
                self.opened()
        if self.status not in (101, 200):
            self.refusal += self._raw
            self._raw.clear()
            return
        yield from self.messages()

    @abstractmethod
    def request(self, rng: random.Random, query: dict[str, str], cursor: str | None) -> bytes:
        """Return what opens the connection; a WebSocket has no use for query and cursor."""

    @abstractmethod
    def opened(self) -> None:
        """Check the head of the answer."""

    @abstractmethod
    def messages(self) -> Iterator[Received]:
        """Yield what is complete."""


class WebSocket(Wire):
    """RFC 6455, without extensions."""

    def __init__(self, rng: random.Random, *, is_json: bool, answers_pings: bool) -> None:
        super().__init__("ws-json" if is_json else "ws-msgpack")
        self.is_json = is_json
        #: Sends what the protocol itself answers.
        self.reply: Callable[[bytes], None] = lambda data: None
        self._answers_pings = answers_pings
        self._rng = rng

    def request(self, rng: random.Random, query: dict[str, str], cursor: str | None) -> bytes:
        self._key = base64.b64encode(rng.randbytes(16))
        self._subprotocol = "tapecast.v1." + ("json" if self.is_json else "msgpack")
        return (
            b"GET /v1/ws HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\nSec-WebSocket-Protocol: %b\r\n\r\n"
        ) % (self._key, self._subprotocol.encode())

    def opened(self) -> None:
        expect(self.status == 101, f"a WebSocket opened with {self.status}")
        token = base64.b64encode(hashlib.sha1(self._key + _GUID).digest()).decode()
        expect(self.headers.get("sec-websocket-accept") == token, "Sec-WebSocket-Accept is wrong")
        expect(self.headers.get("sec-websocket-protocol") == self._subprotocol, "another subprotocol")

    def messages(self) -> Iterator[Received]:
        raw = self._raw
        while len(raw) >= 2:
            first, length, at = raw[0], raw[1], 2
            expect(length < 128, "a masked frame from the server")
            if length == 126:
                if len(raw) < 4:
                    return
                length, at = int.from_bytes(raw[2:4], "big"), 4
                expect(length > 125, "a length of two bytes that fits in one")
            elif length == 127:
                if len(raw) < 10:
                    return
                length, at = int.from_bytes(raw[2:10], "big"), 10
                expect(length > 0xFFFF, "a length of eight bytes that fits in two")
            if len(raw) < at + length:
                return
            payload = bytes(raw[at : at + length])
            del raw[: at + length]
            yield from self._frame(first, payload)

    def _frame(self, first: int, payload: bytes) -> Iterator[Received]:
        expect(not self.has_ended, "a frame behind the close")
        expect(first & 0xF0 == 0x80, f"a fragment, or a reserved bit: {first:#x}")
        opcode = first & 0x0F
        if opcode == (_TEXT if self.is_json else _BINARY):
            message = orjson.loads(payload) if self.is_json else msgpack.unpackb(payload)
            yield message, message.get("cursor")
        elif opcode == _PING:
            if self._answers_pings:
                self.reply(self.frame(_PONG, payload))
        elif opcode == _CLOSE:
            self.has_ended = True
            self.close_code = int.from_bytes(payload[:2], "big")
            payload[2:].decode()
            self.reply(self.frame(_CLOSE, payload[:2]))
        else:
            expect(opcode == _PONG, f"a frame of opcode {opcode}")

    def encode(self, message: Message) -> bytes:
        """Return a request as frames, now and then in fragments with a ping between them."""
        payload = orjson.dumps(message) if self.is_json else msgpack.packb(message)
        opcode = _TEXT if self.is_json else _BINARY
        if self._rng.random() < 0.9 or len(payload) < 2:
            return self.frame(opcode, payload)
        cut = self._rng.randrange(1, len(payload))
        return (
            self.frame(opcode, payload[:cut], is_final=False)
            + self.frame(_PING, b"between")
            + self.frame(_CONTINUATION, payload[cut:])
        )

    def close_frame(self) -> bytes:
        """Return what begins a polite end."""
        return self.frame(_CLOSE, (1000).to_bytes(2, "big"))

    def frame(self, opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
        """Return a masked frame."""
        mask = self._rng.randbytes(4)
        size = len(payload)
        if size < 126:
            length = bytes((0x80 | size,))
        else:
            expect(size < 0x10000, "a simulated request is small")
            length = b"\xfe" + size.to_bytes(2, "big")
        key = int.from_bytes(mask * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
        masked = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
        return bytes(((0x80 if is_final else 0) | opcode,)) + length + mask + masked


class HttpStream(Wire):
    """`GET /v1/stream`: over HTTP/1.1 in chunks, over HTTP/1.0 up to the end of the connection."""

    def __init__(self, *, format_: str, chunked: bool) -> None:
        super().__init__(format_ if chunked else f"{format_}-1.0")
        self._format = format_
        self._chunked = chunked
        self._body = bytearray()

    def request(self, rng: random.Random, query: dict[str, str], cursor: str | None) -> bytes:
        headers = "Host: sim\r\n"
        if cursor is not None and self._format == "sse" and rng.random() < 0.5:
            headers += f"Last-Event-ID: {cursor}\r\n"
        elif cursor is not None:
            query = {**query, "cursor": cursor}
        if rng.random() < 0.5:
            query = {**query, "format": self._format}
        else:
            media = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}[self._format]
            headers += f"Accept: {media}\r\n"
        version = "1.1" if self._chunked else "1.0"
        return f"GET /v1/stream?{urlencode(query)} HTTP/{version}\r\n{headers}\r\n".encode()

    def opened(self) -> None:
        expect(self.status == 200, f"a stream opened with {self.status}")
        expect(self.headers.get("cache-control") == "no-store, no-transform", "it may be cached")
        is_chunked = self.headers.get("transfer-encoding") == "chunked"
        expect(is_chunked == self._chunked, f"chunked: {is_chunked}")

    def messages(self) -> Iterator[Received]:
        if self._chunked:
            self._unchunk()
        else:
            self._body += self._raw
            self._raw.clear()
        separator = b"\n\n" if self._format == "sse" else b"\n"
        while (end := self._body.find(separator)) >= 0:
            block = bytes(self._body[:end])
            del self._body[: end + len(separator)]
            if self._format == "ndjson":
                message = orjson.loads(block)
                yield message, message.get("cursor")
            elif (event := self._event(block)) is not None:
                yield event

    def _unchunk(self) -> None:
        raw = self._raw
        while (end := raw.find(b"\r\n")) >= 0:
            expect(not self.has_ended, "something behind the last chunk")
            size = int(raw[:end], 16)
            if len(raw) < end + 2 + size + 2:
                return
            expect(raw[end + 2 + size : end + 4 + size] == b"\r\n", "a chunk that does not end where it says")
            self._body += raw[end + 2 : end + 2 + size]
            del raw[: end + 4 + size]
            if not size:
                self.has_ended = True

    def _event(self, block: bytes) -> Received | None:
        """Dispatch an event as an `EventSource` does (WHATWG HTML, section 9.2.6)."""
        fields: dict[str, str] = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            if name:
                expect(name in ("event", "data", "id", "retry") and name not in fields, f"SSE field {name}")
                fields[name] = value.removeprefix(" ")
        if "data" not in fields:
            return None
        message: Message = orjson.loads(fields["data"])
        expect(message["type"] == fields.get("event"), f"event: {fields.get('event')}")
        if "id" in fields:
            expect(fields["id"] == message.get("cursor"), f"id: {fields['id']} is not the cursor")
        return message, fields.get("id")
