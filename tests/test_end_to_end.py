"""The broker and clients that nobody here wrote, over real sockets."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from typing import Any

import httpx
import httpx_sse
import msgpack
import pytest
import trio
import trustme
import websockets.sync.client

from tests.fakes import ACME, open_broker, quote, trade

curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def _certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    ca.configure_trust(client)
    return server, client


def _converse(url: str, context: ssl.SSLContext | None, subprotocol: str | None) -> list[dict[str, Any]]:
    """Subscribe with `websockets`, and return the messages up to the first snapshot."""
    names: Any = [subprotocol] if subprotocol else None
    messages: list[dict[str, Any]] = []
    with websockets.sync.client.connect(url, ssl=context, subprotocols=names, open_timeout=10) as ws:
        request = {"op": "subscribe", "id": 1, "ch": "quote", "symbols": [ACME]}
        packs = subprotocol is not None and subprotocol.endswith("msgpack")
        ws.send(msgpack.packb(request) if packs else json.dumps(request))
        while not messages or messages[-1]["type"] != "snapshot":
            data = ws.recv(timeout=10)
            messages.append(msgpack.unpackb(data) if packs else json.loads(data))
    return messages


@pytest.mark.parametrize("subprotocol", [None, "tapecast.v1.json", "tapecast.v1.msgpack"])
@pytest.mark.parametrize("is_tls", [False, True])
async def test_websockets_gets_a_snapshot(subprotocol: str | None, is_tls: bool) -> None:
    server, client = _certificates() if is_tls else (None, None)
    async with open_broker(tls=server) as broker:
        broker.publish(quote(n=17))
        url = f"{'wss' if is_tls else 'ws'}://127.0.0.1:{broker.port}/v1/ws"
        messages = await trio.to_thread.run_sync(_converse, url, client, subprotocol)
        assert [message["type"] for message in messages] == ["welcome", "ack", "snapshot"]
        assert messages[-1]["data"][0]["bid"] == "17"
        time = 17 if subprotocol == "tapecast.v1.msgpack" else "17"
        assert messages[-1]["data"][0]["ts"] == time
        await broker.settled(lambda: len(broker.sessions) == 0)
        assert broker.sessions.closed == {"asked": 1}


@pytest.mark.parametrize("is_tls", [False, True])
async def test_httpx_reads_pages_and_sse(is_tls: bool) -> None:
    server, client_context = _certificates() if is_tls else (None, None)
    async with open_broker(tls=server) as broker:
        base = f"{'https' if is_tls else 'http'}://127.0.0.1:{broker.port}"
        verify: Any = client_context if is_tls else False
        async with httpx.AsyncClient(base_url=base, verify=verify, trust_env=False) as client:
            assert (await client.get("/healthz")).json() == {"status": "ok"}
            assert (await client.get("/nowhere")).status_code == 404
            assert (await client.post("/healthz")).status_code == 405
            broker.publish(trade(n=1), trade(n=2))
            params = {"ch": "trade", "symbols": ACME, "cursor": broker.tape.cursor(0)}
            async with httpx_sse.aconnect_sse(client, "GET", "/v1/stream", params=params) as source:
                events = []
                async for event in source.aiter_sse():
                    events.append(event)
                    if event.event == "update":
                        broker.sessions.drain()  # so that the stream comes to its end
            update = next(event for event in events if event.event == "update")
            assert [tick["seq"] for tick in update.json()["data"]] == [1, 2]
            assert update.id == "e1-2"
            assert events[-1].event == "closing"


async def _curl(*arguments: str) -> str:
    done = await trio.run_process(
        ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", *arguments],
        capture_stdout=True,
        check=False,
        stderr=subprocess.DEVNULL,
    )
    return done.stdout.decode()


@curl
@pytest.mark.parametrize("how", ["--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"])
async def test_curl_gets_a_page_in_every_version_of_http(how: str) -> None:
    async with open_broker() as broker:
        assert json.loads(await _curl(how, f"http://127.0.0.1:{broker.port}/healthz")) == {"status": "ok"}


@curl
async def test_curl_gets_a_stream_that_ends_when_the_broker_drains() -> None:
    async with open_broker() as broker:
        output = ""

        async def read() -> None:
            nonlocal output
            url = f"http://127.0.0.1:{broker.port}/v1/stream?ch=quote&symbols=*&format=ndjson"
            output = await _curl("-N", url)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await broker.settled(lambda: len(broker.sessions) == 1)
            broker.publish(quote(n=3))
            broker.sessions.drain()
        messages = [json.loads(line) for line in output.splitlines()]
        assert messages[0]["type"] == "welcome"
        assert messages[-1]["type"] == "closing"
        assert messages[-1]["code"] == 1001
