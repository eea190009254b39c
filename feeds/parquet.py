"""Ticks in a Parquet file: the columns of `feeds.tables`, read by pyarrow, an extra that is only imported for it.

Prices and sizes are text or decimals; ``ts``, ``rts`` and ``start`` nanoseconds as integers, text, or timestamps;
``bids`` and ``asks`` text as in CSV, or lists of two texts each. Prices are never floats, so a column of those is
refused.
"""

from __future__ import annotations

from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

from broker.core.requests import show
from feeds.recording_records import Record
from feeds.tables import TableError, checked_columns, line_of
from feeds.tick_files import time_of

_MAGIC = b"PAR1"
_ROWS = 1024
_TIMES = ("ts", "rts", "start")
_WHOLE = (*_TIMES, "count", "seq")


def is_parquet(head: bytes) -> bool:
    """Tell whether a file that begins so is Parquet."""
    return head.startswith(_MAGIC)


def read_parquet(path: Path, source: int) -> Generator[Record]:
    """Yield a record for each row, as `feeds.tables.read_table` does.

    Raises:
        TableError: it can't be read, has not the columns that it needs, or pyarrow is not there.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise TableError("Parquet needs pyarrow: pip install 'tapecast[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = checked_columns(file.schema_arrow.names)
            _check_types(file.schema_arrow, pyarrow.types)
            at = number = 0
            for batch in file.iter_batches(_ROWS):
                rows = [_plain(column, pyarrow).to_pylist() for column in batch.columns]
                for row in zip(*rows, strict=True):
                    number += 1
                    cells = {name: _cell(value) for name, value in zip(columns, row, strict=True)}
                    line = line_of(cells)
                    at = time_of(line, at)
                    yield Record("message", at, line, "", source, number)
    except pyarrow.ArrowException as error:
        raise TableError(f"Parquet that can't be read: {error}") from None


def _check_types(schema: Any, types: Any) -> None:
    for field in schema:
        if types.is_floating(field.type):
            raise TableError(
                f"the column {show(field.name)} is of type {field.type}: "
                "prices and sizes must be text or decimal, as a float has not the venue's digits any more"
            )
        if types.is_integer(field.type) and field.name not in _WHOLE:
            raise TableError(
                f"the column {show(field.name)} is of type {field.type}: it must be text or decimal"
            )
        if types.is_timestamp(field.type) and field.name not in _TIMES:
            raise TableError(f"the column {show(field.name)} is of type {field.type}: it is no time")


def _plain(column: Any, pyarrow: Any) -> Any:
    """Return the column, timestamps as nanoseconds."""
    if not pyarrow.types.is_timestamp(column.type):
        return column
    return column.cast(pyarrow.timestamp("ns", column.type.tz)).cast(pyarrow.int64())


def _cell(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value
