"""The ``[[feeds]]`` tables: each is validated by the options of the feed that its ``type`` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from broker.config.problems import did_you_mean, reason, show
from feeds import FEEDS
from feeds.base import FeedOptions


def default_feeds() -> tuple[FeedOptions, ...]:
    """Return what runs where nobody configured a feed: one simulated market."""
    return (FEEDS["simulated"].Options(type="simulated"),)


def read_feeds(tables: Sequence[object], where: str) -> tuple[list[tuple[int, FeedOptions]], list[str]]:
    """Validate the tables.

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
        elif not isinstance(kind, str) or kind not in FEEDS:
            problems.append(f"{here}.type = {show(kind)}: no such feed{did_you_mean(kind, FEEDS)}")
        else:
            try:
                good.append((index, FEEDS[kind].Options.model_validate(table)))
            except ValidationError as exc:
                problems.extend(_refusals(exc, here, FEEDS[kind].Options))
    return good, problems


def _types() -> str:
    return ", ".join(f'"{name}"' for name in sorted(FEEDS))


def _refusals(refused: ValidationError, here: str, options: type[FeedOptions]) -> Iterator[str]:
    by_path: dict[str, list[ErrorDetails]] = {}
    for error in _deepest(refused.errors(include_url=False)):
        by_path.setdefault(_path(here, error["loc"]), []).append(error)
    for path, errors in by_path.items():
        first = errors[0]
        shown = f"{path} = {show(first['input'])}"
        if first["type"] == "extra_forbidden":
            yield f"{shown}: no such key{did_you_mean(first['loc'][-1], _spellings(options), form='{}')}"
        elif first["type"] == "missing":
            yield f"{path}: is missing"
        else:
            # One for each branch of a union.
            reasons = dict.fromkeys(reason(error) for error in errors)
            text = " or ".join(reasons).replace(" or must be ", " or ")
            yield f"{shown if first['loc'] else path}: {text}"


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
