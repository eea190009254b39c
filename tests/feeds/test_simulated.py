"""The simulated feed: its options, and when its ticks leave."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, repeat
from math import ceil
from typing import Any

import msgspec
import pytest
import structlog
import trio
import trio.testing
from pydantic import ValidationError

from broker.core.ticks import Book, Quote, Tick, is_symbol
from feeds._market import Market
from feeds.simulated import CATCH_UP_S, FLUSH_TICKS, NAMES, Simulated, wake_s

EPOCH_NS = 1_700_000_000_000_000_000


def options(**given: Any) -> Simulated.Options:
    return Simulated.Options.model_validate({"type": "simulated", **given})


class Listener:
    """A feed's context that keeps each tick with the time it was published at.

    Attributes:
        ticks: in order, with seconds of Trio's clock.
        flushes: how many ticks each flush sent.
    """

    def __init__(self, pauses: Iterable[float] = ()) -> None:
        """``pauses`` says how long the broker is busy in each flush, in seconds; then never again."""
        self.log = structlog.get_logger()
        self.ticks: list[tuple[float, Tick]] = []
        self.flushes: list[int] = []
        self._pauses = iter(pauses)
        self._flushed = 0

    def publish(self, tick: Tick) -> None:
        self.ticks.append((trio.current_time(), tick))

    async def flush(self) -> None:
        self.flushes.append(len(self.ticks) - self._flushed)
        self._flushed = len(self.ticks)
        await trio.sleep(next(self._pauses, 0.0))

    def time_ns(self) -> int:
        return EPOCH_NS + round(trio.current_time() * 1e9)


async def listen(given: Simulated.Options, seconds: float, listener: Listener | None = None) -> Listener:
    """Run the feed for a while of simulated time."""
    listener = listener or Listener()
    with trio.move_on_after(seconds):
        await Simulated(given).run(listener)  # type: ignore[arg-type]  # it connects to nothing
    return listener


def timed(listener: Listener, given: Simulated.Options) -> list[tuple[float, Tick]]:
    """Return the ticks behind the opening ones."""
    return listener.ticks[len(Simulated(given).symbols) * len({"quote", "book"} & {*given.channels}) :]


def content(ticks: Iterable[Tick]) -> list[Any]:
    """Return ticks without the times at which they were made."""
    return [{**msgspec.to_builtins(tick), "ts": 0, "rts": 0} for tick in ticks]


def made_by_the_model(given: Simulated.Options, count: int) -> list[Any]:
    """Return the first ticks behind the opening ones, all made at once."""
    market = Market(Simulated(given).symbols, given.channels, given.ticks_per_second, given.seed)
    return content(market.ticks(count, EPOCH_NS))


# --- pacing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "seconds"), [(1, 600), (2.5, 100), (20, 200), (333.3, 30), (1000, 20), (50_000, 2), (100_000, 1)]
)
async def test_each_tick_leaves_when_it_is_due(
    rate: float, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    given = options(ticks_per_second=rate, symbols=5)
    # Half a gap more, so that the last one is in time.
    ticks = timed(await listen(given, seconds + 0.5 / rate), given)
    assert abs(len(ticks) - rate * seconds) <= ceil(rate * wake_s(rate))
    late = [at - number / rate for number, (at, _) in enumerate(ticks, 1)]
    assert min(late) > -0.01 / rate
    assert max(late) < max(wake_s(rate), 0.01 / rate) + 1 / rate


async def test_at_low_rates_ticks_leave_one_by_one_and_evenly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given = options(ticks_per_second=20)
    ticks = timed(await listen(given, 30), given)
    assert [after - before for (before, _), (after, _) in pairwise(ticks)] == pytest.approx(
        [0.05] * (len(ticks) - 1)
    )


@pytest.mark.parametrize("channels", [["quote"], ["trade"], ["book"], ["trade", "quote", "book"]])
@pytest.mark.parametrize("rate", [20, 5000])
async def test_pacing_does_not_change_what_comes(
    channels: list[str], rate: int, autojump_clock: trio.testing.MockClock
) -> None:
    given = options(ticks_per_second=rate, channels=channels, seed=5)
    ticks = timed(await listen(given, 3), given)
    assert content(tick for _, tick in ticks) == made_by_the_model(given, len(ticks))


async def test_no_tick_is_lost_and_the_rate_is_made_up_for_when_the_broker_is_busy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given = options(ticks_per_second=1000)
    listener = await listen(given, 10, Listener([0.0] * 50 + [0.8] + [0.0] * 100 + [0.3] * 3))
    ticks = timed(listener, given)
    assert abs(len(ticks) - 10_000) <= 4
    assert content(tick for _, tick in ticks) == made_by_the_model(given, len(ticks))


async def test_after_a_long_halt_only_a_second_is_made_up_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given = options(ticks_per_second=1000)
    listener = await listen(given, 65, Listener([0.0] * 1000 + [60.0]))
    ticks = timed(listener, given)
    assert abs(len(ticks) - 1000 * (5 + CATCH_UP_S)) <= 8
    # Nothing is skipped in what is told; only less of it was made.
    assert content(tick for _, tick in ticks) == made_by_the_model(given, len(ticks))


async def test_a_broker_that_is_always_too_slow_gets_all_it_can_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given = options(ticks_per_second=10_000)
    listener = await listen(given, 20, Listener(repeat(0.1)))
    # Ten flushes a second, each as full as it may be but for the last of a round.
    assert len(timed(listener, given)) > 18 * 10 * FLUSH_TICKS
    assert max(listener.flushes) == FLUSH_TICKS


@pytest.mark.parametrize("rate", [1, 100_000])
async def test_no_more_ticks_than_a_batch_wait_for_a_flush(
    rate: int, autojump_clock: trio.testing.MockClock
) -> None:
    listener = await listen(options(ticks_per_second=rate, symbols=3000), 1.5)
    assert 0 < max(listener.flushes) <= FLUSH_TICKS
    assert sum(listener.flushes) == len(listener.ticks)


async def test_ticks_carry_the_time_at_which_they_were_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for at, tick in (await listen(options(ticks_per_second=300), 10)).ticks:
        assert tick.ts == tick.rts == EPOCH_NS + round(at * 1e9)


@pytest.mark.parametrize("rate", [20, 5000])
async def test_due_ticks_carry_the_time_at_which_they_should_have_been_made(
    rate: float, autojump_clock: trio.testing.MockClock
) -> None:
    given = options(ticks_per_second=rate, symbols=5, stamp="due")
    # The broker is busy for half a second: what is made late was due before.
    ticks = timed(await listen(given, 4, Listener([0.0, 0.0, 0.0, 0.5])), given)
    dues = [tick.ts for _, tick in ticks]
    gaps = {after - before for before, after in pairwise(dues)}
    assert max(abs(gap - 1e9 / rate) for gap in gaps) <= 1000
    assert all(tick.ts <= tick.rts == EPOCH_NS + round(at * 1e9) for at, tick in ticks)
    assert max(tick.rts - tick.ts for _, tick in ticks) > 400_000_000


# --- the opening ------------------------------------------------------------------------------------


async def test_every_name_begins_with_a_book_and_a_quote_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listener = await listen(options(ticks_per_second=1, symbols=300), 0.5)
    symbols = Simulated(options(symbols=300)).symbols
    books = [tick for _, tick in listener.ticks if isinstance(tick, Book)]
    assert [book.sym for book in books] == symbols
    assert {book.kind for book in books} == {"snapshot"}
    assert {len(side) for book in books for side in (book.bids, book.asks)} == {10}
    assert [tick.sym for _, tick in listener.ticks if isinstance(tick, Quote)] == symbols
    assert len(listener.ticks) == 600


async def test_each_run_begins_with_whole_books_again(autojump_clock: trio.testing.MockClock) -> None:
    feed = Simulated(options(symbols=2, channels=["book"]))
    runs = []
    for _ in range(2):
        listener = Listener()
        # Not when a tick is due.
        with trio.move_on_after(1.0003):
            await feed.run(listener)  # type: ignore[arg-type]
        runs.append(content(tick for _, tick in listener.ticks))
    assert [tick["kind"] for tick in runs[1][:3]] == ["snapshot", "snapshot", "delta"]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("channels", [["quote"], ["trade"], ["book"], ["book", "trade"]])
async def test_only_chosen_channels_are_published(
    channels: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    listener = await listen(options(channels=channels), 2)
    assert {tick.ch for _, tick in listener.ticks} == {*channels}


# --- options ----------------------------------------------------------------------------------------


def test_defaults_are_twenty_names_of_sim_on_all_channels() -> None:
    feed = Simulated(options())
    assert (feed.venue, feed.stale_after_s) == ("SIM", None)
    assert (len(feed.symbols), feed.symbols[0]) == (20, "SIM:ACME")
    assert (feed.options.channels, feed.options.ticks_per_second) == (("quote", "trade", "book"), 1000)


def test_a_count_picks_names_and_then_makes_some_up() -> None:
    symbols = Simulated(options(symbols=100_000)).symbols
    assert len(set(symbols)) == 100_000
    assert all(is_symbol(symbol) for symbol in symbols)
    assert [*symbols[: len(NAMES)]] == [f"SIM:{name}" for name in NAMES]
    assert symbols[60] == "SIM:S00061"
    assert Simulated(options(symbols=61)).symbols == symbols[:61]


def test_names_and_the_venue_can_be_given() -> None:
    feed = Simulated(options(symbols=["GLOBEX", "BRK.B", "EUR/USD"], venue="MY_SIM2"))
    assert feed.venue == "MY_SIM2"
    assert feed.symbols == ["MY_SIM2:GLOBEX", "MY_SIM2:BRK.B", "MY_SIM2:EUR/USD"]


@pytest.mark.parametrize("symbols", [["A" * 60], ["1"], 1, 100_000])
def test_options_at_the_edge_are_taken(symbols: Any) -> None:
    assert len(Simulated(options(symbols=symbols)).symbols) in (1, 100_000)


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({"symbols": 0}, "symbols", "a count from 1 to 100000"),
        ({"symbols": -1}, "symbols", "a count from 1 to 100000"),
        ({"symbols": 100_001}, "symbols", "a count from 1 to 100000"),
        ({"symbols": 1.5}, "symbols", "a count from 1 to 100000 or a list"),
        ({"symbols": True}, "symbols", "a count from 1 to 100000 or a list"),
        ({"symbols": "20"}, "symbols", "a count from 1 to 100000 or a list"),
        ({"symbols": []}, "symbols", "1 to 100000 names, not 0"),
        ({"symbols": ["A", "acme"]}, "symbols", "'acme' must be in capitals and without a venue: 'ACME'"),
        ({"symbols": ["SIM:ACME"]}, "symbols", "'SIM:ACME' must be in capitals and without a venue: 'ACME'"),
        ({"symbols": ["A B"]}, "symbols", "'A B' must be at most 60 capital letters"),
        ({"symbols": ["A" * 61]}, "symbols", "at most 60 capital letters"),
        ({"symbols": ["A", "B", "A"]}, "symbols", "'A' is listed twice"),
        ({"symbols": ["A", 7]}, "symbols", "7 must be a name in quotes"),
        ({"symbols": ["A", ["B"]]}, "symbols", "['B'] must be a name in quotes"),
        ({"symbols": ["a", ""]}, "symbols", "'a' must be in capitals and without a venue: 'A'; ''"),
        ({"ticks_per_second": 0.5}, "ticks_per_second", "greater than or equal to 1"),
        ({"ticks_per_second": 100_001}, "ticks_per_second", "less than or equal to 100000"),
        ({"ticks_per_second": float("nan")}, "ticks_per_second", "finite"),
        ({"ticks_per_second": float("inf")}, "ticks_per_second", "finite"),
        ({"ticks_per_second": True}, "ticks_per_second", "number"),
        ({"ticks_per_second": "fast"}, "ticks_per_second", "number"),
        ({"channels": []}, "channels", "at least 1"),
        ({"channels": ["quotes"]}, "channels", "'quote', 'trade' or 'book'"),
        ({"channels": ["bar"]}, "channels", "'quote', 'trade' or 'book'"),
        ({"channels": ["quote", "quote"]}, "channels", "'quote' is listed twice"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"seed": True}, "seed", "integer"),
        ({"venue": "sim"}, "venue", "capital letters"),
        ({"venue": ""}, "venue", "capital letters"),
        ({"venue": "A:B"}, "venue", "capital letters"),
        ({"venue": "V" * 33}, "venue", "1 to 32"),
        ({"type": "replay"}, "type", "simulated"),
        ({"sed": 1}, "sed", "not permitted"),
    ],
)
def test_a_wrong_option_is_refused_by_name_with_what_is_right(
    given: dict[str, Any], where: str, what: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        options(**given)
    first = refused.value.errors()[0]
    assert first["loc"][0] == where
    assert what in first["msg"]
