"""Golden frames: what one connection of a venue sends, in order, as the scripted venue plays it.

``frames.jsonl`` lies beside the adapter, or in the folder of its package. Each line is a frame of text, but

* ``// …`` is a comment: say there after which page of the venue the frames were written, and its date;
* ``//! option KEY = JSON`` sets an option of the feed, such as ``symbols = ["BTC-USD"]``;
* ``//! want CH SYMBOL`` lets somebody subscribe to it, for a feed that brings only what is wanted;
* ``//! get TEXT``: the next line is no frame but the body of an HTTP answer, for URLs with this text in them;
* ``//! url TEXT``: from here on, frames are for connections with this text in their URL; nothing: for all;
* ``//! binary``: the next line is a binary frame, in base64;
* ``//! refused``: the next frame has to be refused by the adapter;
* ``//! skip CHECK REASON``: this check can't be made on this venue.

An HTTP body stands where the venue would have it by then: a GET is answered with the last one that the connection
has come to, or else with the first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from broker.core.ticks import CHANNELS, Channel


class GoldenError(Exception):
    """The frames can't be read; the text says where and why."""


@dataclass(frozen=True, slots=True)
class GoldenFrame:
    """One frame, or one body.

    Attributes:
        payload: text as ``str``, a binary frame as ``bytes``.
        url: what a connection's URL must have in it; of a body: what the request's must.
        is_body: whether it is an HTTP answer.
        is_refused: whether the adapter has to refuse it.
    """

    payload: str | bytes
    url: str = ""
    is_body: bool = False
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Golden:
    """All there is of one venue.

    Attributes:
        where: for people.
        is_recorded: whether it comes from a recording, of which an adapter may well refuse something.
        left_out: what of a recording the adapter refused before anything was played, for people.
        options: of the feed.
        wanted: what subscribers want.
        skips: checks that can't be made, and why.
    """

    where: str = "no frames"
    frames: tuple[GoldenFrame, ...] = ()
    is_recorded: bool = False
    left_out: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    wanted: tuple[tuple[Channel, str], ...] = ()
    skips: dict[str, str] = field(default_factory=dict)


def read_golden(path: Path) -> Golden:
    """Read ``frames.jsonl``.

    Raises:
        GoldenError: it can't be read, or a line of it makes no sense.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GoldenError(f"{path}: {error}") from None
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        try:
            reader.take(line.strip())
        except ValueError as error:
            raise GoldenError(f"{path}, line {number}: {error}") from None
    return Golden(
        where=str(path),
        frames=tuple(reader.frames),
        options=reader.options,
        wanted=tuple(reader.wanted),
        skips=reader.skips,
    )


class _Reader:
    """The lines of one file, one after the other."""

    def __init__(self) -> None:
        self.frames: list[GoldenFrame] = []
        self.options: dict[str, Any] = {}
        self.wanted: list[tuple[Channel, str]] = []
        self.skips: dict[str, str] = {}
        self._url = self._get = ""
        self._is_binary = self._is_refused = False

    def take(self, line: str) -> None:
        """Raises ValueError for a line that makes no sense."""
        if line.startswith("//!"):
            verb, _, rest = line[3:].strip().partition(" ")
            self._obey(verb, rest.strip())
        elif line and not line.startswith("//"):
            self.frames.append(self._frame(line))
            self._get, self._is_binary, self._is_refused = "", False, False

    def _frame(self, line: str) -> GoldenFrame:
        payload: str | bytes = line
        if self._is_binary:
            try:
                payload = base64.b64decode(line, validate=True)
            except binascii.Error as error:
                raise ValueError(f"not base64: {error}") from None
        if self._get:
            return GoldenFrame(payload, self._get, is_body=True)
        return GoldenFrame(payload, self._url, is_refused=self._is_refused)

    def _obey(self, verb: str, rest: str) -> None:
        match verb:
            case "option":
                key, equals, value = rest.partition("=")
                if not equals:
                    raise ValueError("must be: option KEY = JSON")
                try:
                    self.options[key.strip()] = msgspec.json.decode(value.strip())
                except msgspec.DecodeError as error:
                    raise ValueError(f"the value of {key.strip()} is not JSON: {error}") from None
            case "want":
                channel, _, symbol = rest.partition(" ")
                if channel not in CHANNELS or not symbol:
                    raise ValueError(f"must be: want CH SYMBOL, with CH of {', '.join(CHANNELS)}")
                self.wanted.append((channel, symbol.strip()))
            case "skip":
                check, _, reason = rest.partition(" ")
                if not reason.strip():
                    raise ValueError("must be: skip CHECK REASON")
                self.skips[check] = reason.strip()
            case "get":
                self._get = rest or "/"
            case "url":
                self._url = rest
            case "binary":
                self._is_binary = True
            case "refused":
                self._is_refused = True
            case _:
                raise ValueError(f"no such directive: {verb!r:.40}")


def frames_beside(file: Path) -> Path | None:
    """Return the golden frames of an adapter's file: ``NAME.frames.jsonl`` or ``frames.jsonl`` beside it."""
    return next(_existing(file.with_name(f"{file.stem}.frames.jsonl"), file.with_name("frames.jsonl")), None)


def _existing(*paths: Path) -> Iterator[Path]:
    return (path for path in paths if path.is_file())
