"""The embedded Hypercorn: a page that fails, and one that nobody reads."""

from __future__ import annotations

from typing import Any

import structlog.testing

from tests.fakes import fat_book, open_broker
from tests.raw import connect, get, request


async def _broken(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("a fault of ours")


async def test_page_that_raises_is_answered_500_and_logged_once(autojump_clock: object) -> None:
    async with open_broker(app=_broken) as broker:
        with structlog.testing.capture_logs() as logs:
            answer = await get(broker.port, "/anything")
        assert (answer.status, answer.json["code"]) == (500, "fault")
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["a page failed"]
        assert broker.door.failures == {}


async def test_download_that_stalls_is_freed_at_the_write_deadline() -> None:
    async with open_broker(write_deadline_s=0.3) as broker:
        broker.publish(*[fat_book(f"SIM:S{n}") for n in range(300)])
        async with connect(broker.port, receive_buffer=4096) as raw:
            await raw.send(request("GET", "/v1/snapshot"))
            await broker.settled(lambda: any(stream.is_blocked for stream in broker.door._streams))
            await broker.settled(lambda: broker.door.open == 0)
