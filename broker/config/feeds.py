"""The ``[[feeds]]`` tables: each is validated by the options of the feed that its ``type`` names.

A plug-in that can't be used is no mistake of the configuration: its table is kept, as that of a feed that is down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from broker.config.problems import did_you_mean, reason, show
from feeds import FEEDS
from feeds.base import Feed, FeedOptions
from feeds.plugins import BrokenFeed, PluginError, class_missing, feed_of, find_feed, known_feeds, make_feed


def default_feeds() -> tuple[FeedOptions, ...]:
    """Return what runs where nobody configured a feed: one simulated market."""
    return (FEEDS["simulated"].Options(type="simulated"),)


def read_feeds(
    tables: Sequence[object], where: str, folder: Path = Path()
) -> tuple[list[tuple[int, FeedOptions]], list[str]]:
    """Validate the tables.

    Args:
        folder: what the paths of adapters are relative to.

    Returns:
        The good ones with their index, and a line for each mistake in the others.
    """
    good: list[tuple[int, FeedOptions]] = []
    problems: list[str] = []
    for index, table in enumerate(tables):
        here = f"{where}[{index}]"
        if not isinstance(table, dict):
            problems.append(f"{here} = {show(table)}: must be a table with a `type`")
            continue
        kind = table.get("type")
        if "type" not in table:
            problems.append(f"{here}.type: is missing; must be one of {_types()}")
            continue
        try:
            options = _read_feed(kind, table, folder)
        except LookupError:
            hint = class_missing(kind) or did_you_mean(kind, known_feeds())
            problems.append(f"{here}.type = {show(kind)}: no such feed{hint}")
        except _Refused as refused:
            problems.extend(_refusals(refused.error, here, refused.options))
        else:
            good.append((index, options))
    return good, problems


class _Refused(Exception):
    """The options of a feed refuse a table."""

    def __init__(self, error: ValidationError, options: type[FeedOptions]) -> None:
        super().__init__()
        self.error = error
        self.options = options


def _read_feed(kind: object, table: Mapping[str, Any], folder: Path) -> FeedOptions:
    """Return the options of one table; those of a plug-in that can't be used make a feed that says so.

    Raises:
        LookupError: there is no such feed.
        _Refused: its options don't take the table.
    """
    if not isinstance(kind, str):
        raise LookupError(kind)
    source = find_feed(kind, folder)
    try:
        feed = source.load()
        options = _options(feed, table)
    except PluginError as exc:
        name = table.get("name")
        options = FeedOptions(type=kind, name=name if isinstance(name, str) else "")
        options.set_maker(partial(BrokenFeed, reason=str(exc)))
    else:
        options.set_maker(partial(make_feed, feed))
    return options


def _options(feed: type[Feed], table: Mapping[str, Any]) -> FeedOptions:
    try:
        return feed.Options.model_validate(table)
    except ValidationError as exc:
        raise _Refused(exc, feed.Options) from None
    except Exception as exc:
        # Not a wrong value, which a validator says with a ValueError, but a mistake in the adapter.
        raise PluginError(f"Options: {type(exc).__name__}: {exc}") from exc


def _types() -> str:
    return ", ".join(f'"{name}"' for name in sorted(known_feeds()))


def _refusals(refused: ValidationError, here: str, options: type[FeedOptions]) -> Iterator[str]:
    by_path: dict[str, list[ErrorDetails]] = {}
    for error in _deepest(refused.errors(include_url=False)):
        by_path.setdefault(_path(here, error["loc"]), []).append(error)
    for path, errors in by_path.items():
        first = errors[0]
        is_secret = bool(first["loc"]) and _is_secret(options, first["loc"][0])
        shown = path if is_secret else f"{path} = {show(first['input'])}"
        if first["type"] == "extra_forbidden":
            yield f"{shown}: no such key{did_you_mean(first['loc'][-1], _spellings(options), form='{}')}"
        elif first["type"] == "missing":
            yield f"{path}: is missing"
        else:
            # One for each branch of a union.
            reasons = dict.fromkeys(reason(error) for error in errors)
            text = " or ".join(reasons).replace(" or must be ", " or ")
            yield f"{shown if first['loc'] else path}: {text}"


def _is_secret(options: type[FeedOptions], key: int | str) -> bool:
    """Tell whether a key's value must not be shown, in a log that others may read."""
    field = options.model_fields.get(str(key))
    return field is not None and field.annotation is SecretStr


def _deepest(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that a list is not a number, where the other branch says which item of it is wrong."""
    deep = {error["loc"][0] for error in errors if _indices(error["loc"])}
    for error in errors:
        if not error["loc"] or error["loc"][0] not in deep or _indices(error["loc"]):
            yield error


def _indices(loc: Sequence[int | str]) -> list[int]:
    return [part for part in loc[1:] if isinstance(part, int)]


def _path(here: str, loc: Sequence[int | str]) -> str:
    # Behind the key come indices, and the names of a union's branches, which mean nothing to a reader.
    return f"{here}.{loc[0]}" + "".join(f"[{index}]" for index in _indices(loc)) if loc else here


def _spellings(options: type[FeedOptions]) -> list[str]:
    return [field.alias or name for name, field in options.model_fields.items()]


def broken_feeds(feeds: Sequence[FeedOptions]) -> list[tuple[str, str]]:
    """Return name and reason of each feed that can't be used; makes all of them, which opens nothing."""
    made = [(options.name or options.type, feed_of(options)) for options in feeds]
    return [(name, feed.reason) for name, feed in made if isinstance(feed, BrokenFeed)]


def same_names(feeds: Sequence[tuple[int, FeedOptions]], where: str) -> Iterator[str]:
    """Yield a line for each feed whose name an earlier one has."""
    taken: dict[str, int] = {}
    for index, options in feeds:
        name = options.name or options.type
        if name in taken:
            why = "" if options.name else " (its type, as none is given)"
            yield (
                f"{where}[{index}].name = {show(name)}{why}: "
                f"feeds[{taken[name]}] has this name; give one of them a name of its own"
            )
        else:
            taken[name] = index
