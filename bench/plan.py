"""What passes between `tapecast bench` and its load clients and publisher: one JSON object a line."""

from __future__ import annotations

import os
import selectors
import sys
from typing import TypeVar

import msgspec
from msgspec import Struct

from bench.workloads import Ages, Group

T = TypeVar("T")


class Plan(Struct, frozen=True):
    """The first line that a load client reads.

    Attributes:
        peer: whose dialect to speak; empty: the broker's.
        symbols: all there are, with their venue.
        share: which of the subscribers are this client's: those whose number modulo ``clients`` is it.
        at_once: connections that may be under way at a time.
    """

    host: str
    port: int
    groups: list[Group]
    symbols: list[str]
    peer: str = ""
    is_tls: bool = False
    ages: Ages = "ends"
    seed: int = 1
    share: int = 0
    clients: int = 1
    at_once: int = 200


class Command(Struct, frozen=True):
    """What a load client is to do next.

    Attributes:
        do: ``measure`` from now on; ``stop`` measuring; ``cut`` all connections and resume (storm);
            ``settle`` accounts and end.
        published: for a peer, how many ticks of each symbol were published.
    """

    do: str
    published: dict[str, int] = {}


class Report(Struct):
    """What a load client says.

    Attributes:
        event: ``progress``, ``live`` (all that can be are subscribed), ``resumed``, ``stopped``,
            ``waiting`` (only accounts of streams are missing), ``settled``.
        connected: live now.
        ticks, received, reads, frames: since measuring began, or in this second for ``progress``.
        busy: share of the time that it was at work, or kept from it by others; ``cpu``: of its own CPU time.
        took_s: what the event took.
        ages: recorded ages (`bench.histogram`), in this second for ``progress``.
    """

    event: str
    connected: int = 0
    ticks: int = 0
    received: int = 0
    reads: int = 0
    frames: int = 0
    busy: float = 0.0
    cpu: float = 0.0
    took_s: float = 0.0
    ages: list[tuple[int, int]] = []
    max_ns: int = 0
    accounts: Accounts | None = None
    storm: Storm | None = None
    failures: list[str] = []


class Accounts(Struct):
    """How the accounts of all subscriptions came out.

    Attributes:
        exact: the account adds up, and says what the client counted.
        wrong: it does not.
        unseen: there was none, because the session was evicted before.
        evicted, closed: sessions that ended early, as too slow or otherwise.
        lost: for a peer: ticks that were published and did not arrive.
        audited: accounts that were held against every tick, decoded (`bench.audit`).
        details: of the first few that are wrong.
    """

    exact: int = 0
    wrong: int = 0
    unseen: int = 0
    evicted: int = 0
    closed: int = 0
    offered: int = 0
    delivered: int = 0
    conflated: int = 0
    dropped: int = 0
    pending: int = 0
    lost: int = 0
    audited: int = 0
    details: list[str] = []

    def add(self, other: Accounts) -> None:
        """Count what another client has found as well."""
        for name in self.__struct_fields__:
            if name != "details":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.details = (self.details + other.details)[:10]


class Storm(Struct):
    """How a storm went.

    Attributes:
        connect_s, resume_s: until all were live, the first time and after the cut.
        refused: connections that were not let in at the first attempt.
        gaps: `gap` messages behind the resume.
        broken: sessions whose ``seq`` did not go on where it had stopped.
    """

    connect_s: float = 0.0
    resume_s: float = 0.0
    refused: int = 0
    gaps: int = 0
    broken: int = 0


def encode_line(message: Struct) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


def say(message: Struct) -> None:
    """Write a message to whoever started this process."""
    sys.stdout.buffer.write(encode_line(message))
    sys.stdout.buffer.flush()


def decode_line(line: bytes, type_: type[T]) -> T:
    """Return the message in a line. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(line, type=type_)


class Orders:
    """What is told to this process on its standard input."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._seen = b""

    def wait(self, type_: type[T]) -> T:
        """Wait for a line. Ends the process when nobody commands it any more."""
        while (line := self._line(None)) is None:
            continue
        return decode_line(line, type_)

    def next(self) -> Command | None:
        """Return the next command, if one has come. Ends the process when nobody commands it any more."""
        line = self._line(0)
        return None if line is None else decode_line(line, Command)

    def _line(self, timeout_s: float | None) -> bytes | None:
        if b"\n" not in self._seen:
            if not self._selector.select(timeout_s):
                return None
            data = os.read(0, 1 << 20)
            if not data:
                sys.exit(1)
            self._seen += data
        line, newline, rest = self._seen.partition(b"\n")
        if not newline:
            return None
        self._seen = rest
        return line
