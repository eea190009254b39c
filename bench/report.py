"""The HTML report of a run: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.figures import FIGURES
from bench.results import Run, Subject
from bench.screen import show
from bench.svg import COLOURS, Axis, Line, bars, plot

_PERCENTILE_MARKS = (
    (1.0, "0"), (2.0, "50"), (10.0, "90"), (100.0, "99"), (1e3, "99.9"), (1e4, "99.99"), (1e5, "99.999"),
)  # fmt: skip

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c;
  background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100% } th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd }
th { text-align: left } td { text-align: right; font-variant-numeric: tabular-nums }
td.text { text-align: left } .failed { color: #b00020; font-weight: 600 } .scroll { overflow-x: auto }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor }
svg .grid { stroke: #8884; stroke-width: 1 } .legend span { margin-right: 1.4rem; white-space: nowrap }
.legend i { display: inline-block; width: 1.6rem; margin-right: .4rem; vertical-align: middle }
code { background: #8881; padding: .1rem .3rem }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c } th, td { border-color: #3a3d44 } }
"""


def render(run: Run) -> str:
    """Return the report."""
    colours = {s.name: COLOURS[index % len(COLOURS)] for index, s in enumerate(run.subjects)}
    title = f"Tapecast bench: {run.workload.name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(run.workload.title)}</p>",
        _parameters(run),
        *[f'<p class="failed">{escape(text)}</p>' for text in _failures(run)],
        *[f"<p>{escape(note)}</p>" for note in run.notes],
        "<h2>Figures</h2>",
        _table(run.subjects),
        "<h2>Age by percentile</h2>",
        "<p>From when a tick was due to its arrival. To the right lie the slowest ones.</p>",
        _by_percentile(run.subjects, colours),
        "<h2>Deliveries per CPU-second</h2>",
        _by_cpu(run.subjects, colours),
        *_missing(run),
        "<h2>Age against load</h2>",
        _by_load(run.subjects, colours),
        "<h2>Over time</h2>",
        _over_time(run.subjects, colours),
        "<h2>Accounts</h2>",
        _accounts(run.subjects),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _parameters(run: Run) -> str:
    workload, machine = run.workload, run.machine
    rows = [
        ("started", run.started),
        ("command", " ".join(["tapecast", *run.command])),
        ("version", f"tapecast {run.tapecast}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB"),
        ("system", f"{machine.kernel}, {machine.python}"),
        (
            "ticks",
            f"{workload.ticks_per_second:,.0f}/s of {workload.symbols} symbols on {', '.join(workload.channels)}",
        ),
        (
            "rounds",
            f"{run.rounds} of {workload.duration_s:g} s, each after {workload.warmup_s:g} s; seed {run.seed}",
        ),
    ]
    for group in workload.groups:
        what = f"{group.symbols_each} symbols" if group.symbols_each else "all symbols"
        text = f"{group.subscribers} of {what} on {group.channel}, mode {group.mode or 'default'}"
        text += f", {group.transport}, {group.codec}" if workload.is_mixed else ""
        text += f", {group.stalled:.0%} stalled" if group.stalled else ""
        rows.append(("subscribers", text))
    cells = [f'<tr><th>{escape(name)}</th><td class="text">{escape(text)}</td></tr>' for name, text in rows]
    return f"<table>{''.join(cells)}</table>"


def _failures(run: Run) -> list[str]:
    texts = [f"{s.name}: {problem}" for s in run.subjects for problem in s.problems]
    return texts + [f"Missed: {judged.threshold}" for judged in run.thresholds if not judged.is_met]


def _table(subjects: Sequence[Subject]) -> str:
    head = "".join(f"<th>{escape(subject.name)}</th>" for subject in subjects)
    rows = []
    for name, figure in FIGURES.items():
        values = [subject.figures.get(name) for subject in subjects]
        if all(value is None for value in values):
            continue
        cells = "".join(f"<td>{show(name, value)}</td>" for value in values)
        label = f"{name} {f'({figure.unit})' if figure.unit else ''}"
        rows.append(f'<tr><th title="{escape(figure.meaning)}">{escape(label)}</th>{cells}</tr>')
    versions = "".join(f"<td>{escape(subject.version)}</td>" for subject in subjects)
    rows.append(f"<tr><th>version</th>{versions}</tr>")
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _by_percentile(subjects: Sequence[Subject], colours: dict[str, str]) -> str:
    lines = []
    for subject in subjects:
        points = [
            (1 / (1 - part) if part < 1 else float(below), age_ns / 1e6)
            for age_ns, part, below in subject.histogram.steps()
        ]
        points = [point for point in points if point[0] <= 1e6]
        lines.append(Line(name=subject.name, points=points, colour=colours[subject.name]))
    x = Axis(title="percentile", is_log=True, marks=_PERCENTILE_MARKS)
    return plot(lines, x, Axis(title="age, ms", is_log=True))


def _by_cpu(subjects: Sequence[Subject], colours: dict[str, str]) -> str:
    values = [
        (subject.name, subject.figures["deliveries_per_cpu_s"], colours[subject.name])
        for subject in subjects
        if "deliveries_per_cpu_s" in subject.figures
    ]
    return bars(values, "per CPU-s")


def _missing(run: Run) -> list[str]:
    return [f"<p>{escape(missing.name)} was not run: {escape(missing.reason)}</p>" for missing in run.missing]


def _by_load(subjects: Sequence[Subject], colours: dict[str, str]) -> str:
    """Return the ages of servers that were measured at several rates, or a hint at how to get them."""
    by_server: dict[str, list[Subject]] = {}
    for subject in subjects:
        if "age_p99" in subject.figures:
            by_server.setdefault(subject.name.partition("@")[0], []).append(subject)
    swept = {name: found for name, found in by_server.items() if len(found) > 1}
    if not swept:
        return "<p>One rate was measured; <code>--rate 10000,25000,50000</code> measures several.</p>"
    lines = []
    for name, found in swept.items():
        for figure, is_dashed in (("age_p99", False), ("age_p50", True)):
            points = sorted((one.figures["deliveries_per_s"], one.figures[figure]) for one in found)
            text = f"{name} {figure.removeprefix('age_')}"
            lines.append(Line(name=text, points=points, colour=colours[found[0].name], is_dashed=is_dashed))
    return plot(lines, Axis(title="deliveries/s"), Axis(title="age, ms", is_log=True))


def _over_time(subjects: Sequence[Subject], colours: dict[str, str]) -> str:
    ages, memory = [], []
    for subject in subjects:
        colour = colours[subject.name]
        for figure, is_dashed in (("age_p99", False), ("age_p50", True)):
            points = [(sample.at_s, getattr(sample, figure)) for sample in subject.series]
            name = f"{subject.name} {figure.removeprefix('age_')}"
            ages.append(Line(name=name, points=points, colour=colour, is_dashed=is_dashed))
        used = [(sample.at_s, sample.memory_mb) for sample in subject.series if sample.memory_mb]
        if used:
            memory.append(Line(name=subject.name, points=used, colour=colour))
    time = Axis(title="seconds")
    return plot(ages, time, Axis(title="age, ms", is_log=True)) + plot(memory, time, Axis(title="memory, MB"))


def _accounts(subjects: Sequence[Subject]) -> str:
    names = (
        "exact",
        "wrong",
        "unseen",
        "offered",
        "delivered",
        "conflated",
        "dropped",
        "pending",
        "lost",
        "evicted",
    )
    rows = []
    for subject in subjects:
        cells = "".join(f"<td>{getattr(subject.accounts, name):,}</td>" for name in names)
        rows.append(f"<tr><th>{escape(subject.name)}</th>{cells}</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
