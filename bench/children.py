"""Load clients and publisher as child processes that talk in lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio
from msgspec import Struct

from bench.plan import decode_line, encode_line
from bench.servers import ROOT

T = TypeVar("T", bound=Struct)


class ChildError(Exception):
    """A child process ended before it should have."""


class Child(Generic[T]):
    """One of our processes, and the lines it writes."""

    def __init__(self, process: trio.Process, type_: type[T]) -> None:
        self._process = process
        self._type = type_
        self._seen = b""

    async def tell(self, message: Struct) -> None:
        """Send a line. Raises `ChildError`."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(encode_line(message))
        except trio.BrokenResourceError:
            raise ChildError("a load process has ended by itself; see what it said above") from None

    async def hear(self) -> T:
        """Wait for the next line. Raises `ChildError` at the end."""
        assert self._process.stdout is not None
        while b"\n" not in self._seen:
            data = await self._process.stdout.receive_some()
            if not data:
                raise ChildError("a load process has ended by itself; see what it said above")
            self._seen += data
        line, _, self._seen = self._seen.partition(b"\n")
        return decode_line(line, self._type)


@asynccontextmanager
async def run_child(module: str, first: Struct, type_: type[T]) -> AsyncIterator[Child[T]]:
    """Run one of our modules as a process, send it its first line, and end it with the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        child = Child(process, type_)
        await child.tell(first)
        yield child
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.aclose()
            await process.stdout.aclose()
