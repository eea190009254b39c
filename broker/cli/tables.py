"""A feed's table as the command line has it: ``--set KEY=VALUE``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from broker.cli import exits

if TYPE_CHECKING:
    from feeds.base import FeedOptions

SetFlag: TypeAlias = Annotated[
    list[str] | None,
    Parameter(
        "--set",
        negative="",
        help="A key of the feed, as in its table: --set 'symbols=[\"BTC-USD\"]'; may be repeated.",
    ),
]


def keys_of(texts: Sequence[str] | None) -> dict[str, Any]:
    """Return the keys and values of the flags; a value that is no TOML is a text.

    Raises:
        Failed: one is not ``KEY=VALUE``.
    """
    keys: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise exits.Failed(f"--set {text!r}: must be KEY=VALUE, as --set 'symbols=[\"BTC-USD\"]'")
        try:
            keys[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            keys[key.strip()] = value
    return keys


def feed_options(kind: str, keys: Mapping[str, Any], where: str) -> FeedOptions:
    """Return the options of a feed.

    Args:
        where: what the keys come from, for the error.

    Raises:
        Failed: there is no such feed, or it does not take the keys; lists every mistake.
    """
    from broker.config.feeds import read_feeds

    good, problems = read_feeds([{"type": kind, **keys}], where)
    if problems:
        lines = [problem.replace(f"{where}[0].", f"{where} ", 1) for problem in problems]
        raise exits.Failed("\n  ".join([f"the feed {kind!r} can't be used:", *lines]))
    return good[0][1]
