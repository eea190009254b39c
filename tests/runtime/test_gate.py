"""Feeds that are ahead of the broker: a recording waits, a venue is conflated, and everything is accounted for."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog.testing
import trio
import trio.testing

from broker.core.books import BookState
from broker.core.demand import Demand
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.feed_queue import QUEUE_TICKS
from broker.core.ticks import Book, Level, Quote, Status, Tick, Trade
from broker.runtime.feed_runner import FeedRunner
from broker.runtime.gate import BATCH_TICKS, CHANNEL_BATCHES, Batch
from tests.fakes import ACME, BETA, NoUpstream, RunningBroker, ScriptedFeed, open_broker, quote, trade
from tests.raw import get, websocket

#: What fits into the channel; a live feed has as much again before anything is conflated.
ROOM = CHANNEL_BATCHES * BATCH_TICKS
assert ROOM == QUEUE_TICKS


def book(sym: str, n: int) -> Book:
    """Return a delta that changes one of ten levels, or takes it away; a snapshot where a burst begins."""
    level: Level = (f"{100 + n % 10}.50", "0" if n % 3 == 0 else str(n))
    return Book(sym=sym, ts=n, rts=n, kind="snapshot" if n < 6 else "delta", bids=[level], asks=[])


def burst(count: int) -> list[Tick]:
    """Return quotes, trades and books of two symbols, in turn."""
    return [(quote, trade, book)[n % 3]((ACME, BETA)[n % 2], n) for n in range(count)]


async def publish(feed: ScriptedFeed, ticks: list[Any]) -> None:
    """Publish all in one go, so that the broker takes nothing in between, and flush."""

    async def step(ctx: Any) -> bool:
        for tick in ticks:
            ctx.publish(tick)
        await ctx.flush()
        return False

    await feed.do(step)


def on_tape(broker: RunningBroker, ch: Any, sym: str) -> list[Any]:
    """Return the ticks of a topic, from the history."""
    kind = {"quote": Quote, "trade": Trade, "book": Book, "status": Status}[ch]
    offsets = broker.topics.get(ch, sym).offsets
    return [msgspec.msgpack.decode(tick, type=kind) for tick in map(broker.tape.history.get, offsets)]


def levels_of(books: list[Book]) -> object:
    state = BookState()
    for tick in books:
        state.apply(tick)
    return state.levels()


async def shown(broker: RunningBroker, name: str = "feed0") -> dict[str, Any]:
    pages = (await get(broker.port, "/v1/feeds")).json["feeds"]
    return next(page for page in pages if page["name"] == name)


async def test_burst_of_a_live_feed_is_conflated_and_every_tick_is_accounted_for(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed(can_pause=False)
    ticks = burst(5 * ROOM)
    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, ticks)
        page = await shown(broker)
        assert page["ticks"] + page["conflated"] == len(ticks)
        assert (page["dropped"], page["refused"], page["waiting"]) == (0, 0, 0)
        assert page["conflated"] > 3 * ROOM
        for sym in (ACME, BETA):
            sent = [tick for tick in ticks if tick.sym == sym]
            books = [tick for tick in sent if isinstance(tick, Book)]
            assert broker.topics.get("book", sym).book.levels() == levels_of(books)  # type: ignore[union-attr]
            assert levels_of(on_tape(broker, "book", sym)) == levels_of(books)
            trades = on_tape(broker, "trade", sym)
            assert sum(int(one.size) for one in trades) == sum(isinstance(one, Trade) for one in sent)
            assert (trades[-1].count, trades[-1].price) == (int(trades[-1].size), trades[-1].id)
            newest = next(tick for tick in reversed(sent) if isinstance(tick, Quote))
            assert on_tape(broker, "quote", sym)[-1].bid == newest.bid
            for ch in ("quote", "trade", "book"):
                times = [tick.ts for tick in on_tape(broker, ch, sym)]
                assert times == sorted(times)


async def test_burst_that_fits_is_not_conflated(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)
    async with open_broker(feeds=[feed]) as broker:
        for _ in range(3):
            await publish(feed, burst(2 * ROOM))
        page = await shown(broker)
        assert (page["ticks"], page["conflated"], page["dropped"]) == (6 * ROOM, 0, 0)


async def test_volume_of_bars_is_that_of_the_trades_however_they_were_merged(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)
    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, [trade(ACME, n) for n in range(1, 4 * ROOM + 1)])
        await trio.sleep(100)
        bar = broker.topics.get("bar", ACME).current["1m"].tick
        assert (bar.volume, bar.count, bar.final) == (str(4 * ROOM), 4 * ROOM, True)  # type: ignore[union-attr]


async def test_recording_is_paused_and_nothing_of_it_is_conflated(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=True)
    ticks = burst(5 * ROOM)
    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, ticks)
        page = await shown(broker)
        assert (page["ticks"], page["conflated"], page["dropped"]) == (len(ticks), 0, 0)


async def test_change_of_state_is_never_conflated_away(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)
    states = ["live", "live", "halted", "live", "halted", "halted"]
    filling: list[Any] = [quote(ACME, n) for n in range(2 * ROOM)]
    statuses = [Status(sym=ACME, ts=n, rts=n, state=state) for n, state in enumerate(states)]  # type: ignore[arg-type]
    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, [*filling, *statuses, *filling])
        told = [tick.state for tick in on_tape(broker, "status", ACME) if tick.ts < len(states)]
        assert told == ["live", "halted", "live", "halted"]


async def test_topics_beyond_the_bound_are_dropped_and_their_subscribers_told_once(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed("SIM", None, can_pause=False)
    over = 1000
    first, last = f"SIM:Q{ROOM:05d}", f"SIM:Q{2 * ROOM + over - 1:05d}"
    names = [f"SIM:Q{n:05d}" for n in range(2 * ROOM + over)]
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="quote", symbols=[first, last], snapshot=False)
        await ws.receive_type("ack")
        await publish(feed, [quote(name, n) for name in names for n in (1, 2)])
        page = await shown(broker)
        assert page["ticks"] + page["conflated"] + page["dropped"] == 2 * len(names)
        # The channel, and the ingest that waits for it, took both quotes of half as many topics.
        assert page["dropped"] == len(names) - (ROOM + BATCH_TICKS) // 2 - QUEUE_TICKS
        await publish(feed, [quote(first, 3)])
        gap = await ws.receive_type("gap")
        assert (gap["sym"], gap["from"], gap["to"], gap["reason"]) == (first, None, None, "overflow")
        got: list[tuple[str, str]] = []
        while len(got) < 2:
            message = await ws.receive()
            assert message["type"] != "gap", "the newest was dropped, or the gap told twice"
            got += [(tick["sym"], tick["bid"]) for tick in message.get("data", ())]
        assert got == [(last, "2"), (first, "3")]


async def test_nonsense_in_a_burst_costs_that_tick_only(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)
    odd: Any = Book(sym=ACME, ts=1, rts=1, kind="delta", bids=[("1", 2)], asks=[])  # type: ignore[list-item]
    nonsense = [None, odd, Trade(sym=ACME, ts=1, rts=1, price="1", size="much", side=None, id="1")]
    ticks = burst(3 * ROOM)
    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, [*ticks, *nonsense, *ticks])
        page = await shown(broker)
        # The book's gap stands for what waits of the book as well.
        assert page["ticks"] + page["conflated"] + page["dropped"] == 2 * len(ticks)
        assert (page["refused"], page["state"], broker.ingest.broken) == (3, "live", 0)


async def test_feed_that_stays_ahead_is_logged_once_until_it_has_been_calm(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)
    async with open_broker(feeds=[feed]):
        with structlog.testing.capture_logs() as logs:
            for _ in range(20):
                await publish(feed, burst(3 * ROOM))
                await trio.sleep(1)
            assert len(logs) == 1
            assert logs[0]["waiting"] >= QUEUE_TICKS
            await trio.sleep(60)
            await publish(feed, burst(3 * ROOM))
            assert len(logs) == 2


async def test_feed_that_fails_with_a_full_gate_stays_down_while_its_rest_is_published(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed(can_pause=False)
    ticks = burst(4 * ROOM)

    async def step(ctx: Any) -> bool:
        for tick in ticks:
            ctx.publish(tick)
        await ctx.flush()
        raise FeedError("the venue hung up")

    async with open_broker(feeds=[feed]) as broker:
        await publish(feed, [quote(ACME, 1)])
        await feed.do(step)
        page = await shown(broker)
        assert (page["state"], page["waiting"]) == ("down", 0)
        assert page["ticks"] + page["conflated"] == len(ticks) + 1
        assert [tick.state for tick in on_tape(broker, "status", ACME)] == ["live", "down"]
        await broker.settled(lambda: feed.lives == 2)
        await publish(feed, [quote(ACME, 10**6)])
        assert on_tape(broker, "quote", ACME)[-1].bid == str(10**6)
        assert [tick.state for tick in on_tape(broker, "status", ACME)] == ["live", "down", "live"]


@pytest.mark.parametrize("can_pause", [True, False])
async def test_feed_that_is_down_for_good_has_its_rest_published_what_it_did_not_flush_too(
    autojump_clock: object, can_pause: bool
) -> None:
    feed = ScriptedFeed(can_pause=can_pause)
    ticks = burst(4 * ROOM)

    async def step(ctx: Any) -> bool:
        for tick in ticks:
            ctx.publish(tick)
        await ctx.flush()
        ctx.publish(quote(ACME, 10**6))
        raise FeedPermanentError("no such account")

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(step)
        page = await shown(broker)
        assert page["ticks"] + page["conflated"] == len(ticks) + 1
        assert (page["state"], page["waiting"]) == ("down", 0)
        assert on_tape(broker, "quote", ACME)[-1].bid == str(10**6)


@pytest.mark.parametrize("can_pause", [True, False])
async def test_feed_has_ended_when_all_that_it_brought_is_published(
    autojump_clock: object, can_pause: bool
) -> None:
    feed = ScriptedFeed(can_pause=can_pause)

    async def step(ctx: Any) -> bool:
        for tick in burst(4 * ROOM):
            ctx.publish(tick)
        return True

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(step)
        page = await shown(broker)
        assert (page["state"], page["ticks"] + page["conflated"]) == ("ended", 4 * ROOM)
        assert [tick.state for tick in on_tape(broker, "status", ACME)] == ["live", "down"]


# ── without a broker: nobody takes what is published, or a test does ─────────────────────────────


class Taker:
    """Takes batches as the ingest would, when a test says so."""

    def __init__(self) -> None:
        self.send, self._receive = trio.open_memory_channel[Batch](CHANNEL_BATCHES)

    def runner(self, feed: ScriptedFeed) -> FeedRunner:
        return FeedRunner(
            "feed",
            "scripted",
            feed,
            self.send,
            upstream=NoUpstream(),
            time_ns=lambda: 1,
            rng=random.Random(1),
            on_state=lambda runner: None,
            demand=lambda: Demand("SIM"),
        )

    async def take(self) -> Batch:
        batch = await self._receive.receive()
        batch.feed.gate.taken(batch)
        return batch

    def take_nowait(self) -> Batch:
        batch = self._receive.receive_nowait()
        batch.feed.gate.taken(batch)
        return batch

    async def take_all(self) -> list[Any]:
        """Take until nothing comes any more."""
        items: list[Any] = []
        while True:
            with trio.move_on_after(1) as scope:
                items += (await self.take()).items
            if scope.cancelled_caught:
                return items


@asynccontextmanager
async def running(*runners: FeedRunner) -> AsyncIterator[trio.Nursery]:
    """Run the gates."""
    async with trio.open_nursery() as nursery:
        for runner in runners:
            nursery.start_soon(runner.gate.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def test_flush_of_a_live_feed_is_a_checkpoint_and_never_waits(autojump_clock: object) -> None:
    taker = Taker()
    runner = taker.runner(ScriptedFeed(can_pause=False))
    published = 0
    async with running(runner):
        for ticks in (burst(1), [], burst(ROOM), burst(2 * ROOM), burst(ROOM)):
            for tick in ticks:
                runner.publish(tick)
            published += len(ticks)
            began = trio.current_time()
            with trio.testing.assert_checkpoints():
                await runner.flush()
            assert trio.current_time() == began
            assert runner.gate.waiting + runner.gate.queue.conflated == published
            assert runner.gate.waiting <= ROOM + QUEUE_TICKS + BATCH_TICKS
        items = await taker.take_all()
    assert (len(items) + runner.gate.queue.conflated, runner.gate.waiting) == (published, 0)


async def test_flush_of_a_recording_waits_and_keeps_everything_in_order_when_it_is_cancelled(
    autojump_clock: object,
) -> None:
    taker = Taker()
    runner = taker.runner(ScriptedFeed(can_pause=True))
    count = ROOM + 5 * BATCH_TICKS
    async with running(runner) as nursery:
        for n in range(count):
            runner.publish(quote(ACME, n))
        with trio.move_on_after(10) as scope:
            await runner.flush()
        assert scope.cancelled_caught
        assert runner.gate.waiting == count
        runner.publish(quote(ACME, count))
        nursery.start_soon(runner.flush)
        assert [tick.ts for tick in await taker.take_all()] == list(range(count + 1))
    assert (runner.gate.waiting, runner.gate.queue.conflated) == (0, 0)


async def test_feeds_that_pause_and_feeds_that_do_not_take_turns(autojump_clock: object) -> None:
    taker = Taker()
    live, paused = (taker.runner(ScriptedFeed(can_pause=can_pause)) for can_pause in (False, True))
    async with running(live, paused) as nursery:
        for runner, count in ((paused, 2 * ROOM), (live, QUEUE_TICKS)):
            for n in range(count):
                runner.publish(quote(ACME, n))
        nursery.start_soon(paused.flush)
        await trio.testing.wait_all_tasks_blocked()
        await live.flush()
        for _ in range(CHANNEL_BATCHES):
            await taker.take()
        turns = [(await taker.take()).feed is live for _ in range(CHANNEL_BATCHES // 2)]
        assert abs(turns.count(True) - turns.count(False)) <= 1
        await taker.take_all()


async def test_nothing_overtakes_what_waits_at_the_gate(autojump_clock: object) -> None:
    taker = Taker()
    runner = taker.runner(ScriptedFeed(can_pause=False))
    count = ROOM + 5 * BATCH_TICKS
    async with running(runner):
        for n in range(count):
            runner.publish(quote(ACME, n))
        await runner.flush()
        await trio.testing.wait_all_tasks_blocked()
        taken: list[Any] = []
        # There is room in the channel before the gate's own task has its turn.
        for n in range(count, count + 10):
            taken += taker.take_nowait().items + taker.take_nowait().items
            runner.publish(quote(ACME, n))
            await runner.flush()
        taken += await taker.take_all()
    assert [tick.ts for tick in taken] == list(range(count + 10))


async def test_feed_that_the_broker_is_too_far_behind_to_hear_is_not_taken_for_mute(
    autojump_clock: object,
) -> None:
    taker = Taker()
    feed = ScriptedFeed(can_pause=False, stale_after_s=10)
    runner = taker.runner(feed)
    async with running(runner) as nursery:
        nursery.start_soon(runner.supervise)
        await publish(feed, burst(2 * ROOM))
        for _ in range(10):
            await trio.sleep(5)
            await publish(feed, burst(10))
        assert feed.lives == 1
        await trio.sleep(11)
        assert runner.state == "stale"
