"""A whole run: every target in every round, interleaved, and what comes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.histogram import PERCENTILES, Histogram
from bench.measure import Conditions, Round, Target, measure
from bench.plan import Accounts
from bench.processes import machine
from bench.results import Missing, Run, Sample, Subject
from bench.servers import make_certificate
from bench.thresholds import Threshold
from bench.workloads import Workload
from broker import __version__

#: A client that worked for more than this share of its time is itself what is measured.
BUSY = 0.9
#: A machine with less to spare is the limit of what runs on it.
IDLE = 0.05
#: Less than this part of the schedule means that a server did not keep up; so does a median age above this.
KEPT = 0.98
BEHIND_MS = 250.0
#: A shorter run says nothing about growth.
GROWTH_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for."""

    workload: Workload
    targets: Sequence[Target]
    missing: Sequence[Missing]
    seed: int
    clients: int
    rounds: int
    thresholds: Sequence[Threshold]
    command: Sequence[str]
    on_progress: Callable[[str], None]


async def run(settings: Settings) -> Run:
    """Run it. Raises `StartError` and `ChildError`."""
    rounds: dict[str, list[Round]] = {target.name: [] for target in settings.targets}
    with tempfile.TemporaryDirectory(prefix="tapecast-bench-") as folder:
        certificate = None
        if any(target.is_tls for target in settings.targets):
            certificate = make_certificate(Path(folder))
        for number in range(settings.rounds):
            # To and fro, so that a machine that gets slower does not favour whoever comes first.
            order = settings.targets if number % 2 == 0 else settings.targets[::-1]
            for index, target in enumerate(order):
                place = Path(folder) / f"{number}-{index}"
                place.mkdir()
                conditions = Conditions(
                    workload=settings.workload,
                    seed=settings.seed + number,
                    clients=settings.clients,
                    folder=place,
                    certificate=certificate,
                    on_progress=_prefixed(settings, number),
                )
                rounds[target.name].append(await measure(target, conditions))
    subjects = [
        summarize(target, target.fit(settings.workload), rounds[target.name]) for target in settings.targets
    ]
    return Run(
        tapecast=__version__,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=list(settings.command),
        machine=machine(),
        workload=settings.workload,
        seed=settings.seed,
        clients=settings.clients,
        rounds=settings.rounds,
        subjects=subjects,
        missing=list(settings.missing),
        thresholds=[threshold.judge(subjects) for threshold in settings.thresholds],
        notes=_notes(settings, subjects),
    )


def _prefixed(settings: Settings, number: int) -> Callable[[str], None]:
    if settings.rounds == 1:
        return settings.on_progress
    return lambda text: settings.on_progress(f"[{number + 1}/{settings.rounds}] {text}")


def summarize(target: Target, workload: Workload, rounds: Sequence[Round]) -> Subject:
    """Return what all rounds of a target say together."""
    ages, accounts, series = Histogram(), Accounts(), list[Sample]()
    at_s = 0.0
    for one in rounds:
        ages.add(one.ages)
        accounts.add(one.accounts)
        for sample in one.samples:
            sample.at_s += at_s
        series += one.samples
        at_s += one.took_s
    return Subject(
        name=target.name,
        title=target.title,
        kind="peer" if target.peer else "url" if target.url else "broker",
        version=target.peer.version() if target.peer else f"tapecast {__version__}",
        figures=_figures(workload, rounds, ages, accounts, is_peer=target.peer is not None),
        rounds=[
            _figures(workload, [one], one.ages, one.accounts, is_peer=target.peer is not None)
            for one in rounds
        ],
        ages=sorted(ages.counts.items()),
        age_max_ns=ages.max_ns,
        accounts=accounts,
        series=series,
        problems=_problems(rounds, accounts),
    )


def _figures(
    workload: Workload, rounds: Sequence[Round], ages: Histogram, accounts: Accounts, *, is_peer: bool
) -> dict[str, float]:
    took = sum(one.took_s for one in rounds)
    ticks = sum(one.ticks for one in rounds)
    last = rounds[-1]
    figures: dict[str, float] = {
        "deliveries_per_s": ticks / took,
        "mb_per_s": sum(one.received for one in rounds) / took / 1e6,
        "evictions": accounts.evicted,
        "client_busy": max(one.busy for one in rounds),
        "client_cpu_cores": sum(one.client_cpu * one.took_s for one in rounds) / took,
        "connect_s": max(one.connect_s for one in rounds),
        "fed_per_s": sum(one.fed_per_s * one.took_s for one in rounds) / took,
        "machine_idle": sum(one.machine_idle * one.took_s for one in rounds) / took,
    }
    if frames := sum(one.frames for one in rounds):
        figures["frames_per_s"] = frames / took
    if ages.total:
        figures |= {f"age_{name}": ages.percentile(percent) / 1e6 for name, percent in PERCENTILES}
        figures["age_max"] = ages.max_ns / 1e6
    cpu = [one.cpu_s for one in rounds if one.cpu_s is not None]
    if cpu:
        figures["cpu_cores"] = sum(cpu) / took
        figures["memory_mb"] = max(one.memory_bytes for one in rounds) / 1e6
        grown = (last.memory_bytes - last.idle_bytes) / 1024
        figures["memory_per_session_kib"] = max(0.0, grown) / max(1, last.sessions)
        if ticks:
            figures["deliveries_per_cpu_s"] = ticks / max(sum(cpu), 0.01)
    if is_peer:
        figures["lost"] = accounts.lost
        figures["publisher_busy"] = max(one.publisher_busy or 0.0 for one in rounds)
    else:
        figures |= {"conflated": accounts.conflated, "dropped": accounts.dropped}
    if cpu and took >= GROWTH_S:
        figures["memory_growth_mb_per_h"] = _growth([sample for one in rounds for sample in one.samples])
    storms = [one.storm for one in rounds if one.storm is not None]
    if storms:
        figures["resume_s"] = max(storm.resume_s for storm in storms)
        figures["refused"] = sum(storm.refused for storm in storms)
    return figures


def _growth(samples: Sequence[Sample]) -> float:
    """Return the slope of memory over the second half, in MB an hour (least squares)."""
    half = samples[len(samples) // 2 :]
    mean_at = sum(sample.at_s for sample in half) / len(half)
    mean_mb = sum(sample.memory_mb for sample in half) / len(half)
    spread = sum((sample.at_s - mean_at) ** 2 for sample in half)
    slope = sum((sample.at_s - mean_at) * (sample.memory_mb - mean_mb) for sample in half)
    return slope / spread * 3600 if spread else 0.0


def _problems(rounds: Sequence[Round], accounts: Accounts) -> list[str]:
    """Say what makes a run fail."""
    problems = []
    failures = [failure for one in rounds for failure in one.failures]
    if failures:
        problems.append(f"{len(failures)} or more sessions did not get in: {failures[0]}")
    if accounts.wrong:
        problems.append(f"{accounts.wrong} accounts do not agree: {accounts.details[0]}")
    if accounts.closed:
        problems.append(f"{accounts.closed} sessions ended early: {accounts.details[-1]}")
    for storm in (one.storm for one in rounds):
        if storm is not None and (storm.gaps or storm.broken):
            problems.append(f"{storm.gaps} gaps and {storm.broken} broken sequences behind the resume")
    return problems


def _busy_note(subject: Subject, clients: int) -> str:
    busy, cores = subject.figures["client_busy"], subject.figures["client_cpu_cores"]
    if cores < 0.7 * clients:
        return (
            f"{subject.name}: the load client had work for {busy:.0%} of the time and got {cores:.2f} cores: "
            "something else uses this machine."
        )
    return (
        f"{subject.name}: the load client was busy for {busy:.0%} of the time: it is itself what is measured. "
        "Use --clients 2, or a smaller workload."
    )


def _notes(settings: Settings, subjects: Sequence[Subject]) -> list[str]:
    """Say what a reader has to know before believing a number."""
    notes = []
    for target, subject in zip(settings.targets, subjects, strict=True):
        workload = target.fit(settings.workload)
        busy, idle = subject.figures["client_busy"], subject.figures["machine_idle"]
        if busy > BUSY:
            notes.append(_busy_note(subject, settings.clients))
        if idle < IDLE:
            notes.append(
                f"{subject.name}: {idle:.0%} of the machine was idle: it is the limit, and ages show that."
            )
        rate, fed = workload.ticks_per_second, subject.figures["fed_per_s"]
        if workload.is_paced and not target.url and fed < KEPT * rate:
            notes.append(f"{subject.name}: {fed:,.0f} of {rate:,.0f} ticks/s came in: it fell behind.")
        if subject.figures.get("age_p50", 0) > BEHIND_MS and workload.is_paced:
            notes.append(f"{subject.name}: half of all ticks were over {BEHIND_MS:g} ms old: it fell behind.")
    if not settings.workload.is_paced:
        notes.append("Ticks came as fast as they were taken: an age counts from when its tick was made.")
    return notes
