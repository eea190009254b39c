"""The rounds of the fan-out, over wires that exist only here: nobody waits for anybody."""

from __future__ import annotations

from itertools import pairwise

import structlog.testing
import trio
import trio.testing

from broker.core import errors
from tests.fakes import ACME, BETA, fat_book, quote, trade, trades
from tests.wires import open_market


async def test_tick_reaches_everybody_who_wants_it_without_time_going_by(autojump_clock: object) -> None:
    async with open_market() as market:
        one, other, neither = (market.subscribe("quote", sym) for sym in (ACME, ACME, BETA))
        market.fanout.publish([quote(ACME, 7)])
        await trio.testing.wait_all_tasks_blocked()
        assert one.bids() == other.bids() == ["7"]
        assert neither.bids() == []
        assert trio.current_time() == 0


async def test_batch_goes_out_as_one_write(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", "*")
        writes = reader.wire.writes
        market.fanout.publish(trades(ACME, 50) + trades(BETA, 50))
        await trio.testing.wait_all_tasks_blocked()
        assert reader.wire.writes == writes + 1
        assert len(reader.ticks()) == 100


async def test_ticks_that_come_while_a_wire_is_full_are_conflated_until_it_drains(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", ACME)
        reader.wire.block()
        for n in range(1, 6):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert reader.bids() == []
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert reader.bids() == ["5"]
        (entry,) = reader.subscriber.session.ledger()
        assert (entry.offered, entry.delivered, entry.conflated, entry.pending) == (5, 1, 4, 0)


async def test_full_wire_changes_nothing_for_the_others(autojump_clock: object) -> None:
    async with open_market() as market:
        stalled, healthy = (market.subscribe("trade", "*") for _ in range(2))
        stalled.wire.block()
        for n in range(1, 301):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert [tick["id"] for tick in healthy.ticks()] == [str(n) for n in range(1, 301)]
        assert stalled.ticks() == []
        assert trio.current_time() == 0


async def test_full_wire_with_gap_is_told_exactly_what_it_missed(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=10)
        reader.wire.block()
        for n in range(1, 101):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert len(reader.subscriber.session.subscriptions[1].mailbox) == 10
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert [(gap["from"], gap["to"], gap["reason"]) for gap in reader.of("gap")] == [(1, 90, "overflow")]
        assert [tick["seq"] for tick in reader.ticks()] == list(range(91, 101))
        (entry,) = reader.subscriber.session.ledger()
        assert (entry.offered, entry.delivered, entry.dropped, entry.pending) == (100, 10, 90, 0)


async def test_queue_over_its_limit_with_evict_ends_the_session_at_once(autojump_clock: object) -> None:
    async with open_market() as market:
        reader, healthy = (
            market.subscribe("trade", ACME, queue=10, overflow="evict"),
            market.subscribe("trade", ACME),
        )
        reader.wire.block()
        market.fanout.publish(trades(ACME, 10))
        await trio.testing.wait_all_tasks_blocked()
        assert reader.subscriber.ended is None
        with structlog.testing.capture_logs() as logs:
            market.fanout.publish([trade(ACME, 11)])
            await trio.testing.wait_all_tasks_blocked()
        (evicted,) = (entry for entry in logs if entry["event"] == "slow consumer evicted")
        assert (evicted["in_queue"], evicted["limit"], evicted["late_s"]) == (10, 10, 0.0)
        assert reader.subscriber.ended is not None
        assert reader.subscriber.ended.name == "over_limit"
        assert trio.current_time() == 0
        closing = reader.messages()[-1]
        assert closing["type"] == "closing"
        assert closing["code"] == 4408
        assert closing["ledger"] == [
            {"sub": 1, "offered": 11, "delivered": 0, "conflated": 0, "dropped": 1, "pending": 10}
        ]
        market.fanout.publish([trade(ACME, 12)])
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        assert reader.messages()[-1] == closing, "nothing more leaves behind the close"
        assert len(healthy.ticks()) == 12


async def test_subscriber_whose_flush_raises_ends_alone(autojump_clock: object) -> None:
    async with open_market() as market:
        broken, healthy = (market.subscribe("trade", ACME) for _ in range(2))

        class Faulty(type(broken.subscriber.outbox)):  # type: ignore[misc]
            __slots__ = ()

            def take(self, now: float) -> bytes:
                raise RuntimeError("a fault of ours")

        broken.subscriber.outbox.__class__ = Faulty
        market.fanout.publish([trade(ACME, 1)])
        market.fanout.publish([trade(ACME, 2)])
        await trio.testing.wait_all_tasks_blocked()
        assert broken.subscriber.ended is not None
        assert broken.subscriber.ended.code == 1011
        assert broken.messages()[-1]["code"] == 1011
        assert len(healthy.ticks()) == 2


async def test_subscriber_whose_account_raises_as_well_ends_alone(autojump_clock: object) -> None:
    async with open_market() as market:
        broken, healthy = (market.subscribe("trade", ACME) for _ in range(2))
        (subscription,) = broken.subscriber.session.subscriptions.values()

        class Faulty(type(subscription.mailbox)):  # type: ignore[misc]
            __slots__ = ()

            def admit(self) -> None:
                raise RuntimeError("a fault of ours")

            def take_fresh(self, most: int) -> None:
                return None

        subscription.mailbox.__class__ = Faulty
        market.fanout.publish([trade(ACME, 1)])
        market.fanout.publish([trade(ACME, 2)])
        await trio.testing.wait_all_tasks_blocked()
        assert broken.subscriber.ended is errors.FAULT
        assert broken.subscriber.scope.cancel_called
        market.fanout.publish([trade(ACME, 3)])
        assert len(subscription.mailbox.inbox) <= 2, "nothing more may come for a session that has ended"
        await trio.testing.wait_all_tasks_blocked()
        assert len(healthy.ticks()) == 3


async def test_delay_of_the_contract_gathers_ticks_and_is_kept(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, max_delay_ms=500)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(1, 4):
            market.fanout.publish([trade(ACME, n)])
            await trio.sleep(0.1)
        assert reader.ticks() == []
        writes = reader.wire.writes
        await trio.sleep(0.3)
        assert [tick["seq"] for tick in reader.ticks()] == [1, 2, 3]
        assert reader.wire.writes == writes + 1


async def test_second_subscription_without_delay_takes_the_delayed_one_along(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, max_delay_ms=500)
        market.also(reader, "quote", ACME)
        market.fanout.publish([trade(ACME, 1)])
        await trio.sleep(0.1)
        market.fanout.publish([quote(ACME, 2)])
        await trio.testing.wait_all_tasks_blocked()
        assert [tick["ch"] for tick in reader.ticks()] == ["trade", "quote"]


async def test_shorter_of_two_delays_is_kept_whichever_began_first(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, max_delay_ms=60_000)
        market.also(reader, "quote", ACME, max_delay_ms=100)
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish([trade(ACME, 1)])
        await trio.sleep(1)
        for n in range(1, 51):
            market.fanout.publish([quote(ACME, n), trade(ACME, n)])
            await trio.sleep(0.101)
            assert reader.bids()[-1:] == [str(n)]
        assert len(reader.subscriber.timers) <= 2


async def test_ticks_that_wait_for_a_delay_are_bounded_and_conflated(autojump_clock: object) -> None:
    async with open_market() as market:
        latest = market.subscribe("quote", "*", max_delay_ms=60_000)
        await trio.testing.wait_all_tasks_blocked()
        box = latest.subscriber.session.subscriptions[1].mailbox
        for n in range(1, 1001):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
            assert len(box.inbox) <= 1, "an inbox that nobody looks at has no bound"
        assert latest.ticks() == []
        await trio.sleep(61)
        assert latest.bids() == ["1000"]


async def test_delayed_queue_that_is_full_is_sent_instead_of_dropped(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, max_delay_ms=60_000, queue=100)
        for n in range(1, 1001):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(61)
        assert [tick["seq"] for tick in reader.ticks()] == list(range(1, 1001))
        assert reader.of("gap") == []


async def test_delayed_queue_over_its_limit_is_evicted_without_waiting_for_the_delay(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, max_delay_ms=60_000, queue=10, overflow="evict")
        reader.wire.block()
        for n in range(1, 13):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert reader.subscriber.ended is not None
        assert reader.subscriber.ended.name == "over_limit"
        assert trio.current_time() == 0


async def test_large_backlog_does_not_keep_the_others_waiting(autojump_clock: object) -> None:
    async with open_market() as market:
        market.fanout.publish([fat_book(f"SIM:B{n}") for n in range(400)])
        await trio.testing.wait_all_tasks_blocked()
        healthy = market.subscribe("trade", ACME)
        healthy.wire.log = market.log
        heavy = market.subscribe("book", "*", log=market.log)
        market.fanout.publish([trade(ACME, 1)])
        await trio.testing.wait_all_tasks_blocked()
        mine = [index for index, wire in enumerate(market.log) if wire is healthy.wire]
        theirs = [index for index, wire in enumerate(market.log) if wire is heavy.wire]
        assert sum(len(message["data"]) for message in heavy.of("snapshot")) == 400
        assert mine[-1] < theirs[5] < theirs[-1]


async def test_gap_at_the_venue_is_told_to_those_who_want_the_topic(autojump_clock: object) -> None:
    async with open_market() as market:
        one, other = market.subscribe("trade", ACME), market.subscribe("trade", BETA)
        market.fanout.publish([trade(ACME, 1)])
        market.fanout.gap("trade", ACME)
        market.fanout.gap("trade", "SIM:NOBODY-KNOWS")
        await trio.testing.wait_all_tasks_blocked()
        (gap,) = one.of("gap")
        assert (gap["sym"], gap["from"], gap["to"], gap["reason"]) == (ACME, None, None, "feed_reset")
        assert other.of("gap") == []


async def test_rounds_keep_a_distance_that_grows_with_their_length(
    mock_clock: trio.testing.MockClock,
) -> None:
    """The clock stands still but for what the writes take, so every round's begin can be foretold."""
    async with open_market(max_gap_s=0.01) as market:
        reader = market.subscribe("trade", ACME)
        begins: list[float] = []

        def slow_offer(data: bytes) -> None:
            begins.append(trio.current_time())
            mock_clock.jump(0.004)
            market.fanout.publish([trade(ACME, len(begins))])

        reader.wire.offer = slow_offer  # type: ignore[method-assign]
        market.fanout.publish([trade(ACME, 0)])
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.001)
        gaps = [later - earlier for earlier, later in pairwise(begins)]
        assert len(gaps) >= 3
        assert all(0.008 <= gap <= 0.0101 for gap in gaps), gaps


async def test_tick_that_an_account_counted_before_its_round_is_sent_all_the_same(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        readers = [market.subscribe("quote", ACME) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish([quote(ACME, 7)])
        # As a heartbeat does it.
        readers[1].subscriber.session.ledger()
        await trio.testing.wait_all_tasks_blocked()
        assert [reader.bids() for reader in readers] == [["7"]] * 3
