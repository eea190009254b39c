"""`/v1/sessions`: what an operator sees of the live and of those that ended, and who is an operator."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from starlette.requests import Request

from broker.core import errors
from broker.runtime.closed import MOST_SESSIONS
from broker.transports.admin import Admin, is_allowed
from tests.fakes import ACME, BETA, RunningBroker, open_broker, trade, trades
from tests.raw import Answer, get, stream, websocket
from tests.raw import ask as raw_ask


async def ask(broker: RunningBroker, query: str = "") -> Answer:
    """Ask as somebody on this machine would."""
    head = f"GET /v1/sessions{query} HTTP/1.1\r\nHost: 127.0.0.1:{broker.port}\r\n\r\n"
    return await raw_ask(broker.port, head.encode())


async def sessions(broker: RunningBroker, query: str = "") -> list[dict[str, Any]]:
    answer = await ask(broker, query)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["sessions"]
    return found


async def test_live_sessions_are_shown_with_their_subscriptions_and_queues(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        welcome = await ws.receive_type("welcome")
        await ws.ask("subscribe", ch="trade", symbols=[ACME, "SIM:*"], delivery={"max_delay_ms": 60_000})
        await ws.receive_type("ack")
        await trio.sleep(0.1)
        broker.publish(*trades(ACME, 3))
        await trio.sleep(2)
        (found,) = await sessions(broker)
        assert (found["id"], found["state"], found["end"]) == (welcome["session"], "live", None)
        assert (found["peer"], found["transport"], found["codec"]) == ("127.0.0.1", "ws", "json")
        assert (found["queued_ticks"], found["requests"], found["unsent_bytes"]) == (3, 1, 0)
        assert found["queued_bytes"] > 0
        assert 2 <= found["oldest_tick_age_s"] <= found["lived_s"] <= 3
        (sub,) = found["subscriptions"]
        assert (sub["sub"], sub["ch"], sub["symbols"], sub["symbols_total"]) == (
            1,
            "trade",
            [ACME, "SIM:*"],
            2,
        )
        assert sub["delivery"]["max_delay_ms"] == 60_000
        assert (sub["ledger"]["offered"], sub["ledger"]["pending"], sub["peak_ticks"]) == (3, 3, 3)


async def test_those_for_whom_most_waits_come_first(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as idle:
        await idle.receive_type("welcome")
        async with (
            stream(broker.port, f"ch=trade&symbols={ACME}&max_delay_ms=60000") as some,
            stream(broker.port, f"ch=trade&symbols={ACME},{BETA}&max_delay_ms=60000&format=ndjson") as most,
        ):
            await some.receive_type("ack")
            await most.receive_type("ack")
            await trio.sleep(0.1)
            broker.publish(trade(ACME, 1), trade(BETA, 1))
            await trio.testing.wait_all_tasks_blocked()
            found = await sessions(broker)
            assert [item["transport"] for item in found] == ["ndjson", "sse", "ws"]
            assert len(await sessions(broker, "?limit=2")) == 2


async def test_evicted_session_is_found_with_reason_advice_and_final_account(autojump_clock: object) -> None:
    async with open_broker() as broker:
        async with websocket(broker.port) as ws:
            name = (await ws.receive_type("welcome"))["session"]
            delivery = {"queue": 10, "overflow": "evict", "max_delay_ms": 60_000}
            await ws.ask("subscribe", ch="trade", symbols=[ACME], delivery=delivery)
            await ws.receive_type("ack")
            broker.publish(*trades(ACME, 3))
            (subscriber,) = broker.sessions
            subscriber.evict(errors.OVER_LIMIT)
            closing = await ws.receive_type("closing")
            assert closing["advice"] == errors.OVER_LIMIT.advice
            assert closing["ledger"][0]["pending"] == 3
            ws.raw.close()
        await broker.settled(lambda: not broker.door.open)
        assert await sessions(broker) == []
        for query in ("?state=closed", "?state=all", f"?id={name}", f"?id={name}&state=closed"):
            (found,) = await sessions(broker, query)
            assert (found["id"], found["state"]) == (name, "closed")
            end = found["end"]
            assert (end["reason"], end["code"], end["closing"]) == ("over_limit", 4408, "delivered")
            assert (end["text"], end["advice"]) == (closing["reason"], closing["advice"])
            assert [sub["ledger"] for sub in found["subscriptions"]] == closing["ledger"]
            assert found["opened_at"] <= end["at"]
        assert await sessions(broker, f"?id={name}&state=live") == []


async def test_last_to_end_comes_first_and_can_be_found_by_peer_and_name(autojump_clock: object) -> None:
    async with open_broker() as broker:
        names = []
        for _ in range(3):
            async with websocket(broker.port) as ws:
                names.append((await ws.receive_type("welcome"))["session"])
                ws.raw.reset()
                await broker.settled(lambda: not len(broker.sessions))
        assert [item["id"] for item in await sessions(broker, "?state=closed")] == names[::-1]
        assert [item["id"] for item in await sessions(broker, f"?id={names[1]}")] == [names[1]]
        assert len(await sessions(broker, "?state=closed&peer=127.0.0.1")) == 3
        assert await sessions(broker, "?state=closed&peer=127.0.0.2") == []
        assert await sessions(broker, f"?state=closed&peer={names[0]}") == []
        page = (await ask(broker)).json
        assert (page["live"], page["closed"]) == (0, 3)
        assert MOST_SESSIONS == 10_000


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("?colour=red", "unknown_field", ["colour", "state, limit, peer, id"]),
        ("?stat=closed", "unknown_field", ["stat", "did you mean 'state'"]),
        ("?state=dead", "invalid_request", ["state", "dead", "closed"]),
        ("?limit=0", "invalid_request", ["limit", "0"]),
        ("?limit=1001", "invalid_request", ["limit", "1001", "1000"]),
        ("?limit=many", "invalid_request", ["limit", "many"]),
        ("?limit=1&limit=2", "invalid_request", ["limit", "twice"]),
        (f"?id={'x' * 65}", "invalid_request", ["id"]),
    ],
)
async def test_bad_query_is_a_problem_that_names_the_parameter(
    autojump_clock: object, query: str, code: str, named: list[str]
) -> None:
    async with open_broker() as broker:
        answer = await ask(broker, query)
        assert (answer.status, answer.json["code"]) == (400, code)
        assert all(name in answer.json["detail"] for name in named), answer.json["detail"]


async def test_page_is_refused_to_others_and_to_pages_of_other_origins(autojump_clock: object) -> None:
    async with open_broker() as broker:
        answer = await get(broker.port, "/v1/sessions")  # asks for the name tapecast.test
        assert (answer.status, answer.json["code"]) == (403, "not_allowed")
        assert "[server] admin" in answer.json["detail"]
        assert "access-control-allow-origin" not in (await ask(broker)).headers
    async with open_broker(admin="everyone") as broker:
        assert (await get(broker.port, "/v1/sessions")).status == 200


def request(client: str | None, host: str, **headers: str) -> Request:
    named = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/v1/sessions",
            "query_string": b"",
            "scheme": "http",
            "server": ("127.0.0.1", 8765),
            "client": None if client is None else (client, 40_000),
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
    )


@pytest.mark.parametrize(
    ("client", "host", "headers", "is_local"),
    [
        ("127.0.0.1", "127.0.0.1:8765", {}, True),
        ("127.0.0.1", "localhost:8765", {}, True),
        ("::1", "[::1]:8765", {}, True),
        ("::ffff:127.0.0.1", "localhost", {}, True),
        ("127.0.0.1", "evil.example:8765", {}, False),
        ("127.0.0.1", "localhost.evil.example", {}, False),
        ("192.0.2.1", "127.0.0.1:8765", {}, False),
        ("192.0.2.1", "broker.example", {}, False),
        ("127.0.0.1", "localhost", {"x_forwarded_for": "192.0.2.1"}, False),
        ("127.0.0.1", "localhost", {"forwarded": "for=192.0.2.1"}, False),
        ("127.0.0.1", "localhost", {"via": "1.1 proxy"}, False),
        (None, "localhost", {}, False),
    ],
)
def test_local_is_who_is_on_this_machine_and_asked_for_it(
    client: str | None, host: str, headers: dict[str, str], is_local: bool
) -> None:
    asked = request(client, host, **headers)
    allowed: dict[Admin, bool] = {"local": is_local, "everyone": True, "nobody": False}
    for admin, expected in allowed.items():
        assert is_allowed(asked, admin) is expected
