"""One subscriber: what it writes, and how it ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from broker.core import errors
from broker.core.errors import CloseReason
from broker.core.messages import Pong
from broker.runtime.subscriber import MOST_UNREAD
from tests.fakes import ACME, quote, trade, trades
from tests.wires import open_market


async def test_first_reason_to_end_stays_and_is_said_once(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        reader.subscriber.end(errors.DRAINING)
        reader.subscriber.end(errors.FAULT)
        assert reader.subscriber.ended is errors.DRAINING
        assert [message["code"] for message in reader.of("closing")] == [1001]
        assert reader.subscriber.scope.cancel_called


async def test_nothing_is_written_behind_the_closing(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish([trade(ACME, 1)])
        reader.subscriber.end(errors.DRAINING)
        reader.subscriber.say(Pong(1, 1))
        reader.wire.offer(reader.subscriber.heartbeat(0, 1))
        market.fanout.publish([trade(ACME, 2)])
        await trio.testing.wait_all_tasks_blocked()
        assert reader.messages()[-1]["type"] == "closing"


@pytest.mark.parametrize("reason", [errors.CLIENT_GONE, errors.CLIENT_SILENT, errors.WRITE_DEADLINE])
async def test_nothing_is_said_to_a_client_that_cannot_hear(
    autojump_clock: object, reason: CloseReason
) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        writes = reader.wire.writes
        reader.subscriber.end(reason)
        assert reader.wire.writes == writes


async def test_answer_goes_ahead_of_what_is_queued(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish(trades(ACME, 100))
        reader.subscriber.say(Pong(1, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert [message["type"] for message in reader.messages()] == ["pong", "update"]


async def test_busy_wire_gets_no_heartbeat(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        reader.wire.offer(reader.subscriber.heartbeat(10, 1))
        assert reader.of("heartbeat") == []
        reader.wire.drain()
        reader.wire.offer(reader.subscriber.heartbeat(20, 1))
        assert [message["ts"] for message in reader.of("heartbeat")] == ["1"]


async def test_heartbeat_says_where_a_resume_would_start_and_what_is_pending(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish(trades(ACME, 3))
        reader.wire.offer(reader.subscriber.heartbeat(10, 1))
        (heartbeat,) = reader.of("heartbeat")
        assert heartbeat["cursor"] == "e1-0", "the three have not been sent"
        assert heartbeat["ledger"] == [
            {"sub": 1, "offered": 3, "delivered": 0, "conflated": 0, "dropped": 0, "pending": 3}
        ]


async def test_writing_stops_as_soon_as_the_wire_is_full(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=5000)
        await trio.testing.wait_all_tasks_blocked()
        offer = reader.wire.offer

        def fill(data: bytes) -> None:
            offer(data)
            reader.wire.block()

        reader.wire.offer = fill  # type: ignore[method-assign]
        market.fanout.publish(trades(ACME, 2000))
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < len(reader.ticks()) < 1000, "what is not written can still be conflated, and told of"
        while reader.wire.is_blocked:
            reader.wire.drain()
            await trio.testing.wait_all_tasks_blocked()
        assert [tick["seq"] for tick in reader.ticks()] == list(range(1, 2001))


async def test_the_newest_quote_is_kept_through_a_stall(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", ACME)
        reader.wire.block()
        for n in (1, 2, 3):
            market.fanout.publish([quote(ACME, n)])
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert reader.bids() == ["3"]


async def test_closing_says_what_could_be_done_otherwise(autojump_clock: object) -> None:
    async with open_market() as market:
        slow, leaving = market.subscribe("trade", ACME), market.subscribe("trade", ACME)
        slow.subscriber.end(errors.OVER_SESSION_BUDGET)
        assert [message["advice"] for message in slow.of("closing")] == [errors.OVER_SESSION_BUDGET.advice]
        leaving.subscriber.end(errors.ASKED)
        assert "advice" not in leaving.of("closing")[0], "nothing to be said is not said"


async def test_messages_that_nobody_reads_end_the_session_at_a_bound(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        for turn in range(3):
            reader.wire.block()
            for n in range(MOST_UNREAD):
                reader.subscriber.say(Pong(turn * MOST_UNREAD + n, 1))
            reader.wire.drain()
        assert reader.subscriber.ended is None, "who reads them may have as many again"
        assert [pong["id"] for pong in reader.of("pong")] == list(range(3 * MOST_UNREAD))
        reader.wire.block()
        for n in range(MOST_UNREAD + 10):
            reader.subscriber.say(Pong(n, 1))
        assert reader.subscriber.ended is errors.UNREAD_ANSWERS
        assert len(reader.of("pong")) == 4 * MOST_UNREAD
        assert reader.messages()[-1]["code"] == 4408


async def test_eviction_is_carried_out_once_whatever_comes_behind_it(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        reader.subscriber.evict(errors.OVER_TOTAL_BUDGET, held_bytes=1, limit=0)
        reader.subscriber.evict(errors.WRITE_DEADLINE)
        assert reader.subscriber.ended is errors.OVER_TOTAL_BUDGET
        assert len(reader.of("closing")) == 1
