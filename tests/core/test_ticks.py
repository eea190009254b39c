"""Symbols, times, and what a tick may hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.ticks import TICK_TYPES, Tick, is_symbol, iso_to_ns, venue_of
from tests import strategies


@given(strategies.SYMBOLS)
def test_symbol_is_a_venue_and_a_name(symbol: str) -> None:
    assert is_symbol(symbol)
    assert symbol.startswith(venue_of(symbol) + ":")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SIM",
        "SIM:",
        ":A",
        "sim:A",
        "SIM:a",
        "SIM:A B",
        "SIM:A\n",
        "SIM:A:B",
        "SIM:*",
        "_S:A",
        "SIM:.A",
        "SIM:Ä",
        "SÏM:A",
        "SIM:" + "A" * 61,
        "SIM:A\x00",
        "SIM:٣",
    ],
)
def test_what_is_no_symbol_is_refused(text: str) -> None:
    assert not is_symbol(text)


def test_longest_symbol_has_64_characters() -> None:
    assert is_symbol("SIM:" + "A" * 60)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2025-06-30T14:03:07.25Z", 1_751_292_187_250_000_000),
        ("2025-06-30T14:03:07.123456789Z", 1_751_292_187_123_456_789),
        ("2025-06-30T16:03:07.000000001+02:00", 1_751_292_187_000_000_001),
        ("2025-06-30T09:33:07-04:30", 1_751_292_187_000_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
    ],
)
def test_time_is_exact_to_the_nanosecond(text: str, ns: int) -> None:
    assert iso_to_ns(text) == ns


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.integers(0, 999_999_999))
def test_any_time_with_nine_decimals_is_read_exactly(at: datetime, fraction: int) -> None:
    whole = (at.replace(microsecond=0, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    text = f"{at:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
    assert iso_to_ns(text) == whole * 1_000_000_000 + fraction


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2025-06-30",
        "2025-06-30T14:03:07",
        "2025-06-30 14:03:07Z",
        "2025-06-30T14:03:07.Z",
        "2025-13-30T14:03:07Z",
        "2025-06-30T14:03:07.1234567890Z",
        "2025-06-30T14:03:07z",
        "2025-06-30T14:03:07+25:00",
        "x2025-06-30T14:03:07Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        iso_to_ns(text)


@given(strategies.TICKS)
def test_well_formed_ticks_pass_the_types_of_the_wire(tick: Tick) -> None:
    assert msgspec.convert(msgspec.to_builtins(tick), Tick) == tick


@pytest.mark.parametrize("kind", TICK_TYPES)
def test_every_type_names_its_channel_as_its_tag(kind: type[Tick]) -> None:
    assert kind.__struct_config__.tag == kind.ch
