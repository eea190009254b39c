"""The checks of the conformance kit, each a function that returns what it saw, or raises what is wrong."""

from __future__ import annotations

from collections.abc import Callable

from feeds.testing.checks.bench import Bench
from feeds.testing.checks.connections import (
    check_dropped,
    check_gap,
    check_half_open,
    check_mute,
    check_reconnects,
    check_refused,
    check_throttled,
)
from feeds.testing.checks.frames import check_fuzz, check_garbage, check_huge, check_truncated
from feeds.testing.checks.lifecycle import check_cancel, check_cost, check_import
from feeds.testing.checks.ticks import (
    check_books,
    check_decimals,
    check_frames,
    check_golden,
    check_stamps,
    check_symbols,
)

#: The first, made before the adapter is imported into this process.
IMPORT = "import"

#: By name, in the order in which they are made. ``import`` is apart, as it needs no `Bench`.
CHECKS: dict[str, Callable[[Bench], str]] = {
    "frames": check_frames,
    "symbols": check_symbols,
    "stamps": check_stamps,
    "decimals": check_decimals,
    "books": check_books,
    "golden": check_golden,
    "gap": check_gap,
    "refused": check_refused,
    "throttled": check_throttled,
    "dropped": check_dropped,
    "mute": check_mute,
    "half_open": check_half_open,
    "reconnects": check_reconnects,
    "garbage": check_garbage,
    "truncated": check_truncated,
    "huge": check_huge,
    "fuzz": check_fuzz,
    "cancel": check_cancel,
    "cost": check_cost,
}
NAMES = (IMPORT, *CHECKS)

__all__ = ["CHECKS", "IMPORT", "NAMES", "Bench", "check_import"]
