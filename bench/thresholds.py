"""``--threshold``: a bound that a run has to keep, e.g. ``p99<20ms`` or ``deliveries_per_cpu_s>=2*nats``."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.figures import ALIASES, FIGURES
from bench.results import Judgement, Subject

_FORM = re.compile(
    r"(?P<figure>[\w.]+)(?:@(?P<subject>[\w+@.-]+))?\s*(?P<op><=|>=|<|>)\s*"
    r"(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?:\*\s*(?P<other>[\w+@.-]+)|(?P<unit>[a-zA-Zµ%]*))"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
#: What a number is multiplied with to have the figure's own unit.
_UNITS: dict[str, dict[str, float]] = {
    "ms": {"": 1, "ms": 1, "us": 1e-3, "µs": 1e-3, "s": 1e3},
    "s": {"": 1, "s": 1, "ms": 1e-3},
    "MB": {"": 1, "MB": 1, "GB": 1e3},
    "MB/s": {"": 1, "MB": 1, "GB": 1e3},
    "KiB": {"": 1, "KiB": 1, "MiB": 1024},
    "": {"": 1, "%": 0.01},
    "cores": {"": 1, "%": 0.01},
}
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}


class ThresholdError(Exception):
    """A threshold can't be understood; the text says what is wrong and what would be right."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One bound.

    Attributes:
        text: as it was written.
        subject: whose figure; empty: that of the first, the broker.
        bound: in the figure's unit, or a factor if there is an ``other`` whose figure it is multiplied with.
    """

    text: str
    figure: str
    subject: str
    op: str
    bound: float
    other: str

    def judge(self, subjects: Sequence[Subject]) -> Judgement:
        """Hold a run against it. What was not measured is missed."""
        value = self._value(subjects, self.subject)
        bound: float | None = self.bound
        if self.other:
            beside = self._value(subjects, self.other)
            bound = None if beside is None else self.bound * beside
        is_met = value is not None and bound is not None and _COMPARE[self.op](value, bound)
        return Judgement(self.text, value, is_met)

    def _value(self, subjects: Sequence[Subject], name: str) -> float | None:
        for subject in subjects:
            if not name or subject.name == name:
                return subject.figures.get(self.figure)
        return None


def parse(text: str) -> Threshold:
    """Return a threshold. Raises `ThresholdError`."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ThresholdError(f"{text!r} is not like 'p99<20ms' or 'deliveries_per_cpu_s>=2*nats'")
    figure = ALIASES.get(match["figure"], match["figure"])
    if figure not in FIGURES:
        known = [*ALIASES, *FIGURES]
        near = difflib.get_close_matches(match["figure"], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ThresholdError(f"{text!r}: no figure {match['figure']!r}; {hint}")
    number = float(match["number"].replace("_", ""))
    unit, other = match["unit"] or "", match["other"] or ""
    units = _UNITS.get(FIGURES[figure].unit, _COUNTS)
    if not other and unit not in units:
        there = ", ".join(name for name in units if name) or "none"
        raise ThresholdError(f"{text!r}: {unit!r} is no unit of {figure}; there are {there}")
    bound = number if other else number * units[unit]
    return Threshold(
        text=text, figure=figure, subject=match["subject"] or "", op=match["op"], bound=bound, other=other
    )
