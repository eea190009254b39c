"""The composed broker: from a configuration to a served port and back."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgpack
import pytest
import trio
import trustme

import broker.client
from broker.app import Serving, serve
from broker.config import load_config
from broker.core.raw_recording import Begun, Published
from tests.feeds.recorded import events_in


@asynccontextmanager
async def serving(**flags: object) -> AsyncIterator[Serving]:
    """Run a broker as `tapecast serve` does, on a free port; drain it at the end."""
    config = load_config(
        None, {}, {"server.port": 0, **{key.replace("__", "."): flags[key] for key in flags}}
    )
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            yield await nursery.start(run)
            stop.set()


async def test_default_configuration_serves_a_moving_market() -> None:
    async with serving() as where, broker.client.connect(where.url) as client:
        seen = []
        async for tick in client.subscribe("quote", "SIM:ACME"):
            seen.append(tick.seq)
            if len(seen) == 5:
                break
        assert seen == sorted(set(seen))
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{where.url}/readyz")).json() == {"ready": True, "reasons": []}


async def test_feed_is_recorded_while_the_broker_serves_it(
    tmp_path: Path,
) -> None:
    tables = [
        {"type": "simulated", "record": str(tmp_path / "sim"), "symbols": ["ACME"]},
        {"type": "simulated", "name": "other", "venue": "OTHER", "symbols": ["ACME"]},
    ]
    config = load_config(None, {"TAPECAST_FEEDS": json.dumps(tables)}, {"server.port": 0})
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            where = await nursery.start(run)
            async with broker.client.connect(where.url) as client:
                async for tick in client.subscribe("trade", "SIM:ACME"):
                    seen = tick
                    break
            async with httpx.AsyncClient() as http:
                pages = (await http.get(f"{where.url}/v1/feeds")).json()["feeds"]
            stop.set()
    assert pages[0]["recording"]["ticks"] > 0
    assert pages[1]["recording"] is None
    begun, *events = events_in(tmp_path / "sim")
    assert isinstance(begun, Begun)
    assert (begun.kind, begun.options) == ("simulated", {"symbols": ["ACME"]})
    ticks = [msgpack.unpackb(event.tick) for event in events if isinstance(event, Published)]
    assert {tick["sym"] for tick in ticks} == {"SIM:ACME"}
    assert seen.id in {tick["id"] for tick in ticks if tick["ch"] == "trade"}


async def test_draining_says_goodbye_and_frees_the_port() -> None:
    async with serving() as where:
        stream = await trio.open_tcp_stream(where.host, where.port)
        await stream.send_all(b"GET /v1/stream?ch=status&symbols=*&format=ndjson HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.receive_some()
    rest = b""
    async for chunk in stream:
        rest += chunk
    await stream.aclose()
    lines = [json.loads(line) for line in rest.splitlines() if line.startswith(b"{")]
    assert (lines[-1]["type"], lines[-1]["code"]) == ("closing", 1001)
    assert lines[-1]["retry_after_ms"] > 0
    assert rest.endswith(b"0\r\n\r\n")
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((where.host, where.port))


async def test_port_in_use_is_named() -> None:
    async with serving() as where:
        config = load_config(None, {}, {"server.port": where.port})
        with pytest.raises(OSError, match=rf"127\.0\.0\.1 port {where.port}: the port is in use"):
            await serve(config, stop=trio.Event())


async def test_tls_serves_pages_and_sessions(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    flags = {"server__tls_cert": str(tmp_path / "cert"), "server__tls_key": str(tmp_path / "key")}
    async with serving(**flags) as where:
        assert where.url.startswith("https://")
        async with httpx.AsyncClient(verify=context) as http:
            assert (await http.get(f"{where.url}/healthz")).json() == {"status": "ok"}
        async with broker.client.connect(where.url, ssl_context=context) as client:
            async for tick in client.subscribe("quote", "SIM:*"):
                assert tick.sym.startswith("SIM:")
                break


async def test_echo_is_off_unless_asked_for() -> None:
    async with serving() as where, httpx.AsyncClient() as http:
        assert (await http.get(f"{where.url}/debug/echo")).status_code == 404
    async with serving(debug__echo=True) as where, httpx.AsyncClient() as http:
        assert (await http.get(f"{where.url}/debug/echo")).status_code == 426


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signal_ends_the_process_cleanly(signum: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        env={**os.environ, "TAPECAST_LOG__FORMAT": "json"},
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if json.loads(line)["event"] == "listening":
                break
        process.send_signal(signum)
        _, rest = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopped"]
