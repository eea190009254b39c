"""The owned socket, over socket pairs: what is handed over arrives whole, or the connection dies."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from broker.runtime.stream import (
    PROGRESS_BYTES,
    SND_WND,
    SND_WND_OFFSET,
    Stream,
    is_out_of_descriptors,
    tune,
)

MEGABYTE = bytes(range(256)) * 4096


@asynccontextmanager
async def pair(
    *, deadline_s: float = 5.0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Stream, trio.socket.SocketType]]:
    """Return our stream and its peer's socket."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            ours, theirs = socket.socketpair()
            with trio.socket.from_stdlib_socket(theirs) as peer:
                stream = Stream(ours, write_deadline_s=deadline_s, spawn=nursery.start_soon, tls=tls)
                try:
                    yield stream, peer
                finally:
                    stream.abort()
            nursery.cancel_scope.cancel()


async def read(peer: trio.socket.SocketType, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await peer.recv(min(65536, count - len(data)))
        assert part, "the end came early"
        data += part
    return data


async def test_offer_writes_at_once_while_the_kernel_takes_it() -> None:
    async with pair() as (stream, peer):
        stream.offer(b"tick")
        assert not stream.is_blocked
        assert await peer.recv(100) == b"tick"


async def test_what_the_kernel_refuses_is_sent_later_whole_and_in_order(autojump_clock: object) -> None:
    async with pair() as (stream, peer):
        drained = []
        stream.on_drained = lambda: drained.append(stream.is_blocked)
        stream.offer(MEGABYTE)
        stream.offer(b"a pong")
        stream.offer(b"")
        stream.offer(b"a close")
        assert stream.is_blocked
        assert stream.pending_bytes > 0
        assert await read(peer, len(MEGABYTE) + 13) == MEGABYTE + b"a pong" + b"a close"
        await trio.testing.wait_all_tasks_blocked()
        assert drained == [False]
        assert stream.pending_bytes == 0


async def test_offer_out_of_on_drained_is_sent_and_drains_again(autojump_clock: object) -> None:
    async with pair() as (stream, peer):
        rounds = 0

        def more() -> None:
            nonlocal rounds
            rounds += 1
            if rounds < 3:
                stream.offer(MEGABYTE)

        stream.on_drained = more
        stream.offer(MEGABYTE)
        assert await read(peer, 3 * len(MEGABYTE)) == MEGABYTE * 3
        await trio.testing.wait_all_tasks_blocked()
        assert rounds == 3


async def test_cancelled_send_all_leaves_no_half_frame(autojump_clock: object) -> None:
    async with pair() as (stream, peer):
        with trio.move_on_after(1):
            await stream.send_all(MEGABYTE)
        stream.offer(b"behind it")
        assert await read(peer, len(MEGABYTE) + 9) == MEGABYTE + b"behind it"


async def test_send_all_waits_until_the_kernel_has_everything(autojump_clock: object) -> None:
    async with pair() as (stream, peer), trio.open_nursery() as nursery:
        sent = trio.Event()

        async def send() -> None:
            await stream.send_all(memoryview(MEGABYTE))
            sent.set()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        assert not sent.is_set()
        await read(peer, len(MEGABYTE))
        await sent.wait()


async def test_peer_that_takes_nothing_is_given_up_at_the_deadline(autojump_clock: object) -> None:
    async with pair(deadline_s=5.0) as (stream, _peer):
        deaths = []
        stream.on_dead = lambda: deaths.append(trio.current_time())
        began = trio.current_time()
        stream.offer(MEGABYTE)
        assert await stream.receive_some() == b"", "whoever reads is woken"
        assert trio.current_time() - began == pytest.approx(5.0)
        assert len(deaths) == 1
        assert stream.missed_deadline
        assert stream.is_dead
        assert not stream.is_blocked
        stream.offer(b"more")
        assert stream.pending_bytes == 0
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")


async def test_send_all_to_a_peer_that_takes_nothing_raises_at_the_deadline(autojump_clock: object) -> None:
    async with pair(deadline_s=2.0) as (stream, _peer):
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(MEGABYTE)
        assert trio.current_time() >= 2.0


async def test_slow_peer_that_makes_progress_lives_on(autojump_clock: object) -> None:
    async with pair(deadline_s=5.0) as (stream, peer):
        stream.offer(MEGABYTE * 2)
        began = trio.current_time()
        left = 2 * len(MEGABYTE)
        while left:
            await trio.sleep(4)
            # Enough for the kernel to call a Unix socket writable again: three quarters of its buffer.
            left -= len(await read(peer, min(left, 4 * PROGRESS_BYTES)))
        assert trio.current_time() - began > 25
        assert not stream.is_dead


async def test_peer_that_trickles_less_than_the_progress_is_given_up(autojump_clock: object) -> None:
    async with pair(deadline_s=5.0) as (stream, peer):
        stream.offer(MEGABYTE * 2)
        for _ in range(20):
            await trio.sleep(1)
            if stream.is_dead:
                break
            await peer.recv(1000)
        assert stream.missed_deadline
        assert trio.current_time() <= 11


async def test_reset_by_the_peer_is_an_end_like_any_other() -> None:
    async with pair() as (stream, peer):
        deaths = []
        stream.on_dead = lambda: deaths.append(1)
        peer.close()
        assert await stream.receive_some() == b""
        stream.offer(b"into the void")
        assert stream.is_dead
        assert not stream.missed_deadline
        assert deaths == [1]


async def test_closing_wakes_the_reader_and_is_harmless_when_repeated() -> None:
    async with pair() as (stream, _peer), trio.open_nursery() as nursery:

        async def reader() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await stream.aclose()
        stream.abort()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_closing_wakes_whoever_waits_for_the_kernel(autojump_clock: object) -> None:
    async with pair() as (stream, _peer), trio.open_nursery() as nursery:

        async def sender() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(MEGABYTE)

        nursery.start_soon(sender)
        await trio.testing.wait_all_tasks_blocked()
        stream._die()
        await trio.testing.wait_all_tasks_blocked()


async def test_finish_waits_for_the_last_bytes_and_then_for_the_peer(autojump_clock: object) -> None:
    async with pair() as (stream, peer), trio.open_nursery() as nursery:
        stream.offer(MEGABYTE)
        nursery.start_soon(stream.finish, 2.0)
        await peer.send(b"unread input must not turn the close into a reset")
        assert await read(peer, len(MEGABYTE)) == MEGABYTE
        assert await peer.recv(1) == b""
        peer.close()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() < 2.0


async def test_finish_gives_a_peer_up_that_does_not_close(autojump_clock: object) -> None:
    async with pair() as (stream, peer):
        stream.offer(b"the last word")
        await stream.finish(2.0)
        assert trio.current_time() == pytest.approx(2.0)
        assert await peer.recv(100) == b"the last word"
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context and that of a client which trusts it."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("tapecast.test").configure_cert(server)
    ca.configure_trust(client)
    return server, client


async def test_tls_carries_large_data_both_ways_and_ends_properly(autojump_clock: object) -> None:
    server, client = certificates()
    async with pair(tls=server) as (stream, peer), trio.open_nursery() as nursery:
        theirs = trio.SSLStream(trio.SocketStream(peer), client, server_hostname="tapecast.test")
        received = b""

        async def peer_side() -> None:
            nonlocal received
            await theirs.do_handshake()
            await theirs.send_all(MEGABYTE)
            async for part in theirs:
                received += part

        nursery.start_soon(peer_side)
        await stream.do_handshake()
        assert stream.is_tls
        got = b""
        while len(got) < len(MEGABYTE):
            got += await stream.receive_some()
        assert got == MEGABYTE
        await stream.send_all(MEGABYTE)
        stream.offer(b"the end")
        await stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert received == MEGABYTE + b"the end"


async def test_tls_handshake_with_what_is_not_tls_raises() -> None:
    server, _ = certificates()
    async with pair(tls=server) as (stream, peer):
        await peer.send(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError, match="TLS"):
            await stream.do_handshake()


async def test_tls_handshake_that_breaks_off_raises() -> None:
    server, _ = certificates()
    async with pair(tls=server) as (stream, peer):
        await peer.send(b"\x16\x03\x01")
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(trio.BrokenResourceError, match="left"):
            await stream.do_handshake()


async def test_garbage_in_the_middle_of_tls_is_an_end(autojump_clock: object) -> None:
    server, client = certificates()
    async with pair(tls=server) as (stream, peer), trio.open_nursery() as nursery:
        theirs = trio.SSLStream(trio.SocketStream(peer), client, server_hostname="tapecast.test")
        nursery.start_soon(theirs.do_handshake)
        await stream.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(b"\x17\x03\x03\x00\x20" + b"garbage!" * 4)
        assert await stream.receive_some() == b""


async def test_offer_on_tls_before_the_handshake_ends_the_connection_and_raises_nothing() -> None:
    server, _ = certificates()
    async with pair(tls=server) as (stream, _peer):
        stream.offer(b"too early")
        assert stream.is_dead


def test_tune_leaves_sockets_alone_that_are_not_tcp() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tune(ours, user_timeout_s=8, idle_s=4)


def test_want_of_descriptors_is_told_from_a_peer_that_left() -> None:
    assert is_out_of_descriptors(OSError(errno.EMFILE, "x"))
    assert not is_out_of_descriptors(OSError(errno.ECONNABORTED, "x"))


class TimedOut(socket.socket):
    """A socket of which the kernel says that the peer took nothing for too long.

    Attributes:
        window: what the peer announced last; ``None``: the system does not say.
    """

    window: int | None = None

    def recv(self, *args: object) -> bytes:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    def send(self, *args: object) -> int:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    def getsockopt(self, level: int, name: int, size: int = 0) -> bytes:  # type: ignore[override]
        assert (level, name) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        if self.window is None:
            return bytes(104)  # as much as it had at first
        return bytes(SND_WND_OFFSET) + SND_WND.pack(self.window)


@pytest.mark.parametrize(("window", "is_stall"), [(0, True), (65_535, False), (None, False)])
@pytest.mark.parametrize("side", ["recv", "send"])
async def test_timeout_of_the_kernel_is_a_missed_deadline_if_the_peer_had_closed_its_window(
    window: int | None, is_stall: bool, side: str
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        sock = TimedOut(fileno=ours.detach())
        sock.window = window
        deaths = []
        stream = Stream(sock, write_deadline_s=5, spawn=lambda task: None)
        stream.on_dead = lambda: deaths.append(stream.missed_deadline)
        if side == "recv":
            assert await stream.receive_some() == b""
        else:
            stream.offer(b"a heartbeat")
        assert deaths == [is_stall]
        assert stream.is_dead
        stream.abort()


async def test_kernel_that_refuses_is_told_of_once_until_it_has_taken_all(autojump_clock: object) -> None:
    async with pair() as (stream, peer):
        told: list[str] = []
        stream.on_blocked = lambda: told.append("blocked")
        stream.on_drained = lambda: told.append("drained")
        for _ in range(2):
            stream.offer(MEGABYTE)
            stream.offer(b"more")
            await read(peer, len(MEGABYTE) + 4)
            await trio.testing.wait_all_tasks_blocked()
        assert told == ["blocked", "drained"] * 2


async def test_what_waited_can_be_counted_when_the_stream_dies(autojump_clock: object) -> None:
    async with pair(deadline_s=5.0) as (stream, _peer):
        waited = []
        stream.on_dead = lambda: waited.append(stream.pending_bytes)
        stream.offer(MEGABYTE)
        pending = stream.pending_bytes
        await trio.sleep(6)
        assert pending > 0
        assert waited == [pending]
        assert stream.pending_bytes == 0


@pytest.mark.parametrize("is_closed", [True, False])
async def test_finish_tells_whether_the_peer_took_all_and_closed(
    autojump_clock: object, is_closed: bool
) -> None:
    async with pair() as (stream, peer):
        stream.offer(b"the last word")
        if is_closed:
            await peer.recv(100)
            peer.close()
        assert await stream.finish(2.0) is is_closed


async def test_finish_does_not_take_a_reset_for_a_good_end(autojump_clock: object) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        stream = Stream(ours, write_deadline_s=5, spawn=lambda task: None)
        stream.offer(b"never read")
        theirs.close()
        assert await stream.finish(2.0) is False
