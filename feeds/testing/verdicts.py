"""How a check ends: it holds, it fails, or it can't be made, and each time it says so in a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson
from msgspec import Struct, to_builtins

Outcome = Literal["ok", "failed", "skipped"]
_MARKS: dict[Outcome, str] = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}


class Failed(Exception):
    """The adapter is wrong; the text says what it did, and what would have been right."""


class Blocked(Failed):
    """The adapter blocks the process: nothing more can be checked, as each check would take its whole time."""


class Skipped(Exception):
    """The check can't be made on this adapter; the text says why."""


class Verdict(Struct, frozen=True):
    """What became of one check.

    Attributes:
        check: its name.
        detail: what was seen, why it failed, or why it was skipped; in one line.
    """

    check: str
    outcome: Outcome
    detail: str


def has_failed(verdicts: Sequence[Verdict]) -> bool:
    """Tell whether any check failed."""
    return any(each.outcome == "failed" for each in verdicts)


def as_line(verdict: Verdict) -> str:
    """Return a verdict for people."""
    return f"{_MARKS[verdict.outcome]:<7} {verdict.check:<12} {verdict.detail}"


def as_summary(verdicts: Sequence[Verdict]) -> str:
    """Return how many checks ended in which way."""
    counts = {mark: sum(each.outcome == outcome for each in verdicts) for outcome, mark in _MARKS.items()}
    return ", ".join(f"{count} {mark}" for mark, count in counts.items() if count)


def as_json(feed: str, verdicts: Sequence[Verdict], **more: Any) -> str:
    """Return all verdicts as one JSON object."""
    shown = {
        "feed": feed,
        "passed": not has_failed(verdicts),
        "checks": [to_builtins(each) for each in verdicts],
    }
    return orjson.dumps({**shown, **more}, option=orjson.OPT_INDENT_2).decode()


def one_line(text: object, most: int = 300) -> str:
    """Return a text without line ends, cut to ``most`` characters, and with nothing in it that can't be printed."""
    line = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= most else line[: most - 1] + "…"
