"""From a URL to a connected client, for as long as an ``async with`` block lasts."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from broker.client.client import Client
from broker.client.errors import ClientClosed, ConnectError
from broker.client.events import State
from broker.client.link import Link, LinkLost
from broker.client.wire import CodecName, Target, parse_url


@asynccontextmanager
async def connect(
    url: str,
    *,
    codec: CodecName = "msgpack",
    token: str | None = None,
    retry_first: bool = False,
    max_attempts: int | None = None,
    buffer_ticks: int = 10_000,
    connect_timeout_s: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    on_state: Callable[[State], object] | None = None,
) -> AsyncIterator[Client]:
    """Connect to a broker, and stay connected until the end of the ``async with`` block.

    A connection that is lost is made again, with exponential backoff and full jitter (0.2 s doubling to
    10 s, after what the broker asks for), and every subscription is taken up behind the last tick received:
    nothing comes twice, and what is missing is told as a `Gap`. If the broker says not to come back, all
    iterators raise `ClientClosed`.

    Everything inside is bounded. A subscription that is not read fills its buffer, then the client stops
    reading the socket: this delays the other subscriptions of the same client, and the broker then conflates,
    drops or evicts as its delivery contract says. Use a client of its own for what is read slowly.

    Args:
        url: ``ws://HOST:PORT/v1/ws``, ``http://HOST:PORT`` or ``HOST:PORT``; wss and https for TLS.
        codec: ``msgpack`` (cheaper) or ``json``.
        token: shown to the broker on every connection, where it asks for one. Refused, it ends the client.
        retry_first: do not raise if the broker is not there yet: return at once, and go on trying.
        max_attempts: give up after so many failures in a row; ``None``: never.
        buffer_ticks: how many ticks of each subscription may wait here, but for the last message's.
        connect_timeout_s: for one attempt, until the broker's welcome.
        ssl_context: for wss; trio's default without.
        on_state: called at once whenever `Client.state` changes; must not raise.

    Raises:
        ConnectError: the first connection failed, unless ``retry_first``.
        ValueError: an argument is not right.
    """
    target = parse_url(url)
    if buffer_ticks < 1:
        raise ValueError(f"buffer_ticks: {buffer_ticks} is less than 1")
    try:
        async with trio.open_nursery() as nursery:
            client = Client(
                target,
                nursery,
                codec=codec,
                token=token,
                max_attempts=max_attempts,
                buffer_ticks=buffer_ticks,
                connect_timeout_s=connect_timeout_s,
                ssl_context=ssl_context,
                on_state=on_state,
            )
            link = None if retry_first else await _first_link(client, target)
            nursery.start_soon(client.run, link)
            try:
                yield client
            finally:
                client.end(ClientClosed(1000, "closed by the application"))
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _raise_alone(group)


async def _first_link(client: Client, target: Target) -> Link:
    try:
        return await client.open()
    except LinkLost as exc:
        raise ConnectError(f"cannot connect to {target.url}: {exc.reason}") from None


def _raise_alone(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what the application raised as it was: that there is a nursery is none of its business."""
    exceptions = group.exceptions
    if len(exceptions) != 1:
        raise group
    alone = exceptions[0]
    context = alone.__context__
    try:
        raise alone
    finally:
        alone.__context__ = context
