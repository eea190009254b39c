"""The front door: whatever a connection begins with, it gets the right answer, and ends alone."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing
import trustme

from tests.fakes import RunningBroker, fat_book, open_broker, quote
from tests.raw import ask, connect, get, request, stream, upgrade, websocket

H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@asynccontextmanager
async def watched_broker(**changes: Any) -> AsyncIterator[RunningBroker]:
    """A broker with a healthy subscriber, who must get a tick after whatever the test did."""
    async with open_broker(**changes) as broker, websocket(broker.port) as healthy:
        await healthy.ask("subscribe", ch="quote", symbols=["*"])
        await healthy.receive_type("ack")
        yield broker
        broker.publish(quote(n=4711))
        update = await healthy.receive_type("update")
        assert update["data"][-1]["bid"] == "4711"


async def test_half_a_head_is_answered_408_when_its_time_is_over(autojump_clock: object) -> None:
    async with watched_broker(handshake_timeout_s=5) as broker, connect(broker.port) as raw:
        await raw.send(b"GET /v1/ws HTT")
        answer = await raw.answer()
        assert answer.status == 408
        assert answer.json["code"] == "head_timeout"
        assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_head_that_comes_in_drops_is_answered_408_all_the_same(autojump_clock: object) -> None:
    async with watched_broker(handshake_timeout_s=5) as broker, connect(broker.port) as raw:
        for byte in request("GET", "/healthz", X="y" * 100)[:5]:
            await raw.send(bytes([byte]))
            await trio.sleep(1)
        assert (await raw.answer()).status == 408


async def test_head_that_comes_byte_by_byte_in_time_is_served(autojump_clock: object) -> None:
    async with watched_broker() as broker, connect(broker.port) as raw:
        for byte in request("GET", "/healthz"):
            await raw.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await raw.answer()).status == 200


async def test_head_that_is_too_large_is_answered_431(autojump_clock: object) -> None:
    async with watched_broker() as broker:
        answer = await ask(broker.port, request("GET", "/healthz", X="y" * 20_000))
        assert (answer.status, answer.json["code"]) == (431, "head_too_large")


@pytest.mark.parametrize(
    "garbage",
    [b"\x00" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"],
)
async def test_what_is_not_http_is_answered_400_in_words(autojump_clock: object, garbage: bytes) -> None:
    async with watched_broker() as broker:
        answer = await ask(broker.port, garbage)
        assert (answer.status, answer.json["code"]) == (400, "not_http")


@pytest.mark.parametrize("bytes_", [b"", b"G", b"\x16\x03\x01\x02\x00\x01", H2_PREFACE[:10], H2_PREFACE])
async def test_connection_that_is_reset_anywhere_leaves_nothing_behind(
    autojump_clock: object, bytes_: bytes
) -> None:
    async with watched_broker() as broker:
        async with connect(broker.port) as raw:
            await raw.send(bytes_)
            await trio.testing.wait_all_tasks_blocked()
            raw.reset()
        await broker.settled(lambda: broker.door.open == 1)


async def test_flood_of_http2_priority_frames_ends_that_connection_alone(autojump_clock: object) -> None:
    async with watched_broker() as broker, connect(broker.port) as raw:
        frames = b"".join(
            b"\x00\x00\x05\x02\x00" + stream_id.to_bytes(4, "big") + b"\x00\x00\x00\x00\x10"
            for stream_id in range(1, 6001, 2)
        )
        with suppress(OSError):  # it may end before all of it was sent
            await raw.send(H2_PREFACE + H2_SETTINGS + frames)
        await raw.rest()
        await broker.settled(lambda: broker.door.open == 1)


async def test_http2_preface_with_garbage_behind_it_ends_that_connection_alone(
    autojump_clock: object,
) -> None:
    async with watched_broker() as broker, connect(broker.port) as raw:
        await raw.send(H2_PREFACE + bytes(range(256)) * 4)
        await raw.rest()
        await broker.settled(lambda: broker.door.open == 1)


@pytest.mark.parametrize("behind", [b"", b"x", b"x" * 1000])
async def test_upgrade_on_an_unknown_path_is_refused_whatever_stands_behind_it(
    autojump_clock: object, behind: bytes
) -> None:
    async with watched_broker() as broker:
        answer = await ask(broker.port, upgrade("/nowhere") + behind)
        assert answer.status == 404
        assert answer.json["code"] == "not_found"


async def test_accepting_goes_on_after_the_descriptors_have_run_out_and_is_logged_once(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted:
        """The listener, without a descriptor for anybody for a while."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.refusals = 20

        def fileno(self) -> int:
            return self.listener.fileno()

        def accept(self) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listener.accept()

    open_ = RunningBroker.__init__

    def exhausted(self: RunningBroker, setup: Any, listener: socket.socket) -> None:
        open_(self, setup, listener)
        self.door._listeners = [Exhausted(listener)]  # type: ignore[list-item]

    monkeypatch.setattr(RunningBroker, "__init__", exhausted)
    with structlog.testing.capture_logs() as logs:
        async with open_broker() as broker:
            assert (await get(broker.port, "/healthz")).status == 200
    assert sum(line["log_level"] == "error" for line in logs) == 1


async def test_version_of_http_that_is_not_spoken_is_answered_505(autojump_clock: object) -> None:
    async with watched_broker() as broker:
        answer = await ask(broker.port, b"GET / HTTP/9.9\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.json["code"]) == (505, "http_version")


async def test_four_hundred_connections_at_once_are_all_served() -> None:
    async with open_broker(sessions=2000) as broker:
        served = 0

        async def one() -> None:
            nonlocal served
            async with websocket(broker.port) as ws:
                await ws.ask("subscribe", ch="quote", symbols=["*"])
                await ws.receive_type("ack")
                assert (await ws.receive_type("update"))["data"][0]["bid"] == "1"
                served += 1

        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(one)
            await broker.settled(lambda: len(broker.router.mailboxes) == 400)
            broker.publish(quote())
        assert served == 400


async def test_drain_is_over_in_its_time_also_with_clients_that_read_nothing() -> None:
    async with open_broker(drain_s=0.3, write_deadline_s=60) as broker:
        async with (
            stream(broker.port, "ch=quote&symbols=*", receive_buffer=4096),
            connect(broker.port, receive_buffer=4096) as page,
            connect(broker.port) as idle,
        ):
            await idle.send(H2_PREFACE + H2_SETTINGS)
            broker.publish(*[fat_book(f"SIM:S{n}") for n in range(300)])
            await page.send(request("GET", "/v1/snapshot"))
            await broker.settled(lambda: any(stream.is_blocked for stream in broker.door._streams))
            began = trio.current_time()
            broker.stop.set()
            with trio.fail_after(20):
                await broker.settled(lambda: broker.door.open == 0)
            assert trio.current_time() - began < 10, "neither a shielded send nor a close may hold it up"


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context and that of a client which trusts it."""
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    server.set_alpn_protocols(["http/1.1"])
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    ca.configure_trust(client)
    return server, client


async def test_plain_http_to_a_tls_port_is_answered_in_the_clear(autojump_clock: object) -> None:
    server, _ = certificates()
    async with open_broker(tls=server) as broker:
        answer = await get(broker.port, "/healthz")
        assert (answer.status, answer.json["code"]) == (400, "tls_required")


@pytest.mark.parametrize(
    "garbage", [b"\x16" + b"\xff" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600]
)
async def test_garbage_to_a_tls_port_ends_alone(autojump_clock: object, garbage: bytes) -> None:
    server, _ = certificates()
    async with open_broker(tls=server) as broker:
        async with connect(broker.port) as raw:
            await raw.send(garbage)
            await raw.rest()
        await broker.settled(lambda: broker.door.open == 0)


async def test_half_a_tls_handshake_ends_when_its_time_is_over(autojump_clock: object) -> None:
    server, _ = certificates()
    async with open_broker(tls=server) as broker, connect(broker.port) as raw:
        await raw.send(b"\x16\x03\x01")
        assert await raw.rest() == b""
        assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_pages_and_streams_are_served_over_tls(autojump_clock: object) -> None:
    server, client = certificates()
    async with open_broker(tls=server) as broker:
        for target, expected in (("/healthz", b'"ok"'), ("/v1/stream?ch=quote&symbols=*", b"event: welcome")):
            tcp = await trio.open_tcp_stream("127.0.0.1", broker.port)
            tls = trio.SSLStream(tcp, client, server_hostname="127.0.0.1", https_compatible=True)
            await tls.send_all(request("GET", target))
            got = b""
            while expected not in got:
                got += (part := bytes(await tls.receive_some()))
                assert part, got
            assert b" 200 " in got
            await trio.aclose_forcefully(tls)
