"""nats-server with its WebSocket listener, as its documentation configures it.

Source: https://docs.nats.io/running-a-nats-service/configuration/websocket and
https://docs.nats.io/reference/reference-protocols/nats-protocol, read for version 2.9. Compression is off, as
it is by default.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import wire
from bench.peers.base import Greeting, Launch, Peer, find
from bench.processes import free_ports
from bench.workloads import Group, Workload

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench","version":"1","protocol":0}\r\n'


class Nats(Peer):
    """A subject for each symbol; core NATS, at most once."""

    name = "nats"
    title = "nats-server, WebSocket"
    #: It has pings of its own, in its protocol; see the interval below.
    pings = False

    def missing(self) -> str | None:
        return (
            None
            if find("nats-server")
            else "nats-server is not on the PATH (Debian: apt install nats-server)"
        )

    def version(self) -> str:
        done = subprocess.run(
            [find("nats-server") or "", "--version"], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def launch(self, folder: Path, workload: Workload) -> Launch:
        port, publish_port = free_ports(2)
        path = folder / "nats.conf"
        # The ping interval is longer than a run: the load client answers none of NATS's own pings.
        path.write_text(
            f'listen: "127.0.0.1:{publish_port}"\nping_interval: "2h"\n'
            f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n'
        )
        return Launch(argv=[find("nats-server") or "", "-c", str(path)], port=port, publish_port=publish_port)

    def greeting(self, host: str, group: Group, symbols: Sequence[str]) -> Greeting:
        subjects = symbols if group.symbols_each else ["*"]
        asks = b"".join(b"SUB tick.%b %d\r\n" % (s.encode(), n) for n, s in enumerate(subjects, 1))
        opening = wire.frame(_CONNECT + asks + b"PING\r\n", wire.BINARY)
        return Greeting(request=wire.upgrade(host, "/"), opening=opening, ready=b"PONG\r\n")

    def hello(self) -> bytes:
        return _CONNECT

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        return b"".join(b"PUB tick.%b %d\r\n%b\r\n" % (sym.encode(), len(raw), raw) for sym, raw in ticks)
