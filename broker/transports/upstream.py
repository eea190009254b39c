"""Towards a venue: a WebSocket by trio-websocket, and HTTP GETs by httpx.

Whatever fails here is the venue's or the network's doing and becomes a `FeedError` that says what was tried.
Everything has a deadline: connecting, and closing too, as trio-websocket's ``aclose`` waits for the peer and
may wait for ever. Proxies in the environment are not used: trio-websocket knows none, and half of a feed
going through one would be harder to understand than none.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import lru_cache

import httpx
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    connect_websocket_url,
)

import broker
from broker.core.errors import FeedError

#: Messages received but not yet taken by the feed. When they are full, reading stops, and so do our pongs.
_QUEUE_MESSAGES = 256
_RECEIVE_BYTES = 65_536
_USER_AGENT = f"tapecast/{broker.__version__}"


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
            raise FeedError(self._why_closed()) from error

    async def receive(self) -> str | bytes:
        """Return the next message; what arrived before a close is still returned."""
        try:
            message: str | bytes = await self._connection.get_message()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise FeedError(self._why_closed()) from error
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
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            connection = None
            # An exception of the block must come out as it is, not as the group a nursery makes of it.
            try:
                connection = await _connect(nursery, url, max_message_bytes, connect_timeout_s)
                yield UpstreamSocket(url, connection)
            except Exception as error:
                failure = error
            finally:
                if connection is not None:
                    await _close(connection, close_timeout_s)
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        failure = _reader_failure(url, group, failure)
    if failure is not None:
        raise failure


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
        raise FeedError(f"GET {url}: no answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise FeedError(f"GET {url}: {_text(error)}") from error


async def _connect(
    nursery: trio.Nursery, url: str, max_message_bytes: int, timeout_s: float
) -> WebSocketConnection:
    try:
        with trio.fail_after(timeout_s):
            return await connect_websocket_url(
                nursery,
                url,
                ssl_context=tls_context() if url.startswith("wss:") else None,
                message_queue_size=_QUEUE_MESSAGES,
                max_message_size=max_message_bytes,
                receive_buffer_size=_RECEIVE_BYTES,
                extra_headers=[(b"user-agent", _USER_AGENT.encode())],
            )
    except trio.TooSlowError:
        raise FeedError(f"{url}: no connection within {timeout_s:g} s") from None
    except ConnectionRejected as error:
        body = bytes(error.body or b"")[:200].decode("utf-8", "replace")
        raise FeedError(f"{url}: refused with HTTP {error.status_code} {body}".rstrip()) from error
    except ConnectionClosed as error:
        raise FeedError(f"{url}: closed during the WebSocket handshake") from error
    except (HandshakeError, OSError, ValueError, trio.BrokenResourceError) as error:
        raise FeedError(f"{url}: no connection: {_text(error.__cause__ or error)}") from error


async def _close(connection: WebSocketConnection, timeout_s: float) -> None:
    """Close politely within the deadline; a peer that does not answer is left."""
    with trio.move_on_after(timeout_s):
        try:
            await connection.aclose()
        except (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return


def _reader_failure(
    url: str, group: BaseExceptionGroup[BaseException], failure: Exception | None
) -> Exception:
    """Make one error of what ended the library's reading task; anything but an ``Exception`` is raised on."""
    errors, others = group.split(Exception)
    if others is not None or errors is None:
        raise group
    if failure is not None and not isinstance(failure, FeedError):
        return failure
    return FeedError(f"{url}: the connection failed: {_text(errors.exceptions[0])}")


async def _get(url: str, timeout_s: float, max_bytes: int) -> bytes:
    body = bytearray()
    async with (
        httpx.AsyncClient(
            verify=tls_context(), timeout=timeout_s, headers={"user-agent": _USER_AGENT}, trust_env=False
        ) as client,
        client.stream("GET", url) as response,
    ):
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > max_bytes:
                raise FeedError(f"GET {url}: more than {max_bytes} bytes")
    if response.status_code != 200:
        raise FeedError(f"GET {url}: HTTP {response.status_code}: {body[:200].decode('utf-8', 'replace')}")
    return bytes(body)


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return the client context for all venues; building one reads the certificates and takes 20 ms."""
    return httpx.create_ssl_context(trust_env=False)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
