"""Ticks in a table: CSV, whose first row names the columns, and what `feeds.parquet` shares with it. Pure.

The columns are the fields of a tick (the protocol's section 1), in any order, for any of the channels together::

    ch,sym,ts,bid,bid_size,ask,ask_size,price,size,side,id
    quote,NYSE:IBM,2024-08-08T13:30:00.25Z,191.10,300,191.12,200,,,,
    trade,NYSE:IBM,1723123800500000000,,,,,191.11,100,buy,T-1

``ch``, ``sym`` and ``ts`` have to be there. A cell that is empty is no value: ``null`` where the field may be that,
else the field is left out. ``bids`` and ``asks`` are levels, best first, ``price:size`` each with a space between them
(``101.50:3 101.49:10``), or the same as JSON. ``seq`` is not looked at. Cells may be quoted as RFC 4180 says.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import orjson

from broker.core.requests import nearest, show
from broker.core.tick_lines import WANTED
from feeds.recording_records import Record
from feeds.tick_files import time_of

COLUMNS = (*WANTED, "seq", "rts")
NEEDED = ("ch", "sym", "ts")
#: Of one cell; a book of some ten thousand levels fits.
MAX_CELL = 1 << 20

_BOM = b"\xef\xbb\xbf"
_NULLS = frozenset({"bid", "bid_size", "ask", "ask_size", "side"})
_TEXTS = frozenset({"id", "text"})
_LEVELS = frozenset({"bids", "asks"})
_FLAGS = frozenset({"final"})
_LEVEL = re.compile(r"([^\s:]+):([^\s:]+)")
_NAME = re.compile(r'^[\ufeff"\s]*([A-Za-z_]+)["\s]*$')


class TableError(OSError):
    """A table can't be read at all: a column is missing, or unknown. Not raised for a row that is wrong."""


def is_table(head: bytes) -> bool:
    """Tell whether a file that begins so is a table of ticks in CSV: its first row names two columns or more."""
    first = head.removeprefix(_BOM).split(b"\n", 1)[0]
    if first[:1] in (b"{", b"["):
        return False
    names = (_NAME.match(cell) for cell in first.decode("utf-8", "replace").replace(";", ",").split(","))
    return sum(match is not None and match[1].lower() in COLUMNS for match in names) >= 2


def checked_columns(names: Sequence[str]) -> list[str]:
    """Return the names of the columns, which may be written in capitals.

    Raises:
        TableError: one is missing, unknown, or there twice.
    """
    there = ", ".join(COLUMNS)
    if len(names) == 1 and ";" in names[0]:
        raise TableError("the first row: columns must be separated by commas, not semicolons")
    names = [name.strip().lower() for name in names]
    for name in names:
        if name not in COLUMNS:
            raise TableError(
                f"the first row: there is no column {show(name)}{nearest(name, COLUMNS)}; there are {there}"
            )
        if names.count(name) > 1:
            raise TableError(f"the first row: the column {show(name)} is there twice")
    for name in NEEDED:
        if name not in names:
            raise TableError(f"the first row: the column {name} is missing; it must be {WANTED[name]}")
    return names


def read_table(file: BinaryIO, source: int) -> Generator[Record]:
    """Yield a record for each row: a tick in JSON (`feeds.tick_files`), or what is wrong with the row.

    Raises:
        TableError: it has not the columns that it needs.
    """
    csv.field_size_limit(MAX_CELL)
    rows = csv.reader(_lines(file), strict=True)
    try:
        columns = checked_columns(next(rows, []))
    except csv.Error as error:
        raise TableError(f"the first row: not CSV: {error}") from None
    at = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield Record("broken", at, f"not CSV: {error}".encode(), "", source, rows.line_num)
            continue
        if row is None:
            return
        if any(row):
            record = _record_of(row, columns, at, source, rows.line_num)
            at = record.at
            yield record


def _lines(file: BinaryIO) -> Iterator[str]:
    line = file.readline(MAX_CELL).removeprefix(_BOM)
    while line:
        yield line.decode("utf-8", "replace")
        line = file.readline(MAX_CELL)


def _record_of(row: Sequence[str], columns: Sequence[str], last_at: int, source: int, number: int) -> Record:
    if len(row) != len(columns):
        text = f"a row whose number of cells is not that of the first row, {len(columns)}"
        return Record("broken", last_at, text.encode(), "", source, number)
    line = line_of({name: cell.strip() for name, cell in zip(columns, row, strict=True)})
    return Record("message", time_of(line, last_at), line, "", source, number)


def line_of(cells: Mapping[str, Any]) -> bytes:
    """Return a row as a line of `broker.core.tick_lines`; what is wrong in it is left to be found there."""
    fields = dict(_fields(cells))
    return orjson.dumps(fields)


def _fields(cells: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    channel = cells.get("ch")
    for name, cell in cells.items():
        if name == "seq":
            continue
        if cell is None or cell == "":
            yield from _empty(name, channel)
        elif name in _LEVELS and isinstance(cell, str):
            yield name, _levels(cell)
        elif name in _FLAGS and isinstance(cell, str):
            yield name, {"true": True, "false": False}.get(cell.lower(), cell)
        else:
            yield name, cell


def _empty(name: str, channel: Any) -> Iterable[tuple[str, Any]]:
    if channel == "quote" and name in _NULLS - {"side"}:
        return [(name, None)]
    if channel == "trade" and name == "side":
        return [(name, None)]
    if (channel, name) in (("trade", "id"), ("status", "text")):
        return [(name, "")]
    return [(name, [])] if channel == "book" and name in _LEVELS else []


def _levels(cell: str) -> Any:
    """Return the levels of a cell; the cell itself, if it holds none, for the error."""
    if cell.startswith("["):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            return cell
    levels = [_LEVEL.fullmatch(level) for level in cell.split()]
    return [[level[1], level[2]] for level in levels if level] if all(levels) else cell
