"""Replays over real sockets: venue recordings and the tape's own, over HTTP and the WebSocket."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel

from broker.app import Serving, serve
from broker.config import load_config

DATA = Path(__file__).parent.parent.parent.parent / "shared" / "data"
COINBASE = DATA / "coinbase-exchange-2021-04-17" / "COINBASE.ws.28.0.five-products.gz"
BINANCE = DATA / "binance-spot-2021-10-12"

real = pytest.mark.skipif(not COINBASE.exists(), reason="the recorded venue traffic is not here")
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Serving]:
    """Run a whole broker that records a simulated market, with recordings of venues beside."""
    recordings = [
        {"type": "tape", "name": "tape", "path": str(folder / "tape"), "record": True},
        {"type": "replay", "name": "coinbase", "path": str(COINBASE)},
        {"type": "replay", "name": "binance", "path": str(BINANCE)},
        {"type": "replay", "name": "gone", "path": str(folder / "nowhere.gz")},
    ]
    env = {
        "TAPECAST_FEEDS": json.dumps([{"type": "simulated", "symbols": 3, "ticks_per_second": 500}]),
        "TAPECAST_RECORDINGS": json.dumps(recordings),
        "TAPECAST_SERVER__PORT": "0",
        "TAPECAST_SERVER__DRAIN_S": "0",
    }
    stop = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED) -> None:
                await serve(load_config(None, env, {}), stop=stop, task_status=task_status)

            yield await nursery.start(run)
            stop.set()


class Account:
    """What one stream brought.

    Attributes:
        ticks: the numbers of each topic's ticks, a new list behind each gap that begins anew.
    """

    def __init__(self) -> None:
        self.ticks: dict[tuple[str, str], list[list[int]]] = defaultdict(lambda: [[]])
        self.kinds: list[str] = []
        self.messages: list[dict[str, Any]] = []

    def take(self, message: dict[str, Any]) -> None:
        self.kinds.append(message["type"])
        self.messages.append(message)
        if message["type"] == "gap":
            assert message["reason"] == "feed_reset", message
            self.ticks[message["ch"], message["sym"]].append([])
        elif message["type"] == "update":
            for tick in message["data"]:
                self.ticks[tick["ch"], tick["sym"]][-1].append(tick["seq"])

    @property
    def offset(self) -> int:
        """Where the last update's cursor stands."""
        cursors = [message["cursor"] for message in self.messages if message["type"] == "update"]
        return int(cursors[-1].rpartition("-")[2]) if cursors else 0

    @property
    def is_live(self) -> bool:
        """Whether a live snapshot has come behind the gaps of a recording's end."""
        return "gap" in self.kinds and "snapshot" in self.kinds[self.kinds.index("gap") :]


def read_until(url: str, is_enough: Callable[[Account], bool]) -> Account:
    """Read a stream of NDJSON with `httpx` until a test has what it needs."""
    account = Account()
    with httpx.Client(trust_env=False, timeout=30) as client, client.stream("GET", url) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            account.take(json.loads(line))
            if is_enough(account):
                break
    return account


@real
async def test_recording_of_a_venue_is_played_over_http_and_ends_in_the_live_state(tmp_path: Path) -> None:
    async with running(tmp_path) as serving:
        url = f"{serving.url}/v1/stream?ch=trade,quote,book&symbols=*&replay=coinbase&format=ndjson"
        account = await trio.to_thread.run_sync(
            read_until, url, lambda account: account.is_live and account.kinds[-1] == "update"
        )
    products = {sym for _, sym in account.ticks if sym.startswith("COINBASE:")}
    assert len(products) == 5
    for (_, sym), runs in account.ticks.items():
        if sym in products:
            assert runs[0] == list(range(1, len(runs[0]) + 1)), "every tick, once, in order"
            assert runs[1:] == [[]], "nothing behind the end of the recording"
    assert sum(len(runs[0]) for (_, sym), runs in account.ticks.items() if sym in products) > 3000


@real
@curl
async def test_curl_plays_from_a_time_and_sse_ids_resume_where_it_was_cut(tmp_path: Path) -> None:
    async with running(tmp_path) as serving:
        url = (
            f"{serving.url}/v1/stream?ch=trade,book&symbols=COINBASE:SKL-USD,COINBASE:BAND-GBP"
            "&replay=coinbase&from=2021-04-17T16:43:50Z"
        )
        whole = await _curl(url)
        events = _events(whole)
        assert events[0]["event"] == "welcome"
        snapshots = [event for event in events if event["event"] == "snapshot"]
        assert snapshots[0]["id"].startswith("~coinbase-")
        books = [tick for event in snapshots for tick in event["data"]["data"] if tick["ch"] == "book"]
        assert books[0]["kind"] == "snapshot"
        updates = [event for event in events if event["event"] == "update"]
        ticks = [tick for event in updates for tick in event["data"]["data"]]
        assert all(int(tick["ts"]) > 1_618_677_829_000_000_000 for tick in ticks)
        cut = len(updates) // 2
        again = _events(await _curl("--header", f"Last-Event-ID: {updates[cut - 1]['id']}", url))
        rest = [tick for event in again if event["event"] == "update" for tick in event["data"]["data"]]
        key = [(tick["ch"], tick["sym"], tick["seq"], tick["ts"]) for tick in ticks]
        seen = sum(len(event["data"]["data"]) for event in updates[:cut])
        assert [(tick["ch"], tick["sym"], tick["seq"], tick["ts"]) for tick in rest] == key[seen:]


@real
async def test_recording_is_played_over_the_websocket(tmp_path: Path) -> None:
    import websockets.sync.client

    def converse(url: str) -> Account:
        account = Account()
        with websockets.sync.client.connect(url, open_timeout=10) as ws:
            replay = {"recording": "binance", "speed": "max"}
            request = {"op": "subscribe", "id": 1, "ch": "trade", "symbols": ["BINANCE:*"], "replay": replay}
            ws.send(json.dumps(request))
            while "gap" not in account.kinds:
                account.take(json.loads(ws.recv(timeout=20)))
            ws.send(json.dumps({"op": "list", "id": 2}))
            while account.kinds[-1] != "ledger":
                account.take(json.loads(ws.recv(timeout=20)))
        return account

    async with running(tmp_path) as serving:
        url = serving.url.replace("http", "ws") + "/v1/ws"
        account = await trio.to_thread.run_sync(converse, url)
    count = sum(len(runs[0]) for runs in account.ticks.values())
    assert count > 0
    [entry] = account.messages[-1]["ledger"]
    assert (entry["offered"], entry["delivered"], entry["pending"]) == (count, count, 0)


async def test_tape_is_played_from_its_beginning_and_on_live_without_a_seam(tmp_path: Path) -> None:
    async with running(tmp_path) as serving:
        url = f"{serving.url}/v1/stream?ch=trade,quote&symbols=*&format=ndjson&mode=every&queue=10000"
        # So that there is something that only the recording and the history have.
        live = await trio.to_thread.run_sync(read_until, url, lambda account: account.offset > 600)
        account = await trio.to_thread.run_sync(
            read_until, f"{url}&replay=tape", lambda account: account.offset > live.offset + 600
        )
    assert account.kinds.count("gap") == 0
    for runs in account.ticks.values():
        assert runs == [list(range(1, len(runs[0]) + 1))]
    assert {ch for ch, _ in account.ticks} == {"trade", "quote"}


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("replay=tpae", "unknown_recording", ["tpae", "tape", "coinbase", "did you mean 'tape'"]),
        ("speed=2", "invalid_request", ["speed", "2", "replay"]),
        ("from=2024-01-01T00:00:00Z", "invalid_request", ["from", "replay"]),
        ("replay=tape&speed=0", "invalid_request", ["speed", "0", "0.01"]),
        ("replay=tape&speed=fast", "invalid_request", ["speed", "fast", "max"]),
        ("replay=tape&from=noon", "invalid_request", ["replay.from", "noon", "RFC 3339"]),
        ("replay=tape&snapshot=true", "invalid_request", ["snapshot", "replay"]),
    ],
)
async def test_bad_replay_is_a_problem_that_names_what_is_right(
    tmp_path: Path, query: str, code: str, named: list[str]
) -> None:
    async with running(tmp_path) as serving, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{serving.url}/v1/stream?ch=trade&symbols=*&{query}")
        assert answer.status_code == 400
        assert answer.json()["code"] == code
        assert all(name in answer.json()["detail"] for name in named), answer.json()["detail"]


async def test_recording_that_is_not_there_goes_live_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as serving:
        url = f"{serving.url}/v1/stream?ch=quote&symbols=*&replay=gone&format=ndjson"
        account = await trio.to_thread.run_sync(read_until, url, lambda account: "update" in account.kinds)
    assert account.kinds[:2] == ["welcome", "ack"]


async def _curl(*arguments: str) -> str:
    """Return what comes until the live part has begun, however busy the machine is."""
    command = ["curl", "-N", "--silent", "--noproxy", "*", "--max-time", "60", *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    whole = b""
    while b"feed_reset" not in whole and (came := await process.stdout.receive_some()):
        whole += came
    with trio.move_on_after(1):
        while came := await process.stdout.receive_some():
            whole += came
    process.terminate()
    await process.wait()
    await process.stdout.aclose()
    return whole.decode()


def _events(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events
