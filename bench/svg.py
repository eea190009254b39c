"""As much of plotting as the report needs: lines, points and bars as SVG text, with no library and no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 18, 14, 46
#: Told apart also by those who see fewer colours (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b8b00", "#444444")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot; its points ascend in x."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    is_dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis.

    Attributes:
        marks: where to write what; empty: chosen from the values.
    """

    title: str
    is_log: bool = False
    marks: Sequence[tuple[float, str]] = ()


def plot(lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a plot of lines; points that a logarithmic axis can't show are left out."""
    points = [point for line in lines for point in line.points if _fits(point, x, y)]
    if not points:
        return "<p>Nothing was measured here.</p>"
    across = _Scale([point[0] for point in points], x, _LEFT, WIDTH - _RIGHT, starts_at_zero=False)
    up = _Scale([point[1] for point in points], y, HEIGHT - _BOTTOM, _TOP, starts_at_zero=not y.is_log)
    parts = [_open(f"{y.title} by {x.title}"), *_grid(across, up, x, y)]
    for line in lines:
        shown = [(across.at(a), up.at(b)) for a, b in line.points if _fits((a, b), x, y)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in shown)
        dash = ' stroke-dasharray="5 4"' if line.is_dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
        if len(shown) < 30:
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{line.colour}"/>' for a, b in shown]
    parts.append("</svg>")
    return "".join(parts) + _legend(lines)


def bars(values: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Return horizontal bars of (name, value, colour), each with its value written behind it."""
    if not values:
        return "<p>Nothing was measured here.</p>"
    largest = max(value for _, value, _ in values) or 1.0
    height = 34 * len(values) + 10
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(unit)}">']
    for row, (name, value, colour) in enumerate(values):
        top = 8 + 34 * row
        length = value / largest * (WIDTH - 330)
        parts.append(f'<text x="180" y="{top + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="190" y="{top}" width="{length:.1f}" height="22" fill="{colour}"/>')
        parts.append(f'<text x="{196 + length:.1f}" y="{top + 16}">{value:,.0f} {escape(unit)}</text>')
    return "".join(parts) + "</svg>"


def _fits(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return (point[0] > 0 or not x.is_log) and (point[1] > 0 or not y.is_log)


class _Scale:
    """From values to places on the paper."""

    def __init__(
        self, values: Sequence[float], axis: Axis, start: float, end: float, *, starts_at_zero: bool
    ) -> None:
        low, high = min(values), max(values)
        self._is_log = axis.is_log
        self._start, self._end = start, end
        if axis.is_log:
            self._low = float(floor(log10(low)))
            self._high = max(float(ceil(log10(high))), self._low + 1)
        else:
            self._low = 0.0 if starts_at_zero else low
            self._high = high if high > self._low else self._low + 1
        if axis.marks:
            self.marks = [mark for mark in axis.marks if mark[0] <= high * 1.0001]
            if axis.is_log:
                self._low, self._high = log10(low), max(log10(high), log10(low) + 0.1)
        else:
            self.marks = self._decades() if axis.is_log else self._steps()

    def at(self, value: float) -> float:
        """Return where a value lies."""
        place = log10(value) if self._is_log else value
        return self._start + (place - self._low) / (self._high - self._low) * (self._end - self._start)

    def _decades(self) -> list[tuple[float, str]]:
        return [
            (10.0**power, f"{10.0**power:,.10g}") for power in range(floor(self._low), ceil(self._high) + 1)
        ]

    def _steps(self) -> list[tuple[float, str]]:
        rough = (self._high - self._low) / 5
        unit = 10.0 ** floor(log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
        first = ceil(self._low / step)
        return [
            (step * number, f"{step * number:,.10g}") for number in range(first, floor(self._high / step) + 1)
        ]


def _open(label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    parts = []
    for value, text in up.marks:
        place = up.at(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{place + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in across.marks:
        place = across.at(value)
        parts.append(f'<line class="grid" y1="{top}" y2="{bottom}" x1="{place:.1f}" x2="{place:.1f}"/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>')
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>')
    height = (top + bottom) / 2
    turned = f'transform="rotate(-90 14 {height})"'
    parts.append(f'<text x="14" y="{height}" text-anchor="middle" {turned}>{escape(y.title)}</text>')
    return parts


def _legend(lines: Sequence[Line]) -> str:
    items = []
    for line in lines:
        style = "dashed" if line.is_dashed else "solid"
        mark = f'<i style="border-top: 3px {style} {line.colour}"></i>'
        items.append(f"<span>{mark}{escape(line.name)}</span>")
    return f'<p class="legend">{"".join(items)}</p>'
