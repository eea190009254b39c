"""Centrifugo 6, with its JSON protocol over a WebSocket from the client.

Source: https://centrifugal.dev/docs/server/configuration, https://centrifugal.dev/docs/server/server_api ("batch") and
https://centrifugal.dev/docs/transports/client_protocol, read in November 2026. Authentication is off.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.peers.base import Greeting, Launch, Peer, find, websocket
from bench.processes import free_ports
from bench.workloads import Group, Workload


class Centrifugo(Peer):
    """A channel for each symbol, publications in batches over its HTTP API."""

    name = "centrifugo"
    title = "Centrifugo, WebSocket, JSON"
    pings = False

    def missing(self) -> str | None:
        return None if find("centrifugo") else "centrifugo is not on the PATH (https://centrifugal.dev)"

    def unfit(self, workload: Workload) -> str | None:
        if any(not group.symbols_each for group in workload.groups):
            return "it has no wildcard channels"
        return None

    def version(self) -> str:
        done = subprocess.run(
            [find("centrifugo") or "", "version"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip().splitlines()[0] if done.stdout.strip() else self.title

    def launch(self, folder: Path, workload: Workload) -> Launch:
        (port,) = free_ports(1)
        path = folder / "centrifugo.json"
        configuration = {
            "http_server": {"address": "127.0.0.1", "port": port},
            # Its pings want an answer in its own protocol, which the load client does not speak.
            "client": {
                "insecure": True,
                "allowed_origins": ["*"],
                "ping_interval": "2h",
                "channel_limit": 10_000,
            },
            "http_api": {"insecure": True},
            "channel": {"without_namespace": {"allow_subscribe_for_client": True}},
        }
        path.write_text(json.dumps(configuration))
        return Launch(argv=[find("centrifugo") or "", "-c", str(path)], port=port, publish_port=port)

    def greeting(self, host: str, group: Group, symbols: Sequence[str]) -> Greeting:
        commands = [{"id": 1, "connect": {}}]
        commands += [
            {"id": number, "subscribe": {"channel": _channel(symbol)}}
            for number, symbol in enumerate(symbols, 2)
        ]
        opening = "\n".join(json.dumps(command, separators=(",", ":")) for command in commands)
        ready = b'{"id":%d,"subscribe"' % (len(symbols) + 1)
        return websocket(host, "/connection/websocket", opening.encode(), ready)

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        commands = b",".join(
            b'{"publish":{"channel":"%b","data":%b}}' % (_channel(symbol).encode(), raw)
            for symbol, raw in ticks
        )
        body = b'{"commands":[%b]}' % commands
        return b"POST /api/batch HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _channel(symbol: str) -> str:
    """Return a symbol as a channel; a colon would be the end of a namespace."""
    return symbol.replace(":", ".")
