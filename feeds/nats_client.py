"""A connection to a NATS server that only listens. The smallest client that is right: reconnecting is the supervisor's.

Core NATS, no JetStream: what is published while nobody listens is gone. Authentication by user and password or by
token; NKeys and JWTs are not supported. Source: see `feeds.nats_protocol`; what a server requires stands in its INFO.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
import trio

from broker.core.errors import FeedError
from feeds.nats_protocol import Event, Info, NatsParser, Ping, Pong, Refusal
from feeds.tls import tls_context

DEFAULT_PORT = 4222
#: For connecting, TLS and the greeting together; a server gives up on us after 2 s.
CONNECT_S = 10.0
#: A server that is silent for so long is pinged, and given up after as long again.
PING_S = 20.0
SEND_S = 10.0
#: What is read at a time: some hundred messages, which take one or two milliseconds.
CHUNK_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Login:
    """What is shown to the server; empty: nothing."""

    user: str = ""
    password: str = ""
    token: str = ""

    def __bool__(self) -> bool:
        return bool(self.user or self.password or self.token)


class Refused(FeedError):
    """The server does not let us in.

    Attributes:
        is_lasting: whether the same login would be refused again; not so where it is too busy, or too slow.
    """

    def __init__(self, message: str, *, is_lasting: bool) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class NatsConnection:
    """One connection, greeted; not for several tasks at once."""

    def __init__(self, stream: trio.abc.Stream, name: str) -> None:
        """``name``: of the server, for errors."""
        self._stream = stream
        self._name = name
        self._parser = NatsParser()
        self._early: list[Event] = []
        self._is_asked = False

    async def receive(self) -> list[Event]:
        """Wait for bytes and return the events that they end, maybe none. Pings are answered.

        Raises:
            FeedError: the server has hung up, is silent, or can't be understood.
        """
        if self._early:
            await trio.lowlevel.checkpoint()
            events, self._early = self._early, []
            return events
        data = await self._receive_bytes()
        if not data:
            raise FeedError(f"{self._name}: the server closed the connection")
        try:
            events = self._parser.feed(data)
        except FeedError as exc:
            raise FeedError(f"{self._name}: {exc}") from None
        for event in events:
            if type(event) is Ping:
                await self._send(b"PONG\r\n")
        return events

    async def greet(self, login: Login, tls: ssl.SSLContext | None, host: str) -> None:
        """Take the server's INFO, turn to TLS where that is wanted, and log in.

        Args:
            tls: insisted on; ``None``: used if the server requires it.

        Raises:
            Refused: it does not let us in.
            FeedError: it does not speak NATS, or the connection broke.
        """
        info = await self._wait_for_info()
        if tls is not None or info.tls_required:
            await self._turn_to_tls(tls or tls_context(""), host)
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "lang": "python-trio",
            "version": "1",
            "name": "tapecast",
            "protocol": 1,
            "echo": False,
            "headers": info.headers,
            "no_responders": False,
            "tls_required": tls is not None or info.tls_required,
        }
        if login.token:
            options["auth_token"] = login.token
        elif login:
            options |= {"user": login.user, "pass": login.password}
        await self._send(b"CONNECT %b\r\n" % msgspec.json.encode(options))
        hint = ""
        if info.nonce and not login:
            hint = "; it asks for an NKey or a JWT, which are not supported: use a user and a password, or a token"
        for text in await self._pong():
            is_lasting = text.lower().startswith("authorization violation")
            raise Refused(f"{self._name}: the server refuses us: {text}{hint}", is_lasting=is_lasting)

    async def subscribe(self, subjects: Iterable[str]) -> list[str]:
        """Subscribe, and wait until the server has said what it thinks of it.

        Returns:
            Its refusals, at most one for each subject. What has come before it answered is received next.
        """
        lines = [f"SUB {subject} {number}\r\n".encode() for number, subject in enumerate(subjects, 1)]
        await self._send(b"".join(lines))
        return await self._pong()

    async def _pong(self) -> list[str]:
        """Ask for a PONG, and return the errors that came before it."""
        await self._send(b"PING\r\n")
        refusals: list[str] = []
        kept: list[Event] = []
        while True:
            try:
                events = await self.receive()
            except FeedError:
                if refusals:
                    # It hung up because of that, and this says more.
                    return refusals
                raise
            refusals += [event.text for event in events if isinstance(event, Refusal)]
            kept += [event for event in events if not isinstance(event, Refusal | Pong)]
            if any(isinstance(event, Pong) for event in events):
                self._early = kept
                return refusals

    async def aclose(self) -> None:
        """Hang up, without waiting for the server."""
        await trio.aclose_forcefully(self._stream)

    async def _wait_for_info(self) -> Info:
        events = await self.receive()
        while not events:
            events = await self.receive()
        for event in events:
            if isinstance(event, Info):
                return event
            if isinstance(event, Refusal):
                raise FeedError(f"{self._name}: the server refuses us: {event.text}")
        raise FeedError(f"{self._name}: the server does not speak NATS: it did not begin with INFO")

    async def _turn_to_tls(self, context: ssl.SSLContext, host: str) -> None:
        stream = trio.SSLStream(self._stream, context, server_hostname=host, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as exc:
            raise FeedError(f"{self._name}: TLS failed: {_reason(exc)}") from None
        self._stream = stream

    async def _receive_bytes(self) -> bytes:
        while True:
            with trio.move_on_after(PING_S) as patience:
                try:
                    data = await self._stream.receive_some(CHUNK_BYTES)
                except (trio.BrokenResourceError, ssl.SSLError) as exc:
                    raise FeedError(f"{self._name}: the connection broke: {_reason(exc)}") from None
                self._is_asked = False
                return bytes(data)
            if patience.cancelled_caught:
                if self._is_asked:
                    raise FeedError(f"{self._name}: no word from the server for {2 * PING_S:g} s")
                self._is_asked = True
                await self._send(b"PING\r\n")

    async def _send(self, data: bytes) -> None:
        try:
            with trio.fail_after(SEND_S):
                await self._stream.send_all(data)
        except trio.TooSlowError:
            raise FeedError(f"{self._name}: the server reads nothing for {SEND_S:g} s") from None
        except (trio.BrokenResourceError, ssl.SSLError) as exc:
            raise FeedError(f"{self._name}: the connection broke: {_reason(exc)}") from None


def server_of(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether TLS is insisted on, of ``nats://host:port`` or ``tls://host:port``.

    Raises:
        ValueError: it is none; the text says what would have been right.
    """
    wanted = "must be nats://HOST:PORT or tls://HOST:PORT"
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"{wanted}: {exc}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "must not name a user or a password, which would be shown: they have keys of their own"
        )
    if (
        parts.scheme not in ("nats", "tls")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
    ):
        raise ValueError(wanted)
    return parts.hostname, DEFAULT_PORT if port is None else port, parts.scheme == "tls"


@asynccontextmanager
async def connected(url: str, login: Login, ca_file: str) -> AsyncGenerator[NatsConnection, None]:
    """Connect and log in, and hang up in the end.

    Raises:
        FeedError: that failed, or took longer than `CONNECT_S`.
    """
    host, port, is_tls = server_of(url)
    name = f"{host}:{port}"
    # Without a file, and without being insisted on, it is made only if the server asks.
    tls = tls_context(ca_file) if is_tls or ca_file else None
    async with contextlib.AsyncExitStack() as stack:
        with trio.move_on_after(CONNECT_S) as patience:
            try:
                stream = await trio.open_tcp_stream(host, port)
            except OSError as exc:
                raise FeedError(f"{name}: can't connect: {_reason(exc)}") from None
            connection = NatsConnection(stream, name)
            stack.push_async_callback(connection.aclose)
            await connection.greet(login, tls, host)
        if patience.cancelled_caught:
            raise FeedError(f"{name}: not connected within {CONNECT_S:g} s")
        yield connection


def _reason(exc: BaseException) -> str:
    """Return what is behind an error of trio's; of several attempts, the first one's."""
    cause = exc.__cause__ or exc
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return str(cause) or type(cause).__name__
