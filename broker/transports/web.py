"""Everything that isn't streamed by us: an embedded Hypercorn and the application behind it.

Hypercorn is known to this file only. Its traps, each of which has a test: an exception in a connection
(a flood of HTTP/2 PRIORITY frames raises one) would end the whole process, so the front door runs each
connection on its own; its sends are shielded from cancellation, which the deadline of our stream ends; a
connection over h2 dies after so many requests as its configuration says. Connections over HTTP/1.1 get
one request each, so that every request comes through the door.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from broker.runtime.network import Socket
from broker.runtime.stream import Stream
from broker.transports.door import Connection
from broker.transports.http1 import problem_body

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: One request and its answer over HTTP/1.1 may take so long, in seconds.
REQUEST_S = 60.0
#: Requests over one HTTP/2 connection.
H2_REQUESTS = 100_000
H2_STREAMS = 20
#: An HTTP/2 connection with nothing to do is closed after so long, in seconds.
IDLE_S = 30.0


class _Bridge(trio.abc.HalfCloseableStream):
    """Our stream as Hypercorn wants it, with what the door has read already in front."""

    def __init__(self, stream: Stream, begun: bytes) -> None:
        self._stream = stream
        self._begun = begun

    @property
    def socket(self) -> Socket:
        return self._stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._begun:
            begun, self._begun = self._begun, b""
            await trio.lowlevel.checkpoint()
            return begun
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        # Hypercorn closes right behind it: what was sent has to arrive first.
        await self._stream.finish(2.0)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _TlsBridge(_Bridge):
    """The same for Hypercorn's TLS path, which asks for a handshake; ours has been made."""

    @property
    def socket(self) -> Socket:
        # Its absence here is what tells Hypercorn that this is TLS.
        raise AttributeError("socket")

    @property
    def transport_stream(self) -> _Bridge:
        return _Bridge(self._stream, b"")

    async def do_handshake(self) -> None:
        await trio.lowlevel.checkpoint()

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"


class WebTransport:
    """Runs an ASGI application on connections that the front door hands over."""

    def __init__(self, app: App) -> None:
        self._app = ASGIWrapper(cast("Any", _guarded(app)))
        self._context = WorkerContext(None)
        self._http1 = _config(requests=1)
        self._http2 = _config(requests=H2_REQUESTS)

    async def serve(self, connection: Connection) -> None:
        """Answer one request over HTTP/1.1."""
        head = connection.head
        with trio.move_on_after(REQUEST_S):
            await self._run(connection.stream, head.raw + head.rest, self._http1)

    async def serve_http2(self, stream: Stream, begun: bytes) -> None:
        """Serve a connection that begins with HTTP/2's preface; ``begun`` is what was read of it."""
        await self._run(stream, begun, self._http2)

    async def _run(self, stream: Stream, begun: bytes, config: HypercornConfig) -> None:
        bridge = _TlsBridge(stream, begun) if stream.is_tls else _Bridge(stream, begun)
        state = ConnectionState({})
        await TCPServer(self._app, config, self._context, state, cast("Any", bridge))


def _config(*, requests: int) -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_max_requests = requests
    config.keep_alive_timeout = IDLE_S
    config.h2_max_concurrent_streams = H2_STREAMS
    config.websocket_ping_interval = None
    return config


def _guarded(app: App) -> App:
    """Answer 500 for what the application raises, and log it once; refuse what only the door can serve."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "websocket":
            # Over HTTP/2 (RFC 8441); a client falls back to an upgrade over HTTP/1.1.
            await receive()
            await send({"type": "websocket.close", "code": 1002})
            return
        started = False

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, receive, watch)
        except Exception:
            log.exception("a page failed", path=scope["path"])
            if started:
                raise
            body = problem_body(500, "fault", "a fault of the broker's; it has been logged")
            headers = [(b"content-type", b"application/problem+json")]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return run
