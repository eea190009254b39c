"""The files of one recording of a tape: a folder, each named so that the names are in the order of the tape.

``<when it was begun, ns>-<epoch>-<offset before its first tick>.tape``; their inside is `broker.core.recording`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from broker.core.recording import Block, Cut, encode_block, read_blocks

SUFFIX = ".tape"
_NAME = re.compile(r"([0-9]{20})-([^-/]{1,32})-([0-9]{1,20})\.tape")


class TapeFile(NamedTuple):
    """One file, by what its name says; they sort in the order of the recording.

    Attributes:
        began: when, in nanoseconds of Unix time.
        before: the offset behind which it begins.
    """

    began: int
    epoch: str
    before: int
    path: Path


def list_files(folder: Path) -> list[TapeFile]:
    """Return the files of a recording, in order; none if there is no such folder.

    Raises:
        OSError: the folder can't be read.
    """
    if not folder.exists():
        return []
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append(TapeFile(int(match[1]), match[2], int(match[3]), path))
    return sorted(found)


class TapeWriter:
    """Appends blocks to the files of one recording. All of it may block: call it in a thread.

    Attributes:
        file: the one that is written, ``None`` before the first block and behind a failure.
        size: of it, in bytes.
    """

    def __init__(self, folder: Path, *, file_bytes: int, max_bytes: int) -> None:
        """Write nothing yet.

        Args:
            file_bytes: a file that has so many is the last but one: the next block needs a new one.
            max_bytes: of all files; above it the oldest are deleted, but never the one that is written.
        """
        self._folder = folder
        self._file_bytes = file_bytes
        self._max_bytes = max_bytes
        self._handle: BinaryIO | None = None
        self.file: TapeFile | None = None
        self.size = 0

    @property
    def wants_new_file(self) -> bool:
        """Whether there is no file, or one that is full."""
        return self._handle is None or self.size >= self._file_bytes

    def begin(self, began: int, epoch: str, before: int) -> int:
        """Begin a new file, and make room for it; return how many were deleted.

        Raises:
            OSError: it can't be made.
        """
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        deleted = self._make_room()
        path = self._folder / f"{began:020d}-{epoch}-{before}{SUFFIX}"
        self._handle = path.open("xb", buffering=0)
        self.file, self.size = TapeFile(began, epoch, before, path), 0
        return deleted

    def _make_room(self) -> int:
        files = list_files(self._folder)
        total = self._file_bytes + sum(_size(file.path) for file in files)
        deleted = 0
        for file in files:
            if total <= self._max_bytes:
                break
            total -= _size(file.path)
            file.path.unlink(missing_ok=True)
            deleted += 1
        return deleted

    def write(self, blocks: list[Block]) -> int:
        """Append blocks; return how many bytes they took.

        Raises:
            OSError: the disk does not take them; what was written of them is a cut, and the file is at its end.
        """
        assert self._handle is not None
        data = b"".join(map(encode_block, blocks))
        left = memoryview(data)
        try:
            while left:
                left = left[self._handle.write(left) :]
        except OSError:
            self.close()
            raise
        self.size += len(data)
        return len(data)

    def close(self) -> None:
        """Be done with the file; harmless when repeated."""
        handle, self._handle, self.file = self._handle, None, None
        if handle is not None:
            with suppress(OSError):
                handle.close()


class TapeReader:
    """Reads the blocks of one file, also while it is being written. May block: call it in a thread."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it can't be opened.
        """
        self._handle = path.open("rb")
        self._done = 0
        self._blocks: Iterator[Block | Cut] = read_blocks(self._handle.read)

    def read(self) -> Block | Cut | None:
        """Return the next block; ``None`` at the end, which may be further on at the next call.

        A cut is returned again by the next call, unless the file has grown since.

        Raises:
            OSError: the file can't be read.
        """
        block = next(self._blocks, None)
        if block is None or isinstance(block, Cut):
            self._handle.seek(self._done)
            self._blocks = read_blocks(self._handle.read)
        else:
            self._done = self._handle.tell()
        return msgspec.structs.replace(block, at=self._done) if isinstance(block, Cut) else block

    def close(self) -> None:
        """Be done with it; harmless when repeated."""
        self._handle.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
