"""uWebSockets under Python, through `socketify`, with its own topics.

Source: https://docs.socketify.dev/websockets-backpressure.html. Run as a program it is the server; the publisher is a
WebSocket client of it, as its event loop is not one that a plain socket could be read with.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import wire
from bench.peers.base import Launch, LinePeer
from bench.processes import free_ports
from bench.workloads import Workload

#: As much as one write of the broker's may wait, and four times what uWebSockets keeps by default.
BACKPRESSURE_BYTES = 256 << 10
MESSAGE_BYTES = 16 << 20


class Socketify(LinePeer):
    """One `publish` for each tick."""

    name = "socketify"
    title = "uWebSockets through socketify"

    def missing(self) -> str | None:
        try:
            version("socketify")
        except PackageNotFoundError:
            return "the package is not installed: pip install socketify"
        return None

    def version(self) -> str:
        return f"socketify {version('socketify')}"

    def launch(self, folder: Path, workload: Workload) -> Launch:
        (port,) = free_ports(1)
        argv = [sys.executable, "-m", "bench.peers.socketify", str(port)]
        return Launch(argv=argv, port=port, publish_port=port)

    def hello(self) -> bytes:
        return wire.upgrade("127.0.0.1", "/")

    def publish(self, ticks: Iterable[tuple[str, bytes]]) -> bytes:
        return wire.frame(b"PUBLISH\n" + super().publish(ticks), wire.BINARY)


def serve(port: int) -> None:
    """Serve until killed."""
    from socketify import App, CompressOptions, OpCode

    app = App()

    def on_message(ws: Any, message: Any, opcode: Any) -> None:
        raw = message.encode() if isinstance(message, str) else bytes(message)
        kind, newline, lines = raw.partition(b"\n")
        if newline and kind == b"PUBLISH":
            for line in lines.splitlines():
                topic, _, tick = line.partition(b" ")
                text = tick.decode()
                app.publish(topic.decode(), text, OpCode.TEXT)
                app.publish("*", text, OpCode.TEXT)
            return
        for wanted in raw.decode().split():
            ws.subscribe(wanted)
        ws.send("subscribed", OpCode.TEXT)

    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "max_payload_length": MESSAGE_BYTES,
            "max_backpressure": BACKPRESSURE_BYTES,
            "idle_timeout": 60,
            "message": on_message,
        },
    )
    app.listen({"port": port, "host": "127.0.0.1"}, lambda config: None)
    app.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
