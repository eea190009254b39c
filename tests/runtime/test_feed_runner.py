"""A feed's supervisor: when it tries again, when it doesn't, what it counts, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import structlog.testing
import trio
import trio.testing

from broker.core.errors import FeedError, FeedPermanentError
from broker.core.ticks import Book
from broker.runtime import backoff
from broker.runtime.backoff import Backoff
from broker.runtime.sessions import SessionTimes
from tests.fakes import ACME, GAMMA, ScriptedFeed, quote, status_of
from tests.fakes import open_broker as open_short
from tests.raw import get, websocket

#: Hours pass here.
open_broker = partial(open_short, guard_s=100_000.0)


class Failing(ScriptedFeed):
    """Fails again and again, each time as it is told."""

    def __init__(self, fail: Callable[[int], Exception], venue: str = "SIM", **options: Any) -> None:
        super().__init__(venue, None, **options)
        self.begins: list[float] = []
        self._fail = fail

    async def run(self, ctx: Any) -> None:
        self.begins.append(trio.current_time())
        raise self._fail(len(self.begins))


async def shown(port: int) -> dict[str, Any]:
    info: dict[str, Any] = (await get(port, "/v1/feeds")).json["feeds"][0]
    return info


def book(kind: Any, *bids: tuple[str, str]) -> Book:
    return Book(sym=ACME, ts=1, rts=1, kind=kind, bids=list(bids), asks=[])


# ── when it tries again ──────────────────────────────────────────────────────────────────────────


async def test_venue_is_left_alone_for_as_long_as_it_asks(autojump_clock: object) -> None:
    feed = Failing(lambda n: FeedError("too many requests", reason="refused", retry_after_s=120.0))
    async with open_broker(feeds=[feed]):
        await trio.sleep(600)
    pauses = [later - sooner for sooner, later in pairwise(feed.begins)]
    assert len(pauses) == 4
    assert all(120.0 <= pause <= 150.0 for pause in pauses)
    assert len(set(pauses)) > 1, "there is jitter on top"


async def test_venue_that_asks_for_a_day_is_not_left_alone_for_a_day(autojump_clock: object) -> None:
    feed = Failing(lambda n: FeedError("banned", retry_after_s=86_400.0))
    async with open_broker(feeds=[feed]):
        await trio.sleep(2 * backoff.MOST_RETRY_AFTER_S)
    assert len(feed.begins) == 2


async def test_what_has_worked_before_is_tried_on_though_it_is_refused_for_good(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        await feed.publish(quote())
        await feed.fail(FeedPermanentError("HTTP 404", reason="refused", unless_live=True))
        await broker.settled(lambda: feed.lives == 2)
        await feed.publish(quote(ACME, 2))
        assert broker.runner.state == "live"


async def test_what_never_worked_and_is_refused_for_good_is_not_tried_again(autojump_clock: object) -> None:
    feed = Failing(lambda n: FeedPermanentError("HTTP 404", reason="refused", unless_live=True))
    async with open_broker(feeds=[feed]) as broker:
        await trio.sleep(600)
        assert len(feed.begins) == 1
        assert broker.runner.state == "down"


async def test_permanent_failure_among_several_of_the_feeds_tasks_is_the_one_that_counts(
    autojump_clock: object,
) -> None:
    feed = Failing(lambda n: ExceptionGroup("both", [FeedError("hung up"), FeedPermanentError("unknown")]))
    async with open_broker(feeds=[feed]) as broker:
        await trio.sleep(600)
        assert (len(feed.begins), broker.runner.last_error) == (1, "unknown")


async def test_venue_that_sends_its_snapshot_and_falls_mute_is_tried_less_and_less(
    autojump_clock: object,
) -> None:
    class Snapshot(ScriptedFeed):
        begins: list[float] = []  # noqa: RUF012  # one test, one instance

        async def run(self, ctx: Any) -> None:
            self.begins.append(trio.current_time())
            ctx.publish(quote())
            await ctx.flush()
            await trio.sleep_forever()

    feed = Snapshot(stale_after_s=90.0)
    async with open_broker(feeds=[feed]):
        await trio.sleep(3600)
    pauses = [later - sooner - 90 for sooner, later in pairwise(feed.begins)]
    assert max(pauses) > 10


def test_backoff_is_jittered_doubled_capped_and_reset() -> None:
    pauses = Backoff(random.Random(1))
    error = FeedError("x")
    expected = random.Random(1)
    for attempt in range(20):
        assert pauses.pause_s(error) == expected.uniform(0, min(30.0, 0.5 * 2**attempt))
    pauses.start_over()
    assert pauses.pause_s(error) <= 0.5


# ── muteness ─────────────────────────────────────────────────────────────────────────────────────


async def test_busy_feed_that_falls_mute_is_connected_again_long_before_the_bound(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed(stale_after_s=60)
    async with open_broker(feeds=[feed]) as broker:
        for n in range(400):
            await feed.publish(quote(ACME, n))
            await trio.sleep(1)
        fell_mute = trio.current_time() - 1
        await broker.settled(lambda: broker.runner.state == "stale")
        assert trio.current_time() - fell_mute == pytest.approx(10, abs=0.1)
        assert broker.runner.last_error == "mute for 10 s; connecting again"
        await broker.settled(lambda: feed.lives == 2)
        await feed.publish(quote())
        lives = feed.lives
        await trio.sleep(59)
        assert (feed.lives, broker.runner.state) == (lives, "live"), "once was enough to be careful"


async def test_feed_that_looks_at_what_is_wanted_is_given_the_most(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=60)

    async def look(ctx: Any) -> bool:
        ctx.wanted.symbols()
        return False

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(look)
        for n in range(400):
            await feed.publish(quote(ACME, n))
            await trio.sleep(1)
        await trio.sleep(58)
        assert broker.runner.state == "live"
        await trio.sleep(2)
        assert broker.runner.state == "stale"


async def test_quiet_feed_is_given_its_time(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=60)
    async with open_broker(feeds=[feed]) as broker:
        for n in range(110):
            await feed.publish(quote(ACME, n))
            await trio.sleep(30)
        assert (feed.lives, broker.runner.state) == (1, "live")


async def test_feed_of_which_nothing_is_wanted_is_idle_and_not_mute(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=10)

    async def wait(ctx: Any) -> bool:
        await ctx.wanted.wait_changed()
        return False

    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await feed.publish(quote())
        await feed.do(wait)
        await trio.sleep(1000)
        assert (feed.lives, (await shown(broker.port))["state"]) == (1, "idle")
        assert (await get(broker.port, "/readyz")).status == 200
        await ws.ask("subscribe", ch="quote", symbols=[ACME])
        await ws.receive_type("ack")
        await trio.sleep(11)
        assert broker.runner.state == "stale", "now something is wanted, and nothing comes"


async def test_feed_of_which_only_the_state_is_wanted_is_idle(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=10)

    async def wait(ctx: Any) -> bool:
        while not ctx.wanted.symbols("quote"):
            await ctx.wanted.wait_changed("quote", "trade")
        return False

    patient = SessionTimes(ping_interval_s=1e6)
    async with open_broker(feeds=[feed], times=patient) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", id=1, ch="status", symbols=["*"])
        await ws.ask("subscribe", id=2, ch="book", symbols=["SIM:*"])
        await feed.do(wait)
        await trio.sleep(100)
        assert (feed.lives, broker.runner.state) == (1, "idle")


async def test_ticks_that_were_under_way_do_not_wake_a_feed_that_is_idle(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=10)

    async def last_words(ctx: Any) -> bool:
        ctx.publish(quote())
        await ctx.flush()
        await ctx.wanted.wait_changed()
        return False

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(last_words)
        await trio.sleep(100)
        assert (feed.lives, broker.runner.ticks, broker.runner.state) == (1, 1, "idle")


# ── what is told ─────────────────────────────────────────────────────────────────────────────────


async def test_gap_of_a_connection_that_ends_comes_before_the_state_and_the_snapshot_behind_it(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()

    async def hang_up(ctx: Any) -> bool:
        ctx.gap("book", ACME)
        raise FeedError("hung up", reason="closed")

    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await feed.publish(book("snapshot", ("1", "1")))
        await ws.ask("subscribe", ch="book", symbols=[ACME])
        await ws.ask("subscribe", id=2, ch="status", symbols=[ACME])
        await ws.receive_type("snapshot")
        await ws.receive_type("snapshot")
        await feed.do(hang_up)
        await trio.sleep(1)
        await feed.publish(book("snapshot", ("3", "3")))
        story: list[str] = []
        while "snapshot" not in story:
            message = await ws.receive()
            if message["type"] == "gap":
                story.append("gap")
            story += [tick.get("kind") or tick["state"] for tick in message.get("data", ())]
        assert [each for each in story if each != "live"] == ["gap", "down", "snapshot"]


async def test_failures_are_counted_by_reason_and_time_by_state(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=30)
    async with open_broker(feeds=[feed]) as broker:
        await trio.sleep(5)
        await feed.publish(quote())
        await trio.sleep(20)
        for error in (FeedError("a", reason="closed"), FeedError("b", reason="refused"), KeyError("c")):
            lives = feed.lives
            await feed.fail(error)
            await broker.settled(lambda lives=lives: feed.lives > lives)
        await feed.publish(quote())
        await trio.sleep(31)
        info = await shown(broker.port)
        assert info["failures"] == {"closed": 1, "refused": 1, "fault": 1, "mute": 1}
        seconds = info["seconds"]
        assert seconds["starting"] == pytest.approx(5)
        assert seconds["live"] == pytest.approx(20 + 30)
        assert set(seconds) == {"starting", "live", "down", "stale"}
        assert sum(seconds.values()) == pytest.approx(trio.current_time() - 0.0, abs=0.1)


async def test_gaps_that_the_feed_tells_of_are_counted(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def gaps(ctx: Any) -> bool:
        ctx.gap("book", ACME)
        ctx.gap("trade", GAMMA)
        return False

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(gaps)
        assert (await shown(broker.port))["gaps"] == 2


async def test_failures_whose_text_differs_in_numbers_only_are_one_kind_in_the_log(
    autojump_clock: object,
) -> None:
    feed = Failing(lambda n: FeedError(f"closed with 1006, request {n}"))
    with structlog.testing.capture_logs() as logs:
        async with open_broker(feeds=[feed]):
            await trio.sleep(1200)
    assert len(feed.begins) > 50
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["feed failed"]


async def test_kinds_of_failures_that_never_end_fill_no_disk(autojump_clock: object) -> None:
    feed = Failing(lambda n: FeedError("reason " + "x" * n))
    with structlog.testing.capture_logs() as logs:
        async with open_broker(feeds=[feed]):
            await trio.sleep(1200)
    assert len(feed.begins) > 50
    assert sum(line["log_level"] == "warning" for line in logs) == backoff.MOST_KINDS


async def test_recovery_is_in_the_log_once_for_each_failure_that_is(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            for n in range(10):
                await feed.publish(quote(ACME, n))
                lives = feed.lives
                await feed.fail(FeedError("hung up"))
                await broker.settled(lambda lives=lives: feed.lives > lives)
            await feed.publish(quote())
            await trio.sleep(61)
            await feed.fail(FeedError("hung up"))
        events = [line["event"] for line in logs if line["log_level"] != "debug"]
        assert events == ["feed failed", "feed is live again", "feed failed"]


async def test_fifty_feeds_that_fail_for_ever_cost_the_healthy_one_nothing(autojump_clock: object) -> None:
    """What they cost is counted in starts, lines and ticks on the tape, not in time, which differs by machine."""
    raises: list[Callable[[int], Exception]] = [
        lambda n: FeedError(f"refused, attempt {n}", reason="refused"),
        lambda n: KeyError(f"price {n}"),
        lambda n: ExceptionGroup("two", [OSError("a"), FeedError("b")]),
        lambda n: FeedError("connection lost", reason="closed"),
        lambda n: RuntimeError(),
    ]
    healthy = ScriptedFeed()
    broken = [Failing(raises[n % len(raises)], f"BROKEN_{n}") for n in range(50)]
    with structlog.testing.capture_logs() as logs:
        patient = SessionTimes(ping_interval_s=1e6)
        async with (
            open_broker(feeds=[healthy, *broken], times=patient) as broker,
            websocket(broker.port) as ws,
        ):
            await ws.ask("subscribe", ch="quote", symbols=[ACME], delivery={"mode": "every"})
            await ws.receive_type("ack")
            before = broker.tape.offset
            for n in range(120):
                await healthy.publish(quote(ACME, n))
                received = await ws.receive_type("update")
                assert [tick["bid"] for tick in received["data"] if tick["ch"] == "quote"] == [str(n)]
                await trio.sleep(10)
            assert broker.tape.offset - before <= 120 + 3, "a feed without symbols tells nobody anything"
            assert broker.runner.state == "live"
    lines = [line for line in logs if line["log_level"] != "debug"]
    assert len(lines) == len(broken), "one line for each, once"
    starts = [len(feed.begins) for feed in broken]
    # Capped at 30 s with full jitter, that is one start each 15 s.
    assert all(60 < count < 120 for count in starts), starts


async def test_status_is_told_once_for_each_change_and_not_for_each_attempt(autojump_clock: object) -> None:
    class Flaky(ScriptedFeed):
        async def run(self, ctx: Any) -> None:
            self.lives += 1
            if self.lives == 1:
                ctx.publish(quote())
                await ctx.flush()
            raise FeedError("no connection", reason="connect")

    feed = Flaky()
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="status", symbols=[ACME])
        assert status_of(await ws.receive_type("snapshot")) == [(ACME, "down")]
        await trio.sleep(600)
        assert feed.lives > 20
        assert broker.topics.get("status", ACME).seq <= 2
