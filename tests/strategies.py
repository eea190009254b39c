"""Hypothesis strategies for ticks, topics, symbols and requests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from broker.core.ticks import CHANNELS, Bar, Book, Quote, Status, Tick, Trade

VENUES = st.sampled_from(["SIM", "COINBASE", "NASDAQ_2"])
NAMES = st.from_regex(r"[A-Z0-9][A-Z0-9._/+-]{0,12}", fullmatch=True)
SYMBOLS = st.builds("{}:{}".format, VENUES, NAMES)
CHANNEL = st.sampled_from(CHANNELS)
#: Decimal text as venues write it, zeros at both ends included.
DECIMALS = st.one_of(
    st.from_regex(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,10})?", fullmatch=True),
    st.sampled_from(["0", "0.00000001", "61837.63000000", "1e-8", "123456789012345678901234567890.5"]),
)
NANOS = st.integers(0, 2**63 - 1)
LEVELS = st.lists(st.tuples(DECIMALS, DECIMALS), max_size=5)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_common = {"sym": SYMBOLS, "ts": NANOS, "rts": NANOS}

QUOTES = st.builds(
    Quote,
    **_common,
    bid=st.none() | DECIMALS,
    bid_size=st.none() | DECIMALS,
    ask=st.none() | DECIMALS,
    ask_size=st.none() | DECIMALS,
)
TRADES = st.builds(
    Trade, **_common, price=DECIMALS, size=DECIMALS, side=st.sampled_from(["buy", "sell", None]), id=TEXT
)
BOOKS = st.builds(Book, **_common, kind=st.sampled_from(["snapshot", "delta"]), bids=LEVELS, asks=LEVELS)
BARS = st.builds(
    Bar,
    **_common,
    interval=st.sampled_from(["1s", "1m"]),
    start=NANOS,
    open=DECIMALS,
    high=DECIMALS,
    low=DECIMALS,
    close=DECIMALS,
    volume=DECIMALS,
    count=st.integers(1, 10_000),
    final=st.booleans(),
)
STATUSES = st.builds(Status, **_common, state=st.sampled_from(["live", "stale", "down", "halted"]), text=TEXT)
TICKS: st.SearchStrategy[Tick] = st.one_of(QUOTES, TRADES, BOOKS, BARS, STATUSES)

#: Anything that JSON can carry.
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def _mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a field's right values, and now and then something else."""
    return st.one_of(right, right, right, PLAIN)


DELIVERIES = st.fixed_dictionaries(
    {},
    optional={
        "mode": _mostly(st.sampled_from(["latest", "every"])),
        "max_rate": _mostly(st.none()),
        "max_delay_ms": _mostly(st.integers(0, 100)),
        "queue": _mostly(st.integers(1, 2000)),
        "overflow": _mostly(st.sampled_from(["gap", "evict", "degrade"])),
        "max_age_ms": _mostly(st.none() | st.integers(1, 10_000)),
    },
)
#: Requests that are nearly right: most fields are, some are of another type, missing or unknown.
REQUESTS = st.fixed_dictionaries(
    {
        "op": _mostly(st.sampled_from(["subscribe", "unsubscribe", "modify", "list", "ping", "auth"])),
        "id": _mostly(st.integers(0, 100)),
    },
    optional={
        "ch": _mostly(CHANNEL),
        "symbols": _mostly(
            st.lists(st.sampled_from(["SIM:A", "SIM:B", "SIM:*", "*", "sim:a", "NO:*", "SIM:"]), max_size=4)
        ),
        "delivery": _mostly(DELIVERIES),
        "cursor": _mostly(st.sampled_from(["e1-0", "e1-3", "e0-1", "", None])),
        "snapshot": _mostly(st.booleans()),
        "sub": _mostly(st.integers(0, 4)),
        "token": _mostly(st.text(max_size=5)),
        "colour": PLAIN,
    },
)
