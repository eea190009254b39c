"""Towards a venue: a WebSocket by trio-websocket, and HTTP GETs by httpx.

Whatever fails here is the venue's or the network's doing and becomes a `FeedError` that says what was tried.
Everything has a deadline: connecting, and closing too, as trio-websocket's ``aclose`` waits for the peer and
may wait for ever. Proxies in the environment are not used: trio-websocket knows none, and half of a feed
going through one would be harder to understand than none.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httpx
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

import broker
from broker.core.errors import FeedError, FeedPermanentError

#: Messages received but not yet taken by the feed. When they are full, reading stops, and so do our pongs.
_QUEUE_MESSAGES = 256
_RECEIVE_BYTES = 65_536
_USER_AGENT = f"tapecast/{broker.__version__}"
#: A handshake that is refused so is refused for what it is: without a login, to a place where nothing is, or for
#: where it comes from. All others may pass: 403 is also what firewalls of venues answer to who came too often
#: (Binance's REST limits: "403, WAF limit violated"; 418 is its ban for a while), 429 and 5xx are by definition.
PERMANENT_STATUSES = frozenset((401, 404, 405, 410, 451))


class UpstreamSocket:
    """A venue's WebSocket, as `feeds.base.VenueSocket` describes it."""

    def __init__(self, url: str, connection: WebSocketConnection) -> None:
        self._url = url
        self._connection = connection

    async def send(self, message: str | bytes) -> None:
        """Send one message. A cancelled call may leave half a frame behind: close the socket then."""
        try:
            await self._connection.send_message(message)
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise FeedError(self._why_closed(), reason="closed") from error

    async def receive(self) -> str | bytes:
        """Return the next message; what arrived before a close is still returned."""
        try:
            message: str | bytes = await self._connection.get_message()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise FeedError(self._why_closed(), reason="closed") from error
        return message

    def _why_closed(self) -> str:
        reason = self._connection.closed
        if reason is None or reason.code == 1006:
            return f"{self._url}: the connection was lost"
        text = f" ({reason.reason[:200]})" if reason.reason else ""
        return f"{self._url}: closed with {reason.code} {reason.name}{text}"


@asynccontextmanager
async def connect_ws(
    url: str,
    *,
    max_message_bytes: int = 16 << 20,
    connect_timeout_s: float = 10.0,
    close_timeout_s: float = 2.0,
) -> AsyncGenerator[UpstreamSocket, None]:
    """Connect a WebSocket to a venue, and close it at the end of the block.

    Args:
        url: ``ws://`` or ``wss://``.
        max_message_bytes: a larger message closes the connection (1009).
        connect_timeout_s: for name, TCP, TLS and upgrade together.
        close_timeout_s: how long the peer may take to answer our close; then the connection is just dropped.

    Raises:
        FeedError: on entering, if no connection comes about; from within, once it is closed.
    """
    wire: _Wire | None = None
    connection: WebSocketConnection | None = None
    failure: Exception | None = None
    deadline = trio.current_time() + connect_timeout_s
    try:
        async with trio.open_nursery() as nursery:
            # An exception of the block must come out as it is, not as the group a nursery makes of it.
            try:
                with _no_later_than(url, deadline, connect_timeout_s):
                    wire = await _open(url)
                    connection = await _shake_hands(nursery, url, wire, max_message_bytes)
                yield UpstreamSocket(url, connection)
            except Exception as error:
                failure = error
            finally:
                if connection is not None:
                    await _close(connection, close_timeout_s)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = _reader_failure(url, group, failure)
    finally:
        # trio-websocket leaves its stream open where the peer closed first.
        if wire is not None:
            await trio.aclose_forcefully(wire)
    if failure is not None:
        raise failure


@contextmanager
def _no_later_than(url: str, deadline: float, timeout_s: float) -> Iterator[None]:
    """Turn what can go wrong while connecting into a `FeedError`."""
    try:
        with trio.fail_at(deadline):
            yield
    except trio.TooSlowError:
        raise FeedError(f"{url}: no connection within {timeout_s:g} s", reason="connect") from None
    except (OSError, ValueError, trio.BrokenResourceError, LocalProtocolError) as error:
        raise FeedError(
            f"{url}: no connection: {_text(error.__cause__ or error)}", reason="connect"
        ) from error


async def get_body(url: str, *, timeout_s: float = 20.0, max_bytes: int = 64 << 20) -> bytes:
    """Return the body of an HTTP GET.

    Args:
        url: ``http://`` or ``https://``; redirects are not followed.
        timeout_s: for everything, the last byte included.
        max_bytes: of the body, decompressed.

    Raises:
        FeedError: it failed, took too long, was too large, or is no 200; then with what the body says.
    """
    try:
        with trio.fail_after(timeout_s):
            return await _get(url, timeout_s, max_bytes)
    except trio.TooSlowError:
        raise FeedError(f"GET {url}: no answer within {timeout_s:g} s", reason="connect") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise FeedError(f"GET {url}: {_text(error)}", reason="connect") from error


class _Wire(trio.abc.Stream):
    """The bytes of a connection, with a flag for when they have ended: trio-websocket tells too late."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.ended = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            received = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.ended.set()
            raise
        if not received:
            self.ended.set()
        return received

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


async def _open(url: str) -> _Wire:
    """Connect TCP, and TLS for ``wss``."""
    parts = urlsplit(url)
    if parts.hostname is None:
        raise ValueError("a URL without a host")
    if parts.scheme == "ws":
        return _Wire(await trio.open_tcp_stream(parts.hostname, parts.port or 80))
    if parts.scheme != "wss":
        raise ValueError("not a ws:// or wss:// URL")
    stream = await trio.open_ssl_over_tcp_stream(
        parts.hostname, parts.port or 443, ssl_context=tls_context(), https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return _Wire(stream)


async def _shake_hands(nursery: trio.Nursery, url: str, wire: _Wire, max_bytes: int) -> WebSocketConnection:
    """Upgrade to WebSocket. A refusal shows in the nursery, as trio-websocket raises it in its own task."""
    parts = urlsplit(url)
    with trio.CancelScope() as handshake:
        nursery.start_soon(_cancel_at, wire.ended, handshake)
        return await wrap_client_stream(
            nursery,
            # Any stream will do, says its documentation; its types say less.
            cast(trio.SocketStream, wire),
            parts.netloc.rpartition("@")[2],
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            message_queue_size=_QUEUE_MESSAGES,
            max_message_size=max_bytes,
            receive_buffer_size=_RECEIVE_BYTES,
            extra_headers=[(b"user-agent", _USER_AGENT.encode())],
        )
    raise FeedError(f"{url}: closed during the WebSocket handshake, or no WebSocket there", reason="connect")


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _close(connection: WebSocketConnection, timeout_s: float) -> None:
    """Close politely within the deadline; a peer that does not answer is left."""
    with trio.move_on_after(timeout_s):
        try:
            await connection.aclose()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            return


def _refusal(url: str, error: ConnectionRejected) -> FeedError:
    body = bytes(error.body or b"")[:200].decode("utf-8", "replace")
    text = f"{url}: refused with HTTP {error.status_code} {body}".rstrip()
    if error.status_code in PERMANENT_STATUSES:
        return FeedPermanentError(text, reason="refused", unless_live=True)
    asked = next((value for name, value in error.headers or () if name.lower() == b"retry-after"), None)
    return FeedError(
        text,
        reason="refused",
        retry_after_s=None if asked is None else retry_after_s(asked.decode("latin-1")),
    )


def retry_after_s(text: str) -> float | None:
    """Return how many seconds a ``Retry-After`` asks for (RFC 9110, section 10.2.3); ``None`` for what is none."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    # RFC 5322 writes -0000 for UTC from who knows no zone.
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _reader_failure(
    url: str, group: BaseExceptionGroup[BaseException], failure: Exception | None
) -> Exception:
    """Make one error of what ended the library's reading task; anything but an ``Exception`` is raised on."""
    errors, others = group.split(Exception)
    if others is not None or errors is None:
        raise group
    if failure is not None and not isinstance(failure, FeedError):
        return failure
    first = errors.exceptions[0]
    if isinstance(first, ConnectionRejected):
        return _refusal(url, first)
    return FeedError(f"{url}: the connection failed: {_text(first)}", reason="closed")


async def _get(url: str, timeout_s: float, max_bytes: int) -> bytes:
    body = bytearray()
    async with (
        httpx.AsyncClient(
            verify=tls_context(), timeout=timeout_s, headers={"user-agent": _USER_AGENT}, trust_env=False
        ) as client,
        client.stream("GET", url) as response,
    ):
        # Leaving the loop early would leave httpx's inner generators to the garbage collector; cancelling
        # unwinds them.
        with trio.CancelScope() as reading:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    reading.cancel()
    if len(body) > max_bytes:
        raise FeedError(f"GET {url}: more than {max_bytes} bytes")
    if response.status_code != 200:
        asked = response.headers.get("retry-after")
        raise FeedError(
            f"GET {url}: HTTP {response.status_code}: {body[:200].decode('utf-8', 'replace')}",
            reason="refused",
            retry_after_s=None if asked is None else retry_after_s(asked),
        )
    return bytes(body)


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return the client context for all venues; building one reads the certificates and takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _text(error: BaseException) -> str:
    # A failed connection is a group with an error for each address.
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
