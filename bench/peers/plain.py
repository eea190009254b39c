"""What one would write first with Trio: a task and a memory channel for each subscriber, on trio-websocket.

Run as a program it is the server; a tick that finds a subscriber's channel full is dropped.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from bench.peers.base import Launch, LinePeer
from bench.processes import free_ports
from bench.workloads import Workload

#: As the broker's own `queue` has by default.
QUEUE_TICKS = 1000


class Plain(LinePeer):
    """Always there: the broker itself needs trio-websocket."""

    name = "plain"
    title = "a task per subscriber, trio-websocket"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"trio-websocket {version('trio-websocket')}"

    def launch(self, folder: Path, workload: Workload) -> Launch:
        port, publish_port = free_ports(2)
        argv = [sys.executable, "-m", "bench.peers.plain", str(port), str(publish_port)]
        return Launch(argv=argv, port=port, publish_port=publish_port)


async def serve(port: int, publish_port: int) -> None:
    """Serve until cancelled."""
    import trio
    import trio_websocket

    topics: dict[bytes, dict[trio.MemorySendChannel[bytes], None]] = {}

    async def subscriber(request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept()
        wanted = str(await socket.get_message()).encode().split()
        send, receive = trio.open_memory_channel[bytes](QUEUE_TICKS)
        for topic in wanted:
            topics.setdefault(topic, {})[send] = None
        try:
            await socket.send_message("subscribed")
            async for tick in receive:
                await socket.send_message(tick.decode())
        except trio_websocket.ConnectionClosed:
            return
        finally:
            for topic in wanted:
                del topics[topic][send]

    async def publisher(stream: trio.SocketStream) -> None:
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                topic, _, tick = line.partition(b" ")
                for key in (topic, b"*"):
                    for send in topics.get(key, ()):
                        try:
                            send.send_nowait(tick)
                        except trio.WouldBlock:
                            continue

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_tcp, publisher, publish_port)
        nursery.start_soon(trio_websocket.serve_websocket, subscriber, "127.0.0.1", port, None)


if __name__ == "__main__":
    import trio

    trio.run(serve, int(sys.argv[1]), int(sys.argv[2]))
