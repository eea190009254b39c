"""The broker's side: how its subscribers subscribe and leave, and the configuration it is started with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from bench import wire
from bench.peers.base import Greeting
from bench.workloads import Group, Workload

_pack = msgspec.msgpack.encode
_json = msgspec.json.encode


def greeting(host: str, group: Group, symbols: Sequence[str], cursor: str = "") -> Greeting:
    """Return how one subscriber subscribes; ``cursor``: where it resumes."""
    names = list(symbols) if group.symbols_each else ["*"]
    if group.transport != "ws":
        return Greeting(request=_stream_request(host, group, names, cursor), ready=b'"op":"subscribe"')
    fields: dict[str, Any] = {"op": "subscribe", "id": 1, "ch": group.channel, "symbols": names}
    fields |= {"cursor": cursor} if cursor else {"snapshot": False}
    delivery: dict[str, Any] = {}
    if group.mode:
        delivery["mode"] = group.mode
    if group.queue:
        delivery["queue"] = group.queue
    if group.max_rate:
        delivery["max_rate"] = group.max_rate
    if delivery:
        fields["delivery"] = delivery
    ready = b"\xa2op\xa9subscribe" if group.codec == "msgpack" else b'"op":"subscribe"'
    subprotocol = f"tapecast.v1.{group.codec}"
    return Greeting(
        request=wire.upgrade(host, "/v1/ws", subprotocol), opening=_frame(group, fields), ready=ready
    )


def farewell(group: Group) -> bytes:
    """Return the request whose answer carries the final account, for a WebSocket."""
    return _frame(group, {"op": "unsubscribe", "id": 2, "sub": 1})


def _frame(group: Group, fields: dict[str, Any]) -> bytes:
    if group.codec == "msgpack":
        return wire.frame(_pack(fields), wire.BINARY)
    return wire.frame(_json(fields))


def _stream_request(host: str, group: Group, names: Sequence[str], cursor: str) -> bytes:
    query = f"ch={group.channel}&symbols={quote(','.join(names), safe=':,*')}&format={group.transport}"
    query += f"&cursor={cursor}" if cursor else "&snapshot=false"
    if group.mode:
        query += f"&mode={group.mode}"
    if group.queue:
        query += f"&queue={group.queue}"
    if group.max_rate:
        query += f"&max_rate={group.max_rate:g}"
    return f"GET /v1/stream?{query} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def configuration(workload: Workload, *, seed: int, certificate: tuple[str, str] | None = None) -> str:
    """Return a ``config.toml``: every key at its default but what the workload itself asks for."""
    server = {"port": 0}
    text = "".join(f"{key} = {value}\n" for key, value in server.items())
    if certificate:
        text += f"tls_cert = {json.dumps(certificate[0])}\ntls_key = {json.dumps(certificate[1])}\n"
    # A storm leaves the sessions that were cut for a moment beside those that come back.
    sessions = max(10_000, 2 * workload.subscribers if workload.kind == "storm" else workload.subscribers)
    return f"""\
[server]
{text}
[limits]
sessions = {sessions}

[log]
format = "json"

[[feeds]]
type = "simulated"
symbols = {workload.symbols}
ticks_per_second = {workload.ticks_per_second}
channels = {json.dumps(list(workload.channels))}
seed = {seed}
stamp = "{"due" if workload.is_paced else "made"}"
"""
