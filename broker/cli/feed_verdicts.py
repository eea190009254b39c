"""What ``feed check`` found last, kept for ``feed list``.

A file for each adapter, in ``$XDG_STATE_HOME/tapecast/checks`` (``~/.local/state/tapecast/checks``; XDG Base Directory
Specification 0.8, 2021-05-08). It holds a hash of the adapter's source and golden frames: once they have changed, what
was found is not true of them any more. Nothing depends on these files; without them, all is unchecked.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from broker import __version__

if TYPE_CHECKING:
    from feeds.base import Feed
    from feeds.testing import Verdict

State = Literal["passed", "failed", "changed", "unchecked", "none"]
#: Of a package: those beyond are not looked at.
_MOST_FILES = 2000
_MOST_NAMES = 5


class Kept(msgspec.Struct, frozen=True):
    """What one run of ``feed check`` found.

    Attributes:
        source: hash of the adapter, see `source_hash`.
        at: when, RFC 3339, UTC, to the second.
        feed: the adapter's name as it was given.
        origin: where it came from, with the version.
        tapecast: version of the kit.
        frames: which frames were played.
        passed: how many checks held.
        failed: names of those that failed.
        skipped: reasons, by name.
    """

    source: str
    at: str
    feed: str
    origin: str
    tapecast: str
    frames: str
    passed: int
    failed: list[str]
    skipped: dict[str, str]


class Standing(msgspec.Struct, frozen=True):
    """Whether an adapter has passed its checks.

    Attributes:
        state: ``changed``: it has, or has not, but was changed since; ``none``: there is nothing to check.
        text: for people.
        last: the last run of its checks, ``None`` if none is known.
    """

    state: State
    text: str
    last: Kept | None = None


def keep(
    feed: type[Feed],
    kind: str,
    origin: str,
    frames: str,
    verdicts: Sequence[Verdict],
    environ: Mapping[str, str],
) -> str:
    """Keep the verdicts on a feed; return what went wrong with that, empty if nothing did."""
    kept = Kept(
        source=source_hash(feed),
        at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        feed=kind,
        origin=origin,
        tapecast=__version__,
        frames=frames,
        passed=sum(each.outcome == "ok" for each in verdicts),
        failed=[each.check for each in verdicts if each.outcome == "failed"],
        skipped={each.check: each.detail for each in verdicts if each.outcome == "skipped"},
    )
    try:
        path = _path(feed, environ)
    except RuntimeError as error:
        return str(error)
    own = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(msgspec.json.format(msgspec.json.encode(kept)))
        # Whoever reads meanwhile finds the old one or the new one.
        own.replace(path)
    except OSError as error:
        with suppress(OSError):
            own.unlink(missing_ok=True)
        return f"{path}: {error.strerror or error}"
    return ""


def standing(feed: type[Feed], environ: Mapping[str, str]) -> Standing:
    """Tell how a feed stands; what can't be read was never there."""
    try:
        kept = msgspec.json.decode(_path(feed, environ).read_bytes(), type=Kept)
    except (OSError, RuntimeError, msgspec.MsgspecError, ValueError):
        return Standing("unchecked", "not checked")
    day = kept.at[:10]
    found = f"failed {_some(kept.failed)}" if kept.failed else "passed"
    if kept.source != source_hash(feed):
        return Standing("changed", f"not checked since it changed ({found}, {day})", kept)
    count = f"{kept.passed} check{'' if kept.passed == 1 else 's'}"
    skipped = f", skipped {_some(list(kept.skipped))}" if kept.skipped else ""
    if kept.failed:
        return Standing("failed", f"failed {day}: {_some(kept.failed)}; passed {count}{skipped}", kept)
    return Standing("passed", f"passed {day}, {count}{skipped}", kept)


def source_hash(feed: type[Feed]) -> str:
    """Return a hash of the files that an adapter is made of: its package's, or its own and the frames beside it."""
    digest = hashlib.sha256()
    for path in islice(_files(feed), _MOST_FILES):
        with suppress(OSError):
            digest.update(path.name.encode(errors="surrogateescape") + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _files(feed: type[Feed]) -> Iterator[Path]:
    from feeds.testing.golden import frames_beside

    package = sys.modules.get(feed.__module__.partition(".")[0])
    # A package has the attribute, also where it is spread over several folders.
    folders = [Path(each) for each in getattr(package, "__path__", ())]
    if folders:
        for folder in folders:
            yield from sorted(each for each in folder.rglob("*") if each.suffix in (".py", ".jsonl"))
        return
    with suppress(TypeError, OSError):
        own = Path(inspect.getfile(feed))
        yield own
        if frames := frames_beside(own):
            yield frames


def _path(feed: type[Feed], environ: Mapping[str, str]) -> Path:
    """Return the file of a feed: it is known by its class, and the file that has it.

    Raises:
        RuntimeError: the user has no home.
    """
    state = Path(environ.get("XDG_STATE_HOME", ""))
    # One that is relative has to be ignored, the specification says.
    base = state if state.is_absolute() else Path.home() / ".local" / "state"
    try:
        place = str(Path(inspect.getfile(feed)).resolve())
    except (TypeError, OSError):
        place = feed.__module__
    digest = hashlib.sha256(f"{place}:{feed.__qualname__}".encode(errors="surrogateescape")).hexdigest()
    return base / "tapecast" / "checks" / f"{feed.__name__.lower()}-{digest[:16]}.json"


def as_object(found: Standing) -> dict[str, Any]:
    """Return it for JSON."""
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
