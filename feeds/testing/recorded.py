"""A recording in place of golden frames: what it gives, and what is wrong with a file that gives nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feeds.base import Feed
from feeds.raw_recordings import first_of
from feeds.recording_formats import DEFAULT_VENUES, OF_TICKS, Origin, origin_of_file
from feeds.recordings import find_files, read_merged
from feeds.testing.golden import Golden, GoldenError, GoldenFrame, read_golden

#: Of a recording, how many are played: enough to see everything, and few enough to be played fifty times.
MOST_PLAYED = 400
#: How many are looked at, to find those that are of the feed's symbols.
_MOST_RECORDED = 40_000
_WANTED = (
    "must be a file of `tapecast record`, or text with a line `<receive time in ns> <frame>` for each frame, or of "
    "cryptofeed's recorder; any of them may be gzipped"
)
#: A recording of the tape begins so.
_TAPE = b"TAPE"
#: Keys of a recorded feed that are of the place where it was recorded.
_NOT_TAKEN = frozenset(
    ("type", "name", "record", "record_most_mb", "on_demand", "linger_s", "url", "rest_url")
)


def read_recorded(path: Path, refusal_of: Callable[[str | bytes], str]) -> Golden:
    """Take the first frames of a recording that a feed takes, and the bodies, in any format `feeds.recordings` knows.

    Args:
        refusal_of: why the feed refuses a frame; empty: it does not.

    Raises:
        GoldenError: it isn't there, or has none; the text says what it is instead, and what would be right.
    """
    files = _files(path)
    frames: list[GoldenFrame] = []
    refusals: list[str] = []
    taken = 0
    try:
        with read_merged(files) as records:
            wanted = (each for each in records if each.kind in ("frame", "body"))
            for record in islice(wanted, _MOST_RECORDED):
                payload = _text(record.payload)
                if record.kind == "body":
                    frames.append(GoldenFrame(payload, _page(record.url), is_body=True))
                elif refusal := refusal_of(payload):
                    refusals.append(refusal)
                else:
                    frames.append(GoldenFrame(payload))
                    taken += 1
                if taken >= MOST_PLAYED:
                    break
    except OSError as error:
        raise GoldenError(f"{path}: {_about(files[0]) or error}; {_WANTED}") from None
    left_out = f"{len(refusals)} were refused, as: {refusals[0]}" if refusals else ""
    if not taken:
        what = _about(files[0])
        if left_out:
            hint = (
                f"it {what}"
                if what
                else "are its symbols those of the recording? Name them with --option symbols=…"
            )
            raise GoldenError(f"{path}: has no frames that the feed takes; {left_out}; {hint}")
        raise GoldenError(f"{path}: {what or 'is no recording'}; {_WANTED}")
    return Golden(f"{path}", tuple(frames), is_recorded=True, left_out=left_out)


def recorded_options(path: Path, kind: str, feed: type[Feed]) -> dict[str, Any]:
    """Return the keys that a feed was recorded with, where the file is one of `tapecast record`; else none.

    Those of another type of feed are its symbols only.

    Raises:
        GoldenError: it isn't there, or is of another venue.
    """
    files = _files(path)
    try:
        _check_venue(files, kind, feed)
        begun = first_of(files[0])
    except OSError as error:
        raise GoldenError(f"{path}: {error}; {_WANTED}") from None
    if begun is None:
        return {}
    if begun.kind == kind:
        return {key: value for key, value in begun.options.items() if key not in _NOT_TAKEN}
    return {"symbols": begun.options["symbols"]} if "symbols" in begun.options else {}


def _check_venue(files: list[Path], kind: str, feed: type[Feed]) -> None:
    """Raise `GoldenError` for what is of another venue; adapters of somebody's own may call theirs as they like."""
    origin = origin_of_file(files[0])
    if (
        kind not in DEFAULT_VENUES
        or len(files) > 1
        or origin is None
        or origin.format in (None, "lines", "ticks")
    ):
        return
    if origin.venue != feed.venue:
        raise GoldenError(f"{files[0]}: {_about(files[0])}; must be of {feed.venue}")


def _files(path: Path) -> list[Path]:
    files = find_files(str(path))
    if not files:
        raise GoldenError(f"{path}: there is no such recording")
    return files


def _about(file: Path) -> str:
    """Tell what a file is that has no frames for the feed; empty: nobody knows."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    if not head:
        return "is empty"
    if head.startswith(_TAPE):
        return "is a recording of the broker's tape, of ticks and not of the frames that they were made of"
    if _is_golden(file):
        return "has golden frames: name it with --frames"
    begun = first_of(file)
    if begun is not None:
        return f"is a recording of the feed {begun.kind}, of {begun.venue}"
    try:
        origin = origin_of_file(file)
    except OSError:
        origin = None
    return "" if origin is None else _origin_text(origin)


def _origin_text(origin: Origin) -> str:
    if origin.format is None:
        return f"has traffic of {origin.venue}"
    if origin.format in OF_TICKS:
        return "has ticks, and not the frames that they were made of"
    return f"has frames of {origin.venue}, for the feed {origin.format}"


def _is_golden(file: Path) -> bool:
    """Tell whether a file is written as golden frames are, with their directives."""
    try:
        golden = read_golden(file)
    except GoldenError:
        return False
    return bool(golden.frames) and bool(golden.options or golden.wanted or golden.skips)


def _text(payload: bytes) -> str | bytes:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def _page(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
