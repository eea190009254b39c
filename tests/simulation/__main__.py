"""``python -m tests.simulation``: repeat a seed, or run many."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.many import report, run_many
from tests.simulation.run import run


def main() -> int:
    """Run the seeds asked for; the exit code says whether all of them held."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="The broker under a simulated clock and network, against subscribers that count for themselves.",
    )
    parser.add_argument("--seed", type=int, help="repeat this one, and show what is wrong with it")
    parser.add_argument("--seeds", type=int, default=1000, help="how many to run (default: 1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (default: 0)")
    parser.add_argument("--jobs", type=int, help="processes (default: as many as there are processors)")
    parser.add_argument(
        "--recording", default="", help="a file or folder to be played beside the other feeds"
    )
    args = parser.parse_args()
    if args.seed is not None:
        return repeat(args.seed, args.recording)
    return search(args.first, args.seeds, args.jobs, args.recording)


def repeat(seed: int, recording: str) -> int:
    """Run one seed, and show all that is wrong with it."""
    result = run(seed, recording)
    print(f"seed {seed}, trace {result.trace}")
    print(_figures(result.figures))
    print("\n".join(result.faults) or "everything holds")
    return bool(result.faults)


def search(first: int, count: int, jobs: int | None, recording: str) -> int:
    """Run seeds from ``first`` on, and show those that fail."""
    began, done, failed = time.monotonic(), 0, 0
    figures: Counter[str] = Counter()
    for result in run_many(range(first, first + count), jobs, recording):
        done += 1
        figures.update(result.figures)
        if result.faults:
            failed += 1
            print(report(result, recording), flush=True)
        if sys.stderr.isatty():
            print(f"\r{done} of {count} seeds, {failed} failed ", end="", file=sys.stderr, flush=True)
    print(_figures(figures))
    took = time.monotonic() - began
    print(f"{done} seeds from {first} on in {took:.0f} s: {failed} failed")
    return bool(failed)


def _figures(figures: Counter[str]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in figures.items())


if __name__ == "__main__":
    sys.exit(main())
