"""Real servers for tests, of the system's packages: each on a free port of this machine, with a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio


def program(name: str) -> str:
    """Return the path of a server's program, or skip the test."""
    # Debian has servers where only root looks for programs.
    found = shutil.which(
        name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    )
    if found is None:
        pytest.skip(f"needs {name} (Debian: apt-get install nats-server redis-server)")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """A server that can be stopped and started again on the same port.

    Attributes:
        port: where it listens, on 127.0.0.1.
        folder: of its own.
    """

    def __init__(self, command: list[str], port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        assert self._process is None
        self._process = process = self._spawn()
        with trio.fail_after(30):
            while not await self._is_listening():
                assert process.poll() is None, (self.folder / "log").read_text()
                await trio.sleep(0.01)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)

    async def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(with_signal)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(process.wait)

    async def _is_listening(self) -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await trio.aclose_forcefully(stream)
        return True


@asynccontextmanager
async def nats_server(folder: Path, config: str = "") -> AsyncGenerator[Server, None]:
    """Run a nats-server with a configuration of its own."""
    path, port = program("nats-server"), free_port()
    (folder / "nats.conf").write_text(config)
    server = Server([path, "-a", "127.0.0.1", "-p", str(port), "-c", str(folder / "nats.conf")], port, folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(signal.SIGKILL)


@asynccontextmanager
async def redis_server(folder: Path, *arguments: str) -> AsyncGenerator[Server, None]:
    """Run a redis-server that saves nothing, unless the arguments say otherwise."""
    path, port = program("redis-server"), free_port()
    listening = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    server = Server([path, *listening, *arguments], port, folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(signal.SIGKILL)


class NatsPublisher:
    """A client that only publishes, after the same description as the one under test, but by hand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []

    def publish(self, subject: str, *payloads: object, headers: bytes = b"") -> None:
        """Put messages in line; what is no ``bytes`` is sent as JSON."""
        for payload in payloads:
            body = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
            head = b"NATS/1.0\r\n" + headers + b"\r\n\r\n" if headers else b""
            sizes = f"{len(head)} {len(head) + len(body)}" if headers else f"{len(body)}"
            self._waiting.append(
                f"{'H' if headers else ''}PUB {subject} {sizes}\r\n".encode() + head + body + b"\r\n"
            )

    async def flush(self) -> None:
        """Send, and wait until the server has taken it all."""
        lines, self._waiting = self._waiting, []
        await self._stream.send_all(b"".join(lines) + b"PING\r\n")
        seen = b""
        while b"PONG\r\n" not in seen:
            data = bytes(await self._stream.receive_some())
            assert data, seen
            seen = seen[-6:] + data
            assert b"-ERR" not in seen, seen


@asynccontextmanager
async def nats_publisher(server: Server, login: str = "") -> AsyncGenerator[NatsPublisher, None]:
    """Connect; ``login``: further members of CONNECT, as JSON text."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.receive_some()
        await stream.send_all(
            f'CONNECT {{"verbose":false,"headers":true{login and ","}{login}}}\r\n'.encode()
        )
        yield NatsPublisher(stream)


class RedisPublisher:
    """A client that sends commands in RESP2, the older form of the protocol."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._commands: list[bytes] = []

    def add(self, key: str, *fields: str | bytes, at: str = "*", most: int | None = None) -> None:
        """Put an XADD in line; ``most``: the stream is trimmed to so many entries."""
        self.do("XADD", key, *(() if most is None else ("MAXLEN", str(most))), at, *fields)

    def do(self, *words: str | bytes) -> None:
        """Put a command in line."""
        parts = [word if isinstance(word, bytes) else word.encode() for word in words]
        self._commands.append(
            b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)])
        )

    async def wait_until_loaded(self) -> None:
        """Wait until a server that has just started has read what it had saved: it listens before that."""
        while True:
            await self._stream.send_all(b"PING\r\n")
            answer = b""
            while not answer.endswith(b"\r\n"):
                data = bytes(await self._stream.receive_some())
                assert data, answer
                answer += data
            if not answer.startswith(b"-LOADING"):
                return
            await trio.sleep(0.01)

    async def flush(self, *, at_once: bool = False) -> None:
        """Send, and wait until the server has done it all; ``at_once``: nobody sees anything in between."""
        commands, self._commands = self._commands, []
        if at_once:
            self.do("MULTI")
            self._commands += commands
            self.do("EXEC")
            commands, self._commands = self._commands, []
        marker = b"that was all"
        self.do("ECHO", marker)
        commands += self._commands
        self._commands = []
        async with trio.open_nursery() as nursery:
            # Both at once, or both sides wait for the other to read.
            nursery.start_soon(self._stream.send_all, b"".join(commands))
            # As if a reply ended before the first: an error begins its line.
            seen = b"\r\n"
            while marker not in seen:
                data = bytes(await self._stream.receive_some())
                assert data, seen
                seen = seen[-100:] + data
                assert b"\r\n-" not in seen, seen


@asynccontextmanager
async def redis_publisher(server: Server) -> AsyncGenerator[RedisPublisher, None]:
    """Connect."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        publisher = RedisPublisher(stream)
        await publisher.wait_until_loaded()
        yield publisher
