"""Bounds on a run."""

from __future__ import annotations

import pytest

from bench.thresholds import ThresholdError, parse
from tests.bench.samples import subject

SUBJECTS = [
    subject("tapecast", deliveries_per_cpu_s=2_000_000, age_p99=18.0, client_busy=0.5, memory_mb=100),
    subject("nats", kind="peer", deliveries_per_cpu_s=900_000, age_p99=60.0),
]


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("p99<20ms", True),
        ("p99 < 0.02s", True),
        ("p99<=18", True),
        ("p99<18000us", False),
        ("age_p99>20ms", False),
        ("p99@nats<20ms", False),
        ("p99@nats>59.9ms", True),
        ("deliveries_per_cpu_s>=2*nats", True),
        ("deliveries_per_cpu_s>=2.3*nats", False),
        ("deliveries_per_cpu_s>1.9M", True),
        ("deliveries_per_cpu_s>1_999_999", True),
        ("client_busy<90%", True),
        ("memory_mb<0.1GB", False),
    ],
)
def test_a_bound_is_met_or_missed(text: str, is_met: bool) -> None:
    assert parse(text).judge(SUBJECTS).is_met is is_met


@pytest.mark.parametrize("text", ["resume_s<10", "p99@nchan<1s", "p99<2*nchan"])
def test_what_was_not_measured_is_missed(text: str) -> None:
    assert not parse(text).judge(SUBJECTS).is_met


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "is not like"),
        ("p99=20ms", "is not like"),
        ("p98<20ms", "did you mean"),
        ("age_p99<20MB", "there are ms"),
        ("nonsense_xyz<1", "there are p50"),
        ("", "is not like"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(ThresholdError, match=said):
        parse(text)
