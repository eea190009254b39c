"""The socket we own: libraries write to it as to any Trio stream, the fan-out without waiting.

All that is written goes through one queue, so data, pongs and closes never interleave, and cancelling a
`send_all` can't leave half a frame: what was handed over is sent, or the connection dies. The kernel is
written to at once while it takes what it is given; only when it refuses does a task wait for it. That
task has a deadline: a peer that does not take `PROGRESS_BYTES` (or all that waits) in time is given up.

TLS goes through memory BIOs on the same path, so nothing here or above needs to know of it.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from broker.runtime.network import KERNEL, Socket, Waiting

#: What a peer has to take within one write deadline for the next one to begin.
PROGRESS_BYTES = 64 << 10
#: Unsent bytes that the kernel may hold. Without it a stalled client swallows 4.3 MB there, which can't be
#: conflated any more; with it 174 kB.
NOTSENT_LOWAT = 16 << 10
RECEIVE_BYTES = 64 << 10
#: Where the peer's window stands in Linux's ``struct tcp_info``.
SND_WND = struct.Struct("I")
SND_WND_OFFSET = 228


class Wire(Protocol):
    """What the fan-out needs of a connection; `Stream` is one, a simulated network another."""

    #: Called, without waiting, when the kernel refuses something.
    on_blocked: Callable[[], None]

    #: Called, without waiting, when what the kernel had refused has been taken.
    on_drained: Callable[[], None]

    #: Whether something handed over still waits for the kernel.
    is_blocked: bool

    @property
    def pending_bytes(self) -> int:
        """How much waits for the kernel."""

    def offer(self, data: bytes) -> None:
        """Send all of ``data``, now or as soon as the peer takes it. Never waits, never raises."""


def _ignore() -> None:
    return None


class _Hot:
    """Slots of a base class come first: what every write looks at shares a line of the cache."""

    __slots__ = ("_is_free", "_send", "_tls", "is_blocked")


class Stream(_Hot, trio.abc.HalfCloseableStream):
    """A connected, non-blocking TCP socket, plain or with TLS on top.

    Attributes:
        on_blocked, on_drained: as in `Wire`.
        on_dead: called once, without waiting, when the connection is found dead or given up; what waited for
            the kernel can still be counted then.
        missed_deadline: whether it was given up because a write passed its deadline, ours or the kernel's.
        late_s: how long after our deadline that was.
        last_progress: when the kernel last took something it had refused before; seconds of Trio's clock.
    """

    # Used for every write: see `broker.core.outbox.Outbox`.
    __slots__ = (
        "__weakref__",
        "_drained",
        "_is_closed",
        "_is_dead",
        "_is_read_out",
        "_pending",
        "_pending_bytes",
        "_spawn",
        "_tls_in",
        "_tls_out",
        "_waiting",
        "_write_deadline_s",
        "last_progress",
        "late_s",
        "missed_deadline",
        "on_blocked",
        "on_dead",
        "on_drained",
        "socket",
    )

    def __init__(
        self,
        sock: Socket,
        *,
        write_deadline_s: float,
        spawn: Callable[[Callable[[], Awaitable[None]]], object],
        tls: ssl.SSLContext | None = None,
        waiting: Waiting = KERNEL,
    ) -> None:
        """Take over ``sock``.

        Args:
            spawn: starts an async function in a nursery that outlives the stream.
            tls: of a server; `do_handshake` must come before anything else.
            waiting: how to wait for ``sock``.
        """
        sock.setblocking(False)
        self.socket = sock
        self._send = sock.send
        #: Plain, alive, and nothing waits: for nearly every write there is nothing else to be looked at.
        self._is_free = tls is None
        self.on_blocked: Callable[[], None] = _ignore
        self.on_drained: Callable[[], None] = _ignore
        self.on_dead: Callable[[], None] = _ignore
        #: As in `Wire`; an attribute, because it is asked once per write.
        self.is_blocked = False
        self.missed_deadline = False
        self.late_s = 0.0
        self.last_progress = -1.0
        self._write_deadline_s = write_deadline_s
        self._spawn = spawn
        self._waiting = waiting
        # Lists, here and elsewhere, of what a session seldom has: an empty deque takes 760 bytes.
        self._pending: list[memoryview] = []
        self._pending_bytes = 0
        self._drained: trio.Event | None = None
        self._is_closed = False
        self._is_dead = False
        #: Whether the kernel had nothing more to be read when we last looked.
        self._is_read_out = False
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._tls_in, self._tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = tls.wrap_bio(self._tls_in, self._tls_out, server_side=True)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    @property
    def is_dead(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._is_dead or self._is_closed

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    def offer(self, data: bytes) -> None:
        sent = 0
        if self._is_free:
            try:
                sent = self._send(data)
                if sent == len(data):
                    return
            except BlockingIOError:
                pass
            except OSError as exc:
                self._broke(exc)
                return
        elif self._tls is not None:
            data = self._encrypt(data)
        self._offer_raw(data, sent)

    def _offer_raw(self, data: bytes, sent: int = 0) -> None:
        """Send the rest of what has been sent up to ``sent``, or keep it."""
        if self._is_dead or self._is_closed or not data:
            return
        if not self.is_blocked:
            try:
                # The kernel takes `NOTSENT_LOWAT` at a time, and has often sent that by now: asking again is
                # ten times cheaper than a task that waits.
                while sent != len(data):
                    sent += self.socket.send(memoryview(data)[sent:])
                return
            except BlockingIOError:
                pass
            except OSError as exc:
                self._broke(exc)
                return
            self._drained = trio.Event()
            self._spawn(self._drain)
            self.on_blocked()
        self.is_blocked, self._is_free = True, False
        self._pending.append(memoryview(data)[sent:])
        self._pending_bytes += len(data) - sent

    async def _drain(self) -> None:
        """Write what waits, as the kernel takes it, and give up at the deadline."""
        with trio.CancelScope(deadline=trio.current_time() + self._write_deadline_s) as scope:
            goal = self._pending_bytes - PROGRESS_BYTES
            while self._pending and not self.is_dead:
                try:
                    await self._waiting.wait_writable(self.socket)
                except (trio.ClosedResourceError, OSError):
                    break
                self._write_some()
                self.last_progress = trio.current_time()
                if self._pending_bytes <= goal:
                    goal = self._pending_bytes - PROGRESS_BYTES
                    scope.deadline = self.last_progress + self._write_deadline_s
        if self._pending and not self.is_dead:
            self.missed_deadline = scope.cancelled_caught
            self.late_s = max(0.0, trio.current_time() - scope.deadline)
            self._die()
        if self._drained is not None:
            self._drained.set()
        if not self.is_dead:
            self.on_drained()

    def _write_some(self) -> None:
        while self._pending:
            data = self._pending[0]
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                return
            except OSError as exc:
                self._broke(exc)
                return
            self._pending_bytes -= sent
            if sent < len(data):
                self._pending[0] = data[sent:]
                return
            self._pending.pop(0)
        self.is_blocked, self._is_free = False, self._tls is None

    def _broke(self, exc: OSError) -> None:
        """Die of what the kernel says."""
        if exc.errno == errno.ETIMEDOUT and not self.is_dead:
            self.missed_deadline = _has_closed_window(self.socket)
        self._die()

    def _die(self) -> None:
        """Nothing can be sent any more; whoever reads gets the end."""
        if self.is_dead:
            return
        self._is_dead, self._is_free = True, False
        with suppress(OSError):
            # Wakes the reader, and tells the peer at once instead of after its next write.
            self.socket.shutdown(socket.SHUT_RDWR)
        self.on_dead()
        self._pending.clear()
        self._pending_bytes = 0
        self.is_blocked = False
        if self._drained is not None:
            self._drained.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, and wait until the kernel has all of it.

        Cancelled, the rest is still sent. Raises `trio.BrokenResourceError` if the peer is gone or too slow.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("this stream is closed")
        self.offer(bytes(data))
        await self.wait_send_all_might_not_block()
        if self._is_dead:
            raise trio.BrokenResourceError("the peer is gone, or too slow")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._pending and self._drained is not None:
            await self._drained.wait()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, ``b""`` at the end. A connection that broke is an end like any other."""
        if self._tls is None:
            return await self._receive_raw(max_bytes or RECEIVE_BYTES)
        while True:
            try:
                return self._tls.read(max_bytes or RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                data = await self._receive_raw(RECEIVE_BYTES)
                if not data:
                    return b""
                self._tls_in.write(data)
            except ssl.SSLError:
                # The end (a close_notify), or what is not TLS: either way nothing more can be understood.
                return b""
            finally:
                self._flush_tls()

    async def _receive_raw(self, max_bytes: int) -> bytes:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream is closed")
        has_waited = self._is_read_out
        if not has_waited:
            await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            # Not in an `except`: while it waits, an idle connection would keep the exception and its traceback.
            if self._is_read_out:
                await self._waiting.wait_readable(self.socket)
                has_waited = True
            try:
                data = self.socket.recv(max_bytes)
            except BlockingIOError:
                self._is_read_out = True
                continue
            except OSError as exc:
                self._broke(exc)
                return b""
            # Asking once more would mostly be in vain, and that costs more than to wait at once.
            self._is_read_out = 0 < len(data) < max_bytes
            if not has_waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return data

    # ── TLS ──────────────────────────────────────────────────────────────────────────────────────

    async def do_handshake(self) -> None:
        """Shake hands, on a TLS stream; put a deadline around it.

        Raises:
            trio.BrokenResourceError: the peer left, or it is not TLS, or nothing is shared.
        """
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush_tls()
                data = await self._receive_raw(RECEIVE_BYTES)
                if not data:
                    raise trio.BrokenResourceError("the peer left during the TLS handshake") from None
                self._tls_in.write(data)
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError(f"TLS handshake: {exc.reason or exc}") from exc
            finally:
                self._flush_tls()

    @property
    def is_tls(self) -> bool:
        """Whether what is sent is encrypted."""
        return self._tls is not None

    async def peek_raw(self) -> bytes:
        """Return the first bytes of a connection before TLS begins; they are not lost to the handshake."""
        data = await self._receive_raw(RECEIVE_BYTES)
        self._tls_in.write(data)
        return data

    def drop_tls(self) -> None:
        """Go on in the clear: for a last word to a peer that does not speak TLS."""
        self._tls = None

    def _encrypt(self, data: bytes) -> bytes:
        assert self._tls is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError:
            self._die()
        return self._tls_out.read()

    def _flush_tls(self) -> None:
        self._offer_raw(self._tls_out.read())

    # ── ending ───────────────────────────────────────────────────────────────────────────────────

    async def send_eof(self) -> None:
        """Send what waits, then say that nothing more comes."""
        await self.wait_send_all_might_not_block()
        self._half_close()

    def _half_close(self) -> None:
        if self.is_dead:
            return
        if self._tls is not None:
            with suppress(ssl.SSLError, ValueError):
                self._tls.unwrap()
            self._flush_tls()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    async def finish(self, grace_s: float) -> bool:
        """End so that the peer gets what was sent: wait for it to be taken, then for the peer to close.

        A close with unread input would be a reset, which can destroy what the peer has not read yet. After
        ``grace_s`` seconds, or when cancelled, the connection is reset after all.

        Returns:
            Whether the peer has closed in good order behind all that was sent: a reset throws away what
            the peer has not read, so nobody knows then how far it came.
        """
        with trio.move_on_after(grace_s):
            await self.send_eof()
            while not self.is_dead and await self._receive_raw(RECEIVE_BYTES):
                pass
            has_arrived = not self.is_dead
            self._close()
            return has_arrived
        self.abort()
        return False

    async def aclose(self) -> None:
        """Close at once; what still waits is not sent."""
        self._close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close at once with a reset: the kernel gives up what it holds. Harmless when repeated."""
        if not self._is_closed:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed, self._is_free = True, False
        self._pending.clear()
        self._pending_bytes = 0
        self.is_blocked = False
        self._waiting.notify_closing(self.socket)
        self.socket.close()
        if self._drained is not None:
            self._drained.set()


def tune(sock: Socket, *, user_timeout_s: float, idle_s: float) -> None:
    """Set a subscriber's socket up: no delay, little in the kernel, a vanished peer noticed.

    Args:
        user_timeout_s: sent data may stay unacknowledged for so long (RFC 5482).
        idle_s: an idle connection is probed after so long, and given up after as long again.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    probe_s = max(1, round(idle_s / 2))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Each is Linux's name; elsewhere the defaults have to do.
    for name, value in (
        ("TCP_NOTSENT_LOWAT", NOTSENT_LOWAT),
        ("TCP_USER_TIMEOUT", round(user_timeout_s * 1000)),
        ("TCP_KEEPIDLE", max(1, round(idle_s))),
        ("TCP_KEEPINTVL", probe_s),
        ("TCP_KEEPCNT", 2),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _has_closed_window(sock: Socket) -> bool:
    """Tell whether the peer had said that it takes no more, when the kernel gave the connection up.

    `TCP_USER_TIMEOUT` ends two kinds of connection with the same error: that of a machine which vanished, and
    that of a client which stalls while so little is sent to it that none of it ever waits here. The last
    window that the peer announced tells them apart. Linux alone says it (linux/tcp.h, ``tcpi_snd_wnd``).
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SND_WND.size + SND_WND_OFFSET)
        window: int
        (window,) = SND_WND.unpack_from(info, SND_WND_OFFSET)
    except (OSError, AttributeError, struct.error):
        return False
    return window == 0


def is_out_of_descriptors(exc: OSError) -> bool:
    """Tell whether an `accept` failed for want of descriptors or memory, which passes."""
    return exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
