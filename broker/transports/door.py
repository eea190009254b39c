"""The front door: accepts every connection on the one port, looks at its head, and hands it on.

A WebSocket upgrade goes to our session, a stream to the streaming path, all else (and all of HTTP/2) to
the pages. Each connection ends alone, whatever happens in it.
"""

from __future__ import annotations

import ssl
import string
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from broker.runtime.network import KERNEL, Listener, Socket, Waiting
from broker.runtime.stream import Stream, is_out_of_descriptors, tune
from broker.transports.http1 import H2_PREFACE, MOST_HEAD_BYTES, Head, parse_head, problem

log = structlog.get_logger()

#: Connections accepted before the others have their turn.
ACCEPTS_PER_TURN = 64
#: How long accepting pauses when the process has no descriptors left, in seconds.
EXHAUSTED_PAUSE_S = 0.1
#: What a request may begin with: a method's token, or an empty line before it (RFC 9112, sections 2.2 and 3).
FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~\r\n0123456789" + string.ascii_letters.encode())
#: For the last bytes of an answer to be taken, in seconds.
FINISH_S = 2.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that the door hands on.

    Attributes:
        head: of its first request.
        address: the peer's, without the port.
    """

    stream: Stream
    head: Head
    address: str


Handler = Callable[[Connection], Awaitable[None]]
#: Starts a task that outlives whoever started it.
Spawn = Callable[[Callable[[], Awaitable[None]]], object]


class Door:
    """Listens, and routes each connection by its first bytes.

    Attributes:
        failures: connections that ended in an exception, by its type: all of them faults of ours, or of
            the libraries behind the door.
        open: connections now, sessions included.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        *,
        routes: dict[str, Handler],
        pages: Handler,
        http2: Callable[[Stream, bytes], Awaitable[None]],
        tls: ssl.SSLContext | None,
        handshake_timeout_s: float,
        write_deadline_s: float,
        vanish_s: float,
        waiting: Waiting = KERNEL,
    ) -> None:
        """Listen on sockets that are bound and listening.

        Args:
            routes: handlers by path.
            pages: for every other path.
            http2: for a connection that begins with HTTP/2's preface; gets what was read of it.
            vanish_s: a peer that has vanished is noticed within about so long.
            waiting: how to wait for the listeners and the sockets they accept.
        """
        self.failures: Counter[str] = Counter()
        self.open = 0
        self._emptied = trio.Event()
        self._listeners = listeners
        self._streams: set[Stream] = set()
        self._routes = routes
        self._pages = pages
        self._http2 = http2
        self._tls = tls
        self._handshake_timeout_s = handshake_timeout_s
        self._write_deadline_s = write_deadline_s
        self._vanish_s = vanish_s
        self._waiting = waiting

    async def serve(self, handlers: trio.Nursery) -> None:
        """Accept for ever; connections run in ``handlers``.

        Cancelled, it cuts them all off: Hypercorn shields its sends, so cancelling alone would leave the
        broker waiting for clients that do not read.
        """
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, handlers)
        finally:
            for stream in list(self._streams):
                stream.abort()

    async def wait_until_empty(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def _accept(self, listener: Listener, handlers: trio.Nursery) -> None:
        def spawn(task: Callable[[], Awaitable[None]]) -> None:
            handlers.start_soon(self._guard, task)

        is_exhausted = False
        while True:
            await self._waiting.wait_readable(listener)
            for _ in range(ACCEPTS_PER_TURN):
                try:
                    sock, address = listener.accept()
                except BlockingIOError:
                    break
                except OSError as exc:
                    if is_out_of_descriptors(exc):
                        if not is_exhausted:
                            log.error("no descriptor left for another connection", open=self.open)
                        is_exhausted = True
                        await trio.sleep(EXHAUSTED_PAUSE_S)
                    # Anything else is the peer's: it left while it waited (accept(2)).
                    break
                is_exhausted = False
                host = address[0] if isinstance(address, tuple) else "local"
                handlers.start_soon(self._handle, sock, str(host), spawn)
            await trio.lowlevel.checkpoint()

    async def _handle(self, sock: Socket, address: str, spawn: Spawn) -> None:
        """Serve one connection; nothing that happens here goes further."""
        self.open += 1
        stream = None
        try:
            tune(
                sock,
                user_timeout_s=max(self._vanish_s, self._write_deadline_s + 1),
                idle_s=self._vanish_s / 2,
            )
            stream = Stream(
                sock,
                write_deadline_s=self._write_deadline_s,
                spawn=spawn,
                tls=self._tls,
                waiting=self._waiting,
            )
            self._streams.add(stream)
            # What it began with is not kept while it is served: a head is a kilobyte.
            service = await self._route(stream, address)
            if service is not None:
                await service
        except Exception as exc:
            self.failures[type(exc).__name__] += 1
            if not isinstance(exc, OSError | trio.BrokenResourceError | trio.ClosedResourceError):
                log.warning("a connection failed", peer=address, exc_info=exc)
        finally:
            self.open -= 1
            if not self.open:
                self._emptied.set()
            if stream is not None:
                self._streams.discard(stream)
                stream.abort()
            else:
                sock.close()

    @staticmethod
    async def _guard(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception:
            # Ours, whatever it is; an exception here would end every connection.
            log.exception("a writer failed")

    async def _route(self, stream: Stream, address: str) -> Awaitable[None] | None:
        """Look at a connection's first bytes; return what serves it, ``None`` if it has had its answer."""
        with trio.move_on_after(self._handshake_timeout_s) as scope:
            begun = await self._read_head(stream)
        if scope.cancelled_caught:
            stream.offer(problem(408, "head_timeout", f"no request within {self._handshake_timeout_s:g} s"))
            await stream.finish(FINISH_S)
            return None
        if begun is None:
            return None
        raw, rest = begun
        if raw == H2_PREFACE[: len(raw)]:
            return self._http2(stream, raw + rest)
        try:
            head = parse_head(raw, rest)
        except ValueError as exc:
            stream.offer(problem(400, "not_http", f"this is not an HTTP/1.1 request: {exc}"))
            await stream.finish(FINISH_S)
            return None
        refusal = self._refusal(head)
        if refusal is not None:
            stream.offer(refusal)
            await stream.finish(FINISH_S)
            return None
        handler = self._routes.get(head.path, self._pages)
        return handler(Connection(stream, head, address))

    def _refusal(self, head: Head) -> bytes | None:
        """Return the answer to what Hypercorn would answer wrongly, or trip over."""
        if head.http_version not in ("1.0", "1.1"):
            text = f"HTTP/{head.http_version} is not spoken here; HTTP/1.1 is"
            return problem(505, "http_version", text)
        upgrades = [token.lower() for token in head.tokens("upgrade")]
        if head.path not in self._routes and "websocket" in upgrades:
            there = ", ".join(self._routes)
            return problem(404, "not_found", f"no WebSocket at {head.path!r:.200}; there are {there}")
        return None

    async def _read_head(self, stream: Stream) -> tuple[bytes, bytes] | None:
        """Return a request's head and what came behind it; ``None`` if there will be none."""
        if stream.is_tls and not await self._begin_tls(stream):
            return None
        data = bytearray()
        while True:
            chunk = await stream.receive_some()
            if not chunk:
                return None
            seen = max(0, len(data) - 3)
            data += chunk
            if data[0] not in FIRST_BYTES:
                # A TLS ClientHello, say: no blank line will ever come.
                return bytes(data), b""
            end = data.find(b"\r\n\r\n", seen)
            if end >= 0 and end < MOST_HEAD_BYTES:
                return bytes(data[: end + 4]), bytes(data[end + 4 :])
            if len(data) > MOST_HEAD_BYTES:
                text = f"a request's head may have {MOST_HEAD_BYTES} bytes"
                stream.offer(problem(431, "head_too_large", text))
                await stream.finish(FINISH_S)
                return None

    async def _begin_tls(self, stream: Stream) -> bool:
        """Shake hands. To a client that speaks plain HTTP, say what is wrong in words that it can read."""
        first = await stream.peek_raw()
        if first[:1] not in (b"\x16", b""):
            stream.drop_tls()
            stream.offer(problem(400, "tls_required", "this port speaks TLS; use https:// or wss://"))
            await stream.finish(FINISH_S)
            return False
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as exc:
            log.debug("no TLS", error=str(exc))
            return False
        return True
