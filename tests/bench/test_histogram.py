"""Percentiles, beside the obvious way to take them."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bench.histogram import RECORD_NS, SHIFT, Histogram, upper_edge

ages = st.lists(st.integers(0, 10**11), min_size=1, max_size=200)


def histogram(values: list[int]) -> Histogram:
    recorded: dict[int, int] = {}
    for value in values:
        recorded[value >> SHIFT] = recorded.get(value >> SHIFT, 0) + 1
    return Histogram.from_recorded(recorded, max(values))


@given(ages, st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentile_is_within_one_percent_of_that_of_the_sorted_values(
    values: list[int], percent: float
) -> None:
    exact = sorted(values)[max(0, math.ceil(len(values) * percent / 100 - 1e-9) - 1)]
    found = histogram(values).percentile(percent)
    assert exact <= found + RECORD_NS
    assert found <= exact * 1.02 + 2 * RECORD_NS


@given(ages, ages)
def test_merging_two_is_recording_all(first: list[int], second: list[int]) -> None:
    merged = histogram(first)
    merged.add(histogram(second))
    together = histogram(first + second)
    assert merged.counts == together.counts
    assert merged.max_ns == max(first + second)


@given(st.integers(0, 2**40))
def test_every_age_lies_below_the_edge_of_its_bucket(age_ns: int) -> None:
    edge = upper_edge(age_ns >> SHIFT)
    assert age_ns < edge <= age_ns * 1.02 + 2 * RECORD_NS


def test_nothing_has_no_percentile_and_a_clock_that_went_back_counts_as_no_age() -> None:
    assert Histogram().percentile(99) == 0
    assert Histogram.from_recorded({-5: 3}, 0).counts == {RECORD_NS: 3}


def test_hgrm_lists_ascending_percentiles_up_to_all_of_them() -> None:
    text = histogram([1_000_000 * n for n in range(1, 1001)]).hgrm()
    rows = [line.split() for line in text.splitlines() if line and line[0] == " " and "Value" not in line]
    values, parts, counts = ([float(row[column]) for row in rows] for column in range(3))
    assert values == sorted(values)
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert counts[-1] == 1000
    assert values[-1] == 1000
    assert rows[-1][3] == "inf"
    assert "#[Max     =     1000.000, Total count    =         1000]" in text
