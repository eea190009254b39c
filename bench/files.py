"""What ``--out run.json`` writes: the run, its time series, its percentiles for the plotter, and the report."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import msgspec

from bench import report, results
from bench.results import Run, Sample


def write_all(run: Run, out: Path) -> list[Path]:
    """Write ``run.json``, ``run.html``, ``run.csv`` and ``run.<server>.hgrm``; return the paths.

    Raises:
        OSError: one can't be written.
    """
    written = [out, out.with_suffix(".html"), out.with_suffix(".csv")]
    results.write(run, out)
    written[1].write_text(report.render(run), encoding="utf-8")
    _write_series(run, written[2])
    for subject in run.subjects:
        if subject.ages:
            path = out.with_suffix(f".{re.sub(r'[^A-Za-z0-9_+@-]', '_', subject.name)}.hgrm")
            path.write_text(subject.histogram.hgrm(), encoding="ascii")
            written.append(path)
    return written


def _write_series(run: Run, path: Path) -> None:
    names = [field.name for field in msgspec.structs.fields(Sample)]
    with path.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file)
        writer.writerow(["server", *names])
        for subject in run.subjects:
            for sample in subject.series:
                writer.writerow([subject.name, *(f"{getattr(sample, name):.6g}" for name in names)])
