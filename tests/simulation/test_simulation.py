"""The proof: whatever the seed brings, every subscriber's own count meets the broker's ledger.

``python -m tests.simulation --seeds 100000`` runs more of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.simulation.many import report, run_many
from tests.simulation.run import SUBSCRIBERS, run

#: A developer wants to know soon, CI wants to know.
SEEDS = 1000 if os.environ.get("CI") else 100


def test_every_seed_holds() -> None:
    failed = [result for result in run_many(range(SEEDS)) if result.faults]
    assert not failed, "\n\n".join(report(result) for result in sorted(failed, key=lambda one: one.seed))


def test_seed_reproduces_a_run_to_the_byte_in_another_process_as_well() -> None:
    here = run(7)
    assert here.figures["clients"] == SUBSCRIBERS
    assert run(7).trace == here.trace
    assert run(8).trace != here.trace
    again = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", "7"],
        # Sets of text are walked in another order there.
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert f"trace {here.trace}" in again.stdout, again.stderr


def test_run_is_worth_its_name() -> None:
    """What the seeds have to bring about: ends of all kinds, and thousands of deliveries."""
    figures = run(3).figures
    for seed in (4, 5, 6):
        figures.update(run(seed).figures)
    assert figures["connections"] > 4 * SUBSCRIBERS
    assert figures["deliveries"] > 5000
    for reason in ("asked", "client_gone", "over_limit", "write_deadline", "draining"):
        assert figures[f"closed {reason}"], reason


def test_recording_is_played_beside_the_feeds_and_a_seed_reproduces_that_as_well(tmp_path: Path) -> None:
    rows = ["ch,sym,ts,price,size,side,id,bid,bid_size,ask,ask_size"]
    for number in range(200):
        at = 1_700_000_000_000_000_000 + number * 100_000_000
        rows.append(f"trade,TAPE:A,{at},1{number}.50,2,buy,{number},,,,")
        rows.append(f"quote,TAPE:B,{at},,,,,{number}.10,1,{number}.20,3")
    path = tmp_path / "ticks.csv"
    path.write_text("\n".join(rows) + "\n")
    result = run(3, str(path))
    assert not result.faults, report(result, str(path))
    # The other feeds are the same.
    assert result.figures["ticks"] > run(3).figures["ticks"] + 400
    assert run(3, str(path)).trace == result.trace


def test_recorded_traffic_of_venues_reaches_everybody_as_the_accounts_say() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    names = ["coinbase-exchange-2021-04-17", "kraken-v1-2021-04-17", "gemini-2021-06-24"]
    if not all((folder / name).exists() for name in names):
        pytest.skip(f"no recordings in {folder}")
    for name in names:
        failed = [
            result for result in map(partial(run, recording=str(folder / name)), (11, 12)) if result.faults
        ]
        assert not failed, "\n\n".join(report(result, str(folder / name)) for result in failed)
