"""Starting what is measured: a broker with a configuration of its own, a peer, or nothing (``--url``)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trio

from bench import tapecast
from bench.peers.base import Peer
from bench.workloads import Workload

#: The folder that the packages lie in; child processes import them from there.
ROOT = Path(__file__).resolve().parent.parent
START_S = 20.0
STOP_S = 10.0


class StartError(Exception):
    """A server can't be started; the text has the end of what it said."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs.

    Attributes:
        pid: ``None`` if it is not ours and nobody named it.
        stop: asks it to end; ``None`` if it is not ours.
        publish_port: of a peer.
    """

    host: str
    port: int
    is_tls: bool = False
    pid: int | None = None
    publish_port: int = 0
    stop: Callable[[], None] | None = None


@asynccontextmanager
async def run_process(argv: Sequence[str], log: Path) -> AsyncIterator[trio.Process]:
    """Run a program, what it says going into a file, and end it with the block: politely, then not."""
    with log.open("wb") as file:
        process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT, start_new_session=True
        )
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            with trio.move_on_after(STOP_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def run_broker(
    workload: Workload, folder: Path, *, seed: int, certificate: tuple[str, str] | None
) -> AsyncIterator[Server]:
    """Run a broker in a process of its own, on a free port of loopback."""
    config, log = folder / "config.toml", folder / "broker.log"
    config.write_text(tapecast.configuration(workload, seed=seed, certificate=certificate))
    argv = [sys.executable, "-m", "broker", "serve", "--config", str(config)]
    async with run_process(argv, log) as process:
        url = urlsplit(await _announced_url(process, log))
        assert url.hostname is not None
        assert url.port is not None
        yield Server(
            host=url.hostname,
            port=url.port,
            is_tls=url.scheme == "https",
            pid=process.pid,
            stop=process.terminate,
        )


async def _announced_url(process: trio.Process, log: Path) -> str:
    """Wait until the broker logs where it listens."""
    with trio.move_on_after(START_S):
        while process.returncode is None:
            url = _listening_at(log)
            if url:
                return url
            await trio.sleep(0.02)
    raise StartError(f"the broker did not start: {_end_of(log)}")


def _listening_at(log: Path) -> str:
    """Return what a broker's log says of where it listens, empty if it does not yet."""
    for line in log.read_text().splitlines():
        with suppress(json.JSONDecodeError):
            event = json.loads(line)
            if event.get("event") == "listening":
                return str(event["url"])
    return ""


@asynccontextmanager
async def run_peer(peer: Peer, workload: Workload, folder: Path) -> AsyncIterator[Server]:
    """Run a peer in a process of its own, as its file says."""
    launch = peer.launch(folder, workload)
    log = folder / f"{peer.name}.log"
    async with run_process(launch.argv, log) as process:
        for port in {launch.port, launch.publish_port}:
            await _wait_until_open(process, port, peer.name, log)
        yield Server(host="127.0.0.1", port=launch.port, pid=process.pid, publish_port=launch.publish_port)


async def _wait_until_open(process: trio.Process, port: int, name: str, log: Path) -> None:
    with trio.move_on_after(START_S):
        while process.returncode is None:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)
                continue
            await stream.aclose()
            return
    raise StartError(f"{name} did not start: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "it said nothing"


def make_certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for loopback with the `openssl` program. Raises `StartError`."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise StartError(f"--tls needs the openssl program to make a certificate: {exc.strerror}") from exc
    if done.returncode:
        raise StartError(f"openssl made no certificate: {done.stderr[-500:]}")
    return str(cert), str(key)
