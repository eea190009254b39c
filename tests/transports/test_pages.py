"""The pages' types: what they encode to, and the two helpers."""

import msgspec
import pytest

from broker.core.encoding import tick_to_json
from broker.core.messages import Rejected
from broker.core.ticks import Quote
from broker.transports.pages import NotReady, SnapshotPage, snapshot_page, utc_time

QUOTE = Quote(
    sym="SIM:ACME",
    seq=7,
    ts=1_751_292_187_250_000_001,
    rts=5,
    bid="1.10",
    bid_size="3",
    ask=None,
    ask_size=None,
)


def test_snapshot_page_carries_encoded_ticks_unchanged_and_names_what_was_rejected() -> None:
    body = snapshot_page("ab-12", [tick_to_json(QUOTE)] * 2, [Rejected('SIM:"', "invalid_symbol")])
    page = msgspec.json.decode(body, type=SnapshotPage, strict=False)
    assert page == SnapshotPage("ab-12", [QUOTE, QUOTE], [Rejected('SIM:"', "invalid_symbol")])


def test_snapshot_page_of_nothing_is_a_page_all_the_same() -> None:
    assert msgspec.json.decode(snapshot_page("ab-0", [], [])) == {
        "cursor": "ab-0",
        "data": [],
        "rejected": [],
    }


def test_problem_of_readyz_has_the_members_of_every_problem_and_its_own() -> None:
    problem = NotReady(
        "about:blank", "Service Unavailable", 503, "no feed is live", "not_ready", False, ["x"]
    )
    assert list(msgspec.to_builtins(problem)) == [
        "type", "title", "status", "detail", "code", "ready", "reasons",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_751_292_187_250_999_999, "2025-06-30T14:03:07.250Z"),
        (1_000_000_000_999_999_999, "2001-09-09T01:46:40.999Z"),
    ],
)
def test_utc_time_is_rounded_down_to_the_millisecond(ns: int, text: str) -> None:
    assert utc_time(ns) == text
