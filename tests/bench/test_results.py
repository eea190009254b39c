"""What is kept of a run, and what is made of it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench import results
from bench.compare import compare
from bench.figures import ALIASES, FIGURES
from bench.files import write_all
from bench.report import render as render_report
from bench.results import UnreadableError
from bench.screen import render as render_screen
from tests.bench.samples import run, subject

FULL = dict.fromkeys(FIGURES, 1.5)
#: Elements that have no end.
VOID = {"meta", "line", "circle", "rect", "polyline", "br"}


class Checker(HTMLParser):
    """Notes what is wrong with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.problems += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.problems.append(f"</{tag}> ends nothing")


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    return checker


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = run(subject("tapecast", **FULL), subject("nats", "peer", age_p99=3.0))
    results.write(written, tmp_path / "run.json")
    assert results.read(tmp_path / "run.json") == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a run"),
        ("{}", "not a run"),
        ('{"schema": "tapecast-bench/99"}', "'tapecast-bench/99'"),
        ('{"schema": "tapecast-bench/1"}', "not a run"),
    ],
)
def test_what_is_not_a_run_is_refused_with_its_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UnreadableError, match=r"other\.json.*" + said):
        results.read(path)
    with pytest.raises(UnreadableError, match="No such file"):
        results.read(tmp_path / "missing.json")


def test_report_is_well_formed_and_opens_without_a_network() -> None:
    names = ["tapecast", "<nats>", "a&b"]
    page = render_report(run(*(subject(name, **FULL) for name in names)))
    checker = check(page)
    assert checker.problems == []
    assert checker.open == []
    assert {"svg", "polyline", "rect", "table"} <= checker.seen
    assert "//" not in page.replace("</", "")
    assert "<nats>" not in page
    assert "Missed: p99&lt;20ms" in page


def test_report_of_several_rates_plots_age_against_load() -> None:
    subjects = [
        subject(f"tapecast@{rate}", deliveries_per_s=rate * 20.0, age_p50=2.0, age_p99=rate / 100)
        for rate in (1000, 2000, 4000)
    ]
    page = render_report(run(*subjects))
    assert "tapecast p99" in page
    assert "--rate" not in page.split("Age against load")[1].split("Over time")[0]
    assert check(page).problems == []


def test_report_of_a_run_that_measured_nothing_says_so() -> None:
    empty = subject("tapecast")
    empty.ages, empty.series = [], []
    page = render_report(run(empty))
    assert "Nothing was measured here." in page
    assert check(page).problems == []


def test_screen_is_one_screen_and_has_every_server() -> None:
    for count in (1, 2, 9):
        text = render_screen(run(*(subject(f"server-{number}", **FULL) for number in range(count))))
        assert all(f"server-{number}" in text for number in range(count))
        assert "nchan: not run: nginx is not installed" in text
        assert "MISSED p99<20ms (it is 25)" in text
        assert len(text.splitlines()) <= 45


def test_a_failed_account_is_on_the_screen_and_fails_the_run() -> None:
    failed = subject("tapecast")
    failed.problems = ["1 accounts do not agree"]
    result = run(failed)
    assert not result.is_accounted
    assert "FAILED: 1 accounts do not agree" in render_screen(result)


def test_a_peer_that_loses_ticks_does_not_fail_the_run() -> None:
    peer = subject("nats", "peer")
    peer.problems = ["3 accounts do not agree"]
    assert run(subject("tapecast"), peer).is_accounted


def test_out_writes_json_report_series_and_percentiles(tmp_path: Path) -> None:
    result = run(subject("tapecast", **FULL), subject("nats@1000", "peer"))
    written = write_all(result, tmp_path / "run.json")
    assert [path.name for path in written] == [
        "run.json",
        "run.html",
        "run.csv",
        "run.tapecast.hgrm",
        "run.nats@1000.hgrm",
    ]
    rows = (tmp_path / "run.csv").read_text().splitlines()
    assert rows[0].startswith("server,at_s,deliveries_per_s")
    assert len(rows) == 11
    assert rows[1] == "tapecast,1,1e+06,160,5,21,1,100"


def test_compare_tells_a_difference_from_the_spread_of_the_rounds() -> None:
    old = run(subject("tapecast", age_p99=20.0, deliveries_per_cpu_s=1000.0, memory_mb=100.0))
    new = run(subject("tapecast", age_p99=10.0, deliveries_per_cpu_s=900.0, memory_mb=100.5))
    rows = {line.split()[0]: line for line in compare(old, new).splitlines()[1:]}
    assert rows["age_p99"].endswith("0.500x  better")
    assert rows["deliveries_per_cpu_s"].endswith("0.900x  WORSE")
    assert rows["memory_mb"].endswith("within the spread of the rounds")


def test_compare_warns_of_what_makes_two_runs_incomparable() -> None:
    old, new = run(subject("tapecast", age_p99=1.0)), run(subject("nats", "peer", age_p99=1.0))
    new.seed = 2
    text = compare(old, new)
    assert "the seeds differ" in text
    assert "no server in common" in text


def test_aliases_are_figures() -> None:
    assert set(ALIASES.values()) <= set(FIGURES)
