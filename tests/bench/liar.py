"""A proxy before a broker that loses, doubles or invents what no one would notice without an account."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

Lie = Callable[[dict[str, Any]], None]


def lose_a_tick(message: dict[str, Any]) -> None:
    """Leave out the first tick of an update that has two."""
    if message["type"] == "update" and len(message["data"]) > 1:
        del message["data"][0]


def double_a_tick(message: dict[str, Any]) -> None:
    """Repeat the first tick of an update."""
    if message["type"] == "update":
        message["data"].insert(0, message["data"][0])


def swap_a_tick(message: dict[str, Any]) -> None:
    """Send a tick twice and another not at all, so that the count is right."""
    if message["type"] == "update" and len(message["data"]) > 1:
        message["data"][0] = message["data"][1]


def hide_a_drop(message: dict[str, Any]) -> None:
    """Count one more as offered in the final account than it adds up to."""
    if message["type"] == "ack" and message.get("ledger"):
        message["ledger"]["offered"] += 1


@asynccontextmanager
async def open_liar(host: str, port: int, lie: Lie) -> AsyncIterator[int]:
    """Run a proxy on a free port of loopback, which it yields; it changes one message a connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, partial(_relay, host, port, lie), 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _relay(host: str, port: int, lie: Lie, client: trio.SocketStream) -> None:
    async with client, await trio.open_tcp_stream(host, port) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, server, nursery.cancel_scope)
            nursery.start_soon(_tamper, server, client, lie, nursery.cancel_scope)


async def _copy(source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except trio.BrokenResourceError:
        pass
    scope.cancel()


async def _tamper(
    source: trio.SocketStream, target: trio.SocketStream, lie: Lie, scope: trio.CancelScope
) -> None:
    seen, has_head, has_lied = b"", False, False
    try:
        async for data in source:
            seen += data
            if not has_head:
                head, blank, seen = seen.partition(b"\r\n\r\n")
                if b"101" not in head:
                    await target.send_all(head + blank + seen)
                    seen = b""
                    continue
                await target.send_all(head + blank)
                has_head = True
            while (size := _size(seen)) and size <= len(seen):
                frame, seen = seen[:size], seen[size:]
                if frame[0] == 0x81 and not has_lied:
                    changed = _changed(frame, lie)
                    has_lied, frame = changed != frame, changed
                await target.send_all(frame)
    except trio.BrokenResourceError:
        pass
    scope.cancel()


def _size(data: bytes) -> int:
    """Return the size of the frame at the beginning, 0 if its head is cut (RFC 6455, section 5.2)."""
    if len(data) < 4:
        return 0
    if data[1] < 126:
        return 2 + data[1]
    width = 2 if data[1] == 126 else 8
    return 2 + width + int.from_bytes(data[2 : 2 + width], "big") if len(data) >= 2 + width else 0


def _changed(frame: bytes, lie: Lie) -> bytes:
    start = {126: 4, 127: 10}.get(frame[1], 2)
    message = json.loads(frame[start:])
    before = json.dumps(message)
    lie(message)
    if json.dumps(message) == before:
        return frame
    payload = json.dumps(message, separators=(",", ":")).encode()
    return bytes((0x81, 127)) + len(payload).to_bytes(8, "big") + payload
