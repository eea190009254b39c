"""Ages as counts by size: percentiles, merging, and the format of the HdrHistogram plotter.

Recorded in buckets of `RECORD_NS`, which costs one look-up in a dict; kept and written in buckets that are
about 1 % wide, so that a run's file stays small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf

#: Width of a bucket while recording, as a power of two: 4.1 µs.
SHIFT = 12
RECORD_NS = 1 << SHIFT
#: Buckets are at most one part in so many wide, once merged; a power of two.
_PRECISION = 128

#: Those that are printed.
PERCENTILES: tuple[tuple[str, float], ...] = (("p50", 50), ("p90", 90), ("p99", 99), ("p999", 99.9))


class Histogram:
    """Counts of ages.

    Attributes:
        counts: upper edge of a bucket in ns -> how many ages lie in it.
        max_ns: the largest, exact.
    """

    def __init__(self, counts: Mapping[int, int] | None = None, max_ns: int = 0) -> None:
        self.counts: dict[int, int] = dict(counts or {})
        self.max_ns = max_ns

    @classmethod
    def from_recorded(cls, recorded: Mapping[int, int], max_ns: int) -> Histogram:
        """Return what a reader recorded: ``age_ns >> SHIFT`` to count; ages below 0 count as 0."""
        made = cls(max_ns=max_ns)
        counts = made.counts
        for bucket, count in recorded.items():
            edge = upper_edge(bucket)
            counts[edge] = counts.get(edge, 0) + count
        return made

    def add(self, other: Histogram) -> None:
        """Count what another has counted as well."""
        for edge, count in other.counts.items():
            self.counts[edge] = self.counts.get(edge, 0) + count
        self.max_ns = max(self.max_ns, other.max_ns)

    @property
    def total(self) -> int:
        """How many ages were counted."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> float:
        """Return the age in ns that ``percent`` of all do not exceed; 0 if there are none."""
        total = self.total
        if not total:
            return 0.0
        wanted = total * percent / 100
        below = 0
        for edge in sorted(self.counts):
            below += self.counts[edge]
            # The sum of counts is exact; the product above may be a hair too large.
            if below >= wanted - 1e-6:
                return float(min(edge, self.max_ns))
        return float(self.max_ns)

    def steps(self) -> Iterator[tuple[float, float, int]]:
        """Yield (age in ns, part of all ages up to it, their count), ascending."""
        total = self.total
        below = 0
        for edge in sorted(self.counts):
            below += self.counts[edge]
            yield float(min(edge, self.max_ns)), below / total, below

    def hgrm(self) -> str:
        """Return the percentile distribution in ms, as HdrHistogram's plotter reads it.

        Source: ``outputPercentileDistribution`` of HdrHistogram, https://hdrhistogram.github.io/HdrHistogram/.
        """
        lines = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}", ""]
        total = weighted = squares = 0.0
        for age_ns, part, below in self.steps():
            tail = inf if part >= 1 else 1 / (1 - part)
            shown = "inf" if tail == inf else f"{tail:.2f}"
            lines.append(f"{age_ns / 1e6:12.3f} {part:14.12f} {below:10d} {shown:>14}")
        for edge, count in self.counts.items():
            age_ms = min(edge, self.max_ns) / 1e6
            total += count
            weighted += age_ms * count
            squares += age_ms * age_ms * count
        mean = weighted / total if total else 0.0
        deviation = max(0.0, squares / total - mean * mean) ** 0.5 if total else 0.0
        lines.append(f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]")
        lines.append(f"#[Max     = {self.max_ns / 1e6:12.3f}, Total count    = {int(total):12d}]")
        lines.append(f"#[Buckets = {len(self.counts):12d}, SubBuckets     = {_PRECISION:12d}]")
        return "\n".join(lines) + "\n"


def upper_edge(bucket: int) -> int:
    """Return the upper edge, in ns, of the merged bucket that a recorded one belongs to."""
    if bucket < 0:
        return RECORD_NS
    width = max(0, bucket.bit_length() - _PRECISION.bit_length())
    return (((bucket >> width) + 1) << width) << SHIFT
