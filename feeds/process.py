"""A program of any language as a feed: it writes ticks to its standard output, one JSON object a line.

What a line has to look like is in `broker.core.tick_lines`; what is none is refused, and the rest goes on. Standard
error is logged, a few lines a minute of it. The program runs in a process group of its own, which ends as a whole:
with SIGTERM first, and with SIGKILL when that has not helped in time. A child that leaves the group (``setsid``) is
out of our reach. The program should end by itself when it can't write any more, as most do (SIGPIPE): that is what
happens to it when the broker is killed.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from math import inf
from typing import Annotated, Literal

import trio
from pydantic import Field, field_validator

from broker.core.errors import FeedError, FeedPermanentError
from broker.core.lines import Lines
from broker.core.tick_lines import TickLines
from feeds.base import Feed, FeedContext
from feeds.line_intake import LineIntake, LineOptions

#: How long SIGTERM has to help before SIGKILL comes, in seconds.
KILL_AFTER_S = 5.0
#: How long a program may go on after it has closed its output, in seconds.
END_AFTER_S = 5.0
#: What an ended program has left in a pipe is there at once; who waits longer waits for somebody that it left behind.
LEFT_OVER_S = 1.0
LEFT_OVER_BYTES = 1 << 20
_CHUNK = 64 << 10
#: Lines of standard error that are logged, of each such time, and how long they may be.
ERROR_LINES, ERROR_LINES_S, ERROR_LINE_BYTES = 20, 60.0, 2048
#: It was never a program, and trying again won't make it one.
_NO_PROGRAM = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENOEXEC,
    errno.EISDIR,
    errno.E2BIG,
}


class Process(Feed):
    """A program of any language that writes ticks to its standard output, one JSON object a line."""

    class Options(LineOptions):
        """Keys of a feed of the type ``process``."""

        type: Literal["process"] = "process"
        #: The program and its arguments; no shell, unless it is one.
        command: Annotated[tuple[str, ...], Field(min_length=1)]

        @field_validator("command")
        @classmethod
        def _can_be_run(cls, command: tuple[str, ...]) -> tuple[str, ...]:
            if not command[0] or any("\0" in part for part in command):
                raise ValueError('must be a program and its arguments, like ["python3", "my_feed.py"]')
            return command

    def __init__(self, options: Options) -> None:
        self.options = options
        self.venue = options.venue
        self.symbols = options.canonical()
        self.can_pause = options.can_pause
        self.stale_after_s = options.stale_after_s

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`: one life of the program. It ends with the program's exit code 0.

        Raises:
            FeedError: it ended otherwise; with its last words.
            FeedPermanentError: it can't be run.
        """
        process = await self._start()
        ticks = TickLines(self.venue, self.symbols)
        intake = LineIntake(ctx, ticks, ctx.flush)
        running = _Running(process, intake, _Complaints(ctx))
        try:
            await running.run()
        finally:
            intake.abandon()
            with trio.CancelScope(shield=True):
                await running.end()
        if fault := running.fault():
            raise FeedError(f"{self.options.command[0]}: {fault}")

    async def _start(self) -> trio.Process:
        try:
            return await trio.lowlevel.open_process(
                list(self.options.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Its own group: it can be ended as a whole, and a Ctrl-C at the broker is not its business.
                start_new_session=True,
            )
        except OSError as exc:
            kind = FeedPermanentError if exc.errno in _NO_PROGRAM else FeedError
            raise kind(f"{self.options.command[0]}: can't be run: {exc.strerror or exc}") from exc


class _Running:
    """A program from its start to its end."""

    def __init__(self, process: trio.Process, intake: LineIntake, complaints: _Complaints) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._intake = intake
        self._complaints = complaints
        self._output, self._errors = _Pipe(process.stdout), _Pipe(process.stderr)
        self._is_late = False

    async def run(self) -> None:
        """Read what it writes until it has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait)
            nursery.start_soon(self._read_errors)
            while chunk := await self._output.receive():
                await self._intake.take(chunk)
            await self._intake.end()
            with trio.move_on_after(END_AFTER_S) as patience:
                await self._process.wait()
            if patience.cancelled_caught:
                self._is_late = True
                nursery.cancel_scope.cancel()

    async def _wait(self) -> None:
        await self._process.wait()
        # Who is left of its group would keep the pipes open.
        self._signal(signal.SIGKILL)
        self._output.writer_is_gone()
        self._errors.writer_is_gone()

    async def _read_errors(self) -> None:
        lines = Lines(ERROR_LINE_BYTES)
        while chunk := await self._errors.receive():
            for line in lines.feed(chunk):
                self._complaints.hear(lines.overlong or line)
        for line in lines.end():
            self._complaints.hear(lines.overlong or line)

    async def end(self) -> None:
        """Make sure that it is gone; it has `KILL_AFTER_S` to go by itself."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with trio.move_on_after(KILL_AFTER_S):
                await self._process.wait()
            # Its children may have stayed, even if it went.
            self._signal(signal.SIGKILL)
            await self._process.wait()
        await self._output.aclose()
        await self._errors.aclose()
        self._complaints.tell_hidden()

    def fault(self) -> str:
        """Return how it ended, if that is not how a program ends that has no more to give."""
        code = self._process.returncode
        last = f": {self._complaints.last}" if self._complaints.last else ""
        if self._is_late:
            return f"it closed its standard output and did not end within {END_AFTER_S:g} s{last}"
        if code is not None and code < 0:
            return f"ended by {_signal_name(-code)}{last}"
        return f"exit code {code}{last}" if code else ""

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):
            # Nobody is left, or nobody of ours (a program of another user's).
            return


class _Pipe:
    """One of a program's outputs. Once the program is gone, only what it has left there is read."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._left_bytes: int | None = None
        self._scope = trio.CancelScope()

    async def receive(self) -> bytes:
        """Return the next bytes, ``b""`` at the end."""
        is_left = self._left_bytes is not None
        with trio.CancelScope(deadline=trio.current_time() + LEFT_OVER_S if is_left else inf) as self._scope:
            data = bytes(await self._stream.receive_some(_CHUNK))
            if self._left_bytes is not None:
                self._left_bytes -= len(data)
                if self._left_bytes < 0:
                    return b""
            return data
        return b""

    def writer_is_gone(self) -> None:
        """Wait only a moment for more, from now on."""
        self._left_bytes = LEFT_OVER_BYTES
        self._scope.deadline = trio.current_time() + LEFT_OVER_S

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Complaints:
    """What a program writes to its standard error: the log gets some of it, and its last line says why it ended.

    Attributes:
        last: the last line that is not empty.
    """

    def __init__(self, ctx: FeedContext) -> None:
        self.last = ""
        self._ctx = ctx
        self._since = -inf
        self._logged = self._hidden = 0

    def hear(self, line: bytes) -> None:
        """Take a line."""
        text = _printable(line.decode("utf-8", "replace"))[:500]
        if not text:
            return
        self.last = text
        now = trio.current_time()
        if now - self._since > ERROR_LINES_S:
            self.tell_hidden()
            self._since, self._logged = now, 0
        if self._logged < ERROR_LINES:
            self._logged += 1
            self._ctx.log.info("the program says", text=text)
        else:
            self._hidden += 1

    def tell_hidden(self) -> None:
        """Log how many lines were not logged since this was said last."""
        if self._hidden:
            self._ctx.log.warning("the program said more", lines=self._hidden, last=self.last)
            self._hidden = 0


def _printable(text: str) -> str:
    """Escape what would play tricks with a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
