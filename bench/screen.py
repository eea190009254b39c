"""One screen: parameters, machine, and a column for each server."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import FIGURES
from bench.results import Run, Subject

#: In the order of the screen.
_ROWS = (
    ("fed_per_s", "ticks/s in"),
    ("deliveries_per_s", "deliveries/s"),
    ("deliveries_per_cpu_s", "deliveries per CPU-s"),
    ("mb_per_s", "MB/s"),
    ("age_p50", "age p50, ms"),
    ("age_p90", "    p90"),
    ("age_p99", "    p99"),
    ("age_p999", "    p99.9"),
    ("age_max", "    max"),
    ("connect_s", "connected within, s"),
    ("resume_s", "resumed within, s"),
    ("refused", "refused"),
    ("conflated", "conflated"),
    ("dropped", "gaps (ticks)"),
    ("lost", "lost (ticks)"),
    ("evictions", "evictions"),
    ("cpu_cores", "CPU, cores"),
    ("memory_mb", "memory, MB"),
    ("memory_per_session_kib", "  per session, KiB"),
    ("memory_growth_mb_per_h", "  growth, MB/h"),
    ("client_busy", "load client busy"),
    ("client_cpu_cores", "  its CPU, cores"),
    ("publisher_busy", "publisher busy"),
    ("machine_idle", "machine idle"),
)
#: Of the table with a row for each server: the figure, what stands above it, and how wide.
_COLUMNS = (
    ("deliveries_per_s", "deliveries/s", 14),
    ("age_p50", "p50 ms", 10),
    ("age_p99", "p99 ms", 10),
    ("cpu_cores", "cores", 8),
    ("memory_mb", "MB", 9),
    ("client_busy", "client", 8),
    ("deliveries_per_cpu_s", "per CPU-s", 13),
)
MOST_COLUMNS = 5
_LABEL, _COLUMN = 22, 14


def render(run: Run) -> str:
    """Return the screen of a run."""
    workload, machine = run.workload, run.machine
    groups = {(group.transport, group.codec) for group in workload.groups}
    lines = [
        f"{workload.name}  {workload.title}",
        f"{workload.subscribers} subscribers, {_ticks(run)}, "
        f"{run.rounds} x {workload.duration_s:g} s after {workload.warmup_s:g} s; seed {run.seed}, "
        f"ages of {'every tick' if workload.ages == 'every' else 'oldest and newest of each read'}"
        + (", mixed transports" if len(groups) > 1 else ""),
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB; {machine.kernel}; {machine.python}",
        "",
    ]
    lines += _table(run.subjects) if len(run.subjects) <= MOST_COLUMNS else _list(run.subjects)
    lines += [f"{missing.name}: not run: {missing.reason}" for missing in run.missing]
    lines += ["", *_accounts(run)]
    lines += [f"note: {note}" for note in run.notes]
    for judgement in run.thresholds:
        value = "not measured" if judgement.value is None else f"{judgement.value:,.4g}"
        lines.append(f"{'met   ' if judgement.is_met else 'MISSED'} {judgement.threshold} (it is {value})")
    return "\n".join(lines)


def _ticks(run: Run) -> str:
    """Say what comes in; a broker that ran already decides that itself."""
    if any(subject.kind == "url" for subject in run.subjects):
        return "symbols and ticks as the broker has them"
    return f"{run.workload.symbols} symbols, {run.workload.ticks_per_second:,.0f} ticks/s"


def _table(subjects: Sequence[Subject]) -> list[str]:
    width = max(_COLUMN, *(len(subject.name) + 2 for subject in subjects))
    lines = ["".ljust(_LABEL) + "".join(subject.name.rjust(width) for subject in subjects)]
    for name, label in _ROWS:
        values = [subject.figures.get(name) for subject in subjects]
        if any(value is not None for value in values):
            lines.append(label.ljust(_LABEL) + "".join(show(name, value).rjust(width) for value in values))
    first = subjects[0].figures.get("deliveries_per_cpu_s")
    if first and len(subjects) > 1:
        ratios = [subject.figures.get("deliveries_per_cpu_s") for subject in subjects]
        shown = [f"{ratio / first:.2f} x" if ratio else "-" for ratio in ratios]
        lines.append("  relative".ljust(_LABEL) + "".join(text.rjust(width) for text in shown))
    return lines


def _list(subjects: Sequence[Subject]) -> list[str]:
    """Return a row for each server, where columns would not fit."""
    first = subjects[0].figures.get("deliveries_per_cpu_s")
    wide = max(len(subject.name) for subject in subjects)
    lines = [
        "".ljust(wide) + "".join(label.rjust(width) for _, label, width in _COLUMNS) + "relative".rjust(10)
    ]
    for subject in subjects:
        cells = "".join(show(name, subject.figures.get(name)).rjust(width) for name, _, width in _COLUMNS)
        ratio = subject.figures.get("deliveries_per_cpu_s")
        shown = f"{ratio / first:.2f} x" if ratio and first else "-"
        lines.append(subject.name.ljust(wide) + cells + shown.rjust(10))
    return lines


def show(name: str, value: float | None) -> str:
    """Return a figure's value as text, with as many digits as mean something."""
    if value is None:
        return "-"
    unit = FIGURES[name].unit
    if unit in ("ms", "s", "cores", ""):
        return f"{value:,.2f}"
    if unit in ("MB", "MB/s", "KiB", "MB/h"):
        return f"{value:,.1f}"
    return f"{value:,.0f}"


def _accounts(run: Run) -> list[str]:
    lines = []
    for subject in run.subjects:
        accounts = subject.accounts
        if subject.kind == "peer":
            text = f"{accounts.exact} subscribers got all that was published, {accounts.lost:,} ticks lost"
        else:
            text = f"{accounts.exact} accounts exact to the tick ({accounts.audited} audited tick by tick)"
            if accounts.unseen:
                text += f", {accounts.unseen} evicted sessions took theirs along"
            text += f"; offered {accounts.offered:,} = delivered {accounts.delivered:,} + conflated "
            text += f"{accounts.conflated:,} + dropped {accounts.dropped:,} + pending {accounts.pending:,}"
        lines.append(f"{subject.name}: {text}")
        lines += [f"  FAILED: {problem}" for problem in subject.problems]
    return lines
