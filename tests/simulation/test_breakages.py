"""The simulation notices when the broker does something wrong."""

from __future__ import annotations

import pytest

from tests.simulation.breakages import BREAKAGES
from tests.simulation.run import run

#: Each is noticed within so many seeds.
SEEDS = 40


@pytest.mark.parametrize("name", BREAKAGES)
def test_breakage_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, function, change = BREAKAGES[name]
    monkeypatch.setattr(where, function, change(getattr(where, function)))
    assert any(run(seed).faults for seed in range(SEEDS))
