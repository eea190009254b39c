"""A venue's REST pages on a free port of this machine, for the feeds that need both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from tests.feeds.fakes import scripted_server

#: From a path to a status and a body.
Pages = Callable[[str], tuple[int, bytes]]


@asynccontextmanager
async def scripted_pages(pages: Pages) -> AsyncGenerator[str, None]:
    """Answer each GET with what ``pages`` says of its path. Yields the URL."""

    async def handle(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            received = await stream.receive_some(65_536)
            if not received:
                return
            head += received
        status, body = pages(head.split(b" ", 2)[1].decode())
        await stream.send_all(
            b"HTTP/1.1 %d x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body)
        )

    async with scripted_server(handle) as port:
        yield f"http://127.0.0.1:{port}"
