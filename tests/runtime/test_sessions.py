"""Who gets in, who is alive, who left and why: over loopback, on a clock that jumps."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from math import inf

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from broker.core import errors
from broker.core.session import SessionLimits
from broker.runtime import sessions as sessions_module
from broker.runtime.sessions import SessionTimes
from broker.runtime.subscriber import Subscriber
from tests.fakes import ACME, open_broker, quote
from tests.raw import CLOSE, PING, PONG, TEXT, RawWebSocket, get, stream, websocket


async def test_session_over_the_limit_is_told_1013_and_when_to_come_back(autojump_clock: object) -> None:
    async with open_broker(sessions=1) as broker, websocket(broker.port) as first:
        await first.receive_type("welcome")
        async with websocket(broker.port) as second:
            opcode, payload = await second.receive_frame()
            assert opcode == TEXT
            assert json.loads(payload) == {
                "type": "closing",
                "code": 1013,
                "reason": "no room for another session",
                "retry_after_ms": 5000,
                "ledger": [],
                "advice": errors.FULL.advice,
            }
            assert (await second.closed())[0] == 1013
        answer = await get(broker.port, "/v1/stream?ch=quote&symbols=*")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["code"] == "full"
        assert broker.sessions.closed["full"] == 2
        await first.send(CLOSE, b"\x03\xe8")
        await first.closed()
        first.raw.close()
        await trio.testing.wait_all_tasks_blocked()
        async with websocket(broker.port) as third:
            await third.receive_type("welcome")


async def test_session_over_the_limit_of_its_address_is_told_4409(autojump_clock: object) -> None:
    async with open_broker(per_address=1) as broker, websocket(broker.port) as first:
        await first.receive_type("welcome")
        async with websocket(broker.port) as second:
            closing = await second.receive()
            assert (closing["code"], closing["retry_after_ms"]) == (4409, None)
            assert (await second.closed())[0] == 4409
        answer = await get(broker.port, "/v1/stream?ch=quote&symbols=*")
        assert answer.status == 429
        assert "retry-after" not in answer.headers
        assert answer.json["code"] == "too_many_sessions"


async def test_client_that_stops_answering_pings_is_forgotten_within_ten_seconds(
    autojump_clock: object,
) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        while True:
            opcode, payload = await ws.receive_frame()
            if opcode == PING:
                await ws.send(PONG, payload)
                break
        vanished = trio.current_time()
        with suppress(EOFError):
            while True:
                await ws.receive_frame()
        assert trio.current_time() - vanished <= 10
        await trio.testing.wait_all_tasks_blocked()
        assert len(broker.sessions) == 0
        assert broker.sessions.closed == {"client_silent": 1}


async def test_client_that_answers_pings_or_says_anything_at_all_stays(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as polite, websocket(broker.port) as talker:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def answer_pings() -> None:
                while True:
                    await polite.receive()

            opcode = 0
            while opcode != PING:
                opcode, payload = await talker.receive_frame()
            await talker.send(PONG, payload)
            for n in range(40):
                await trio.sleep(3)
                await talker.ask("ping", n)
            assert len(broker.sessions) == 2
            nursery.cancel_scope.cancel()


async def test_client_that_answers_every_ping_stays_however_short_the_times(autojump_clock: object) -> None:
    # Sessions are looked at once a second: a time-out of a second must not be over before the ping is sent.
    times = SessionTimes(ping_interval_s=1.0, ping_timeout_s=1.0)
    async with open_broker(times=times) as broker, websocket(broker.port) as ws:
        while trio.current_time() < 60:
            opcode, payload = await ws.receive_frame()
            if opcode == PING:
                # Late enough that the next look comes just before it has been silent for long enough.
                await trio.sleep(0.05)
                await ws.send(PONG, payload)
        assert broker.sessions.closed == {}


async def test_pings_get_rarer_with_the_number_of_clients_and_one_that_hangs_is_found_all_the_same(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "PINGS_PER_S", 0.1)
    async with open_broker() as broker, websocket(broker.port) as polite, websocket(broker.port) as other:
        pinged: list[float] = []

        async def answer(ws: RawWebSocket, until: float) -> None:
            while True:
                opcode, payload = await ws.receive_frame()
                if opcode == PING:
                    if trio.current_time() > until:
                        return
                    await ws.send(PONG, payload)
                    if ws is polite:
                        pinged.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, polite, inf)
            await answer(other, 50)
            hangs_since = trio.current_time()
            with suppress(EOFError):
                while True:
                    await other.receive_frame()
            assert 4 <= trio.current_time() - hangs_since <= 5
            assert broker.sessions.closed == {"client_silent": 1}
            gaps = [later - earlier for earlier, later in pairwise(pinged)]
            assert gaps == pytest.approx([20] * len(gaps), abs=0.2)
            assert len(gaps) >= 2
            pinged.clear()
            await trio.sleep(61)
            gaps = [later - earlier for earlier, later in pairwise(pinged)]
            assert gaps == pytest.approx([10] * len(gaps), abs=0.2), "half as many share the pings"
            assert len(gaps) >= 4
            nursery.cancel_scope.cancel()


async def test_nobody_is_given_up_because_the_broker_was_held_up(autojump_clock: MockClock) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        for _ in range(3):
            opcode, payload = await ws.receive_frame()
            while opcode != PING:
                opcode, payload = await ws.receive_frame()
            # The answer is there, and lies unread while somebody else has the processor.
            await ws.send(PONG, payload)
            autojump_clock.jump(30)
        await trio.sleep(1)
        assert broker.sessions.closed == {}


async def test_client_that_never_answered_a_ping_is_left_to_tcp(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port):
        await trio.sleep(60)
        assert len(broker.sessions) == 1


async def test_client_that_reads_slowly_but_reads_is_not_called_silent(autojump_clock: object) -> None:
    async with open_broker(write_deadline_s=1000) as broker, websocket(broker.port) as ws:
        opcode = 0
        while opcode != PING:
            opcode, payload = await ws.receive_frame()
        await ws.send(PONG, payload)
        (subscriber,) = broker.sessions
        for _ in range(20):
            await trio.sleep(5)
            subscriber.wire.last_progress = trio.current_time()  # type: ignore[attr-defined]
        assert len(broker.sessions) == 1


async def test_client_that_leaves_without_a_close_is_forgotten_at_once(autojump_clock: object) -> None:
    async with open_broker() as broker:
        async with websocket(broker.port) as ws, stream(broker.port, "ch=quote&symbols=*") as sse:
            await ws.receive()
            await sse.receive()
            assert broker.sessions.live == {"ws": 1, "sse": 1}
            ws.raw.reset()
            sse.raw.reset()
            await trio.testing.wait_all_tasks_blocked()
        assert len(broker.sessions) == 0
        assert broker.sessions.closed == {"client_gone": 2}
        assert broker.router.mailboxes == {}


async def test_heartbeats_come_as_often_as_welcome_says(autojump_clock: object) -> None:
    async with open_broker(times=SessionTimes(heartbeat_s=3)) as broker, websocket(broker.port) as ws:
        assert (await ws.receive_type("welcome"))["heartbeat_s"] == 3
        for n in range(1, 6):
            await ws.receive_type("heartbeat")
            assert 3 * n <= trio.current_time() <= 4 * n + 1


async def test_fault_in_looking_after_one_session_ends_that_one_alone(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as bad, websocket(broker.port) as good:
        await bad.receive_type("welcome")
        first, _ = broker.sessions

        class Faulty(Subscriber):
            __slots__ = ()

            def heartbeat(self, now: float, ts: int, made: object = None) -> bytes:
                raise RuntimeError("a fault of ours")

        first.__class__ = Faulty
        assert (await bad.receive_type("closing"))["code"] == 1011
        assert (await bad.closed())[0] == 1011
        await good.receive_type("heartbeat")


async def test_fault_in_answering_one_session_ends_it_with_1011_and_nobody_else(
    autojump_clock: object,
) -> None:
    async with open_broker() as broker, websocket(broker.port) as bad, websocket(broker.port) as good:
        await bad.receive_type("welcome")
        first, _ = broker.sessions

        def raise_(payload: object, now: float, ts: int) -> None:
            raise RuntimeError("a fault of ours")

        first.session.handle = raise_  # type: ignore[method-assign, assignment]
        await bad.ask("ping")
        assert (await bad.receive_type("closing"))["code"] == 1011
        assert (await bad.closed())[0] == 1011
        await good.ask("ping")
        await good.receive_type("pong")
        assert broker.sessions.closed == {"fault": 1}


async def test_requests_over_the_limit_close_with_4429_and_say_when_to_come_back(
    autojump_clock: object,
) -> None:
    limits = SessionLimits(requests_per_minute=5)
    async with open_broker(limits=limits) as broker, websocket(broker.port) as ws:
        for n in range(6):
            await ws.ask("ping", n)
        for _ in range(5):
            await ws.receive_type("pong")
        assert (await ws.receive_type("error"))["code"] == "too_many_requests"
        closing = await ws.receive_type("closing")
        assert (closing["code"], closing["retry_after_ms"]) == (4429, 10_000)
        assert (await ws.closed())[0] == 4429


async def test_drain_tells_everybody_to_come_back_and_lets_nobody_in(autojump_clock: object) -> None:
    async with open_broker() as broker:
        async with (
            websocket(broker.port) as ws,
            stream(broker.port, "ch=quote&symbols=*") as sse,
            stream(broker.port, "ch=quote&symbols=*&format=ndjson") as ndjson,
        ):
            await ws.ask("subscribe", ch="quote", symbols=[ACME])
            await ws.receive_type("ack")
            broker.publish(quote())
            await trio.testing.wait_all_tasks_blocked()
            broker.sessions.drain()
            closings = [await reader.receive_type("closing") for reader in (ws, sse, ndjson)]
            assert {(c["code"], c["retry_after_ms"]) for c in closings} == {(1001, 1000)}
            assert closings[0]["ledger"][0]["delivered"] == 1
            assert (await ws.closed())[0] == 1001
            for reader in (sse, ndjson):
                with pytest.raises(EOFError):
                    await reader.receive()
            answer = await get(broker.port, "/v1/stream?ch=quote&symbols=*")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert (await get(broker.port, "/readyz")).status == 503
        await broker.settled(lambda: not len(broker.sessions))
        assert broker.sessions.closed["draining"] == 4
