"""Runs that never took place."""

from __future__ import annotations

from typing import Literal

from bench.plan import Accounts
from bench.processes import Machine
from bench.results import Judgement, Missing, Run, Sample, Subject
from bench.workloads import WORKLOADS


def subject(name: str, kind: Literal["broker", "url", "peer"] = "broker", **figures: float) -> Subject:
    """Return what was measured of a server, in two rounds that differ by a hundredth."""
    return Subject(
        name=name,
        title=name.title(),
        kind=kind,
        version="1",
        figures=dict(figures),
        rounds=[dict(figures), {key: value * 1.01 for key, value in figures.items()}],
        ages=[(1_048_576, 10), (2_097_152, 80), (20_971_520, 9), (104_857_600, 1)],
        age_max_ns=100_000_000,
        accounts=Accounts(exact=10, offered=100, delivered=100),
        series=[Sample(float(second), 1e6, 160.0, 5.0, 20.0 + second, 1.0, 100.0) for second in range(1, 6)],
    )


def run(*subjects: Subject) -> Run:
    """Return a run with these servers."""
    return Run(
        tapecast="0.0",
        started="2026-11-21T12:00:00+00:00",
        command=["bench", "--threshold", "p99<20ms"],
        machine=Machine("A <CPU> & more", 2, 16.0, "Linux 6", "CPython 3.11"),
        workload=WORKLOADS["W2"],
        seed=1,
        clients=1,
        rounds=2,
        subjects=list(subjects),
        missing=[Missing("nchan", "nginx is not installed")],
        thresholds=[Judgement("p99<20ms", 25.0, False)],
    )
