"""Venues at their worst: what subscribers have is the venue's or nothing, and everything is accounted for.

``TAPECAST_WORST_HOUR=1`` runs the whole hour; ``python -m tests.simulation.worst_hour`` prints what came of it.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from feeds.coinbase import CoinbaseParser
from feeds.kraken_book import KrakenBook
from feeds.kraken_parser import KrakenParser
from feeds.venue import VenueFeed
from tests.simulation.worst_hour import SUBSCRIBERS, Report, run

MINUTES = 60.0 if os.environ.get("TAPECAST_WORST_HOUR") else 12.0


@pytest.fixture(scope="module")
def report() -> Report:
    return run(1, MINUTES)


def test_no_book_is_wrong_no_ledger_is_out_and_every_reconnect_asks_once(report: Report) -> None:
    """The faults are of all subscribers, of the tape and of the venues, which count what they are asked."""
    assert not report.faults, "\n".join(report.faults[:20])


def test_run_is_worth_its_name(report: Report) -> None:
    troubles = sum(report.troubles.values(), start=type(report.lines)())
    assert sum(troubles.values()) > MINUTES
    assert {"drop", "torn", "garbage", "daily"} <= set(troubles)
    for venue in ("COINBASE", "KRAKEN"):
        assert report.connects[venue]["open"] > MINUTES / 6
        assert report.states[venue]["live"] > MINUTES * 60 / 2, "and most of the time all is well"
    for mode in ("latest", "every"):
        assert report.seen[mode]["gap book feed_reset"] > SUBSCRIBERS
        assert report.seen[mode]["gap trade feed_reset"] > SUBSCRIBERS
        assert report.seen[mode]["seconds down"] > 0
    assert report.books_compared > 1000 * MINUTES


def test_memory_is_flat(report: Report) -> None:
    quarter = len(report.blocks) // 4
    assert max(report.blocks[-quarter:]) < 1.03 * max(report.blocks[quarter : 2 * quarter])


def test_log_has_fewer_lines_than_there_were_troubles(report: Report) -> None:
    troubles = sum(sum(each.values()) for each in report.troubles.values())
    assert 0 < sum(report.lines.values()) <= troubles


def deaf(*_: Any, **__: Any) -> None:
    """Do nothing."""


#: What of the feeds' care is taken away, and what the hour says of it.
BREAKAGES: dict[str, tuple[list[tuple[Any, str, Any]], str]] = {
    "a connection that ends leaves its books": (
        # The supervisor would see to it, did the feed not say that it goes on where it was.
        [(VenueFeed, "_end", deaf), (VenueFeed, "resumes", True)],
        "is down, and its book stands",
    ),
    "a damaged frame is passed over": (
        [(CoinbaseParser, "_distrust", deaf)],
        "COINBASE:.* is not the venue's",
    ),
    "a hole is passed over": ([(KrakenBook, "matches", lambda *_: True)], "KRAKEN:.* is not the venue's"),
    "a broken book is not told": (
        [(KrakenParser, "take_gaps", lambda self: [])],
        "snapshot of KRAKEN:.*, whose book stands",
    ),
    "a connection asks twice": (
        [
            (
                VenueFeed,
                "subscribe_frames",
                lambda self: 2 * self.symbol_frames("subscribe", self.options.symbols),
            )
        ],
        "though it is so already",
    ),
}


@pytest.mark.parametrize(("broken", "fault"), BREAKAGES.values(), ids=BREAKAGES)
def test_hour_notices(
    monkeypatch: pytest.MonkeyPatch, broken: list[tuple[Any, str, Any]], fault: str
) -> None:
    for where, name, instead in broken:
        monkeypatch.setattr(where, name, instead)
    assert any(re.search(fault, each) for seed in range(5) for each in run(seed, 8.0, subscribers=2).faults)
