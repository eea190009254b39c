"""Budgets: who is counted, who goes, and in which order."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from broker.core import errors
from broker.core.messages import Pong
from broker.runtime import budget as budget_module
from broker.runtime.budget import Budget, BudgetLimits
from tests.fakes import ACME, BETA, open_broker, quote, trade, trades
from tests.raw import websocket
from tests.wires import Market, Reader, open_market

ROOMY = 1 << 40


def budget_of(market: Market, **limits: int) -> Budget:
    """Return a budget of a market's subscribers; what is not named has room without end."""
    names = ("session_ticks", "session_bytes", "total_ticks", "total_bytes")
    return Budget(BudgetLimits(**{name: limits.get(name, ROOMY) for name in names}), market.fanout.behind)


async def stall(market: Market, ticks: int, *readers: Reader) -> None:
    """Let so many ticks of their own wait for each reader."""
    for reader in readers:
        reader.wire.block()
        reader.subscriber.session.subscriptions[1].mailbox.settle()
    market.fanout.publish(trades(ACME, ticks))
    await trio.testing.wait_all_tasks_blocked()


async def test_nobody_is_behind_who_keeps_up(autojump_clock: object) -> None:
    async with open_market() as market:
        for _ in range(3):
            market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        budget = budget_of(market)
        budget.check()
        for n in range(1, 20):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert market.fanout.behind == {}
        assert budget.check() == []
        assert budget.statistics().sessions == 0


async def test_what_waits_is_counted_in_queues_and_in_the_wire_until_it_has_gone(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        market.also(reader, "quote", BETA)
        await trio.testing.wait_all_tasks_blocked()
        budget = budget_of(market)
        reader.wire.block()
        market.fanout.publish([*trades(ACME, 10), quote(BETA, 1)])
        await trio.testing.wait_all_tasks_blocked()
        reader.subscriber.say(Pong(1, 1))
        assert budget.check() == []
        assert budget.statistics().sessions == 1
        assert budget.statistics().ticks == 11
        queued = reader.subscriber.session.subscriptions[1].mailbox.bytes
        assert budget.statistics().bytes >= queued + reader.wire.pending_bytes > queued > 0
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        budget.check()
        assert (budget.statistics().sessions, budget.statistics().ticks, budget.statistics().bytes) == (
            0,
            0,
            0,
        )
        assert market.fanout.behind == {}


async def test_ticks_that_wait_for_the_delay_of_their_contract_are_counted(autojump_clock: object) -> None:
    async with open_market() as market:
        market.subscribe("trade", ACME, max_delay_ms=60_000)
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish(trades(ACME, 7))
        await trio.testing.wait_all_tasks_blocked()
        budget = budget_of(market)
        budget.check()
        assert (budget.statistics().sessions, budget.statistics().ticks) == (1, 7)


async def test_wire_that_holds_something_is_counted_though_no_tick_follows(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        reader.subscriber.say(Pong(1, 1))
        budget = budget_of(market)
        budget.check()
        assert budget.statistics().bytes == reader.wire.pending_bytes > 0


@pytest.mark.parametrize("resource", ["ticks", "bytes"])
async def test_session_over_its_own_budget_goes_and_one_at_it_stays(
    autojump_clock: object, resource: str
) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        await stall(market, 10, reader)
        ticks, size = reader.subscriber.held()
        held = ticks if resource == "ticks" else size
        assert budget_of(market, **{f"session_{resource}": held}).check() == []
        (over,) = budget_of(market, **{f"session_{resource}": held - 1}).check()
        assert over.subscriber is reader.subscriber
        assert over.reason is errors.OVER_SESSION_BUDGET
        assert (over.resource, over.held, over.limit) == (resource, held, held - 1)


async def test_queues_of_all_subscriptions_count_for_their_session(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        market.also(reader, "trade", BETA)
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        market.fanout.publish(trades(ACME, 6) + trades(BETA, 6))
        await trio.testing.wait_all_tasks_blocked()
        (over,) = budget_of(market, session_ticks=10).check()
        assert over.held == 12


async def test_when_the_whole_is_short_those_that_hold_most_go_until_it_fits(autojump_clock: object) -> None:
    async with open_market() as market:
        readers = {queue: market.subscribe("trade", ACME, queue=queue) for queue in (20, 50, 10, 40, 30)}
        await trio.testing.wait_all_tasks_blocked()
        await stall(market, 60, *readers.values())
        overdrawn = budget_of(market, total_ticks=75).check()
        assert [over.subscriber for over in overdrawn] == [readers[50].subscriber, readers[40].subscriber]
        assert {over.reason for over in overdrawn} == {errors.OVER_TOTAL_BUDGET}
        assert [over.held for over in overdrawn] == [150, 100]
        assert budget_of(market, total_ticks=150).check() == []


async def test_of_those_that_hold_the_same_who_fell_behind_first_goes_first(autojump_clock: object) -> None:
    async with open_market() as market:
        readers = [market.subscribe("trade", ACME) for _ in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        for reader in reversed(readers):
            reader.wire.block()
        await stall(market, 5)
        overdrawn = budget_of(market, total_ticks=10).check()
        assert [over.subscriber for over in overdrawn] == [readers[3].subscriber, readers[2].subscriber]


async def test_who_goes_for_its_own_budget_no_longer_counts_for_the_whole(autojump_clock: object) -> None:
    async with open_market() as market:
        large = market.subscribe("trade", ACME, queue=50)
        small = market.subscribe("trade", ACME, queue=10)
        await trio.testing.wait_all_tasks_blocked()
        await stall(market, 60, large, small)
        (over,) = budget_of(market, session_ticks=40, total_ticks=20).check()
        assert over.reason is errors.OVER_SESSION_BUDGET
        assert over.subscriber is large.subscriber


async def test_fault_in_counting_one_session_ends_that_one_alone(autojump_clock: object) -> None:
    async with open_market() as market:
        broken, healthy = (market.subscribe("trade", ACME) for _ in range(2))
        await trio.testing.wait_all_tasks_blocked()
        await stall(market, 3, broken, healthy)
        faults = [RuntimeError("a fault of ours")]

        class Faulty(type(broken.subscriber)):  # type: ignore[misc]
            __slots__ = ()

            def held(self) -> tuple[int, int]:
                if faults:
                    raise faults.pop()
                return 3, 300

        broken.subscriber.__class__ = Faulty
        budget = budget_of(market)
        assert budget.check() == []
        assert broken.subscriber.ended is errors.FAULT
        assert budget.statistics().sessions == 1


async def test_counting_that_takes_long_is_done_less_often(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME)
        await trio.testing.wait_all_tasks_blocked()
        await stall(market, 3, reader)
        counts = 0

        class Slow(type(reader.subscriber)):  # type: ignore[misc]
            __slots__ = ()

            def held(self) -> tuple[int, int]:
                nonlocal counts
                counts += 1
                mock_clock.jump(0.002)
                return 3, 300

        reader.subscriber.__class__ = Slow
        budget = budget_of(market)
        for _ in range(21):
            budget.check()
            mock_clock.jump(0.05)
        assert counts == 11, "2 ms may be taken every 100 ms"
        monkeypatch.setattr(budget_module, "SHARE", 10_000)
        counts = 0
        for _ in range(20):
            budget.check()
            mock_clock.jump(0.05)
        assert counts == 5, "but four times a second it is counted"


async def test_budgets_are_kept_over_sockets_and_told_apart_in_the_counters(autojump_clock: object) -> None:
    budget = BudgetLimits(session_ticks=3300, total_ticks=5000)
    async with open_broker(budget=budget, write_deadline_s=600) as broker:
        async with (
            websocket(broker.port, receive_buffer=4096) as two_symbols,
            websocket(broker.port, receive_buffer=4096) as long_queue,
            websocket(broker.port, receive_buffer=4096) as short_queue,
            websocket(broker.port) as healthy,
        ):
            await two_symbols.ask("subscribe", ch="trade", symbols=[BETA], delivery={"queue": 5000})
            await two_symbols.receive_type("ack")
            queues = {two_symbols: 5000, long_queue: 5000, short_queue: 1000, healthy: 1000}
            for ws, queue in queues.items():
                await ws.ask("subscribe", ch="trade", symbols=[ACME], delivery={"queue": queue})
                await ws.receive_type("ack")
            number = got = 0
            while sum(broker.sessions.closed.values()) < 2:
                broker.publish(*trades(ACME, 50, number + 1), *trades(BETA, 50, number + 1))
                number += 50
                while got < number:
                    got += len((await healthy.receive_type("update"))["data"])
                await trio.sleep(0.06)
            assert broker.sessions.closed == {"over_session_budget": 1, "over_total_budget": 1}
            last, first = (closed.record for closed in broker.sessions.last_closed)
            assert first.subscriptions_total == 2
            assert first.queued_ticks <= 3300
            assert 3300 < last.queued_ticks <= 3450
            assert len(broker.sessions) == 2
