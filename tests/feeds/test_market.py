"""The simulated market's model: what it makes, whatever the clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from random import Random
from statistics import correlation, quantiles

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.ticks import Book, Channel, Level, Quote, Tick, Trade
from feeds._ladder import DEPTH, MOST_LOTS, Ladder, make_bands
from feeds._market import MOST_MARKET_MOVE, RANGE, WIDEST, Market

ALL: tuple[Channel, ...] = ("quote", "trade", "book")
NAMES = [f"SIM:N{number}" for number in range(8)]
NOW = 1_700_000_000_000_000_000

some_channels = st.lists(st.sampled_from(ALL), min_size=1, unique=True)
rates = st.sampled_from([1.0, 20.0, 1000.0, 100_000.0])
seeds = st.integers(0, 2**32)


def opened(market: Market) -> list[Tick]:
    return [tick for name in market.instruments for tick in market.standing(name, NOW)]


def content(ticks: Iterable[Tick]) -> list[dict[str, object]]:
    """Return ticks without the times at which they were made."""
    plain = (msgspec.to_builtins(tick) for tick in ticks)
    return [{key: tick[key] for key in tick if key not in ("ts", "rts")} for tick in plain]


class Mirror:
    """The books of all names as a subscriber would keep them, and the last quote of each."""

    def __init__(self) -> None:
        self.sides: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self.quotes: dict[str, Quote] = {}

    def apply(self, tick: Tick) -> None:
        if isinstance(tick, Quote):
            self.quotes[tick.sym] = tick
        elif isinstance(tick, Book):
            if tick.kind == "snapshot":
                self.sides[tick.sym] = ({}, {})
            for levels, side in zip((tick.bids, tick.asks), self.sides[tick.sym], strict=True):
                for price, size in levels:
                    if size == "0":
                        del side[price]
                    else:
                        side[price] = size

    def book(self, sym: str) -> tuple[list[Level], list[Level]]:
        """Return bids and asks, best first."""
        bids, asks = self.sides[sym]
        return (
            sorted(bids.items(), key=lambda level: -Decimal(level[0])),
            sorted(asks.items(), key=lambda level: Decimal(level[0])),
        )


def touch(quote: Quote) -> tuple[Level, Level]:
    bid, bid_size, ask, ask_size = quote.bid, quote.bid_size, quote.ask, quote.ask_size
    assert None not in (bid, bid_size, ask, ask_size)
    return (bid or "", bid_size or ""), (ask or "", ask_size or "")


@given(some_channels, rates, seeds, st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_the_same_ticks_come_however_they_are_asked_for(
    channels: Sequence[Channel], rate: float, seed: int, counts: list[int]
) -> None:
    whole = Market(NAMES, channels, rate, seed).ticks(sum(counts), NOW)
    market = Market(NAMES, channels, rate, seed)
    parts = [market.ticks(count, NOW + at) for at, count in enumerate(counts)]
    assert [len(part) for part in parts] == counts
    assert content(tick for part in parts for tick in part) == content(whole)


def test_another_seed_makes_another_market() -> None:
    first, second = (Market(NAMES, ALL, 1000, seed) for seed in (1, 2))
    assert content(opened(first)) != content(opened(second))
    assert content(first.ticks(100, NOW)) != content(second.ticks(100, NOW))


def test_every_tick_is_stamped_with_the_time_it_was_asked_at() -> None:
    market = Market(NAMES, ALL, 1000, 1)
    for at in range(500):
        [tick] = market.ticks(1, NOW + at)
        assert (tick.ts, tick.rts) == (NOW + at, NOW + at)


@given(some_channels, rates, seeds)
def test_every_tick_is_well_formed_and_on_a_chosen_channel(
    channels: Sequence[Channel], rate: float, seed: int
) -> None:
    market = Market(NAMES, channels, rate, seed)
    for tick in opened(market) + market.ticks(500, NOW):
        assert msgspec.convert(msgspec.to_builtins(tick), type(tick)) == tick
        assert tick.ch in channels
        assert tick.sym in NAMES
        assert tick.seq == 0


@given(rates, seeds)
def test_the_book_has_ten_sorted_levels_and_its_touch_is_the_quote(rate: float, seed: int) -> None:
    market = Market(NAMES, ALL, rate, seed)
    mirror = Mirror()
    for tick in opened(market):
        mirror.apply(tick)
    last_book: Book | None = None
    for tick in market.ticks(500, NOW):
        # A delta that no quote follows has left the touch alone.
        if last_book and not isinstance(tick, Quote):
            bids, asks = mirror.book(last_book.sym)
            assert (bids[0], asks[0]) == touch(mirror.quotes[last_book.sym])
        mirror.apply(tick)
        if isinstance(tick, Book):
            assert tick.kind == "delta"
            assert tick.bids or tick.asks
            bids, asks = mirror.book(tick.sym)
            assert (len(bids), len(asks)) == (DEPTH, DEPTH)
            assert Decimal(bids[0][0]) < Decimal(asks[0][0])
            assert Decimal(bids[-1][0]) > 0
        if isinstance(tick, Quote):
            bids, asks = mirror.book(tick.sym)
            assert touch(tick) == (bids[0], asks[0])
        last_book = tick if isinstance(tick, Book) else None


@given(rates, seeds)
def test_levels_of_a_delta_are_best_first(rate: float, seed: int) -> None:
    for tick in Market(NAMES, ALL, rate, seed).ticks(1000, NOW):
        if isinstance(tick, Book):
            bids, asks = ([Decimal(price) for price, _ in levels] for levels in (tick.bids, tick.asks))
            assert bids == sorted(set(bids), reverse=True)
            assert asks == sorted(set(asks))


@pytest.mark.parametrize("channels", [ALL, ("quote",)])
def test_every_quote_says_something_new(channels: Sequence[Channel]) -> None:
    market = Market(NAMES, channels, 1000, 1)
    last = {tick.sym: tick for tick in opened(market) if isinstance(tick, Quote)}
    for tick in market.ticks(5000, NOW):
        if isinstance(tick, Quote):
            assert tick != last[tick.sym]
            last[tick.sym] = tick


@pytest.mark.parametrize("channels", [ALL, ("quote",), ("trade",)])
def test_quotes_follow_the_fair_price_with_a_narrow_spread(channels: Sequence[Channel]) -> None:
    market = Market(NAMES, channels, 1000, 1)
    leans = []
    for _ in range(500):
        market.ticks(20, NOW)
        for name in market.instruments:
            assert 1 <= name.spread <= 3
            bid, ask = name.bids.best, name.asks.best
            assert 0 <= ask - bid - name.spread <= WIDEST
            leans.append(abs(name.fair - (bid + ask) / 2))
    # In tick sizes; quotes that only moved to close their spread would be further off.
    assert quantiles(leans, n=20)[-1] < 1


def test_trades_are_at_the_touch_of_the_aggressors_side_and_take_what_is_there() -> None:
    market = Market(NAMES, ALL, 1000, 1)
    mirror = Mirror()
    for tick in opened(market):
        mirror.apply(tick)
    sides: Counter[str | None] = Counter()
    emptied = 0
    ticks = market.ticks(30_000, NOW)
    for trade, after in pairwise(ticks):
        mirror.apply(trade)
        if not isinstance(trade, Trade):
            continue
        sides[trade.side] += 1
        bid, ask = touch(mirror.quotes[trade.sym])
        price, size = ask if trade.side == "buy" else bid
        assert trade.price == price
        assert isinstance(after, Book)
        changed = after.asks if trade.side == "buy" else after.bids
        left = int(size) - int(trade.size)
        assert changed[0] == (price, str(left))
        emptied += not left
    assert set(sides) == {"buy", "sell"}
    assert min(sides.values()) > sides.total() / 4
    assert 0 < emptied < sides.total() / 2


@pytest.mark.parametrize("channels", [ALL, ("trade",)])
def test_ids_of_trades_count_up_for_each_name(channels: Sequence[Channel]) -> None:
    ids: dict[str, list[str]] = {}
    for tick in Market(NAMES, channels, 1000, 1).ticks(5000, NOW):
        if isinstance(tick, Trade):
            ids.setdefault(tick.sym, []).append(tick.id)
    assert set(ids) == set(NAMES)
    for of_name in ids.values():
        assert of_name == [str(number) for number in range(1, len(of_name) + 1)]


def test_quotes_without_a_book_have_the_sizes_and_the_pace_of_those_with_one() -> None:
    shares = []
    for channels in (["quote"], ["quote", "book"]):
        market = Market(NAMES, channels, 1000.0, 5)  # type: ignore[arg-type]  # they are
        opened(market)
        quotes = [tick for tick in market.ticks(40_000, NOW) if isinstance(tick, Quote)]
        sizes = quantiles([int(quote.bid_size or 0) / int(quote.ask_size or 1) for quote in quotes], n=10)
        by_name: dict[str, list[Quote]] = {}
        for quote in quotes:
            by_name.setdefault(quote.sym, []).append(quote)
        moves = [one.bid != other.bid for each in by_name.values() for one, other in pairwise(each)]
        shares.append((sizes[1], sizes[4], sizes[7], sum(moves) / len(moves)))
    for alone, beside in zip(*shares, strict=True):
        assert alone == pytest.approx(beside, rel=0.35)


def test_the_spread_is_one_to_a_few_ticks_and_the_tick_size_fits_the_price() -> None:
    names = [f"SIM:N{number}" for number in range(200)]
    market = Market(names, ["quote"], 1000, 1)
    quotes = [tick for tick in opened(market) + market.ticks(5000, NOW) if isinstance(tick, Quote)]
    spreads = []
    for quote in quotes:
        bid, ask = (Decimal(side[0]) for side in touch(quote))
        spreads.append((ask - bid) / bid)
    # Tick sizes are at most ten basis points, usual spreads at most three of them.
    assert all(0 < spread < Decimal("0.008") for spread in spreads)
    assert sorted(spreads)[len(spreads) // 2] < Decimal("0.002")


@pytest.mark.parametrize(
    ("price", "first", "next_up"),
    [
        (2.0, "2.000", "2.001"),
        (5.0, "5.000", "5.005"),
        (19.995, "19.995", "20.000"),
        (20.0, "20.00", "20.01"),
        (123.0, "123.00", "123.05"),
        (1500.0, "1500.00", "1500.10"),
    ],
)
def test_prices_are_written_with_the_digits_of_their_band(price: float, first: str, next_up: str) -> None:
    band = make_bands()(price)
    ticks = round(price / band.tick_size)
    assert (band.prices[ticks], band.prices[ticks + 1]) == (first, next_up)


def test_prices_stay_away_from_zero_however_wild_the_market_is() -> None:
    # At one tick a second among so many names an event moves a price as far as ever is allowed.
    market = Market([f"SIM:N{number}" for number in range(1000)], ["trade"], 1, 1)
    for name in market.instruments[-3:]:
        start = name.fair
        # Nothing but bad luck, then nothing but good.
        for step in range(2000):
            name.drift(-0.001 * step, -0.5)
        assert name.fair == pytest.approx(start / RANGE)
        assert name.wanted_bid() > DEPTH
        for step in range(2000):
            name.drift(0.001 * step, 0.5)
        assert name.fair == pytest.approx(start * RANGE)


def test_no_price_jumps_by_more_than_a_small_part() -> None:
    [name] = Market(NAMES[:1], ["quote"], 100_000, 1).instruments
    for market, sign in ((10.0, +1), (-10.0, -1)):
        before = name.fair
        name.drift(market, 0.0)
        assert name.fair == pytest.approx(before * (1 + sign * MOST_MARKET_MOVE))


def test_names_move_together_but_not_in_step() -> None:
    market = Market(NAMES, ["quote"], 100, 1)
    mids: list[list[float]] = [[] for _ in NAMES]
    for _ in range(300):
        market.ticks(1000, NOW)
        for of_name, name in zip(mids, market.instruments, strict=True):
            of_name.append(name.bids.best + name.asks.best)
    returns = [[after / before - 1 for before, after in pairwise(of_name)] for of_name in mids]
    pairs = [correlation(one, other) for at, one in enumerate(returns) for other in returns[:at]]
    assert min(pairs) > 0.1
    assert max(pairs) < 0.95


def test_the_first_names_are_the_busiest_and_the_last_tick_too() -> None:
    names = [f"SIM:N{number}" for number in range(100)]
    activity = Counter(tick.sym for tick in Market(names, ALL, 1000, 1).ticks(100_000, NOW))
    assert set(activity) == set(names)
    assert activity[names[0]] > 1.5 * activity[names[4]] > 3 * activity[names[30]]


def test_every_one_of_very_many_names_has_its_turn() -> None:
    names = [f"SIM:N{number}" for number in range(20_000)]
    market = Market(names, ["book"], 100_000, 1)
    assert {tick.sym for tick in market.ticks(53_000, NOW)} == set(names)


@given(
    st.sampled_from([-1, +1]),
    st.lists(
        st.one_of(
            st.tuples(st.just("move"), st.integers(-15, 15)),
            st.tuples(st.just("resize"), st.integers(0, DEPTH - 1)),
            st.tuples(st.just("consume"), st.integers(1, MOST_LOTS)),
        )
    ),
    st.randoms(use_true_random=False),
)
def test_a_ladder_is_what_its_changes_make_of_its_first_levels(
    outward: int, steps: list[tuple[str, int]], rng: Random
) -> None:
    def draw() -> int:
        return rng.randint(1, MOST_LOTS)

    ladder = Ladder(outward, 1000, make_bands()(30.0), draw)
    levels = dict(ladder.levels())
    for step, number in steps:
        before = dict(levels)
        match step:
            case "move":
                changed = ladder.move(ladder.best + number, draw)
            case "resize":
                changed = ladder.resize(number, draw())
            case _:
                changed = ladder.consume(min(number, ladder.sizes[0]), draw)
        assert changed == sorted(changed, key=lambda level: outward * Decimal(level[0]))
        for price, size in changed:
            assert levels.pop(price, "0") != size
            if size != "0":
                levels[price] = size
        assert (levels != before) == bool(changed)
        assert levels == dict(ladder.levels())
        assert len(ladder.levels()) == DEPTH
        assert min(ladder.sizes) > 0
