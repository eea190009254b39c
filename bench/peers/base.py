"""What is known of a server that can be measured: how to start it, subscribe to it, and publish to it.

Only what is in here differs between the broker and its peers. Load client, ticks, rate, clock and arithmetic are the
same for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import wire
from bench.workloads import Group, Workload


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a server.

    Attributes:
        argv: the program and its arguments.
        port: where subscribers connect, on loopback.
        publish_port: where the publisher connects.
    """

    argv: Sequence[str]
    port: int
    publish_port: int


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a subscriber sends, and what shows that it is subscribed.

    Attributes:
        request: the HTTP request.
        opening: what follows once the request is answered.
        ready: bytes that show that the subscription is in force; empty: the answer to the request does.
    """

    request: bytes
    opening: bytes = b""
    ready: bytes = b""


class Peer:
    """One other server. A file in this folder defines one, and `bench.peers.PEERS` lists it.

    Attributes:
        name: as ``--peer`` has it.
        title: for the report.
        pings: whether it sends WebSocket pings; to find and answer them costs the load client a look at each frame.
    """

    name: str
    title: str
    pings = True

    def missing(self) -> str | None:
        """Return why it can't be run on this machine, and how to install it; ``None`` if it can."""
        raise NotImplementedError

    def unfit(self, workload: Workload) -> str | None:
        """Return why this workload says nothing about it; ``None`` if it does."""
        return None

    def version(self) -> str:
        """Return what is measured, e.g. ``nats-server: v2.9.10``. It is not `missing`."""
        return self.title

    def launch(self, folder: Path, workload: Workload) -> Launch:
        """Write its configuration into ``folder``, and return how to start it on free ports."""
        raise NotImplementedError

    def greeting(self, host: str, group: Group, symbols: Sequence[str]) -> Greeting:
        """Return how one subscriber subscribes; ``symbols`` are all there are if the group wants all."""
        raise NotImplementedError

    def hello(self) -> bytes:
        """Return what the publisher sends first."""
        return b""

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        """Return the bytes that publish these ticks, (symbol, JSON); answers to them are read and ignored."""
        raise NotImplementedError


def find(program: str) -> str | None:
    """Return where a program is, also in the folders that a user's PATH often lacks."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")


def websocket(host: str, path: str, opening: bytes, ready: bytes, *, subprotocol: str = "") -> Greeting:
    """Return a greeting over WebSocket whose opening is one text message."""
    request = wire.upgrade(host, path, subprotocol)
    return Greeting(request=request, opening=wire.frame(opening) if opening else b"", ready=ready)


class LinePeer(Peer):
    """A server written for this comparison: reads ``symbol tick`` lines, and a list of symbols as subscription."""

    def greeting(self, host: str, group: Group, symbols: Sequence[str]) -> Greeting:
        """See `Peer.greeting`; ``*`` stands for all symbols."""
        opening = " ".join(symbols) if group.symbols_each else "*"
        return websocket(host, "/", opening.encode(), b"subscribed")

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        """See `Peer.publish`."""
        return b"".join(b"%b %b\n" % (sym.encode(), raw) for sym, raw in ticks)
