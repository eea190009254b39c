"""Many seeds, on as many processors as there are."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from functools import partial

from tests.simulation.run import Result, run

#: Seeds that a worker takes at a time.
CHUNK = 4


def run_many(seeds: Iterable[int], jobs: int | None = None, recording: str = "") -> Iterator[Result]:
    """Run seeds, and yield the results as they come.

    Args:
        jobs: processes; as many as there are processors, if ``None``.
        recording: see `run`.
    """
    # Not by forking: whoever asks may have threads.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs or os.cpu_count(), _begin) as pool:
        yield from pool.imap_unordered(partial(run, recording=recording), seeds, CHUNK)


def _begin() -> None:
    """Collect garbage rarely: a run makes little of it, and most of that goes by itself."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def report(result: Result, recording: str = "") -> str:
    """Return what is wrong with a seed, and how to see it again."""
    shown = [f"  {fault[:600]}" for fault in result.faults[:10]]
    if len(result.faults) > len(shown):
        shown.append(f"  and {len(result.faults) - len(shown)} more")
    again = f"python -m tests.simulation --seed {result.seed}"
    if recording:
        again += f" --recording {recording}"
    return "\n".join([f"seed {result.seed}: {len(result.faults)} faults; again with: {again}", *shown])
