"""`websockets` and its `broadcast`, which its documentation recommends for many readers of the same.

Source: https://websockets.readthedocs.io/en/stable/topics/broadcast.html. Run as a program it is the server, in one
asyncio process.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.peers.base import Launch, LinePeer
from bench.processes import free_ports
from bench.workloads import Workload


class Websockets(LinePeer):
    """One `broadcast` for each tick."""

    name = "websockets"
    title = "websockets, broadcast()"

    def missing(self) -> str | None:
        try:
            version("websockets")
        except PackageNotFoundError:
            return "the package is not installed: pip install websockets"
        return None

    def version(self) -> str:
        return f"websockets {version('websockets')}"

    def launch(self, folder: Path, workload: Workload) -> Launch:
        port, publish_port = free_ports(2)
        argv = [sys.executable, "-m", "bench.peers.websockets", str(port), str(publish_port)]
        return Launch(argv=argv, port=port, publish_port=publish_port)


async def serve(port: int, publish_port: int) -> None:
    """Serve until cancelled."""
    from websockets.asyncio.server import ServerConnection, broadcast
    from websockets.asyncio.server import serve as serve_websockets

    topics: dict[bytes, set[ServerConnection]] = {}

    async def subscriber(connection: ServerConnection) -> None:
        wanted = str(await connection.recv()).encode().split()
        for topic in wanted:
            topics.setdefault(topic, set()).add(connection)
        try:
            await connection.send("subscribed")
            await connection.wait_closed()
        finally:
            for topic in wanted:
                topics[topic].discard(connection)

    async def publisher(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            topic, _, tick = line[:-1].partition(b" ")
            text = tick.decode()
            for key in (topic, b"*"):
                if connections := topics.get(key):
                    broadcast(connections, text)
        writer.close()

    async with (
        serve_websockets(subscriber, "127.0.0.1", port),
        await asyncio.start_server(publisher, "127.0.0.1", publish_port) as publishing,
    ):
        await publishing.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
