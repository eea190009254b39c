"""The sessions that ended last: how many are kept, how they stood, and that a record has a bound."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from broker.core import errors
from broker.core.errors import CloseReason
from broker.core.ticks import CHANNELS
from broker.runtime.closed import ClosedSessions
from broker.runtime.records import MOST_SUBSCRIPTIONS, MOST_SYMBOLS, SessionRecord
from tests.fakes import ACME, SYMBOLS, open_broker, trades
from tests.raw import CLOSE, stream, websocket
from tests.wires import open_market


def record(name: str) -> SessionRecord:
    return SessionRecord(name, "192.0.2.1", "ws", "json", 1.5, 0.5, 3, 0, 0, 0, None, [], 0)


def test_the_oldest_are_forgotten_above_the_number() -> None:
    ring = ClosedSessions(3)
    for n in range(5):
        ring.add(record(f"s{n}"), errors.ASKED, n)
    assert [closed.record.id for closed in ring] == ["s4", "s3", "s2"]
    assert len(ring) == 3


def test_the_oldest_are_forgotten_above_the_bytes_but_never_the_last() -> None:
    size = ClosedSessions().add(record("s0"), errors.ASKED, 1).size
    ring = ClosedSessions(100, 3 * size + 1)
    for n in range(9):
        ring.add(record(f"s{n}"), errors.ASKED, n)
    assert [closed.record.id for closed in ring] == ["s8", "s7", "s6"]
    ring.add(record("s" * 10 * size), errors.ASKED, 9)
    assert len(ring) == 1


def test_record_is_read_back_as_it_was() -> None:
    closed = ClosedSessions().add(record("a-name"), errors.OVER_LIMIT, 7)
    assert closed.record == record("a-name")
    assert (closed.reason, closed.at_ns, closed.closing) == (errors.OVER_LIMIT, 7, "under_way")
    assert closed.may_contain(b"a-name")
    assert not closed.may_contain(b"b-name")


@pytest.mark.parametrize("reason", [errors.ASKED, errors.CLIENT_GONE, errors.CLIENT_SILENT])
def test_nothing_was_to_be_told_to_a_client_that_left(reason: CloseReason) -> None:
    assert ClosedSessions().add(record("s"), reason, 1).closing == "none"


async def test_record_of_an_end_has_the_account_right_before_it(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=10)
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        market.fanout.publish(trades(ACME, 15))
        await trio.sleep(2)
        reader.subscriber.end(errors.DRAINING)
        await trio.sleep(5)
        found = reader.subscriber.record(trio.current_time())
        assert (found.queued_ticks, found.oldest_s, found.lived_s) == (10, 2.0, 2.0)
        (sub,) = found.subscriptions
        ledger = sub.ledger
        assert (ledger.offered, ledger.dropped, ledger.pending) == (15, 5, 10)
        assert (sub.peak_ticks, sub.symbols, sub.symbols_total) == (10, [ACME], 1)
        assert sub.queued_bytes == found.queued_bytes > 0


async def test_record_of_a_session_with_a_thousand_names_is_cut_and_says_so(autojump_clock: object) -> None:
    many = [f"SIM:S{n}" for n in range(1000)]
    async with open_broker(symbols=[*SYMBOLS, *many]) as broker, websocket(broker.port) as ws:
        for ch in CHANNELS:
            for part in range(10):
                await ws.ask("subscribe", ch=ch, symbols=many[part * 100 : part * 100 + 100], snapshot=False)
                await ws.receive_type("ack")
        (subscriber,) = broker.sessions
        found = subscriber.record(trio.current_time())
        assert (len(found.subscriptions), found.subscriptions_total) == (MOST_SUBSCRIPTIONS, 50)
        assert (len(found.subscriptions[0].symbols), found.subscriptions[0].symbols_total) == (
            MOST_SYMBOLS,
            100,
        )
        assert ClosedSessions().add(found, errors.FULL, 1).size < 10_000


async def test_client_that_reads_its_closing_is_noted_as_told(autojump_clock: object) -> None:
    async with open_broker() as broker:
        async with websocket(broker.port) as ws, stream(broker.port, "ch=quote&symbols=*") as sse:
            await ws.receive_type("welcome")
            await sse.receive_type("welcome")
            broker.sessions.drain()
            await ws.closed()
            await ws.send(CLOSE, b"\x03\xe9")
            assert (await sse.receive_type("closing"))["advice"] == errors.DRAINING.advice
            assert [closed.closing for closed in broker.sessions.last_closed] == ["under_way"] * 2
        await broker.settled(lambda: not broker.door.open)
        assert [closed.closing for closed in broker.sessions.last_closed] == ["delivered"] * 2
        assert {closed.reason for closed in broker.sessions.last_closed} == {errors.DRAINING}


async def test_client_that_does_not_read_its_closing_is_noted_as_not_told(autojump_clock: object) -> None:
    async with open_broker() as broker, websocket(broker.port) as ws:
        await ws.receive_type("welcome")
        broker.sessions.drain()
        await broker.settled(lambda: not broker.door.open)
        (closed,) = broker.sessions.last_closed
        assert closed.closing == "undelivered"


async def test_refused_query_and_head_leave_no_trace_among_the_ended(autojump_clock: object) -> None:
    async with open_broker() as broker:
        with pytest.raises(AssertionError, match="400"):
            async with stream(broker.port, "ch=quote&symbols=NOPE:X"):
                pass
        assert len(broker.sessions.last_closed) == 0
