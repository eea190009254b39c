"""``tapecast feed new``: a package with an adapter in it that works, to begin with."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from broker.cli import exits

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_MOST_NAME = 24
#: Template to the file that it becomes; ``@MODULE@`` and the like stand in both.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "config.toml": "config.toml",
    "__init__.py": "@MODULE@/__init__.py",
    "venue.py": "@MODULE@/venue.py",
    "frames.jsonl": "@MODULE@/frames.jsonl",
    "ticks.jsonl": "@MODULE@/ticks.jsonl",
    "test_feed.py": "tests/test_@MODULE@.py",
}


def new(
    name: Annotated[
        str, Parameter(help="Of the feed: small letters and digits, with - or _ between them, e.g. acme.")
    ],
    *,
    folder: Annotated[
        Path | None, Parameter("--folder", help="Where to write it; else tapecast-NAME in the current one.")
    ] = None,
) -> int:
    """Write a package with an adapter for a made-up venue: it installs, passes its checks, and runs.

    It has the adapter, its golden frames, tests, a configuration and a README that says how to make it your own.
    """
    from feeds import FEEDS

    fault = _fault(name) or (f"Tapecast has a feed of this name: {name}" if name in FEEDS else "")
    if fault:
        exits.complain(f"feed new: {fault}")
        return exits.USAGE
    names = _names(name)
    where = folder or Path(f"tapecast-{names['@NAME@']}")
    try:
        _write(where, names)
    except FileExistsError:
        raise exits.Failed(f"feed new: {where} is there already; name another --folder") from None
    except OSError as error:
        raise exits.Failed(f"feed new: can't write {where}: {error.strerror}", error.errno) from None
    print(
        f"{where}: a feed for a made-up venue. Now:\n"
        f"  cd {where}\n"
        f"  pip install -e '.[test]'\n"
        f"  tapecast feed check {name}\n"
        f"and read its README.md."
    )
    return exits.OK


def _fault(name: str) -> str:
    if _NAME.fullmatch(name) is None or len(name) > _MOST_NAME:
        plain = re.sub(r"[-_\W]+", "-", name.lower()).strip("-")
        hint = plain if _NAME.fullmatch(plain) and len(plain) <= _MOST_NAME else "acme"
        return (
            f"{name!r:.60}: must be 1 to {_MOST_NAME} small letters and digits, the first a letter, with single - or "
            f"_ between them, like {hint}"
        )
    if keyword.iskeyword(name) or name in ("feed", "feeds", "broker", "parsefeed"):
        return f"{name}: this word means something else to Python, or to Tapecast"
    return ""


def _names(name: str) -> dict[str, str]:
    plain = name.replace("-", "_")
    return {
        "@NAME@": name,
        "@MODULE@": f"tapecast_{plain}",
        "@CLASS@": "".join(part.capitalize() for part in plain.split("_")),
        "@VENUE@": plain.upper(),
    }


def _write(where: Path, names: dict[str, str]) -> None:
    """Write all files. Raises FileExistsError if the folder is there."""
    where.mkdir(parents=True)
    templates = resources.files("feeds") / "templates"
    for template, target in _FILES.items():
        path = where / _filled_in(target, names)
        path.parent.mkdir(exist_ok=True)
        text = (templates / f"{template}.template").read_text(encoding="utf-8")
        path.write_text(_filled_in(text, names), encoding="utf-8")


def _filled_in(text: str, names: dict[str, str]) -> str:
    for mark, value in names.items():
        text = text.replace(mark, value)
    return text
