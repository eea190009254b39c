"""Slow subscribers and slow contracts, over wires that a test holds: told in time, served in time, in no one's way."""

from __future__ import annotations

import trio
import trio.testing

from broker.core.ticks import Bar, Status
from tests.fakes import ACME, BETA, quote, trade
from tests.wires import open_market


def _bar(interval: str, n: int) -> Bar:
    prices = dict.fromkeys(("open", "high", "low", "close"), "1")
    return Bar(sym=ACME, ts=n, rts=n, interval=interval, start=0, volume="1", count=1, final=False, **prices)


async def test_stalled_reader_is_told_ahead_of_the_data_that_waits(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=10)
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        for n in range(1, 9):
            market.fanout.publish([trade(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        (pressed,) = reader.of("notice")
        assert (pressed["state"], pressed["sub"], pressed["limit"]) == ("pressed", 1, 10)
        assert 5 <= pressed["queued"] <= 6
        assert reader.ticks() == [], "while the wire is full nothing but control goes to it"
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        kinds = [message["type"] for message in reader.messages()]
        assert kinds.index("notice") < kinds.index("update")
        assert [notice["state"] for notice in reader.of("notice")] == ["pressed", "recovered"]
        assert [tick["seq"] for tick in reader.ticks()] == list(range(1, 9))


async def test_reader_that_keeps_up_loses_nothing_by_a_short_queue(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=1)
        market.also(reader, "quote", BETA, mode="every", queue=1, overflow="evict")
        for n in range(10):
            market.fanout.publish([trade(ACME, 100 * n + i) for i in range(100)])
            market.fanout.publish([quote(BETA, i) for i in range(100)])
            await trio.testing.wait_all_tasks_blocked()
        assert len(reader.ticks()) == 2000
        assert reader.of("gap") == reader.of("notice") == []
        assert reader.subscriber.ended is None


async def test_delayed_batch_that_is_larger_than_the_queue_is_sent(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("trade", ACME, queue=10, max_delay_ms=60_000)
        market.fanout.publish([trade(ACME, n) for n in range(100)])
        await trio.testing.wait_all_tasks_blocked()
        assert len(reader.ticks()) == 100


async def test_newest_is_sent_when_its_time_comes_though_no_other_tick_follows(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", ACME, max_rate=0.5)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(1, 6):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert reader.bids() == ["1"]
        await trio.sleep(4.1)
        assert reader.bids() == ["1", "5"]
        assert reader.subscriber.timers == []
        (entry,) = reader.subscriber.session.ledger()
        assert (entry.offered, entry.delivered, entry.conflated, entry.pending) == (5, 2, 3, 0)


async def test_rate_is_kept_while_ticks_pour_in_and_all_symbols_go_in_one_write(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", "*", max_rate=10)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(500):
            market.fanout.publish([quote(ACME, n), quote(BETA, n)])
            await trio.sleep(0.01)
        await trio.sleep(1)
        per_symbol = len([tick for tick in reader.ticks() if tick["sym"] == ACME])
        assert 45 <= per_symbol <= 51
        assert reader.bids()[-1] == "499"
        assert len(reader.of("update")) <= per_symbol + 2


async def test_stalled_reader_with_a_rate_keeps_nobody_awake(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", ACME, max_rate=10)
        market.fanout.publish([quote(ACME, 1)])
        await trio.testing.wait_all_tasks_blocked()
        market.fanout.publish([quote(ACME, 2)])
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        before = market.fanout.rounds
        await trio.sleep(60)
        assert market.fanout.rounds <= before + 3
        reader.wire.drain()
        await trio.sleep(1)
        assert reader.bids() == ["1", "2"]


async def test_degraded_reader_gets_the_latest_and_then_every_tick_again(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", ACME, mode="every", queue=4, overflow="degrade")
        await trio.testing.wait_all_tasks_blocked()
        reader.wire.block()
        for n in range(1, 21):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        reader.wire.drain()
        await trio.testing.wait_all_tasks_blocked()
        for n in range(21, 24):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        assert reader.bids() == ["20", "21", "22", "23"]
        assert [n["state"] for n in reader.of("notice")] == ["pressed", "degraded", "recovered"]
        assert reader.of("gap") == []


async def test_rate_never_lets_a_change_of_state_overtake_another(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("status", ACME, mode="latest", max_rate=2)
        for n, state in enumerate(("live", "halted", "live", "stale", "live"), 1):
            market.fanout.publish([Status(sym=ACME, ts=n, rts=n, state=state)])
            await trio.sleep(0.1)
        await trio.sleep(5)
        assert [tick["seq"] for tick in reader.ticks()] == [1, 2, 3, 4, 5]


async def test_rate_never_lets_a_bar_overtake_one_of_another_interval(autojump_clock: object) -> None:
    async with open_market() as market:
        reader = market.subscribe("bar", ACME, mode="latest", max_rate=2)
        for n, interval in enumerate(("1s", "1s", "1m", "1s", "1m"), 1):
            market.fanout.publish([_bar(interval, n)])
            await trio.sleep(0.1)
        await trio.sleep(5)
        seqs = [tick["seq"] for tick in reader.ticks()]
        assert seqs == sorted(seqs)
        assert {tick["interval"]: tick["seq"] for tick in reader.ticks()} == {"1s": 4, "1m": 5}


async def test_what_a_rate_holds_back_is_sent_ahead_of_a_subscription_that_takes_the_topic(
    autojump_clock: object,
) -> None:
    async with open_market() as market:
        reader = market.subscribe("quote", "SIM:*", mode="latest", max_rate=0.5)
        for n in (1, 2):
            market.fanout.publish([quote(ACME, n)])
            await trio.testing.wait_all_tasks_blocked()
        market.also(reader, "quote", ACME)
        market.fanout.publish([quote(ACME, 3)])
        await trio.sleep(10)
        assert [tick["seq"] for tick in reader.ticks()] == [1, 2, 3]
        assert [tick["seq"] for message in reader.of("snapshot") for tick in message["data"]] == [2]
