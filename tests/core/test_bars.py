"""Bars beside a naive computation from the list of all trades."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal, InvalidOperation, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.bars import INTERVALS, LATENESS_NS, SECOND, BarBuilder
from broker.core.ticks import Bar, Trade

MINUTE = 60 * SECOND
START = 1_751_292_180 * SECOND
WIDTHS = dict(INTERVALS)
Key = tuple[str, str, int]


def trade(ts: int, price: str = "10", size: str = "1", sym: str = "SIM:A") -> Trade:
    return Trade(sym=sym, ts=ts, rts=ts + 5, price=price, size=size, side="buy", id="1")


def build(trades: list[Trade], per_batch: int = 1) -> list[Bar]:
    """Return all bars of these trades, as ingest makes them, and then let time go on."""
    builder, watermark = BarBuilder(), 0
    bars: list[Bar] = []
    for first in range(0, len(trades), per_batch):
        for each in trades[first : first + per_batch]:
            watermark = max(watermark, each.ts)
            builder.add(each)
        bars += builder.advance(watermark, rts=7)
    bars += builder.advance(watermark + 10 * MINUTE, rts=7)
    return bars


def naive(trades: list[Trade]) -> dict[Key, tuple[str, str, str, str, Decimal, int]]:
    """Return the final bars, by symbol, interval and start, of trades sorted by their time."""
    groups: dict[Key, list[Trade]] = defaultdict(list)
    for each in sorted(trades, key=lambda item: item.ts):
        for interval, width in INTERVALS:
            groups[each.sym, interval, each.ts - each.ts % width].append(each)
    return {
        key: (
            group[0].price,
            max((item.price for item in group), key=Decimal),
            min((item.price for item in group), key=Decimal),
            group[-1].price,
            sum((Decimal(item.size) for item in group), Decimal(0)),
            len(group),
        )
        for key, group in groups.items()
    }


def finals(bars: list[Bar]) -> dict[Key, Bar]:
    """Return the final bars; each may be final only once."""
    found: dict[Key, Bar] = {}
    for bar in bars:
        if bar.final:
            key = bar.sym, bar.interval, bar.start
            assert key not in found
            found[key] = bar
    return found


def values(bar: Bar) -> tuple[str, str, str, str, Decimal, int]:
    return bar.open, bar.high, bar.low, bar.close, Decimal(bar.volume), bar.count


# Prices differ as numbers, so that of two the same the spelling does not matter.
PRICES = st.integers(1, 10**6).map(lambda cents: f"{cents // 100}.{cents % 100:02d}")
SIZES = st.sampled_from(["1", "0.00000001", "123456789012345678901234567890.5", "2.50"])
STEPS = st.integers(0, 3 * SECOND) | st.integers(0, 40 * SECOND) | st.just(0)


@st.composite
def trades_within_lateness(draw: st.DrawFn) -> list[Trade]:
    """Draw trades of two symbols, in an order of arrival that is off by less than the lateness."""
    at = START
    trades, arrivals = [], []
    for _ in range(draw(st.integers(0, 25))):
        at += draw(STEPS)
        trades.append(trade(at, draw(PRICES), draw(SIZES), draw(st.sampled_from(["SIM:A", "SIM:B"]))))
        arrivals.append(at + draw(st.integers(0, LATENESS_NS - 1)))
    return [each for _, each in sorted(zip(arrivals, trades, strict=True), key=lambda pair: pair[0])]


@given(trades_within_lateness(), st.integers(1, 5))
def test_final_bars_are_those_of_the_trades_in_any_order_within_the_lateness(
    trades: list[Trade], per_batch: int
) -> None:
    with localcontext(prec=100):
        expected = naive(trades)
        # Of two trades at the same time the order of arrival counts, which sorting keeps.
        assert {key: values(bar) for key, bar in finals(build(trades, per_batch)).items()} == expected


@given(
    st.lists(
        st.builds(
            trade,
            st.integers(START, START + 3 * MINUTE),
            PRICES,
            SIZES,
            st.sampled_from(["SIM:A", "SIM:B"]),
        ),
        max_size=40,
    )
)
def test_volume_and_count_are_conserved_in_whatever_order_trades_come(trades: list[Trade]) -> None:
    bars = list(finals(build(trades)).values())
    with localcontext(prec=100):
        for sym in ("SIM:A", "SIM:B"):
            of_symbol = [each for each in trades if each.sym == sym]
            for interval in WIDTHS:
                made = [bar for bar in bars if bar.sym == sym and bar.interval == interval]
                assert sum(Decimal(bar.volume) for bar in made) == sum(
                    Decimal(each.size) for each in of_symbol
                )
                assert sum(bar.count for bar in made) == len(of_symbol)


@given(trades_within_lateness())
def test_minutes_are_the_seconds_folded_and_grow_with_each(trades: list[Trade]) -> None:
    seconds: dict[tuple[str, int], list[Bar]] = defaultdict(list)
    with localcontext(prec=100):
        for bar in build(trades):
            assert bar.start % WIDTHS[bar.interval] == 0
            minute = bar.sym, bar.start - bar.start % MINUTE
            if bar.interval == "1s":
                assert bar.final
                seconds[minute].append(bar)
                continue
            parts = seconds[minute]
            assert values(bar) == (
                parts[0].open,
                max((part.high for part in parts), key=Decimal),
                min((part.low for part in parts), key=Decimal),
                parts[-1].close,
                sum((Decimal(part.volume) for part in parts), Decimal(0)),
                sum(part.count for part in parts),
            )


def test_bar_is_closed_once_event_time_is_past_its_end_by_the_lateness() -> None:
    builder = BarBuilder()
    builder.add(trade(START + 1))
    assert list(builder.advance(START + SECOND + LATENESS_NS - 1, rts=7)) == []
    assert [bar.interval for bar in builder.advance(START + 2 * SECOND, rts=7)] == ["1s", "1m"]


def test_bars_of_two_minutes_that_close_together_stay_apart() -> None:
    trades = [trade(START + 59 * SECOND), trade(START + 61 * SECOND), trade(START + 200 * SECOND)]
    bars = [bar for bar in build(trades, per_batch=3) if bar.final]
    for interval, starts in (("1s", [59, 61, 200]), ("1m", [0, 60, 180])):
        made = [bar for bar in bars if bar.interval == interval]
        assert [((bar.start - START) // SECOND, bar.count) for bar in made] == [(at, 1) for at in starts]


def test_trade_after_its_bar_was_closed_counts_in_the_one_that_is_open() -> None:
    builder = BarBuilder()
    builder.add(trade(START))
    (second, minute) = builder.advance(START + 2 * SECOND, rts=7)
    assert (second.final, minute.final) == (True, False)
    builder.add(trade(START + 1, price="99"))
    (late, grown) = builder.advance(START + 5 * SECOND, rts=7)
    assert (late.start, late.high, late.count) == (START + SECOND, "99", 1)
    assert (grown.start, grown.high, grown.count) == (START, "99", 2)


def test_conflated_trade_counts_as_many() -> None:
    each = trade(START)
    each.count = 12
    assert [bar.count for bar in build([each]) if bar.final] == [12, 12]


@pytest.mark.parametrize(("price", "size"), [("abc", "1"), ("1", ""), ("NaN", "1"), ("1", "Infinity")])
def test_trade_with_no_number_in_it_is_refused_and_leaves_no_trace(price: str, size: str) -> None:
    builder = BarBuilder()
    with pytest.raises((ValueError, InvalidOperation)):
        builder.add(trade(START, price, size))
    builder.add(trade(START, "3", "2"))
    (second, _) = builder.advance(START + 2 * SECOND, rts=7)
    assert values(second) == ("3", "3", "3", "3", Decimal(2), 1)


def test_digits_of_the_venue_are_kept() -> None:
    bars = build([trade(START, "1.50", "0.10"), trade(START + 1, "1.5000", "0.20")])
    assert (bars[0].open, bars[0].high, bars[0].close, bars[0].volume) == ("1.50", "1.50", "1.5000", "0.30")
