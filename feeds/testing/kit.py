"""The conformance kit: makes the checks on one feed, one after the other, offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from structlog.testing import capture_logs

from feeds.testing.checks import CHECKS, IMPORT, NAMES, Bench, check_import
from feeds.testing.subject import Subject, SubjectError
from feeds.testing.verdicts import Blocked, Failed, Skipped, Verdict, one_line


class Kit:
    """All checks of one feed; what they share is done once."""

    def __init__(self, subject: Subject, *, bless: bool = False) -> None:
        """Nothing is imported or made yet.

        Args:
            subject: the feed.
            bless: see `Bench`.

        Raises:
            SubjectError: a reason is given to skip a check that there is not.
        """
        self.subject = subject
        self._bench = Bench(subject, bless=bless)
        self._import: Verdict | None = None
        #: The check in which it blocked.
        self._blocked_in = ""
        _hold_names(subject.skips)

    def run(self) -> Iterator[Verdict]:
        """Make all checks, and yield each verdict as it is there; where the import is at fault, it is the only one.

        Raises:
            SubjectError: the feed can't be made.
        """
        yield self._imported()
        if self._imported().outcome != "failed":
            with capture_logs():
                self.subject.load()
            for name in CHECKS:
                yield self.check(name)

    def check(self, name: str) -> Verdict:
        """Make one check; the first makes that of the import, too."""
        imported = self._imported()
        if name == IMPORT:
            return imported
        if imported.outcome == "failed":
            return Verdict(name, "skipped", "not imported here, as its import is at fault")
        # The broker's own log would be in the way.
        with capture_logs():
            try:
                self.subject.load()
                _hold_names(self.subject.skips)
            except SubjectError as error:
                return Verdict(name, "failed", one_line(error))
            if name in self.subject.skips:
                return Verdict(name, "skipped", self.subject.skips[name])
            if self._blocked_in:
                return Verdict(name, "skipped", f"it blocks, see {self._blocked_in}")
            return self._verdict_on(name)

    def _verdict_on(self, name: str) -> Verdict:
        def check() -> str:
            try:
                return CHECKS[name](self._bench)
            except Blocked:
                self._blocked_in = name
                raise

        return _verdict(name, check)

    def _imported(self) -> Verdict:
        if self._import is None:
            if IMPORT in self.subject.skips:
                self._import = Verdict(IMPORT, "skipped", self.subject.skips[IMPORT])
            else:
                self._import = _verdict(IMPORT, lambda: check_import(self.subject))
        return self._import


def _verdict(name: str, check: Callable[[], str]) -> Verdict:
    try:
        return Verdict(name, "ok", check())
    except Skipped as reason:
        return Verdict(name, "skipped", one_line(reason))
    except Failed as failure:
        return Verdict(name, "failed", one_line(failure, 600))
    except Exception as error:
        # The adapter's own code is called in many places; what it raises there is its fault.
        return Verdict(name, "failed", one_line(f"raises {type(error).__name__}: {error}"))


def _hold_names(skips: Mapping[str, str]) -> None:
    for name in skips:
        if name not in NAMES:
            raise SubjectError(f"skip {name}: there is no such check; there are {', '.join(NAMES)}")
