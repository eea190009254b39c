"""Clients that stop reading, over real sockets: whatever waits for them, they are ended in time, with a reason."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import structlog.testing
import trio
import trio.testing

from broker.runtime import sessions as sessions_module
from broker.runtime import turns as turns_module
from broker.runtime.sessions import SessionTimes
from broker.runtime.subscriber import Subscriber
from tests.fakes import ACME, RunningBroker, fat_book, open_broker, trade
from tests.raw import PING, PONG, TEXT, RawWebSocket, frame, stream, websocket

NEVER = 1e9


async def only_session(broker: RunningBroker) -> Subscriber:
    await broker.settled(lambda: len(broker.sessions) == 1)
    (subscriber,) = broker.sessions
    return subscriber


async def fill(broker: RunningBroker, subscriber: Subscriber) -> float:
    """Publish until the client's socket is full; return when that was."""
    while not subscriber.wire.is_blocked:
        broker.publish(fat_book(ACME))
        await trio.testing.wait_all_tasks_blocked()
    return trio.current_time()


async def ended_at(broker: RunningBroker) -> float:
    await broker.settled(lambda: not len(broker.sessions))
    return trio.current_time()


async def test_stall_on_a_symbol_that_falls_quiet_ends_at_the_write_deadline_with_its_numbers(
    autojump_clock: object,
) -> None:
    async with open_broker(write_deadline_s=5) as broker:
        async with websocket(broker.port, receive_buffer=4096) as ws:
            await ws.ask("subscribe", ch="book", symbols=[ACME], delivery={"mode": "every"})
            await ws.receive_type("ack")
            full_at = await fill(broker, await only_session(broker))
            with structlog.testing.capture_logs() as logs:
                assert await ended_at(broker) == pytest.approx(full_at + 5, abs=0.1)
        assert broker.sessions.closed == {"write_deadline": 1}
        (evicted,) = (entry for entry in logs if entry["event"] == "slow consumer evicted")
        assert 0 <= evicted["late_s"] <= 0.25
        (closed,) = broker.sessions.last_closed
        assert closed.closing == "undelivered"
        assert closed.record.unsent_bytes > 0
        ledger = closed.record.subscriptions[0].ledger
        assert ledger.offered == broker.tape.offset == ledger.delivered + ledger.pending


async def test_stall_with_more_waiting_in_the_queue_ends_the_same_way(autojump_clock: object) -> None:
    async with open_broker(write_deadline_s=5) as broker:
        async with stream(broker.port, f"ch=book,trade&symbols={ACME}", receive_buffer=4096) as reader:
            await reader.receive_type("ack")
            full_at = await fill(broker, await only_session(broker))
            broker.publish(*[trade(ACME, n) for n in range(7)])
            assert await ended_at(broker) == pytest.approx(full_at + 5, abs=0.1)
        (closed,) = broker.sessions.last_closed
        assert closed.reason.name == "write_deadline"
        assert closed.record.queued_ticks >= 7
        assert closed.record.oldest_s == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    ("transport", "times"),
    [
        ("ws", SessionTimes(heartbeat_s=0, ping_interval_s=NEVER)),
        ("ws", SessionTimes(heartbeat_s=NEVER, ping_interval_s=0)),
        ("sse", SessionTimes(heartbeat_s=0, keepalive_s=NEVER)),
        ("sse", SessionTimes(heartbeat_s=NEVER, keepalive_s=0)),
        ("ndjson", SessionTimes(heartbeat_s=0)),
    ],
    ids=["ws heartbeats", "ws pings", "sse heartbeats", "sse keepalive", "ndjson heartbeats"],
)
async def test_stall_without_a_single_tick_ends_once_signs_of_life_have_filled_the_pipe(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, transport: str, times: SessionTimes
) -> None:
    monkeypatch.setattr(turns_module, "TURN_S", 0.001)
    monkeypatch.setattr(turns_module, "PLACES", 1)
    monkeypatch.setattr(sessions_module, "PINGS_PER_S", 1e9)
    async with open_broker(write_deadline_s=5, times=times) as broker:
        opened = (
            websocket(broker.port, receive_buffer=4096)
            if transport == "ws"
            else stream(broker.port, f"ch=status&symbols=*&format={transport}", receive_buffer=4096)
        )
        async with opened:
            subscriber = await only_session(broker)
            blocked_at: list[float] = []
            note = subscriber.wire.on_blocked
            subscriber.wire.on_blocked = lambda: (blocked_at.append(trio.current_time()), note())[1]
            at = await ended_at(broker)
            assert at == pytest.approx(blocked_at[-1] + 5, abs=0.1)
        assert broker.sessions.closed == {"write_deadline": 1}


@pytest.mark.parametrize("opcode", [TEXT, PING], ids=["requests", "pings"])
async def test_client_that_asks_and_never_reads_is_not_read_either_and_then_ended(
    autojump_clock: object, opcode: int
) -> None:
    payload = b'{"op":"list","id":1}' if opcode == TEXT else b"x" * 125
    async with open_broker(write_deadline_s=5) as broker:
        async with websocket(broker.port, receive_buffer=4096) as ws:
            await ws.ask("subscribe", ch="trade", symbols=[ACME])
            subscriber = await only_session(broker)
            most = sent = 0
            blocked_at = 0.0
            with suppress(OSError):
                while True:
                    await ws.raw.send(frame(opcode, payload) * 10)
                    sent += 10
                    most = max(most, subscriber.wire.pending_bytes)
                    if not subscriber.wire.is_blocked and subscriber.ended is None:
                        blocked_at = trio.current_time()
            assert await ended_at(broker) == pytest.approx(blocked_at + 5, abs=0.1)
            assert 0 < most < 1000, "one answer waits, and no other is made"
            assert sent > 100
        assert broker.sessions.closed == {"write_deadline": 1}
        (closed,) = broker.sessions.last_closed
        assert closed.record.requests < sent or opcode == PING


async def test_client_that_asks_much_and_reads_late_gets_every_answer_in_order() -> None:
    async with open_broker(write_deadline_s=60) as broker, websocket(broker.port, receive_buffer=4096) as ws:
        await ws.receive_type("welcome")
        subscriber = await only_session(broker)
        asked = 2000

        async def ask() -> None:
            for n in range(asked):
                await ws.ask("ping", n)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await broker.settled(lambda: subscriber.wire.is_blocked)
            answered = [(await ws.receive_type("pong"))["id"] for _ in range(asked)]
        assert answered == list(range(asked))


async def test_answers_and_pongs_arrive_between_whole_frames_of_a_subscriber_that_is_behind() -> None:
    async with open_broker(write_deadline_s=60) as broker, websocket(broker.port, receive_buffer=4096) as ws:
        await ws.ask("subscribe", ch="book", symbols=[ACME], delivery={"mode": "every", "queue": 5000})
        await ws.receive_type("ack")
        await fill(broker, await only_session(broker))
        for _ in range(200):
            broker.publish(fat_book(ACME))
        await ws.send(PING, b"are you there?")
        await ws.ask("ping", 7)
        before = await ticks_until(ws, PONG)
        before += await ticks_until(ws, TEXT)
        assert before < 200, "an answer waits for the write that has begun, not for the queue"


async def ticks_until(ws: RawWebSocket, opcode: int) -> int:
    """Count the ticks before a pong: the frame, or the message where ``opcode`` is TEXT."""
    ticks = 0
    while True:
        kind, payload = await ws.receive_frame()
        if kind == PONG and opcode == PONG:
            assert payload == b"are you there?"
            return ticks
        assert kind == TEXT
        message = json.loads(payload)
        if message["type"] == "pong" and opcode == TEXT:
            return ticks
        ticks += len(message.get("data", ()))
