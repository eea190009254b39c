"""The micro-benchmarks run, and measure what they say."""

from __future__ import annotations

from bench.micro import render, run


def test_every_part_of_the_hot_path_is_measured() -> None:
    costs = list(run(0.01))
    names = " ".join(cost.name for cost in costs)
    for part in (
        "mailbox, every",
        "mailbox, latest, quote",
        "latest, trade",
        "latest, book",
        "tape",
        "json",
        "msgpack",
        "framing, ws",
        "framing, sse",
    ):
        assert part in names
    assert all(0 < cost.least_ns <= cost.median_ns for cost in costs)
    assert len(render(costs).splitlines()) == len(costs) + 1
