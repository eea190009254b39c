"""`tapecast watch`: follow symbols in a terminal, or as lines of JSON."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import trio
from rich.console import Console
from rich.live import Live

from broker.client.board import Board, printable
from broker.client.client import Client
from broker.client.connect import connect
from broker.client.errors import ClientClosed, ConnectError, SubscribeError
from broker.client.events import AnyEvent, Gap, Notice, State
from broker.client.screen import ledger_line, plain_lines, render
from broker.client.subscription import Subscription
from broker.client.verdict import Verdict
from broker.client.wire import parse_url
from broker.core.encoding import tick_to_json
from broker.core.ticks import Tick

REFRESH_S = 0.25
PLAIN_S = 1.0
PLAIN_ROWS = 20
INTERRUPTED = 130
#: How long Ctrl-C may take, to ask for the last ledger.
LAST_LEDGER_S = 0.5


class OutputClosed(Exception):
    """Whoever read our output has had enough (``| head``)."""


class Output:
    """Standard output as a file descriptor.

    Written in a thread: a reader that is slow must not keep the client from answering the broker. And not
    through Python's own buffer, which would complain at exit of a pipe that is closed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, text: bytes) -> None:
        """Write all of it. Raises `OutputClosed`; cancelled, it is not known how much was written."""
        try:
            await trio.to_thread.run_sync(self._write_all, text, abandon_on_cancel=True)
        except BrokenPipeError:
            raise OutputClosed from None

    def _write_all(self, text: bytes) -> None:
        view = memoryview(text)
        while view:
            view = view[os.write(self._fd, view) :]


class View(Protocol):
    """How what happens is shown."""

    async def show(self, subscription: Subscription[Tick], event: AnyEvent) -> None:
        """Take in one event. Raises `OutputClosed`."""

    async def run(self, client: Client) -> None:
        """Show it from time to time, until cancelled. Raises `OutputClosed`."""

    def note(self, text: str) -> None:
        """Tell the user of something besides."""

    async def finish(self, verdict: Verdict) -> None:
        """Show the last verdict; nothing else comes behind it. Raises `OutputClosed`."""


class JsonLines:
    """One line for each tick, as the protocol has it in JSON, one for each gap, notice and verdict.

    A verdict comes with every heartbeat, at most once a second, and at the end.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    async def show(self, subscription: Subscription[Tick], event: AnyEvent) -> None:
        match event:
            case Gap():
                lines = [gap_to_json(event)]
            case Notice():
                lines = [notice_to_json(event)]
            case _:
                lines = list(map(tick_to_json, event.ticks))
        if lines:
            await self._output.write(b"\n".join(lines) + b"\n")

    async def run(self, client: Client) -> None:
        checks = 0
        while True:
            await trio.sleep(PLAIN_S)
            verdict = client.verdict
            if verdict.checks > checks:
                checks = verdict.checks
                await self._output.write(verdict_to_json(verdict, is_final=False) + b"\n")

    def note(self, text: str) -> None:
        complain(text)

    async def finish(self, verdict: Verdict) -> None:
        await self._output.write(verdict_to_json(verdict, is_final=True) + b"\n")


class PlainLines:
    """A few lines every second."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._board = Board(trio.current_time())

    async def show(self, subscription: Subscription[Tick], event: AnyEvent) -> None:
        self._board.take(event, subscription.statistics().mode, trio.current_time())

    async def run(self, client: Client) -> None:
        while True:
            await trio.sleep(PLAIN_S)
            now = trio.current_time()
            self._board.sample(now)
            lines = plain_lines(self._board, client.statistics(), now, most=PLAIN_ROWS)
            await self._output.write("".join(f"{line}\n" for line in lines).encode())

    def note(self, text: str) -> None:
        complain(text)

    async def finish(self, verdict: Verdict) -> None:
        await self._output.write(f"{ledger_line(verdict)}\n".encode())


class LiveTable:
    """A table that stays in its place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board(trio.current_time())

    async def show(self, subscription: Subscription[Tick], event: AnyEvent) -> None:
        self._board.take(event, subscription.statistics().mode, trio.current_time())

    async def run(self, client: Client) -> None:
        console = self._console
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                now = trio.current_time()
                self._board.sample(now)
                size = console.size
                picture = render(
                    self._board,
                    client.statistics(),
                    client.verdict,
                    now,
                    width=size.width,
                    height=size.height,
                )
                live.update(picture, refresh=True)
                await trio.sleep(REFRESH_S)

    def note(self, text: str) -> None:
        self._board.notes.append(printable(text))

    async def finish(self, verdict: Verdict) -> None:
        """Leave the picture as it is: its last line is the verdict."""
        await trio.lowlevel.checkpoint()


def gap_to_json(gap: Gap) -> bytes:
    """Return a gap as the protocol has it."""
    fields = {"type": "gap", "sub": gap.sub, "ch": gap.ch, "sym": gap.sym}
    return msgspec.json.encode({**fields, "from": gap.first, "to": gap.last, "reason": gap.reason})


def notice_to_json(notice: Notice) -> bytes:
    """Return a notice as the protocol has it."""
    fields = {"type": "notice", "state": notice.state, "sub": notice.sub}
    return msgspec.json.encode({**fields, "queued": notice.queued, "limit": notice.limit})


def verdict_to_json(verdict: Verdict, *, is_final: bool) -> bytes:
    """Return what the ledgers have shown so far; a type of our own, which no broker sends."""
    return msgspec.json.encode(
        {
            "type": "verdict",
            "agrees": verdict.agrees,
            "exact": verdict.is_exact,
            "subscriptions": verdict.verified,
            "ticks": verdict.ticks,
            "differences": verdict.differences,
            "final": is_final,
        }
    )


def complain(text: str) -> None:
    """Say something on standard error; nobody listening is no error."""
    with suppress(OSError, ValueError):
        print(f"tapecast: {printable(text)}", file=sys.stderr, flush=True)


async def watch(url: str, symbols: Sequence[str], *, channels: Sequence[str], as_json: bool) -> int:
    """Follow symbols until Ctrl-C, or until the broker wants no more of us.

    Args:
        url: as `connect` takes it.
        symbols: names, ``VENUE:*`` or ``*``.
        channels: none: ``quote`` and ``trade``.
        as_json: lines of JSON on standard output; otherwise a live table, or plain lines where standard
            output is no terminal.

    Returns:
        The exit code: 0 once the reader of our output has gone, or on SIGTERM; 1 if the first connection
        fails, every channel is refused, the broker sends us away, or one of its ledgers was not true; 2 for a
        URL that is none; 130 on Ctrl-C.
    """
    console = Console()
    output = Output(sys.stdout.fileno()) if as_json or not _is_screen(console) else None
    if output is None:
        view: View = LiveTable(console)
    else:
        view = JsonLines(output) if as_json else PlainLines(output)
    return await follow(url, symbols, channels=channels or ("quote", "trade"), view=view)


def _is_screen(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


async def follow(url: str, symbols: Sequence[str], *, channels: Sequence[str], view: View) -> int:
    """Do what `watch` does, with any view."""
    try:
        parse_url(url)
    except ValueError as exc:
        complain(str(exc))
        return 2
    watcher = _Watcher(view, symbols, list(dict.fromkeys(channels)))
    await watcher.run(url)
    for text in watcher.last_words:
        complain(text)
    return watcher.exit_code


class _Watcher:
    """One task for each channel, one that shows, one that listens for Ctrl-C."""

    def __init__(self, view: View, symbols: Sequence[str], channels: Sequence[str]) -> None:
        self.exit_code = 0
        self.last_words: list[str] = []
        self._view = view
        self._symbols = symbols
        self._channels = channels
        self._refused = 0
        self._scope = trio.CancelScope()
        self._client: Client | None = None

    async def run(self, url: str) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_for_signal)
                await self._watch(url)
                nursery.cancel_scope.cancel()
        if self._client is not None:
            await self._conclude(self._client.verdict)

    async def _conclude(self, verdict: Verdict) -> None:
        """Show the last verdict; a ledger that was not true at any time is a failure."""
        if not verdict.agrees:
            self.exit_code = 1
            self.last_words += [f"the ledger disagrees: {text}" for text in verdict.differences]
        with suppress(OutputClosed):
            await self._view.finish(verdict)

    async def _watch(self, url: str) -> None:
        try:
            async with connect(url, on_state=self._tell) as client, trio.open_nursery() as nursery:
                self._client = client
                nursery.start_soon(self._show, client)
                for channel in self._channels:
                    nursery.start_soon(self._follow, client, channel)
        except ConnectError as exc:
            self._end(1, str(exc))

    def _tell(self, state: State) -> None:
        """Say that the connection is lost, and that it is back, where the view does not show it."""
        if isinstance(self._view, LiveTable) or self._client is None:
            return
        now = self._client.statistics()
        if state == "reconnecting":
            complain(f"lost the connection to {now.url}: {now.last_error}; trying again")
        elif state == "connected":
            complain(f"connected to {now.url} again")

    def _end(self, exit_code: int, *last_words: str) -> None:
        self.exit_code = exit_code
        self.last_words.extend(last_words)
        self._scope.cancel()

    async def _wait_for_signal(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self._client is not None and self._client.state == "connected":
                    with trio.move_on_after(LAST_LEDGER_S), suppress(ClientClosed):
                        await self._client.verify(settle_s=LAST_LEDGER_S / 2)
                self._end(INTERRUPTED if number == signal.SIGINT else 0)

    async def _show(self, client: Client) -> None:
        try:
            await self._view.run(client)
        except OutputClosed:
            self._end(0)

    async def _follow(self, client: Client, channel: str) -> None:
        try:
            async with client.subscribe(channel, self._symbols) as subscription:
                for rejected in subscription.rejected:
                    self._view.note(f"{channel}: {rejected.symbol} is rejected: {rejected.code}")
                async for event in subscription.events():
                    await self._view.show(subscription, event)
        except OutputClosed:
            self._end(0)
        except SubscribeError as exc:
            self._refused += 1
            if self._refused == len(self._channels):
                self._end(1, f"{channel}: {exc.message}")
            else:
                self._view.note(f"{channel}: {exc.message}")
        except ClientClosed as exc:
            if self._scope.cancel_called:
                return
            self._end(1, f"the broker closed the connection for good ({exc.code}): {exc.reason}")
