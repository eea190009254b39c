"""Each mistake that adapters make is caught by its check; and one that makes none passes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from feeds.testing import NAMES, Kit, Subject, SubjectError, guard
from feeds.testing.verdicts import Verdict, as_line, has_failed
from tests.feeds.testing.adapters import FRAMES, RIGHT, WRONG, Wrong, kit_of, verdicts_of, write_adapter


def test_right_adapter_passes_every_check(tmp_path: Path) -> None:
    verdicts = verdicts_of(kit_of(tmp_path))
    assert [each for each in verdicts.values() if each.outcome == "failed"] == []
    assert {name for name, each in verdicts.items() if each.outcome == "skipped"} == {"golden", "cost"}
    assert tuple(verdicts) == NAMES


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_adapter_is_caught_by_the_check_for_it(tmp_path: Path, wrong: Wrong) -> None:
    verdict = kit_of(tmp_path, wrong.source).check(wrong.check)
    assert verdict.outcome == "failed", verdict
    assert wrong.says in verdict.detail


def test_nothing_is_imported_here_when_the_import_is_at_fault(tmp_path: Path) -> None:
    wrong = WRONG["reaches for the network at import"]
    verdicts = list(kit_of(tmp_path, wrong.source).run())
    assert [(each.check, each.outcome) for each in verdicts] == [("import", "failed")]


def test_import_that_fails_says_why(tmp_path: Path) -> None:
    verdict = kit_of(tmp_path, "import no_such_module_at_all").check("import")
    assert verdict.outcome == "failed"
    assert "no_such_module_at_all" in verdict.detail


def test_check_that_is_left_out_shows_its_reason(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, frames=FRAMES + "//! skip gap the venue numbers nothing\n")
    assert kit.check("gap") == Verdict("gap", "skipped", "the venue numbers nothing")


def test_check_that_is_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    kind = write_adapter(tmp_path)
    with pytest.raises(SubjectError, match="no such check"):
        Kit(Subject(kind, folder=tmp_path, skips={"gaps": "why not"}))


def test_frame_that_is_marked_as_refused_has_to_be(tmp_path: Path) -> None:
    bad = '//! refused\n{"ch":"trade","sym":"DOGE-USD"}\n'
    head, _, rest = FRAMES.partition('{"ch":"book"')
    kit = kit_of(tmp_path, frames=f'{head}{bad}{{"ch":"book"{rest}')
    assert kit.check("frames").outcome == "ok"


def test_frame_of_its_own_that_is_refused_fails(tmp_path: Path) -> None:
    head, _, rest = FRAMES.partition('{"ch":"book"')
    verdict = kit_of(tmp_path, frames=f'{head}{{"ch":"x"}}\n{{"ch":"book"{rest}').check("frames")
    assert verdict.outcome == "failed"
    assert '{"ch":"x"}' in verdict.detail


def test_frames_that_would_not_show_a_float_are_not_enough(tmp_path: Path) -> None:
    frames = (
        "\n".join(line for line in FRAMES.splitlines() if '"ch":"book"' not in line)
        .replace("100.20", "100.25")
        .replace("0.10", "0.15")
    )
    verdict = kit_of(tmp_path, frames=frames).check("decimals")
    assert (verdict.outcome, "show nothing" in verdict.detail) == ("failed", True)


def test_ticks_are_kept_and_compared_byte_for_byte(tmp_path: Path) -> None:
    kind = write_adapter(tmp_path)
    assert Kit(Subject(kind, folder=tmp_path), bless=True).check("golden").outcome == "ok"
    kept = tmp_path / "ticks.jsonl"
    assert len(kept.read_bytes().splitlines()) == 5
    assert Kit(Subject(kind, folder=tmp_path)).check("golden").outcome == "ok"
    kept.write_bytes(kept.read_bytes().replace(b"100.30", b"100.3"))
    verdict = Kit(Subject(kind, folder=tmp_path)).check("golden")
    assert verdict.outcome == "failed"
    assert "tick 4 is" in verdict.detail


def test_recording_takes_the_place_of_golden_frames(tmp_path: Path) -> None:
    kind = write_adapter(tmp_path)
    lines = [line for line in FRAMES.splitlines() if not line.startswith("//")]
    recording = tmp_path / "lab.frames"
    recording.write_text("".join(f"{1772366400_000000000 + n} {line}\n" for n, line in enumerate(lines)))
    kit = Kit(Subject(kind, {"symbols": ["BTC-USD"]}, folder=tmp_path, recording=recording))
    assert kit.check("frames").detail == "6 frames: 4 book, 1 trade"
    assert kit.check("gap").outcome == "ok"


def recorded(tmp_path: Path, frames: str = FRAMES) -> Path:
    """Write the frames as a recording."""
    lines = [line for line in frames.splitlines() if not line.startswith("//")]
    path = tmp_path / "lab.frames"
    path.write_text("".join(f"{1772366400_000000000 + n} {line}\n" for n, line in enumerate(lines)))
    return path


def test_recording_is_played_with_the_options_of_the_golden_frames(tmp_path: Path) -> None:
    kit = Kit(Subject(write_adapter(tmp_path), folder=tmp_path, recording=recorded(tmp_path)))
    assert kit.check("frames").detail == "6 frames: 4 book, 1 trade"


def test_recording_without_a_telling_price_is_no_fault_of_the_adapter(tmp_path: Path) -> None:
    """Nobody can add a price to what a venue has sent."""
    plain = FRAMES.replace("100.10", "100.25").replace("1.50", "1.5").replace("100.20", "100.45")
    plain = plain.replace("2.00", "2").replace("0.10", "0.1").replace("100.00", "100.05").replace("3.00", "3")
    recording = recorded(tmp_path, plain.replace("100.30", "100.35").replace("0.70", "0.7"))
    kit = Kit(Subject(write_adapter(tmp_path), folder=tmp_path, recording=recording))
    verdict = kit.check("decimals")
    assert (verdict.outcome, "show nothing" in verdict.detail) == ("skipped", True)


def test_recording_of_other_symbols_asks_for_its_own(tmp_path: Path) -> None:
    recording = recorded(tmp_path)
    kit = Kit(Subject("kraken", folder=tmp_path, recording=recording))
    with pytest.raises(SubjectError, match="Name them with --option symbols="):
        list(kit.run())


def test_adapter_that_returns_nothing_is_told_once_and_with_a_frame(tmp_path: Path) -> None:
    source = (
        "from feeds.parsing import ParseFeed\n"
        "class Lab(ParseFeed):\n"
        "    api_version = 1\n    venue = 'LAB'\n    url = 'wss://lab.example'\n"
        "    def parse(self, frame, rts):\n        pass\n"
    )
    kit = kit_of(tmp_path, source)
    frames = kit.check("frames")
    assert frames.outcome == "failed"
    assert 'is there a branch for frames like {"ch":"book","kind":"snapshot"' in frames.detail
    assert "it has sent nothing to the venue" in frames.detail
    for name in ("symbols", "stamps", "decimals", "golden"):
        assert kit.check(name) == Verdict(name, "skipped", "no tick came out, see frames")


def test_adapter_without_ticks_fails_though_its_frames_are_not_checked(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, frames=FRAMES.replace("BTC-USD", "DOGE-USD", 1) + "//! skip frames no time\n")
    assert kit.check("stamps") == Verdict("stamps", "failed", "no tick came out")


OWN = """
from feeds.base import Feed

class Lab(Feed):
    api_version = 1
    venue = "LAB"

    async def run(self, ctx):
"""


def test_feed_that_waits_for_somebody_to_want_something_is_told_how_to_say_so(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, OWN + "        await ctx.wanted.wait_changed()\n", frames="")
    verdict = kit.check("frames")
    assert verdict.outcome == "failed"
    assert "put a frames.jsonl beside the adapter: `//! want quote VENUE:SYMBOL`" in verdict.detail
    assert kit.check("symbols").outcome == "skipped"


def test_feed_that_raises_before_it_asks_anything_says_what(tmp_path: Path) -> None:
    verdict = kit_of(tmp_path, OWN + "        raise KeyError('x')\n", frames="").check("frames")
    assert (verdict.outcome, verdict.detail) == (
        "failed", "run() raised KeyError: 'x'; only FeedError is declared",
    )  # fmt: skip


def test_adapter_that_blocks_is_given_the_time_of_one_check_and_not_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(guard, "MOST_REAL_S", 0.2)
    monkeypatch.setattr(trio, "lab_release", release, raising=False)
    kit = kit_of(tmp_path, OWN + "        import trio\n        trio.lab_release.wait()\n", frames="")
    try:
        assert kit.check("frames").detail.startswith("blocks: not over after 0.2 s")
        assert kit.check("symbols") == Verdict("symbols", "skipped", "it blocks, see frames")
    finally:
        release.set()


def test_refused_frame_is_shown_with_why_no_tick_came_out(tmp_path: Path) -> None:
    frames = FRAMES.replace("BTC-USD", "DOGE-USD", 1)
    detail = kit_of(tmp_path, frames=frames).check("frames").detail
    assert "no tick comes out of 6 frames; " in detail
    assert 'were refused, the first for: ValueError(\'BTC-USD\'): {"ch":"book"' in detail


def test_option_that_is_missing_is_told_with_how_to_give_it(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, frames='{"ch":"hello"}\n')
    with pytest.raises(
        SubjectError, match=r"symbols: is missing; name it with --option symbols=BTC-USD,ETH-USD"
    ):
        list(kit.run())


def test_option_that_is_wrong_is_told_with_its_value(tmp_path: Path) -> None:
    kit = Kit(Subject(write_adapter(tmp_path), {"symbols": 7}, folder=tmp_path))
    with pytest.raises(SubjectError, match=r"symbols = 7: "):
        list(kit.run())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("//! option symbols", "KEY = JSON"),
        ("//! option symbols = [", "not JSON"),
        ("//! want quotes LAB:A", "want CH SYMBOL"),
        ("//! skip gap", "skip CHECK REASON"),
        ("//! nonsense", "no such directive"),
        ("//! binary\n%%%", "base64"),
    ],
)
def test_golden_frames_that_make_no_sense_are_told_with_their_line(
    tmp_path: Path, line: str, says: str
) -> None:
    kit = kit_of(tmp_path, frames=f"{line}\n")
    with pytest.raises(SubjectError, match=says) as failure:
        list(kit.run())
    assert ", line " in str(failure.value)


def test_feed_of_no_venue_is_not_checked() -> None:
    with pytest.raises(SubjectError, match="only adapters"):
        Subject("process")


def test_verdict_is_one_line(tmp_path: Path) -> None:
    source = RIGHT.replace('raise ValueError("a hole")', 'raise RuntimeError("two\\nlines")')
    verdict = kit_of(tmp_path, source).check("gap")
    assert has_failed([verdict])
    assert "\n" not in as_line(verdict)
