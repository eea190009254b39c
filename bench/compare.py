"""``tapecast bench compare``: two runs, figure by figure, and whether the difference is more than noise."""

from __future__ import annotations

from bench.figures import FIGURES
from bench.results import Run, Subject
from bench.screen import show

#: In the order in which they are shown; each has a better direction.
_COMPARED = [figure.name for figure in FIGURES.values() if figure.better is not None]


def compare(old: Run, new: Run) -> str:
    """Return the comparison as text; servers that only one of the runs has are left out.

    A difference counts if the rounds of the two runs do not overlap; with one round each there is no telling.
    """
    lines = _warnings(old, new)
    names = [subject.name for subject in old.subjects if any(subject.name == s.name for s in new.subjects)]
    if not names:
        lines.append("the two runs have no server in common")
    for name in names:
        before = next(subject for subject in old.subjects if subject.name == name)
        after = next(subject for subject in new.subjects if subject.name == name)
        lines += ["", f"{name:<24}{'before':>14}{'after':>14}{'ratio':>9}"]
        lines += [row for figure in _COMPARED if (row := _row(figure, before, after))]
    return "\n".join(lines).lstrip("\n")


def _warnings(old: Run, new: Run) -> list[str]:
    lines = []
    if old.machine != new.machine:
        lines.append(f"warning: the machines differ: {old.machine} and {new.machine}")
    if old.workload != new.workload:
        lines.append("warning: the workloads or their parameters differ")
    if old.seed != new.seed:
        lines.append(f"warning: the seeds differ: {old.seed} and {new.seed}")
    for run in (old, new):
        if not run.is_accounted:
            lines.append(f"warning: the run of {run.started} failed its own check of the accounts")
    return lines


def _row(name: str, before: Subject, after: Subject) -> str:
    old, new = before.figures.get(name), after.figures.get(name)
    if old is None or new is None or not (old or new):
        return ""
    ratio = f"{new / old:8.3f}x" if old else "        -"
    return f"{name:<24}{show(name, old):>14}{show(name, new):>14}{ratio}  {_verdict(name, before, after)}".rstrip()


def _verdict(name: str, before: Subject, after: Subject) -> str:
    old = [one[name] for one in before.rounds if name in one]
    new = [one[name] for one in after.rounds if name in one]
    if len(old) < 2 or len(new) < 2:
        return ""
    if min(new) <= max(old) and min(old) <= max(new):
        return "within the spread of the rounds"
    is_higher = min(new) > max(old)
    return "better" if is_higher == (FIGURES[name].better == "higher") else "WORSE"
