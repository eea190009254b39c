"""A run as it is kept in ``run.json``: everything that was measured, and all that it depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench.histogram import Histogram
from bench.plan import Accounts
from bench.processes import Machine
from bench.workloads import Workload

#: Changes when a field is taken away or means something else; new fields leave it as it is.
SCHEMA = "tapecast-bench/1"


class UnreadableError(Exception):
    """A file is not a run of this schema; the text names the file and what is wrong."""


class Sample(Struct):
    """One second of one subject.

    Attributes:
        at_s: since its measuring began; the rounds of a subject follow each other.
    """

    at_s: float
    deliveries_per_s: float
    mb_per_s: float
    age_p50: float
    age_p99: float
    cpu_cores: float
    memory_mb: float


class Subject(Struct):
    """What was measured of one server.

    Attributes:
        figures: by the names of `bench.figures`; ages in ms. Those that make no sense are not there.
        rounds: the figures of each round.
        ages: upper edge in ns and count; ``age_max_ns`` is exact.
        accounts: the ledgers of all rounds; a peer has none, and is held against what was published.
        problems: why the run fails, if it does.
    """

    name: str
    title: str
    kind: Literal["broker", "url", "peer"]
    version: str
    figures: dict[str, float]
    rounds: list[dict[str, float]]
    ages: list[tuple[int, int]]
    age_max_ns: int
    accounts: Accounts
    series: list[Sample] = []
    problems: list[str] = []

    @property
    def histogram(self) -> Histogram:
        """The ages of all rounds."""
        return Histogram(dict(self.ages), self.age_max_ns)


class Missing(Struct):
    """A peer that was asked for and not run."""

    name: str
    reason: str


class Judgement(Struct):
    """A threshold and what became of it."""

    threshold: str
    value: float | None
    is_met: bool


class Run(Struct, kw_only=True):
    """One run.

    Attributes:
        started: UTC, ISO 8601.
        subjects: in the order in which they were asked for; the first is what the others are held against.
        notes: what a reader has to know before believing a number.
    """

    schema: str = SCHEMA
    tapecast: str
    started: str
    command: list[str]
    machine: Machine
    workload: Workload
    seed: int
    clients: int
    rounds: int
    subjects: list[Subject]
    missing: list[Missing] = []
    thresholds: list[Judgement] = []
    notes: list[str] = []

    @property
    def is_accounted(self) -> bool:
        """Whether every tick of the broker's is accounted for, and nothing else went wrong with it."""
        return not any(subject.problems for subject in self.subjects if subject.kind != "peer")


def write(run: Run, path: Path) -> None:
    """Write a run as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def read(path: Path) -> Run:
    """Read a run. Raises `UnreadableError`."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise UnreadableError(f"{path}: {exc.strerror}") from exc
    try:
        found = msgspec.json.decode(raw, type=_Tagged).schema
        if found != SCHEMA:
            raise UnreadableError(f"{path}: its schema is {found!r}; this version reads {SCHEMA!r}")
        return msgspec.json.decode(raw, type=Run)
    except msgspec.DecodeError as exc:
        raise UnreadableError(f"{path}: not a run of `tapecast bench --out`: {exc}") from exc


class _Tagged(Struct):
    schema: str
