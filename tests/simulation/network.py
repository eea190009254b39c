"""A simulated network: bounded, throttled, and broken in every way that the real one breaks.

The broker's end of a connection is a `SimSocket`, which behaves as a non-blocking socket of the kernel
does; the other end is a `Link`, worked by callbacks. What is under way takes time, and room.
"""

from __future__ import annotations

import errno
import random
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import outcome
import trio

from tests.simulation.world import EPSILON, World


@dataclass(frozen=True, slots=True)
class Weather:
    """How a connection is.

    Attributes:
        latency_s: one way.
        bytes_per_s: downwards.
        room: bytes that may be under way to the client, in all buffers together.
        room_up: the same to the broker; what does not fit waits with the client.
        short: how likely a write takes only a part of what it could.
        again: how likely a write is refused though there is room.
        segment: the most bytes that reach the broker in one piece.
    """

    latency_s: float = 0.001
    bytes_per_s: float = 1e7
    room: int = 16_384
    room_up: int = 4096
    short: float = 0.0
    again: float = 0.0
    segment: int = 1 << 20


class Far(Protocol):
    """Who is at the other end of a connection."""

    def on_data(self, data: bytes) -> None: ...
    def on_eof(self) -> None: ...
    def on_reset(self) -> None: ...


class Kernel:
    """All sockets of the broker, and Trio's way to wait for them (`broker.runtime.network.Waiting`).

    Attributes:
        open: those that the broker has not closed.
        send_cost_s: how long each write keeps the broker busy.
    """

    def __init__(self, world: World, *, send_cost_s: float) -> None:
        self.world = world
        self.open: set[Any] = set()
        self.send_cost_s = send_cost_s

    async def wait_readable(self, sock: Any, /) -> None:
        await _wait(sock, "reader", sock.is_readable)

    async def wait_writable(self, sock: Any, /) -> None:
        await _wait(sock, "writer", sock.is_writable)

    def notify_closing(self, sock: Any, /) -> None:
        for side in ("reader", "writer"):
            _wake(sock, side, outcome.Error(trio.ClosedResourceError("closed meanwhile")))


async def _wait(sock: Any, side: str, is_ready: Callable[[], bool]) -> None:
    if sock.is_closed:
        raise trio.ClosedResourceError("this socket is closed")
    if is_ready():
        await trio.lowlevel.checkpoint()
        return
    if getattr(sock, side) is not None:
        raise trio.BusyResourceError("another task is waiting for this socket")
    setattr(sock, side, trio.lowlevel.current_task())

    def give_up(_: object) -> trio.lowlevel.Abort:
        setattr(sock, side, None)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(give_up)


def _wake(sock: Any, side: str, result: outcome.Outcome[None] | None = None) -> None:
    task = getattr(sock, side)
    if task is not None:
        setattr(sock, side, None)
        trio.lowlevel.reschedule(task, result or outcome.Value(None))


class SimListener:
    """Where clients knock (`broker.runtime.network.Listener`)."""

    is_closed = False

    def __init__(self, kernel: Kernel, rng: random.Random) -> None:
        self.reader: trio.lowlevel.Task | None = None
        self.writer = None
        self._kernel = kernel
        self._rng = rng
        self._waiting: deque[tuple[SimSocket, str]] = deque()

    def fileno(self) -> int:
        return 3

    def is_readable(self) -> bool:
        return bool(self._waiting)

    def connect(self, far: Far, weather: Weather, address: str) -> Link:
        """Open a connection from ``address``; return its far end."""
        sock = SimSocket(self._kernel, weather, random.Random(self._rng.getrandbits(64)))
        sock.link = Link(sock, far)
        self._kernel.open.add(sock)
        self._waiting.append((sock, address))
        _wake(self, "reader")
        return sock.link

    def accept(self) -> tuple[SimSocket, Any]:
        if not self._waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody is waiting")
        if self._rng.random() < 0.01:
            raise OSError(self._rng.choice((errno.ECONNABORTED, errno.EMFILE)), "not this time")
        sock, address = self._waiting.popleft()
        return sock, (address, 40_000)


class SimSocket:
    """The broker's end of a connection, as a non-blocking socket of the kernel behaves."""

    link: Link

    def __init__(self, kernel: Kernel, weather: Weather, rng: random.Random) -> None:
        self.kernel = kernel
        self.weather = weather
        self.rng = rng
        self.reader: trio.lowlevel.Task | None = None
        self.writer: trio.lowlevel.Task | None = None
        self.is_closed = False
        #: The peer has reset the connection, or given it up.
        self.is_broken = False
        self.can_send = True
        self.inbox = bytearray()
        self.at_end = False
        self._lingers = True

    @property
    def family(self) -> int:
        return socket.AF_INET

    def fileno(self) -> int:
        return -1 if self.is_closed else 4

    def setblocking(self, flag: bool, /) -> None:
        assert not flag

    def setsockopt(self, level: int, name: int, value: int | bytes, /) -> None:
        if (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._lingers = False

    def is_readable(self) -> bool:
        return bool(self.inbox) or self.at_end or self.is_broken

    def is_writable(self) -> bool:
        return self.is_broken or not self.can_send or self.link.has_room()

    def send(self, data: bytes | memoryview, /) -> int:
        self._check_open()
        self.kernel.world.clock.spend(self.kernel.send_cost_s)
        if self.is_broken or not self.can_send:
            raise BrokenPipeError(errno.EPIPE, "the peer is gone")
        weather, room = self.weather, self.link.room()
        if not room or (weather.again and self.rng.random() < weather.again):
            raise BlockingIOError(errno.EAGAIN, "no room")
        size = min(room, len(data))
        if weather.short and self.rng.random() < weather.short:
            size = self.rng.randint(1, size)
        self.link.carry(bytes(data[:size]))
        return size

    def recv(self, size: int, /) -> bytes:
        self._check_open()
        if self.is_broken:
            raise ConnectionResetError(errno.ECONNRESET, "the peer has reset the connection")
        if self.inbox:
            size = min(size, len(self.inbox))
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            self.link.pump_up()
            return data
        if self.at_end:
            return b""
        raise BlockingIOError(errno.EAGAIN, "nothing came")

    def shutdown(self, how: int, /) -> None:
        self._check_open()
        if self.is_broken:
            raise OSError(errno.ENOTCONN, "the peer is gone")
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.inbox.clear()
            self.at_end = True
            _wake(self, "reader")
        if how in (socket.SHUT_WR, socket.SHUT_RDWR) and self.can_send:
            self.can_send = False
            _wake(self, "writer")
            self.link.end()

    def close(self) -> None:
        if self.is_closed:
            return
        # Unread input makes a close a reset (RFC 2525, section 2.17).
        is_reset = not self._lingers or bool(self.inbox)
        self.is_closed = True
        self.kernel.open.discard(self)
        if self.is_broken:
            return
        if is_reset:
            self.link.reset()
        elif self.can_send:
            self.can_send = False
            self.link.end()

    def arrived(self, data: bytes) -> None:
        """Take what the client sent."""
        if self.is_closed or self.is_broken or self.at_end:
            return
        self.inbox += data
        _wake(self, "reader")

    def ended(self) -> None:
        """Take the client's end of input."""
        self.at_end = True
        _wake(self, "reader")

    def broke(self) -> None:
        """Take the client's reset."""
        if not self.is_closed:
            self.is_broken = True
            self.inbox.clear()
            _wake(self, "reader")
            _wake(self, "writer")

    def _check_open(self) -> None:
        if self.is_closed:
            raise OSError(errno.EBADF, "this socket is closed")


class Link:
    """The client's end of a connection, and what is under way in both directions.

    Attributes:
        is_stalled: the client reads nothing for now.
        sip: bytes that the client reads at a time, and the pause behind them in seconds; ``None``: all at once.
    """

    def __init__(self, sock: SimSocket, far: Far) -> None:
        self._sock = sock
        self._far = far
        self._world = sock.kernel.world
        self._down: deque[tuple[float, bytes]] = deque()
        self._down_bytes = 0
        self._is_due = False
        self._last_arrival = 0.0
        self._down_ends = False
        self._up: deque[bytes] = deque()
        self._up_bytes = 0
        self._up_is_due = False
        self._up_ends = False
        self.is_stalled = False
        self.sip: tuple[int, float] | None = None
        #: Nothing passes any more, in either direction, and nobody is told.
        self.has_vanished = False
        #: The client has gone: what comes for it is answered with a reset.
        self.is_closed = False
        self.is_over = False

    # ── down: from the broker to the client ──────────────────────────────────────────────────────

    def room(self) -> int:
        """Return how many bytes the kernel still takes."""
        return max(0, self._sock.weather.room - self._down_bytes)

    def has_room(self) -> bool:
        """Tell whether it is worth while to write again: a third is free, as in the kernel."""
        return self._down_bytes * 3 <= self._sock.weather.room * 2

    def carry(self, data: bytes) -> None:
        """Take what the broker sends."""
        if self.is_closed:
            self._world.after(self._sock.weather.latency_s, self._refuse)
            return
        weather = self._sock.weather
        self._last_arrival = max(self._last_arrival, self._world.now + weather.latency_s)
        self._last_arrival += len(data) / weather.bytes_per_s
        self._down.append((self._last_arrival, data))
        self._down_bytes += len(data)
        self._deliver_later(self._down[0][0] - self._world.now)

    def end(self) -> None:
        """Take the broker's end: the client has it behind what is under way."""
        self._down_ends = True
        self._deliver_later(self._sock.weather.latency_s)

    def reset(self) -> None:
        """Take the broker's reset: what is under way may be lost."""
        if self._sock.rng.random() < 0.5:
            self._down.clear()
        self._world.after(self._sock.weather.latency_s, self._reset_arrives)

    def _reset_arrives(self) -> None:
        if not (self.is_over or self.is_closed or self.has_vanished):
            self._hand_over(1 << 30)
            if not self.is_over:
                self.is_over = True
                self._far.on_reset()

    def _refuse(self) -> None:
        self._sock.broke()

    def _deliver_later(self, delay_s: float) -> None:
        if not (self._is_due or self.is_stalled or self.has_vanished or self.is_over):
            self._is_due = True
            self._world.after(max(0.0, delay_s), self._deliver)

    def _deliver(self) -> None:
        self._is_due = False
        if self.is_stalled or self.has_vanished or self.is_over or self.is_closed:
            return
        most, pause = self.sip or (1 << 30, 0.0)
        self._hand_over(most)
        if self._down:
            self._deliver_later(max(pause, self._down[0][0] - self._world.now))
        elif self._down_ends and not self.is_over and not self.is_closed:
            self.is_over = True
            self._far.on_eof()

    def _hand_over(self, most: int) -> None:
        taken = []
        now = self._world.now + EPSILON
        while self._down and most > 0 and self._down[0][0] <= now:
            when, data = self._down.popleft()
            if len(data) > most:
                self._down.appendleft((when, data[most:]))
                data = data[:most]
            most -= len(data)
            self._down_bytes -= len(data)
            taken.append(data)
        if not taken:
            return
        if self.has_room():
            _wake(self._sock, "writer")
        self._far.on_data(b"".join(taken))

    # ── up: from the client to the broker ────────────────────────────────────────────────────────

    def send(self, data: bytes) -> None:
        """Send as the client; what does not fit waits here."""
        if self.has_vanished or self.is_closed or self._up_ends:
            return
        most = self._sock.weather.segment
        if len(data) <= most:
            self._up.append(data)
        else:
            at = 0
            while at < len(data):
                size = self._sock.rng.randint(1, most)
                self._up.append(data[at : at + size])
                at += size
        self._send_later()

    def pump_up(self) -> None:
        """Go on: the broker has read."""
        if self._up:
            self._send_later()

    def _send_later(self) -> None:
        if not self._up_is_due:
            self._up_is_due = True
            self._world.after(self._sock.weather.latency_s, self._arrive)

    def _arrive(self) -> None:
        self._up_is_due = False
        sock = self._sock
        if self.has_vanished or sock.is_broken:
            return
        if self._up and len(sock.inbox) < sock.weather.room_up:
            sock.arrived(self._up.popleft())
        if self._up:
            if len(sock.inbox) < sock.weather.room_up:
                self._send_later()
        elif self._up_ends:
            sock.ended()

    def half_close(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self._up_ends = True
        self._send_later()

    def close(self) -> None:
        """Leave: nothing more is sent or read. What was under way is answered with a reset."""
        if not self.is_closed:
            self.half_close()
            self.is_closed = True
            if self._down:
                self._world.after(self._sock.weather.latency_s, self._refuse)

    def abort(self) -> None:
        """Leave with a reset, in the middle of whatever is going on."""
        if not self.is_closed:
            self.is_closed = True
            self._up.clear()
            self._world.after(self._sock.weather.latency_s, self._refuse)

    def vanish(self) -> None:
        """Leave without a word: what is sent from now on goes nowhere."""
        self.has_vanished = True

    def resume(self) -> None:
        """Read again, as fast as the network allows."""
        self.is_stalled, self.sip = False, None
        if self._down or self._down_ends:
            self._deliver_later(0.0)

    def clear_up(self) -> None:
        """Have good weather from now on."""
        self._sock.weather = Weather(room=1 << 16)
        self.resume()
