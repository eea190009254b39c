"""Reading recorded venue traffic: files, their lines, and what those are. Pure but for reading files.

Recorded feeds (`feeds.raw_recordings`) and tables of ticks (`feeds.tables`) are known by how they begin; in text, these
are told apart line by line:

* ``<ns> <frame>``: receive time in nanoseconds and a frame (the collector of hftbacktest).
* those of cryptofeed's recorder, times in seconds: ``<s>: <frame>`` a frame received,
  ``<url> -> <s>: <body>`` an HTTP answer, ``<url> <-> <s>`` a connection opened,
  ``<url> <- <s>: <message>`` sent by the recorder; and ``configuration: {…}``.
* ``{"type":…}``: a message of our own protocol, as a saved NDJSON stream has them; ``{"ch":…}``: a tick.

A file may be gzipped, whatever its name. Nothing is held in memory but the line at hand.
"""

from __future__ import annotations

import glob
import gzip
import heapq
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from feeds.parquet import is_parquet, read_parquet
from feeds.raw_recordings import is_raw, read_raw
from feeds.recording_records import Kind, Record, opened
from feeds.tables import is_table, read_table
from feeds.tick_files import time_of

__all__ = ["MAX_FILES", "Kind", "Record", "find_files", "parse_line", "read_file", "read_merged"]

#: The largest line read; books of 20,000 levels take about 1 MB.
MAX_LINE = 32 << 20
#: Files open at the same time, in one merged recording.
MAX_FILES = 256

#: Of a file, to tell what it is.
_PEEK = 4096
#: Some editors begin a text with it.
_BOM = b"\xef\xbb\xbf"
_NS = re.compile(rb"([0-9]{16,19}) ")
_SECONDS = re.compile(rb"([0-9]{9,10})(?:\.([0-9]{1,9})[0-9]*)?: ?")
_URL_LINE = re.compile(rb"(\S{1,65536}) (->|<->|<-) ([0-9]{9,10})(?:\.([0-9]{1,9})[0-9]*)?(?:: ?|$)")
_MESSAGE = re.compile(rb'\{\s*"type"')
_LAST_NS = 2**63 - 1


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
        at = last_at if _MESSAGE.match(line) else time_of(line, last_at)
        return Record("message", at, line, "", source, number)
    if not line.strip() or line.startswith(b"configuration: "):
        return Record("other", last_at, b"", "", source, number)
    return Record(
        "broken", last_at, b"no line of a known recorder, and no object of JSON", "", source, number
    )


def read_file(path: Path, source: int = 0, *, of_ticks: bool = False) -> Generator[Record]:
    """Yield the lines of one file in order. A gzip that is cut off ends with a broken one.

    Args:
        of_ticks: of a recorded feed, the ticks that it made; else what they were made of.

    Raises:
        OSError: it can't be opened, or it is a table without the columns that it needs.
    """
    with opened(path) as file:
        try:
            head = file.peek(_PEEK)[:_PEEK]
        except (EOFError, zlib.error, OSError):
            # Reading tells it, with the place.
            head = b""
        if is_raw(head):
            yield from _guarded(read_raw(file, source, of_ticks=of_ticks), source)
        elif is_parquet(head):
            yield from read_parquet(path, source)
        elif is_table(head):
            yield from _guarded(read_table(file, source), source)
        else:
            yield from _read_lines(file, source)


def _guarded(records: Generator[Record], source: int) -> Generator[Record]:
    """Pass records on; where a gzip can't be read on, the last one is broken."""
    at, number = 0, 0
    try:
        for record in records:
            at, number = record.at, record.line
            yield record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield Record("broken", at, f"the file can't be read on: {error}".encode(), "", source, number + 1)


def _read_lines(file: BinaryIO, source: int) -> Generator[Record]:
    at, number = 0, 0
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
        if number == 1:
            line = line.removeprefix(_BOM)
        record = parse_line(line.rstrip(b"\r\n"), at, source, number)
        at = record.at
        yield record


@contextmanager
def read_merged(paths: list[Path], *, of_ticks: bool = False) -> Iterator[Iterator[Record]]:
    """Read several files at once, merged by time; lines of one file stay in their order. See `read_file`."""
    with ExitStack() as stack:
        readers = [read_file(path, source, of_ticks=of_ticks) for source, path in enumerate(paths)]
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


def _read_line(file: BinaryIO) -> bytes | None:
    """Return the next line with its end; nothing at the end of the file; ``None`` if it is too long."""
    line = file.readline(MAX_LINE)
    if len(line) < MAX_LINE or line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE)
    return None
