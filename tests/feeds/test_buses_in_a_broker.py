"""NATS and Redis in one broker, from a configuration to a subscriber, through a restart of both servers."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from broker.app import Serving, serve
from broker.config import load_config
from tests.feeds.servers import (
    NatsPublisher,
    RedisPublisher,
    nats_publisher,
    nats_server,
    redis_publisher,
    redis_server,
)
from tests.raw import RawStream, stream

pytest.importorskip("coredis", reason="needs coredis: pip install 'tapecast[redis]'")

TRADE = {"price": "101.50", "size": "3", "side": "buy"}


async def publish(number: int, nats: NatsPublisher, redis: RedisPublisher) -> None:
    body = json.dumps({**TRADE, "id": str(number)})
    nats.publish("md.trade.ACME", body.encode())
    await nats.flush()
    redis.add(
        "ticks:ACME", "ch", "trade", *[text for field in TRADE.items() for text in field], "id", str(number)
    )
    await redis.flush()


async def messages_until_both_have(number: int, reader: RawStream) -> list[Any]:
    """Read messages until both venues have sent a trade of this id."""
    seen: list[Any] = []
    missing = {"BUS:ACME", "DESK:ACME"}
    with trio.fail_after(60):
        while missing:
            message = await reader.receive()
            seen.append(message)
            if message["type"] == "update":
                missing -= {tick["sym"] for tick in message["data"] if tick["id"] == str(number)}
    return seen


async def test_subscriber_gets_the_ticks_of_both_and_a_gap_where_some_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    async with nats_server(tmp_path / "nats") as nats, redis_server(tmp_path) as redis:
        tables = [
            {"type": "nats", "venue": "BUS", "subjects": ["md.{ch}.{symbol}"], "urls": [f"nats://127.0.0.1:{nats.port}"]},
            {"type": "redis", "venue": "DESK", "streams": ["ticks:{symbol}"], "url": f"redis://127.0.0.1:{redis.port}"},
        ]  # fmt: skip
        config = load_config(None, {"TAPECAST_FEEDS": json.dumps(tables)}, {"server.port": 0})
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            async def run_broker(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            where = await nursery.start(run_broker)
            port = int(where.url.rpartition(":")[2])
            async with stream(port, "ch=trade&symbols=*&format=ndjson") as reader:
                for number in (1, 2):
                    async with nats_publisher(nats) as to_nats, redis_publisher(redis) as to_redis:
                        async with trio.open_nursery() as publishing:

                            async def publish_on(number: int = number) -> None:
                                # Nobody can tell when the feeds listen again.
                                while True:
                                    await publish(number, to_nats, to_redis)
                                    await trio.sleep(0.05)

                            publishing.start_soon(publish_on)
                            seen = await messages_until_both_have(number, reader)
                            publishing.cancel_scope.cancel()
                    if number == 1:
                        for server in (nats, redis):
                            await server.stop(signal.SIGKILL)
                            await server.start()
            stop.set()
    kinds = [(each["type"], each.get("sym")) for each in seen]
    assert ("gap", "BUS:ACME") in kinds
    assert ("gap", "DESK:ACME") in kinds, "this server keeps nothing either"
