"""The ``[[recordings]]`` tables: what is recorded, and what subscribers can have played."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.config.problems import did_you_mean, reason, show
from broker.core.ticks import CHANNELS, Channel, is_symbol
from broker.core.topics import parse_pattern
from feeds.recording_formats import Format

MEBIBYTE = 1 << 20
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z"
_VENUE = r"^[A-Z0-9][A-Z0-9_]{0,31}\z"


class RecordingOptions(BaseModel):
    """The keys that every recording has.

    Attributes:
        name: as subscribers ask for it.
        path: where it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: str
    name: Annotated[str, Field(pattern=_NAME)]
    path: Annotated[str, Field(min_length=1)]


class TapeOptions(RecordingOptions):
    """A recording of a broker's own tape: a folder.

    Attributes:
        record: whether this broker writes it; else it is only played.
        channels, symbols: what is written of the tape.
        max_bytes: above it the oldest files are deleted.
        file_bytes: a file that has so many is followed by a new one.
    """

    type: Literal["tape"] = "tape"
    record: bool = False
    channels: Annotated[list[Channel], Field(min_length=1)] = list(CHANNELS)
    symbols: Annotated[list[str], Field(min_length=1)] = ["*"]
    max_bytes: Annotated[int, Field(ge=MEBIBYTE, le=1 << 50)] = 1024 * MEBIBYTE
    file_bytes: Annotated[int, Field(ge=64 << 10, le=1 << 40)] = 32 * MEBIBYTE


class FeedOptions(RecordingOptions):
    """Recorded venue traffic, or saved NDJSON: what a feed of the type ``replay`` reads."""

    type: Literal["replay"] = "replay"
    format: Literal["auto", Format] = "auto"
    venue: Annotated[str, Field(pattern=_VENUE)] | None = None


TYPES: dict[str, type[RecordingOptions]] = {"tape": TapeOptions, "replay": FeedOptions}


def read_recordings(tables: Sequence[object], where: str) -> tuple[list[RecordingOptions], list[str]]:
    """Validate the tables.

    Returns:
        The good ones, and a line for each mistake in the others.
    """
    good: list[RecordingOptions] = []
    problems: list[str] = []
    for index, table in enumerate(tables):
        here = f"{where}[{index}]"
        kind = table.get("type") if isinstance(table, dict) else None
        if not isinstance(table, dict):
            problems.append(f"{here} = {show(table)}: must be a table with a `type`")
        elif "type" not in table:
            problems.append(f"{here}.type: is missing; must be one of {', '.join(TYPES)}")
        elif not isinstance(kind, str) or kind not in TYPES:
            problems.append(f"{here}.type = {show(kind)}: no such kind{did_you_mean(kind, TYPES)}")
        else:
            try:
                options = TYPES[kind].model_validate(table)
            except ValidationError as exc:
                problems += _refusals(exc, here, TYPES[kind])
            else:
                problems += _checks(options, good, here)
                good.append(options)
    return good, problems


def _refusals(refused: ValidationError, here: str, options: type[RecordingOptions]) -> Iterator[str]:
    for error in refused.errors(include_url=False):
        key, *rest = error["loc"]
        path = f"{here}.{key}" + "".join(f"[{part}]" for part in rest if isinstance(part, int))
        if error["type"] == "missing":
            yield f"{path}: is missing"
        elif error["type"] == "extra_forbidden":
            hint = did_you_mean(key, options.model_fields, form="{}")
            yield f"{path} = {show(error['input'])}: no such key{hint}"
        else:
            yield f"{path} = {show(error['input'])}: {reason(error)}"


def _checks(options: RecordingOptions, others: Sequence[RecordingOptions], here: str) -> Iterator[str]:
    if any(other.name == options.name for other in others):
        yield f"{here}.name = {show(options.name)}: another recording has this name"
    if not isinstance(options, TapeOptions):
        return
    for index, symbol in enumerate(options.symbols):
        if parse_pattern(symbol) is None and not is_symbol(symbol):
            yield f'{here}.symbols[{index}] = {show(symbol)}: must be VENUE:SYMBOL, "VENUE:*" or "*"'
    if options.file_bytes > options.max_bytes:
        yield f"{here}.file_bytes = {options.file_bytes}: must be at most max_bytes, {options.max_bytes}"
    if options.record and any(
        isinstance(other, TapeOptions) and other.record and other.path == options.path for other in others
    ):
        yield f"{here}.path = {show(options.path)}: another recording is written there"


def dumped(options: RecordingOptions) -> dict[str, Any]:
    """Return the keys of a table, as they are in force."""
    return options.model_dump(mode="json", exclude_none=True)
