"""Reading recorded venue traffic: files, their lines, and what those are. Pure but for reading files.

Three containers are known, and told apart line by line:

* ``<ns> <frame>``: receive time in nanoseconds and a frame (the collector of hftbacktest).
* those of cryptofeed's recorder, times in seconds: ``<s>: <frame>`` a frame received,
  ``<url> -> <s>: <body>`` an HTTP answer, ``<url> <-> <s>`` a connection opened,
  ``<url> <- <s>: <message>`` sent by the recorder; and ``configuration: {…}``.
* ``{"type":…}``: a message of our own protocol, as a saved NDJSON stream has them.

A file may be gzipped, whatever its name. Nothing is held in memory but the line at hand.
"""

from __future__ import annotations

import glob
import gzip
import heapq
import io
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

Kind = Literal["frame", "body", "opened", "message", "other", "broken"]

#: The largest line read; books of 20,000 levels take about 1 MB.
MAX_LINE = 32 << 20
#: Files open at the same time, in one merged recording.
MAX_FILES = 256

_GZIP_MAGIC = b"\x1f\x8b"
_NS = re.compile(rb"([0-9]{16,19}) ")
_SECONDS = re.compile(rb"([0-9]{9,10})(?:\.([0-9]{1,9})[0-9]*)?: ?")
_URL_LINE = re.compile(rb"(\S{1,65536}) (->|<->|<-) ([0-9]{9,10})(?:\.([0-9]{1,9})[0-9]*)?(?:: ?|$)")
_LAST_NS = 2**63 - 1


class Record(NamedTuple):
    """One line of a recording.

    Attributes:
        kind: ``frame`` and ``body`` have a payload, ``message`` is one of our own protocol, ``broken`` has
            the reason as its payload, ``other`` (an empty line, a subscription sent) is of no use.
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


def find_files(path: str) -> list[Path]:
    """Return the files that a path, a folder (its files, not its folders') or a glob stands for, by name."""
    where = Path(path).expanduser()
    if where.is_dir():
        return sorted(each for each in where.iterdir() if each.is_file() and not each.name.startswith("."))
    if where.exists():
        return [where]
    found = (Path(each) for each in glob.glob(str(where), recursive=True))
    return sorted(each for each in found if each.is_file())


def parse_line(line: bytes, last_at: int, source: int, number: int) -> Record:
    """Tell what one line is, without its line end."""
    match = _NS.match(line)
    if match is not None:
        at = int(match[1])
        return _checked(Record("frame", at, line[match.end() :], "", source, number), last_at)
    match = _SECONDS.match(line)
    if match is not None:
        return Record("frame", _to_ns(match[1], match[2]), line[match.end() :], "", source, number)
    match = _URL_LINE.match(line)
    if match is not None:
        at = _to_ns(match[3], match[4])
        kind: Kind = {b"->": "body", b"<->": "opened", b"<-": "other"}[match[2]]  # type: ignore[assignment]
        url = match[1].decode("utf-8", "replace")
        return Record(kind, at, line[match.end() :] if kind == "body" else b"", url, source, number)
    if line.startswith(b"{"):
        return Record("message", last_at, line, "", source, number)
    if not line.strip() or line.startswith(b"configuration: "):
        return Record("other", last_at, b"", "", source, number)
    return Record("broken", last_at, b"no line of a known recorder", "", source, number)


def read_file(path: Path, source: int = 0) -> Generator[Record]:
    """Yield the lines of one file in order. A gzip that is cut off ends with a broken one.

    Raises:
        OSError: it can't be opened.
    """
    at, number = 0, 0
    with _open(path) as file:
        while True:
            number += 1
            try:
                line = _read_line(file)
            except (EOFError, zlib.error, OSError) as error:
                yield Record("broken", at, f"the file can't be read on: {error}".encode(), "", source, number)
                return
            if line is None:
                yield Record("broken", at, b"a line of more than 32 MiB", "", source, number)
                continue
            if not line:
                return
            record = parse_line(line.rstrip(b"\r\n"), at, source, number)
            at = record.at
            yield record


@contextmanager
def read_merged(paths: list[Path]) -> Iterator[Iterator[Record]]:
    """Read several files at once, merged by time; lines of one file stay in their order."""
    with ExitStack() as stack:
        readers = [read_file(path, source) for source, path in enumerate(paths)]
        for reader in readers:
            stack.callback(reader.close)
        yield heapq.merge(*readers, key=_at) if len(readers) > 1 else iter(readers[0])


def _at(record: Record) -> int:
    return record.at


def _checked(record: Record, last_at: int) -> Record:
    if record.at <= _LAST_NS:
        return record
    return Record("broken", last_at, b"a time after the year 2262", "", record.source, record.line)


def _to_ns(whole: bytes, fraction: bytes | None) -> int:
    return int(whole) * 1_000_000_000 + int((fraction or b"").ljust(9, b"0"))


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as plain:
        if plain.peek(2)[:2] != _GZIP_MAGIC:
            yield plain
            return
        with gzip.GzipFile(fileobj=plain) as unpacked:
            yield cast(BinaryIO, io.BufferedReader(unpacked, 1 << 16))


def _read_line(file: BinaryIO) -> bytes | None:
    """Return the next line with its end; nothing at the end of the file; ``None`` if it is too long."""
    line = file.readline(MAX_LINE)
    if len(line) < MAX_LINE or line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE)
    return None
