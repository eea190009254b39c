"""The conformance kit as a plug-in of pytest: one test for each check. Loaded by ``-p feeds.testing.plugin``.

``@pytest.mark.tapecast_feed(KIND, option=value, …)`` on a test that takes ``feed_check``. The kind is that of a
``[[feeds]]`` table; a file is relative to that of the test. Further arguments of the mark:

* ``settings``: keys of the feed's table that are no identifiers, or are called like one of these;
* ``frames``: golden frames, where they are not beside the adapter;
* ``golden_ticks``: the ticks they make, where they are not beside the frames;
* ``recording``: a recording in place of golden frames;
* ``skips``: reasons not to make a check, by its name.

``pytest --bless-feeds`` keeps the ticks that come out as those that are right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feeds.testing.checks import NAMES
from feeds.testing.kit import Kit
from feeds.testing.subject import Subject, SubjectError

_MARK = "tapecast_feed"
_PATHS = ("frames", "recording", "golden_ticks")
_kits = pytest.StashKey[dict[str, Kit]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    parser.addoption("--bless-feeds", action="store_true", help="keep the ticks of golden frames as right")


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line("markers", f"{_MARK}(kind, **options): the feed that feed_check checks")
    config.stash[_kits] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check."""
    if "feed_check" in metafunc.fixturenames:
        metafunc.parametrize("feed_check", NAMES, indirect=True)


@pytest.fixture
def feed_check(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return what makes the check, and fails or skips the test as it turns out."""
    mark = request.node.get_closest_marker(_MARK)
    if mark is None or len(mark.args) != 1:
        raise pytest.UsageError(f"{request.node.nodeid}: needs @pytest.mark.{_MARK}('package.module:Class')")
    kits = request.config.stash[_kits]
    key = request.node.nodeid.partition("[")[0]
    if key not in kits:
        bless = bool(request.config.getoption("--bless-feeds"))
        try:
            kits[key] = Kit(_subject(mark, request.path.parent), bless=bless)
        except SubjectError as error:
            pytest.fail(str(error), pytrace=False)
    kit, name = kits[key], str(request.param)

    def make() -> None:
        verdict = kit.check(name)
        if verdict.outcome == "skipped":
            pytest.skip(verdict.detail)
        if verdict.outcome == "failed":
            pytest.fail(f"{name}: {verdict.detail}", pytrace=False)

    return make


def _subject(mark: pytest.Mark, folder: Path) -> Subject:
    given = dict(mark.kwargs)
    paths = {name: folder / given.pop(name) for name in _PATHS if name in given}
    skips = given.pop("skips", {})
    settings: dict[str, Any] = {**given.pop("settings", {}), **given}
    return Subject(mark.args[0], settings, folder=folder, skips=skips, **paths)
