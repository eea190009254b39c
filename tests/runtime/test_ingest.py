"""Feeds that raise, go mute, end, or publish nonsense: the others keep ticking, and everybody is told."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
import structlog.testing
import trio
import trio.testing

from broker.core.demand import Demand
from broker.core.errors import FeedError, FeedPermanentError, FrameError
from broker.core.ticks import Bar, Book, Quote, Trade
from broker.runtime.feed_runner import FeedRunner
from broker.runtime.gate import BUFFER_TICKS
from tests.fakes import ACME, BETA, SYMBOLS, ScriptedFeed, open_broker, quote, status_of, trade
from tests.raw import get, websocket


def other_feed() -> ScriptedFeed:
    return ScriptedFeed("OTHER", ["OTHER:X"])


async def feeds(port: int) -> dict[str, dict[str, Any]]:
    return {feed["name"]: feed for feed in (await get(port, "/v1/feeds")).json["feeds"]}


async def test_tick_of_a_feed_reaches_a_subscriber_with_its_number(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="quote", symbols=["SIM:*"])
        await ws.receive_type("ack")
        await feed.publish(quote(ACME, 5), quote(BETA, 6))
        update = await ws.receive_type("update")
        assert [(tick["sym"], tick["seq"], tick["bid"]) for tick in update["data"]] == [
            (ACME, 1, "5"),
            (BETA, 1, "6"),
        ]
        assert (await feeds(broker.port))["feed0"]["state"] == "live"
        assert (await get(broker.port, "/readyz")).status == 200


async def test_feed_that_raises_is_down_and_told_and_started_again_while_the_others_tick(
    autojump_clock: object,
) -> None:
    feed, other = ScriptedFeed(), other_feed()
    async with open_broker(feeds=[feed, other]) as broker, websocket(broker.port) as ws:
        await feed.publish(quote())
        await other.publish(quote("OTHER:X"))
        await ws.ask("subscribe", ch="status", symbols=["*"])
        snapshot = await ws.receive_type("snapshot")
        everything = [*SYMBOLS, "OTHER:X"]
        assert sorted(status_of(snapshot)) == sorted((sym, "live") for sym in everything)
        with structlog.testing.capture_logs() as logs:
            await feed.fail(FeedError("the venue hung up"))
            update = await ws.receive_type("update")
            assert status_of(update) == [(sym, "down") for sym in SYMBOLS]
            assert update["data"][0]["text"] == "the venue hung up"
            shown = (await feeds(broker.port))["feed0"]
            assert (shown["state"], shown["last_error"]) == ("down", "the venue hung up")
            await other.publish(quote("OTHER:X", 2))
            assert (await feeds(broker.port))["feed1"]["ticks"] == 2
            await trio.sleep(1)
            await feed.publish(quote(ACME, 2))
            assert status_of(await ws.receive_type("update")) == [(sym, "live") for sym in SYMBOLS]
        shown = (await feeds(broker.port))["feed0"]
        assert (shown["state"], shown["restarts"], shown["ticks"]) == ("live", 1, 2)
        assert [line["error"] for line in logs if line["event"] == "feed failed"] == ["the venue hung up"]


async def test_feed_that_has_never_connected_tells_the_subscribers_of_all_that_it_declares(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="status", symbols=[ACME, BETA])
        await ws.receive_type("ack")
        await feed.fail(FeedError("connection refused"))
        update = await ws.receive_type("update")
        assert status_of(update) == [(ACME, "down"), (BETA, "down")]
        assert {tick["text"] for tick in update["data"]} == {"connection refused"}
        await trio.sleep(1)
        await feed.publish(quote())
        assert status_of(await ws.receive_type("update")) == [(ACME, "live"), (BETA, "live")]
        await feed.publish(quote(BETA))
        await feed.fail(FeedError("the venue hung up"))
        told = status_of(await ws.receive_type("update"))
        assert told == [(ACME, "down"), (BETA, "down")], "and that it is live is told once"


async def test_feed_that_fails_again_and_again_is_logged_once_and_tried_less_and_less(
    autojump_clock: object,
) -> None:
    class Failing(ScriptedFeed):
        begins: list[float] = []  # noqa: RUF012  # one test, one instance

        async def run(self, ctx: Any) -> None:
            self.begins.append(trio.current_time())
            raise FeedError("refused")

    feed = Failing()
    with structlog.testing.capture_logs() as logs:
        async with open_broker(feeds=[feed]):
            await trio.sleep(115)
    assert sum(line["event"] == "feed failed" for line in logs) == 1
    rng = random.Random(0)
    expected = 0.0
    for attempt, began in enumerate(feed.begins):
        assert began == pytest.approx(expected)
        expected += rng.uniform(0, min(30.0, 0.5 * 2**attempt))
    assert expected > 60


async def test_backoff_starts_small_again_after_a_life_that_was_long_enough(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        for _ in range(8):
            await feed.fail(FeedError("short"))
            await broker.settled(lambda: broker.runner.state == "down")
            await feed.publish(quote())
            await broker.settled(lambda: broker.runner.state == "live")
        assert feed.lives == 9
        await trio.sleep(61)
        await feed.fail(FeedError("at last"))
        lives, began = feed.lives, trio.current_time()
        await broker.settled(lambda: feed.lives > lives)
        assert trio.current_time() - began <= 0.5 + 0.02


async def test_adapter_that_raises_what_it_should_not_is_logged_with_its_traceback(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.fail(KeyError("price"))
        (line,) = [line for line in logs if line["event"] == "feed failed"]
        assert isinstance(line["exc_info"], KeyError)
        assert broker.runner.state == "down"


async def test_mistake_out_of_the_feeds_own_nursery_is_shown_by_its_own_name(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        async with trio.open_nursery():
            raise FeedError("inside")

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(step)
        assert broker.runner.last_error == "inside"


async def test_feed_that_is_down_for_good_is_not_started_again(autojump_clock: object) -> None:
    feed, other = ScriptedFeed(), other_feed()
    async with open_broker(feeds=[feed, other]) as broker:
        await feed.publish(quote())
        await feed.fail(FeedPermanentError("no such file"))
        await trio.sleep(100)
        assert feed.lives == 1
        shown = (await feeds(broker.port))["feed0"]
        assert (shown["state"], shown["last_error"], shown["restarts"]) == ("down", "no such file", 0)
        await other.publish(quote("OTHER:X"))
        assert broker.tape.offset > 2


async def test_mute_feed_is_stale_and_told_and_connected_again(autojump_clock: object) -> None:
    feed = ScriptedFeed(stale_after_s=10)
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await feed.publish(quote())
        await ws.ask("subscribe", ch="status", symbols=[ACME])
        await ws.receive_type("snapshot")
        await trio.sleep(9)
        await feed.publish(quote(ACME, 2))
        assert broker.runner.state == "live"
        update = await ws.receive_type("update")
        assert trio.current_time() == pytest.approx(19, abs=0.1), "counted from the last tick"
        assert status_of(update) == [(ACME, "stale")]
        assert "mute" in update["data"][0]["text"]
        assert (await feeds(broker.port))["feed0"]["state"] == "stale"
        assert (await get(broker.port, "/readyz")).status == 503
        await broker.settled(lambda: feed.lives == 2)
        await feed.publish(quote(ACME, 3))
        assert status_of(await ws.receive_type("update")) == [(ACME, "live")]


async def test_feed_that_only_says_what_it_missed_is_mute(autojump_clock: object) -> None:
    async def missed(ctx: Any) -> bool:
        ctx.gap("book", ACME)
        await ctx.flush()
        return False

    feed = ScriptedFeed(stale_after_s=10)
    async with open_broker(feeds=[feed]) as broker:
        await feed.publish(quote())
        for _ in range(3):
            await trio.sleep(4)
            if broker.runner.state == "live":
                await feed.do(missed)
        assert broker.runner.state == "stale"


async def test_feed_that_has_no_more_to_give_has_ended_and_its_symbols_are_down(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await feed.publish(quote())
        await ws.ask("subscribe", ch="status", symbols=[ACME])
        await ws.receive_type("snapshot")
        await feed.end()
        assert status_of(await ws.receive_type("update")) == [(ACME, "down")]
        await trio.sleep(100)
        assert feed.lives == 1
        assert (await feeds(broker.port))["feed0"]["state"] == "ended"


async def test_ticks_published_before_the_end_are_not_lost(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        for n in range(1000):
            ctx.publish(quote(ACME, n))
        return True

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(step)
        assert broker.runner.ticks == 1000


_odd: Any = Quote
_none: Any = None
_list: Any = []
_one: Any = 1
_BUY: Any = "BUY"
_odd_level: Any = ("1", "2", "3")

NONSENSE: dict[str, Any] = {
    "no symbol": quote("acme"),
    "a symbol that is none": quote("SIM:ACME MOTORS"),
    "a symbol that is no text": quote(_none),
    "a symbol that can't be hashed": quote(_list),
    "a float for a price": _odd(sym=ACME, ts=1, rts=1, bid=1.5, bid_size="1", ask=None, ask_size=None),
    "an object in a field": _odd(
        sym=ACME,
        ts=1,
        rts=1,
        bid=object(),
        bid_size="1",
        ask=None,
        ask_size=None,
    ),
    "a price that is no number": Trade(sym=ACME, ts=1, rts=1, price="1,50", size="1", side=None, id="1"),
    "a price that is not finite": Trade(sym=ACME, ts=1, rts=1, price="NaN", size="1", side=None, id="1"),
    "a time that is no integer": _odd(
        sym=ACME,
        ts="12:00",
        rts=1,
        bid="1",
        bid_size="1",
        ask=None,
        ask_size=None,
    ),
    "a trade of more than anybody has": Trade(
        sym=ACME, ts=1, rts=1, price="1", size="1e99999999", side=None, id="1"
    ),
    "a level that is no pair": Book(sym=ACME, ts=1, rts=1, kind="delta", bids=[_odd_level], asks=[]),
    "a level with a number for a size": Book(
        sym=ACME, ts=1, rts=1, kind="delta", bids=[], asks=[("1", _one)]
    ),
    "a text for a price": quote(ACME, "cheap"),
    "a price that is none of all numbers": quote(ACME, "NaN"),
    "an empty text for a price": quote(ACME, ""),
    "several numbers in one text": quote(ACME, "1;1;1"),
    "a price of more digits than there are": quote(ACME, "1" * 65),
    "a negative size": Quote(sym=ACME, ts=1, rts=1, bid="1", bid_size="-1", ask=None, ask_size=None),
    "a side in capital letters": Trade(sym=ACME, ts=1, rts=1, price="1", size="1", side=_BUY, id="1"),
    "a trade of less than nothing": Trade(sym=ACME, ts=1, rts=1, price="1", size="-1", side=None, id="1"),
    "a kind of book that there is not": Book(sym=ACME, ts=1, rts=1, kind=_BUY, bids=[], asks=[]),
    "a level with a text for a price": Book(
        sym=ACME, ts=1, rts=1, kind="snapshot", bids=[("1", "1"), ("NaN", "1")], asks=[]
    ),
    "a level with a negative size": Book(sym=ACME, ts=1, rts=1, kind="snapshot", bids=[("1", "-1")], asks=[]),
    "seconds for nanoseconds": Trade(
        sym=ACME, ts=1_795_000_000, rts=1_795_000_000 * 10**9, price="1", size="1", side=None, id="1"
    ),
    "a delta of a book that nobody has": Book(
        sym=ACME, ts=1, rts=1, kind="delta", bids=[], asks=[("1", "1")]
    ),
    "a symbol of another feed's venue": quote("OTHER:X", 100),
    "half a surrogate": Trade(sym=ACME, ts=1, rts=1, price="1", size="1", side=None, id="\ud800"),
    "something else altogether": "a tick",
    "nothing": None,
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_costs_that_tick_only_and_is_logged_once(
    autojump_clock: object, nonsense: Any
) -> None:
    feed, other = ScriptedFeed(), other_feed()
    async with open_broker(feeds=[feed, other]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", id=1, ch="quote", symbols=["*"], delivery={"mode": "every"})
        await ws.ask("subscribe", id=2, ch="trade", symbols=["*"])
        with structlog.testing.capture_logs() as logs:
            for n in range(1, 4):
                await feed.publish(quote(BETA, n), nonsense, trade(BETA, n))
                await other.publish(quote("OTHER:X", n))
        got: list[tuple[str, int]] = []
        while len(got) < 9:
            got += [(tick["sym"], tick["seq"]) for tick in (await ws.receive_type("update"))["data"]]
        assert sorted(got) == sorted([(sym, n) for sym in (BETA, BETA, "OTHER:X") for n in (1, 2, 3)])
        assert len([line for line in logs if line["log_level"] != "debug"]) == 1, logs
        shown = (await feeds(broker.port))["feed0"]
        assert (shown["state"], shown["ticks"], shown["refused"]) == ("live", 6, 3)
        assert broker.ingest.broken == 0


async def test_refused_frames_are_counted_and_each_kind_is_logged_once(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        for n in range(100):
            ctx.refused(FrameError("no price", f"frame {n}"))
            ctx.refused(FrameError("no size", f"frame {n}"))
        return False

    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.do(step)
        assert [(line["error"], line["frame"]) for line in logs] == [
            ("no price", "frame 0"),
            ("no size", "frame 0"),
        ]
        assert (await feeds(broker.port))["feed0"]["refused"] == 200


async def test_kinds_of_refusals_that_never_end_fill_neither_memory_nor_disk(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        for n in range(5000):
            ctx.refused(FrameError(f"kind {n}"))
        return False

    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.do(step)
        assert len(logs) <= 1000
        assert len(broker.runner.refused_by) <= 1001
        assert sum(broker.runner.refused_by.values()) == 5000


async def test_feed_that_never_flushes_is_conflated_and_told_once(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        for n in range(2 * BUFFER_TICKS + 1000):
            ctx.publish(quote(ACME, n))
        await ctx.flush()
        return False

    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.do(step)
        shown = (await feeds(broker.port))["feed0"]
        assert shown["conflated"] + shown["ticks"] == 2 * BUFFER_TICKS + 1000
        assert (shown["dropped"], shown["waiting"]) == (0, 0)
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
            "the feed publishes without ever flushing; its ticks are conflated"
        ]
        topic = broker.topics.get("quote", ACME)
        times = [
            msgspec.msgpack.decode(tick, type=Quote).ts
            for tick in map(broker.tape.history.get, topic.offsets)
        ]
        assert times == sorted(times)
        assert times[-1] == 2 * BUFFER_TICKS + 999


async def test_ticks_that_a_live_feed_forgets_to_flush_come_late_and_that_is_told_once(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed(can_pause=False)

    async def step(ctx: Any) -> bool:
        for n in range(10):
            ctx.publish(quote(ACME, n))
            await trio.sleep(1)
        return False

    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.do(step)
            await trio.sleep(5.7)
            # A tick and a look at the same moment come in either order, and the later of two looks sends.
            assert (await feeds(broker.port))["feed0"]["ticks"] in (5, 6)
            await trio.sleep(5)
        assert broker.runner.ticks == 10
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
            "the feed publishes and does not flush; its ticks come late: await ctx.flush() behind ctx.publish()"
        ]


async def test_feed_that_flushes_now_and_then_is_left_alone(autojump_clock: object) -> None:
    feed = ScriptedFeed(can_pause=False)

    async def step(ctx: Any) -> bool:
        for n in range(100):
            ctx.publish(quote(ACME, n))
            await trio.sleep(0.3)
            await ctx.flush()
        return False

    async with open_broker(feeds=[feed]) as broker:
        with structlog.testing.capture_logs() as logs:
            await feed.do(step)
            await trio.sleep(60)
        assert broker.runner.ticks == 100
        assert [line for line in logs if line["log_level"] == "warning"] == []


async def test_gap_of_a_feed_stands_between_the_ticks_around_it(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        ctx.publish(trade(ACME, 1))
        ctx.gap("trade", ACME)
        ctx.publish(trade(ACME, 2))
        await ctx.flush()
        return False

    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="trade", symbols=[ACME])
        await ws.receive_type("ack")
        await feed.do(step)
        gap = await ws.receive_type("gap")
        assert (gap["sym"], gap["reason"], gap["from"]) == (ACME, "feed_reset", None)


async def test_gap_of_another_feeds_symbol_is_refused(autojump_clock: object) -> None:
    feed, other = ScriptedFeed(), other_feed()

    async def step(ctx: Any) -> bool:
        ctx.gap("trade", "OTHER:X")
        ctx.gap("trade", ACME)
        await ctx.flush()
        return False

    async with open_broker(feeds=[feed, other]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="trade", symbols=["*"])
        await other.publish(trade("OTHER:X", 1))
        await feed.publish(trade(ACME, 1))
        await feed.do(step)
        assert (await ws.receive_type("gap"))["sym"] == ACME
        assert broker.runner.last_refusal == "sym: 'OTHER:X' is of the venue of another feed, 'feed1'"


def book(kind: Any, n: int) -> Book:
    return Book(sym=ACME, ts=n, rts=n, kind=kind, bids=[(str(n), "1")], asks=[])


async def test_delta_behind_a_gap_is_refused_until_the_snapshot(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        ctx.gap("book", ACME)
        return False

    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="book", symbols=[ACME])
        await ws.receive_type("ack")
        await feed.publish(book("snapshot", 1), book("delta", 2))
        await feed.do(step)
        await feed.publish(book("delta", 3), book("snapshot", 4), book("delta", 5))
        got: list[Any] = []
        while len(got) < 5:
            message = await ws.receive()
            got += ["gap"] if message["type"] == "gap" else [tick["ts"] for tick in message.get("data", [])]
        assert got == ["1", "2", "gap", "4", "5"]
        assert broker.runner.last_refusal.startswith("a delta of SIM:ACME without a snapshot before it")


async def test_tick_that_is_refused_is_a_gap_of_what_it_was_of(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    odd = Book(sym=ACME, ts=3, rts=3, kind="delta", bids=[("1", "much")], asks=[])
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        for id_, ch in enumerate(("book", "trade"), 1):
            await ws.ask("subscribe", id=id_, ch=ch, symbols=[ACME])
            await ws.receive_type("ack")
        await feed.publish(book("snapshot", 1), book("delta", 2), odd, book("delta", 4), book("snapshot", 5))
        await feed.publish(
            trade(ACME, 6), Trade(sym=ACME, ts=7, rts=7, price="?", size="1", side=None, id="")
        )
        await feed.publish(trade(ACME, 8))
        told: list[Any] = []
        while "8" not in told:
            message = await ws.receive()
            told += (
                [message["ch"]] if message["type"] == "gap" else [t["ts"] for t in message.get("data", [])]
            )
        of_trades = ("6", "trade", "8")
        assert [each for each in told if each not in of_trades] == ["1", "2", "book", "5"]
        # A gap of trades is told ahead of those that still wait.
        assert sorted(told[-3:]) == sorted(of_trades)
        assert broker.runner.refusals == 3


async def test_odd_time_of_a_book_does_not_cost_its_change(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    now = 1_795_000_000 * 10**9
    early = Book(sym=ACME, ts=0, rts=now, kind="snapshot", bids=[("1", "1")], asks=[])
    async with open_broker(feeds=[feed]) as broker:
        await feed.publish(early)
        assert broker.topics.get("book", ACME).book.levels() == ([("1", "1")], [])  # type: ignore[union-attr]


@pytest.mark.parametrize("resumes", [False, True])
async def test_books_and_trades_of_a_life_that_fails_become_gaps_unless_it_is_resumed(
    autojump_clock: object, resumes: bool
) -> None:
    feed = ScriptedFeed()
    feed.resumes = resumes
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        for id_, ch in enumerate(("book", "trade", "quote", "status"), 1):
            await ws.ask("subscribe", id=id_, ch=ch, symbols=[ACME])
            await ws.receive_type("ack")
        await feed.publish(book("snapshot", 1), trade(ACME, 1), quote(ACME, 1))
        await feed.fail(FeedError("the venue hung up"))
        await broker.settled(lambda: feed.lives == 2)
        await feed.publish(book("delta", 2), book("snapshot", 3))
        told: list[Any] = []
        while ("book", "3") not in told:
            message = await ws.receive()
            if message["type"] == "gap":
                told.append((message["ch"], "gap"))
            told += [(tick["ch"], tick.get("state", tick["ts"])) for tick in message.get("data", [])]
        behind = told[told.index(("quote", "1")) + 1 :]
        gaps = [("book", "gap"), ("trade", "gap"), ("status", "down"), ("status", "live"), ("book", "3")]
        resumed = [("status", "down"), ("book", "2"), ("book", "3"), ("status", "live")]
        assert sorted(behind) == sorted(resumed if resumes else gaps)
        assert resumes or behind.index(("book", "gap")) < behind.index(("status", "down"))


async def test_removal_reaches_subscribers_in_the_protocols_spelling(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="book", symbols=[ACME])
        await ws.receive_type("ack")
        await feed.publish(
            Book(sym=ACME, ts=1, rts=1, kind="snapshot", bids=[("2", "1"), ("1", "0.0")], asks=[])
        )
        await feed.publish(Book(sym=ACME, ts=2, rts=2, kind="delta", bids=[("2", "0.00000000")], asks=[]))
        data: list[dict[str, Any]] = []
        while len(data) < 2:
            data += (await ws.receive_type("update"))["data"]
        assert [tick["bids"] for tick in data] == [[["2", "1"]], [["2", "0"]]]


async def test_every_tick_around_a_gap_is_counted(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def step(ctx: Any) -> bool:
        for n in (1, 2, 3):
            ctx.publish(trade(ACME, n))
            ctx.gap("trade", ACME)
        await ctx.flush()
        return False

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(step)
        assert (await feeds(broker.port))["feed0"]["ticks"] == 3


async def test_bars_come_behind_the_trades_that_close_them_and_by_themselves_in_silence(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    second = 1_000_000_000
    async with open_broker(feeds=[feed]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="bar", symbols=[ACME])
        await ws.receive_type("ack")
        await feed.publish(trade(ACME, second), trade(ACME, second + 5))
        bars: list[dict[str, Any]] = []
        while not any(bar["final"] and bar["interval"] == "1s" for bar in bars):
            bars += (await ws.receive_type("update"))["data"]
        (closed,) = [bar for bar in bars if bar["final"]]
        assert (closed["start"], closed["open"], closed["close"], closed["volume"], closed["count"]) == (
            str(second),
            str(second),
            str(second + 5),
            "2",
            2,
        )
        assert broker.ingest.broken == 0


def trade_at(second: int) -> Trade:
    return Trade(sym=ACME, ts=second * 10**9, rts=0, price="1", size="2", side=None, id=str(second))


async def test_bars_go_on_when_a_recording_is_played_again(autojump_clock: object) -> None:
    feed = ScriptedFeed()

    async def rewind(ctx: Any) -> bool:
        ctx.rewind()
        await ctx.flush()
        return False

    async with open_broker(feeds=[feed]) as broker:
        for _ in range(3):
            for second in range(5):
                await feed.publish(trade_at(second))
            await feed.do(rewind)
        topic = broker.topics.get("bar", ACME)
        bars = [
            msgspec.msgpack.decode(packed, type=Bar) for packed in map(broker.tape.history.get, topic.offsets)
        ]
        assert [bar.start // 10**9 for bar in bars if bar.interval == "1s"] == [0, 1, 2, 3, 4] * 3
        whole = [(bar.count, bar.volume) for bar in bars if bar.interval == "1m" and bar.final]
        assert whole == [(5, "10")] * 3


async def test_stamp_from_the_far_future_closes_no_bars(autojump_clock: object) -> None:
    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        for second in (1, 2, 10**6, 3):
            await feed.publish(trade_at(second))
        newest = broker.topics.get("bar", ACME).current["1s"].tick
        assert isinstance(newest, Bar)
        assert newest.start == 10**9


# ── what a feed is given to work with ────────────────────────────────────────────────────────────


class Bodies:
    """An upstream whose every page has one body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def connect_ws(self, url: str, *, max_message_bytes: int) -> Any:
        raise AssertionError(url)

    async def get_body(self, url: str) -> bytes:
        return self._body


def runner_of(body: bytes) -> FeedRunner:
    send, _ = trio.open_memory_channel[Any](1)
    return FeedRunner(
        "feed",
        "scripted",
        ScriptedFeed(),
        send,
        upstream=Bodies(body),
        time_ns=lambda: 1,
        rng=random.Random(1),
        on_state=lambda runner: None,
        demand=lambda: Demand("SIM"),
    )


async def test_json_of_a_venue_keeps_the_digits_of_its_prices() -> None:
    body = b'{"bid": 61837.6300, "size": 1e-8, "id": 12345678901234567890123, "text": "x"}'
    assert await runner_of(body).get_json("http://x") == {
        "bid": "61837.6300",
        "size": "1e-8",
        "id": 12345678901234567890123,
        "text": "x",
    }


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"[" * 3000])
async def test_page_that_is_not_json_is_the_feeds_failure(body: bytes) -> None:
    with pytest.raises(FeedError, match="GET http://x: not JSON"):
        await runner_of(body).get_json("http://x")


async def test_feed_sees_what_its_venues_subscribers_want_in_each_of_its_lives(
    autojump_clock: object,
) -> None:
    feed = ScriptedFeed()
    seen: list[Any] = []

    async def look(ctx: Any) -> bool:
        await ctx.wanted.wait_changed()
        seen.append((ctx.wanted.symbols("quote"), ctx.wanted.everything("trade")))
        return False

    async with open_broker(feeds=[feed, other_feed()]) as broker, websocket(broker.port) as ws:
        await ws.ask("subscribe", ch="quote", symbols=[ACME, "OTHER:X"])
        await ws.receive_type("ack")
        await feed.do(look)
        await ws.ask("subscribe", ch="trade", symbols=["SIM:*"])
        await ws.receive_type("ack")
        await feed.do(look)
        await feed.fail(FeedError("the venue hung up"))
        await trio.sleep(1)
        await feed.do(look)
    assert seen == [({ACME}, False), ({ACME}, True), ({ACME}, True)]


class Panic(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (SystemExit(3), "the adapter called sys.exit(3)"),
        (Panic("at the disco"), "the adapter raised Panic, which is no Exception: Panic('at the disco')"),
        (
            asyncio.CancelledError(),
            "the adapter raised CancelledError, which is no Exception: CancelledError()",
        ),
        (GeneratorExit(), "the adapter raised GeneratorExit, which is no Exception: GeneratorExit()"),
    ],
)
async def test_adapter_that_raises_what_is_no_exception_ends_alone(
    autojump_clock: object, odd: BaseException, says: str, is_grouped: bool
) -> None:
    feed, other = ScriptedFeed(), other_feed()

    async def leave(ctx: Any) -> bool:
        if not is_grouped:
            raise odd
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.shield = True
            nursery.start_soon(trio.sleep_forever)
            raise odd

    async with open_broker(feeds=[feed, other]) as broker:
        await feed.do(leave)
        assert broker.runner.last_error == says
        await other.publish(quote("OTHER:X"))
        assert (await feeds(broker.port))["feed1"]["state"] == "live"
        await trio.sleep(60)
        assert feed.lives == 2


async def test_exception_whose_text_fails_is_told_by_its_name(autojump_clock: object) -> None:
    class Untold(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    feed = ScriptedFeed()
    async with open_broker(feeds=[feed]) as broker:
        await feed.fail(Untold())
        assert broker.runner.last_error == "Untold, whose text can't be told: RuntimeError"
        await trio.sleep(60)
        assert feed.lives == 2


@pytest.mark.parametrize("topic", [("quotes", ACME), ("quote", None), ("quote", ["x"])])
async def test_gap_of_no_topic_is_the_adapters_mistake_and_costs_no_ticks(
    autojump_clock: object, topic: tuple[Any, Any]
) -> None:
    feed = ScriptedFeed()

    async def mistake(ctx: Any) -> bool:
        ctx.publish(quote())
        ctx.gap(*topic)
        return False

    async with open_broker(feeds=[feed]) as broker:
        await feed.do(mistake)
        assert "must be a channel and a symbol" in broker.runner.last_error
        assert broker.runner.ticks == 1
        assert broker.ingest.broken == 0
