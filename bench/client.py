"""One subscriber of the load: dials, subscribes, counts what it reads, and at the end compares accounts."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TypeAlias

from bench import wire
from bench.audit import Recording
from bench.counting import Ages, Count, Counter
from bench.peers.base import Greeting
from bench.workloads import Group

READ_BYTES = 256 << 10
#: Enough of what was read before for an account that was cut in two.
_CARRY_BYTES = 512
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)

Address: TypeAlias = tuple[str, int]


class State(Enum):
    """Where a client stands."""

    DIALING = "dialing"
    SECURING = "securing"
    ASKING = "asking"
    OPENING = "opening"
    LIVE = "live"
    ENDING = "ending"
    CLOSED = "closed"


class Client:
    """One connection.

    Attributes:
        is_stalled: reads nothing on purpose, once it is live.
        failure: why it never became live, or was closed; empty if neither.
        was_evicted: whether the broker said that it was too slow.
        last: what it read last.
        recording: what it reads from its opening on, if that is to be looked through at the end.
        ledger: the broker's account, once it came; ``at_ledger``: ticks counted up to there.
    """

    __slots__ = (
        "_carry",
        "_received",
        "_tls",
        "at_ledger",
        "count",
        "counter",
        "failure",
        "greeting",
        "group",
        "is_stalled",
        "last",
        "ledger",
        "recording",
        "recv",
        "sock",
        "state",
        "symbols",
        "unsent",
        "walk",
        "was_evicted",
    )

    def __init__(
        self,
        group: Group,
        symbols: Sequence[str],
        greeting: Greeting,
        counter: Counter,
        *,
        is_stalled: bool,
        tls: ssl.SSLContext | None,
        walks: bool,
    ) -> None:
        """Nothing is opened yet; ``walks``: its frames are followed, so that pings are answered."""
        self.group = group
        self.symbols = symbols
        self.greeting = greeting
        self.is_stalled = is_stalled
        self.count = Count()
        self.state = State.CLOSED
        self.failure = ""
        self.was_evicted = False
        self.last = b""
        self.recording: Recording | None = None
        self.ledger: dict[str, int] | None = None
        self.at_ledger = 0
        self.unsent = b""
        self.walk = wire.Walk() if walks else None
        self.counter = counter
        self._tls = tls
        self._received = b""
        self._carry = b""

    # ── until it is live ─────────────────────────────────────────────────────────────────────────

    def dial(self, address: Address) -> None:
        """Begin to connect."""
        self.sock: socket.socket = socket.socket(_family(address[0]), socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.recv: Callable[[int], bytes] = self.sock.recv
        self.state = State.DIALING
        self.count = Count()
        self._received = b""
        self.walk = wire.Walk() if self.walk is not None else None
        code = self.sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.close(f"can't connect: {errno.errorcode.get(code, code)}")

    @property
    def wants_to_write(self) -> bool:
        """Whether it waits for its socket to take something."""
        return self.state is State.DIALING or bool(self.unsent)

    def advance(self) -> bytes:
        """Go on, as its socket is ready; return what came behind the opening, once it is live."""
        try:
            if self.state is State.DIALING:
                self._connected()
            if self.state is State.SECURING:
                self._secure()
            if self.unsent:
                self.flush()
            if self.state in (State.ASKING, State.OPENING):
                return self._receive()
        except _WOULD_BLOCK:
            return b""
        except OSError as exc:
            self.close(exc.strerror or str(exc))
        return b""

    def _connected(self) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, errno.errorcode.get(code, str(code)))
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, do_handshake_on_connect=False)
            self.recv = self.sock.recv
            self.state = State.SECURING
        else:
            self._ask()

    def _secure(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.do_handshake()
        self._ask()

    def _ask(self) -> None:
        self.state = State.ASKING
        self.send(self.greeting.request)

    def _receive(self) -> bytes:
        data = self.recv(READ_BYTES)
        if not data:
            self.close(f"closed while {self.state.value}: {self._received[:200]!r}")
            return b""
        self._received += data
        if self.state is State.ASKING:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return b""
            status = head.split(b"\r\n", 1)[0].split(b" ")
            if len(status) < 2 or status[1] not in (b"101", b"200"):
                self.close(f"refused: {(head.splitlines()[0] + b' ' + rest)[:300].decode('latin-1')}")
                return b""
            self._received = rest
            self.state = State.OPENING
            self.send(self.greeting.opening)
        return self._opened()

    def _opened(self) -> bytes:
        if self.greeting.ready not in self._received:
            # A refusal is one message; the welcome and the like are let through.
            if b'"type":"error"' in self._received or b"-ERR" in self._received:
                self.close(f"refused: {self._received[-300:]!r}")
            return b""
        rest, self._received = self._received, b""
        self.state = State.LIVE
        return rest

    # ── while it is live ─────────────────────────────────────────────────────────────────────────

    def send(self, data: bytes) -> None:
        """Send, or keep what the socket does not take."""
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        """Send what is kept, as far as the socket takes it."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent) :] if self.unsent else b""
        except (*_WOULD_BLOCK, ssl.SSLWantWriteError):
            return
        except OSError as exc:
            self.close(exc.strerror or str(exc))

    def close(self, failure: str = "") -> None:
        """Close the connection; what it read last says whether it was evicted."""
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.failure = failure
            self.was_evicted = b'"code":4408' in self.last or b"\xa4code\xcd\x118" in self.last
            self.sock.close()

    # ── at the end ───────────────────────────────────────────────────────────────────────────────

    def leave(self, farewell: bytes) -> None:
        """Begin to wait for the account; ``farewell`` asks for it, where that is possible."""
        self.state = State.ENDING
        self.send(farewell)

    def look_for_ledger(self, data: bytes) -> None:
        """Take the first account in what was read; ``count`` has counted the read already."""
        seen = self._carry + data
        found = self.counter.ledger(seen)
        if found is None:
            self._carry = seen[-_CARRY_BYTES:]
            return
        start, self.ledger = found
        behind = Count()
        self.counter.read(behind, seen[start:], 0, Ages())
        self.at_ledger = self.count.ticks - behind.ticks


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
