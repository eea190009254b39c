"""One WebSocket connection to a broker: the only file of the client that knows trio-websocket.

trio-websocket has three habits that are dealt with here: an exception in its reader task ends the whole
nursery, its handshake and its `aclose` can wait for ever, and a reader that is stuck on a full queue never
ends by itself.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import trio
import trio_websocket
from wsproto.utilities import LocalProtocolError

from broker.client.wire import Target

MAX_MESSAGE_BYTES = 64 << 20
RECEIVE_BYTES = 64 << 10
CLOSE_TIMEOUT_S = 1.0
#: Close codes after which coming back is of no use, for a broker that could not say so in `closing`
#: (protocol, section 2, "Close codes").
PERMANENT_CODES = frozenset((1009, 4400, 4401, 4403, 4409))
PERMANENT_STATUS = frozenset((400, 401, 403))


class LinkLost(Exception):
    """There is no connection, or no more. Stays inside the client.

    Attributes:
        code: the WebSocket close code, 1006 where there was no close.
        reason: for people.
        is_permanent: trying again is of no use.
        retry_after_s: the least to wait.
    """

    def __init__(
        self, reason: str, *, code: int = 1006, is_permanent: bool = False, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.is_permanent = is_permanent
        self.retry_after_s = retry_after_s


class _Reader:
    """Runs trio-websocket's reader task, in the place of the nursery that it asks for.

    Attributes:
        error: what it failed with.
        ended: set when it is over.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.error: Exception | None = None
        self.ended = trio.Event()
        self._nursery = nursery
        # Until the link is closed: the closing handshake needs it, also where everything is cancelled.
        self._scope = trio.CancelScope(shield=True)

    def start_soon(self, task: Callable[[], Awaitable[None]], *_: Any) -> None:
        self._nursery.start_soon(self._run, task)

    async def _run(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            with self._scope:
                await task()
        except Exception as exc:
            # Of a library, about one connection: that connection has ended, nothing else.
            self.error = exc
        finally:
            self.ended.set()

    def cancel(self) -> None:
        self._scope.cancel()


class Link:
    """An open WebSocket. Always `aclose` it."""

    def __init__(
        self, ws: trio_websocket.WebSocketConnection, stream: trio.abc.Stream, reader: _Reader
    ) -> None:
        self._ws = ws
        self._stream = stream
        self._reader = reader

    async def send(self, message: str | bytes) -> None:
        """Send one message. Raises `LinkLost`; cancelled in the middle, the link is of no more use."""
        try:
            await self._ws.send_message(message)
        except (trio_websocket.ConnectionClosed, LocalProtocolError):
            raise self._lost() from None

    async def receive(self, timeout_s: float) -> str | bytes:
        """Return the next message. Raises `LinkLost`, also if nothing comes within ``timeout_s``."""
        with trio.move_on_after(timeout_s):
            try:
                return await self._ws.get_message()
            except trio_websocket.ConnectionClosed:
                raise self._lost() from None
        raise LinkLost(f"nothing heard for {timeout_s:g} s")

    def _lost(self) -> LinkLost:
        closed = self._ws.closed
        if closed is None or closed.code == 1006:
            why = f": {self._reader.error}" if self._reader.error else ""
            return LinkLost(f"the connection broke off{why}")
        # `name` is only known for the codes of RFC 6455.
        reason = closed.reason or closed.name.lower().replace("_", " ")
        return LinkLost(
            f"closed by the broker ({closed.code}): {reason}",
            code=closed.code,
            is_permanent=closed.code in PERMANENT_CODES,
        )

    async def aclose(self) -> None:
        """Close politely if that is quick, in any case for good; not cancelled for at most a second."""
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            await self._ws.aclose()
        await self._discard()

    async def _discard(self) -> None:
        self._reader.cancel()
        await trio.aclose_forcefully(self._stream)


async def open_link(
    nursery: trio.Nursery,
    target: Target,
    subprotocol: str,
    *,
    ssl_context: ssl.SSLContext | None,
    timeout_s: float,
) -> Link:
    """Connect. The reader runs in ``nursery``, which it never ends.

    Raises:
        LinkLost: that failed, or took longer than ``timeout_s``.
    """
    stage = "connecting"
    stream: trio.abc.Stream | None = None
    try:
        with trio.fail_after(timeout_s):
            stream = await _open_stream(target, ssl_context)
            stage = "the WebSocket handshake"
            return await wrap_stream(nursery, stream, target, subprotocol)
    except trio.TooSlowError:
        raise LinkLost(f"{stage} took longer than {timeout_s:g} s") from None
    except OSError as exc:
        raise LinkLost(_explain(exc)) from None
    except (trio.BrokenResourceError, ssl.SSLError, ssl.CertificateError) as exc:
        raise LinkLost(f"TLS failed: {exc.__cause__ or exc}") from None


async def _open_stream(target: Target, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream(target.host, target.port)
    if not target.use_tls:
        return stream
    secure = trio.SSLStream(
        stream,
        ssl_context or ssl.create_default_context(),
        server_hostname=target.host,
        https_compatible=True,
    )
    try:
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secure)
        raise
    return secure


async def wrap_stream(
    nursery: trio.Nursery, stream: trio.abc.Stream, target: Target, subprotocol: str
) -> Link:
    """Do the WebSocket handshake on a stream; if that fails, or is cancelled, the stream is closed.

    Raises:
        LinkLost: what is at the other end is no broker, or does not let us in.
    """
    reader = _Reader(nursery)
    opened: list[trio_websocket.WebSocketConnection] = []

    async def handshake(scope: trio.CancelScope) -> None:
        opened.append(
            await trio_websocket.wrap_client_stream(
                cast(trio.Nursery, reader),
                cast(trio.SocketStream, stream),
                target.authority,
                target.resource,
                subprotocols=[subprotocol],
                max_message_size=MAX_MESSAGE_BYTES,
                receive_buffer_size=RECEIVE_BYTES,
            )
        )
        scope.cancel()

    try:
        async with trio.open_nursery() as race:
            race.start_soon(handshake, race.cancel_scope)
            # The reader may end before there is an answer, and the handshake does not notice.
            await reader.ended.wait()
            race.cancel_scope.cancel()
        if opened and opened[0].subprotocol == subprotocol:
            return Link(opened[0], stream, reader)
        raise _refusal(reader.error, bool(opened))
    except BaseException:
        reader.cancel()
        await trio.aclose_forcefully(stream)
        raise


def _refusal(error: Exception | None, was_opened: bool) -> LinkLost:
    if was_opened:
        return LinkLost("not a Tapecast broker: its WebSocket does not speak the subprotocol")
    if not isinstance(error, trio_websocket.ConnectionRejected):
        why = f": {error}" if error else ""
        return LinkLost(f"the other end closed the connection during the WebSocket handshake{why}")
    text = _problem_text(error.body)
    after = dict(error.headers or ()).get(b"retry-after", b"")
    return LinkLost(
        f"refused with HTTP {error.status_code}{': ' + text if text else ''}",
        is_permanent=error.status_code in PERMANENT_STATUS,
        retry_after_s=float(after) if after.isdigit() and len(after) < 6 else 0.0,
    )


def _problem_text(body: bytes | None) -> str:
    """Return what an RFC 9457 problem says, or the first line of any other body."""
    try:
        problem = msgspec.json.decode(body or b"")
        return str(problem.get("detail") or problem.get("title") or "")[:300]
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        lines = (body or b"").decode("utf-8", "replace").strip().splitlines()
        return lines[0][:100] if lines and not lines[0].startswith("<") else ""


def _explain(exc: OSError) -> str:
    """Return the cause of a failed connection: trio hides it in a group."""
    cause = exc.__cause__
    while isinstance(cause, BaseExceptionGroup) and cause.exceptions:
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else exc
    # trio puts the address before the cause, and the URL is named elsewhere.
    return os.strerror(found.errno).lower() if found.errno and found.errno > 0 else str(found)
