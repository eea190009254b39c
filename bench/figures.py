"""What is measured, by name: the names of ``run.json``, of ``--threshold`` and of ``bench compare``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Attributes:
        unit: behind the number.
        better: which way is better, for comparisons; ``None``: neither.
    """

    name: str
    unit: str
    meaning: str
    better: Literal["higher", "lower"] | None = None


_ALL = (
    Figure("deliveries_per_s", "/s", "ticks that all subscribers received", "higher"),
    Figure(
        "deliveries_per_cpu_s",
        "/CPU-s",
        "of the server's processes, the feed in the broker included",
        "higher",
    ),
    Figure("frames_per_s", "/s", "WebSocket frames received", None),
    Figure("mb_per_s", "MB/s", "received by all", None),
    Figure("age_p50", "ms", "half of all ticks are no older on arrival", "lower"),
    Figure("age_p90", "ms", "age of nine in ten", "lower"),
    Figure("age_p99", "ms", "age of 99 in 100", "lower"),
    Figure("age_p999", "ms", "age of 999 in 1000", "lower"),
    Figure("age_max", "ms", "the oldest on arrival", "lower"),
    Figure("cpu_cores", "cores", "CPU time of the server's processes per second", "lower"),
    Figure("memory_mb", "MB", "resident memory of the server's processes at the end", "lower"),
    Figure("memory_per_session_kib", "KiB", "what the sessions added, each", "lower"),
    Figure("fed_per_s", "/s", "ticks that came in, or that were published to a peer", "higher"),
    Figure("conflated", "ticks", "merged into a later one", None),
    Figure("dropped", "ticks", "named by a gap", "lower"),
    Figure("lost", "ticks", "of a peer: published and not received", "lower"),
    Figure("evictions", "sessions", "closed as too slow", None),
    Figure("client_busy", "", "share of its time that the busiest load client worked", None),
    Figure("client_cpu_cores", "cores", "CPU time of the load clients per second", None),
    Figure("publisher_busy", "", "share of its time that the publisher for a peer worked", None),
    Figure("machine_idle", "", "share of the machine's time that nobody used; near 0 it is the limit", None),
    Figure("connect_s", "s", "until all sessions were live", "lower"),
    Figure("resume_s", "s", "storm: until all were live again", "lower"),
    Figure("refused", "sessions", "not let in at the first attempt", "lower"),
    Figure("memory_growth_mb_per_h", "MB/h", "soak: slope of memory over the second half", "lower"),
)

FIGURES: dict[str, Figure] = {figure.name: figure for figure in _ALL}

#: What people write in a threshold.
ALIASES = {
    "p50": "age_p50",
    "p90": "age_p90",
    "p99": "age_p99",
    "p99.9": "age_p999",
    "p999": "age_p999",
    "max": "age_max",
    "gaps": "dropped",
}
