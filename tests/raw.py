"""Clients that do exactly what a test says: bytes over TCP, HTTP/1.1 and WebSocket frames by hand.

They share no code with the broker, so that a mistake made on both sides can't hide.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Answer:
    """An HTTP response; ``headers`` with names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """A TCP connection; reading keeps what is not asked for yet."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self.sock = sock
        self.buffer = bytearray()

    async def send(self, data: bytes) -> None:
        while data:
            data = data[await self.sock.send(data) :]

    async def more(self) -> bool:
        """Read some; False at the end. A reset counts as an end."""
        try:
            data = await self.sock.recv(65536)
        except OSError:
            return False
        self.buffer += data
        return bool(data)

    async def take(self, count: int) -> bytes:
        """Return exactly so many bytes. Raises `EOFError` if they do not come."""
        while len(self.buffer) < count:
            if not await self.more():
                raise EOFError(bytes(self.buffer))
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def until(self, mark: bytes) -> bytes:
        """Return everything up to and including ``mark``. Raises `EOFError` if it does not come."""
        while (at := self.buffer.find(mark)) < 0:
            if not await self.more():
                raise EOFError(bytes(self.buffer))
        return await self.take(at + len(mark))

    async def rest(self) -> bytes:
        """Return everything up to the end."""
        while await self.more():
            pass
        return await self.take(len(self.buffer))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a response's head."""
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.strip().lower(): value.strip() for name, value in pairs}

    async def answer(self) -> Answer:
        """Read a response and its whole body, to the end of the connection if its length is not said."""
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while chunk := await self.chunk():
                body += chunk
        elif "content-length" in headers:
            body = await self.take(int(headers["content-length"]))
        else:
            body = await self.rest()
        return Answer(status, headers, body)

    async def chunk(self) -> bytes:
        """Return the next chunk of a body, empty for the last one (RFC 9112, section 7.1)."""
        size = int((await self.until(b"\r\n")).strip(), 16)
        data = await self.take(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@asynccontextmanager
async def connect(port: int, *, receive_buffer: int = 0) -> AsyncIterator[Raw]:
    """Open a TCP connection to the broker.

    Args:
        receive_buffer: size of the kernel's buffer in bytes; 0: as it comes. A small one makes a client
            that does not read felt early.
    """
    with trio.socket.socket() as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await sock.connect(("127.0.0.1", port))
        yield Raw(sock)


async def ask(port: int, request: bytes) -> Answer:
    """Send a request as it is, and return the answer to it."""
    async with connect(port) as raw:
        await raw.send(request)
        return await raw.answer()


async def get(port: int, target: str, **headers: str) -> Answer:
    """GET over HTTP/1.1; ``accept_encoding="x"`` becomes `Accept-Encoding: x`."""
    return await ask(port, request("GET", target, **headers))


def request(method: str, target: str, *, version: str = "1.1", **headers: str) -> bytes:
    """Return a request without a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: tapecast.test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def upgrade(path: str = "/v1/ws", **headers: str) -> bytes:
    """Return a WebSocket upgrade; a header given as ``""`` is left out."""
    fields = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    fields.update(headers)
    return request("GET", path, **{name: value for name, value in fields.items() if value})


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True
) -> bytes:
    """Return one WebSocket frame of a client (RFC 6455, section 5.2)."""
    length = len(payload)
    size, extra = length, b""
    if length >= 0x10000:
        size, extra = 127, length.to_bytes(8, "big")
    elif length > 125:
        size, extra = 126, length.to_bytes(2, "big")
    head = bytes((fin << 7 | reserved << 4 | opcode, masked << 7 | size)) + extra
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


class RawWebSocket:
    """An open WebSocket whose every frame the test writes and reads itself."""

    def __init__(self, raw: Raw, headers: dict[str, str]) -> None:
        self.raw = raw
        self.headers = headers

    async def send(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        await self.raw.send(frame(opcode, payload, **options))

    async def ask(self, op: str, id: int = 1, **fields: Any) -> None:
        """Send a request; the answer is among what comes."""
        await self.send(TEXT, json.dumps({"op": op, "id": id, **fields}).encode())

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload. Raises `EOFError` at the end."""
        first, size = await self.raw.take(2)
        assert first & 0xF0 == 0x80, "the broker sends each message in one frame, and uses no extension"
        assert not size & 0x80, "a server never masks"
        if size == 126:
            size = int.from_bytes(await self.raw.take(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.raw.take(8), "big")
        return first & 0x0F, await self.raw.take(size)

    async def receive(self) -> dict[str, Any]:
        """Return the next message, answering pings on the way."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == TEXT:
                message: dict[str, Any] = json.loads(payload)
                return message
            assert opcode == PING, (opcode, payload)
            await self.send(PONG, payload)

    async def receive_type(self, *kinds: str) -> dict[str, Any]:
        """Return the next message of these types, leaving out others."""
        while True:
            message = await self.receive()
            if message["type"] in kinds:
                return message

    async def closed(self) -> tuple[int, str]:
        """Leave out everything up to the close; return its code (1005: none) and its reason."""
        while True:
            opcode, payload = await self.receive_frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode()


@asynccontextmanager
async def websocket(
    port: int, path: str = "/v1/ws", *, receive_buffer: int = 0, **headers: str
) -> AsyncIterator[RawWebSocket]:
    """Open a WebSocket; nothing of the session has been read yet."""
    async with connect(port, receive_buffer=receive_buffer) as raw:
        await raw.send(upgrade(path, **headers))
        status, answered = await raw.head()
        assert status == 101, (status, await raw.rest())
        yield RawWebSocket(raw, answered)


@dataclass(frozen=True)
class Event:
    """A block of an SSE stream (WHATWG HTML, section 9.2.6)."""

    event: str
    data: str
    id: str | None
    retry: int | None
    is_comment: bool

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class RawStream:
    """An open `/v1/stream`."""

    def __init__(self, raw: Raw, headers: dict[str, str]) -> None:
        self.raw = raw
        self.headers = headers
        self._is_chunked = "transfer-encoding" in headers
        self._text = bytearray()

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._text.find(mark)) < 0:
            self._text += await self._more()
        taken = bytes(self._text[: at + len(mark)])
        del self._text[: at + len(mark)]
        return taken

    async def _more(self) -> bytes:
        if not self._is_chunked:
            return await self.raw.take(1)
        chunk = await self.raw.chunk()
        if not chunk:
            raise EOFError
        return chunk

    async def event(self) -> Event:
        """Return the next block. Raises `EOFError` at the end of the stream."""
        lines = (await self._until(b"\n\n")).decode().strip("\n").split("\n")
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(":"))
        assert set(fields) <= {"event", "data", "id", "retry"}, fields
        return Event(
            fields.get("event", ""),
            fields.get("data", ""),
            fields.get("id"),
            int(fields["retry"]) if "retry" in fields else None,
            not fields,
        )

    async def line(self) -> dict[str, Any]:
        """Return the next line of NDJSON. Raises `EOFError` at the end of the stream."""
        message: dict[str, Any] = json.loads(await self._until(b"\n"))
        return message

    async def receive(self) -> dict[str, Any]:
        """Return the next message, whatever the format."""
        if "ndjson" in self.headers["content-type"]:
            return await self.line()
        while (event := await self.event()).is_comment:
            pass
        message: dict[str, Any] = event.json
        assert message["type"] == event.event
        assert message.get("cursor") == event.id or event.id is None
        return message

    async def receive_type(self, *kinds: str) -> dict[str, Any]:
        """Return the next message of these types, leaving out others."""
        while True:
            message = await self.receive()
            if message["type"] in kinds:
                return message


@asynccontextmanager
async def stream(
    port: int, query: str, *, version: str = "1.1", receive_buffer: int = 0, **headers: str
) -> AsyncIterator[RawStream]:
    """Open `/v1/stream?query`; nothing of it has been read yet."""
    async with connect(port, receive_buffer=receive_buffer) as raw:
        await raw.send(request("GET", f"/v1/stream?{query}", version=version, **headers))
        status, answered = await raw.head()
        assert status == 200, (status, await raw.rest())
        yield RawStream(raw, answered)
