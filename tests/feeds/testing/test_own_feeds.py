"""The adapters that come with Tapecast pass the kit, and so do the examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeds.testing import Kit, Subject
from feeds.testing.subject import OWN_FRAMES

ROOT = Path(__file__).parents[3]
VENUES = sorted(path.stem for path in OWN_FRAMES.glob("*.jsonl") if not path.stem.endswith(".ticks"))
#: The quote page, after https://www.okx.com/docs-v5/en/, "Get ticker", 2026-11-21.
POLLED = """\
//! want quote OKX:BTC-USDT
//! get ticker?instId=BTC-USDT
{"code":"0","msg":"","data":[{"instId":"BTC-USDT","askPx":"9999.90","askSz":"11","bidPx":"8888.80","bidSz":"5","ts":"1597026383085"}]}
"""


@pytest.mark.parametrize("venue", VENUES)
def test_adapter_of_ours_passes_every_check(venue: str) -> None:
    verdicts = list(Kit(Subject(venue)).run())
    assert [each for each in verdicts if each.outcome == "failed"] == []
    assert {each.check for each in verdicts if each.outcome == "skipped"} <= {"gap"}


def test_every_venue_of_ours_has_frames() -> None:
    assert len(VENUES) == 7


def test_feed_without_a_venue_is_checked_as_far_as_it_can_be() -> None:
    verdicts = {each.check: each.outcome for each in Kit(Subject("simulated")).run()}
    assert "failed" not in verdicts.values()
    assert [name for name, outcome in verdicts.items() if outcome == "ok"] == [
        "import", "symbols", "stamps", "books", "cancel",
    ]  # fmt: skip


def test_feed_that_asks_pages_is_checked_on_them(tmp_path: Path) -> None:
    frames = tmp_path / "okx.jsonl"
    frames.write_text(POLLED)
    subject = Subject("examples/feeds/own_io.py:Polled", folder=ROOT, frames=frames)
    verdicts = {each.check: each.outcome for each in Kit(subject).run()}
    assert "failed" not in verdicts.values()
    assert {"frames", "decimals", "throttled", "fuzz"} <= {
        name for name, outcome in verdicts.items() if outcome == "ok"
    }
