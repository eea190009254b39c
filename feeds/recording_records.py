"""What every recording is made of, whatever it is written in, and how its file is opened."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["frame", "body", "opened", "message", "tick", "hole", "other", "broken"]
_GZIP_MAGIC = b"\x1f\x8b"


class Record(NamedTuple):
    """One line, row or event of a recording.

    Attributes:
        kind: ``frame`` and ``body`` have a payload, ``message`` is one of our own protocol or a tick in JSON,
            ``tick`` one of a recorded feed (`feeds.raw_recordings`), ``hole`` says that something is missing here
            that may have changed any book, ``broken`` has the reason as its payload, ``other`` (an empty line, a
            subscription sent) is of no use.
        at: receive time in nanoseconds of Unix time; that of the line before, where this one has none.
        payload: the frame or body as received.
        url: of a body or a connection.
        source: the file's number in the recording, from 0.
        line: its number in the file, from 1.
    """

    kind: Kind
    at: int
    payload: bytes
    url: str
    source: int
    line: int


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file to be read, unpacked if it is a gzip."""
    with path.open("rb") as plain:
        if plain.peek(2)[:2] != _GZIP_MAGIC:
            yield plain
            return
        with gzip.GzipFile(fileobj=plain) as unpacked:
            yield io.BufferedReader(_AsFarAsItGoes(unpacked), 1 << 16)


class _AsFarAsItGoes(io.RawIOBase):
    """What a gzip holds; of one that is cut off, all that comes before the cut."""

    def __init__(self, unpacked: gzip.GzipFile) -> None:
        self._unpacked = unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        # Not `read`: it would lose what it has got when it comes to the cut.
        some = self._unpacked.read1(len(into))
        into[: len(some)] = some
        return len(some)
