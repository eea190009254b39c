"""Programs as feeds: real ones, in Python. Whatever they do, the feed tells it, and none of them stays behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import feeds.process
from broker.app import Serving, serve
from broker.config import load_config
from broker.core.errors import FeedError, FeedPermanentError
from broker.core.lines import MOST_LINE_BYTES
from broker.core.ticks import Quote
from feeds.process import ERROR_LINES, Process
from tests.feeds.fakes import FakeContext

#: In front of each program: what it needs to write a line.
PRELUDE = """
import json, os, signal, sys, time
def quote(n=1, **changes):
    fields = {"ch": "quote", "sym": "LAB:A", "bid": str(n), "bid_size": "1", "ask": None, "ask_size": None}
    print(json.dumps({**fields, **changes}), flush=True)
def book(kind, sym="LAB:A", **changes):
    print(json.dumps({"ch": "book", "sym": sym, "kind": kind, "bids": [["1", "1"]], "asks": [], **changes}), flush=True)
"""
FOREVER = "\nwhile True: time.sleep(1000)\n"


class Behind(FakeContext):
    """A broker that has no room for ticks before `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()

    async def flush(self) -> None:
        # A pipe may bring half a line.
        if self.ticks:
            await super().flush()
        else:
            await trio.lowlevel.checkpoint()


def process(program: str, **options: Any) -> Process:
    return command([sys.executable, "-u", "-c", PRELUDE + program], **options)


def command(parts: list[str], **options: Any) -> Process:
    return Process(Process.Options(type="process", command=tuple(parts), venue="LAB", **options))


async def run(feed: Process, ctx: FakeContext | None = None) -> FakeContext:
    ctx = ctx or FakeContext()
    with trio.fail_after(60):
        await feed.run(ctx)
    return ctx


async def failure(feed: Process, ctx: FakeContext | None = None) -> str:
    with pytest.raises(FeedError) as caught:
        await run(feed, ctx)
    assert not isinstance(caught.value, FeedPermanentError)
    return str(caught.value).removeprefix(f"{sys.executable}: ")


async def run_while(feed: Process, ctx: FakeContext, is_enough: Callable[[FakeContext], bool]) -> None:
    """Run a feed until the context has seen enough, and cancel it then."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, ctx)
            await ctx.wait_for(is_enough)
            nursery.cancel_scope.cancel()


def pids_in(ctx: FakeContext) -> list[int]:
    """Return the process ids that a program has told as prices."""
    return [int(tick.bid) for tick in ctx.ticks if isinstance(tick, Quote) and tick.bid is not None]


async def assert_gone(pid: int) -> None:
    """Wait until a process is not there any more; one that nobody has reaped yet is dead, too."""
    with trio.fail_after(60):
        while is_there(pid):  # noqa: ASYNC110  # nothing tells when somebody else's child is gone
            await trio.sleep(0.01)


def is_there(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"


# ── what it writes ───────────────────────────────────────────────────────────────────────────────


async def test_lines_become_ticks_and_exit_code_nought_is_the_end() -> None:
    ctx = await run(process("quote(1)\nquote(2, ts='1700000000000000000')\nprint()\nprint(end='')\nquote(3)"))
    assert [(tick.bid, tick.ts) for tick in ctx.ticks if isinstance(tick, Quote)] == [
        ("1", ctx.time_ns()),
        ("2", 1_700_000_000_000_000_000),
        ("3", ctx.time_ns()),
    ]
    assert ctx.flushed[-1][1] == 3
    assert ctx.refusals == []


async def test_last_line_needs_no_end() -> None:
    program = """sys.stdout.write('{"ch": "status", "sym": "LAB:A", "state": "halted"}')"""
    assert len((await run(process(program))).ticks) == 1


async def test_bad_line_is_refused_with_its_number_and_the_rest_goes_on() -> None:
    ctx = await run(process("quote(1)\nprint('hello')\nquote(1.5, bid=1.5)\nquote(4)"))
    assert len(ctx.ticks) == 2
    assert [str(error).partition(" is not ")[0] for error in ctx.refusals] == [
        "line 2: 'hello'",
        "line 3: bid: 1.5",
    ]
    assert [error.kind for error in ctx.refusals] == ["not JSON", "bid"]


async def test_line_too_long_is_refused_and_the_next_one_is_read() -> None:
    ctx = await run(process(f"quote(1)\nprint('x' * {MOST_LINE_BYTES + 1})\nquote(2)"))
    assert len(ctx.ticks) == 2
    [error] = ctx.refusals
    assert str(error).startswith("line 2: it is too long")


async def test_symbols_of_others_are_refused() -> None:
    ctx = await run(process("quote(1)\nquote(2, sym='OTHER:A')\nquote(3, sym='LAB:B')", symbols=("A",)))
    assert len(ctx.ticks) == 1
    assert [error.kind for error in ctx.refusals] == ["sym", "sym"]


async def test_refused_part_of_a_book_is_a_gap_and_nothing_follows_before_the_snapshot() -> None:
    program = """
book("snapshot"); book("delta"); book("delta", bids=[["x", "1"]]); book("delta"); book("snapshot"); book("delta")
"""
    ctx = await run(process(program))
    story = [each[0] if isinstance(each, tuple) else each.kind for each in ctx.story]  # type: ignore[union-attr]
    assert story == ["snapshot", "delta", "gap", "snapshot", "delta", "gap"]
    assert ctx.gaps == [("book", "LAB:A")] * 2, "the second one is the end of the program"


async def test_program_waits_while_the_broker_is_behind() -> None:
    ctx = Behind()
    feed = process("for n in range(20000): quote(n + 1)")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, feed, ctx)
        await ctx.wait_for(lambda ctx: len(ctx.ticks) > 0)
        assert len(ctx.ticks) < 20_000, "more is not read before the first flush has ended"
        ctx.gate.set()
    assert len(ctx.ticks) == 20_000
    assert feed.can_pause


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────


async def test_other_exit_code_is_a_failure_with_the_last_words() -> None:
    ctx = FakeContext()
    program = (
        "quote(1)\nprint('first', file=sys.stderr)\nprint('no such market\\n', file=sys.stderr)\nsys.exit(3)"
    )
    assert await failure(process(program), ctx) == "exit code 3: no such market"
    assert len(ctx.ticks) == 1
    said = [fields["text"] for event, fields in ctx.log.events if event == "the program says"]
    assert said == ["first", "no such market"]


async def test_exit_code_without_words_is_a_failure_too() -> None:
    assert await failure(process("sys.exit(1)")) == "exit code 1"


async def test_signal_that_ended_it_is_named() -> None:
    assert await failure(process("os.kill(os.getpid(), signal.SIGSEGV)")) == "ended by SIGSEGV"


@pytest.mark.parametrize("parts", [["/no/such/program"], ["."], [str(Path(__file__))]])
async def test_what_is_no_program_fails_for_good(parts: list[str]) -> None:
    with pytest.raises(FeedPermanentError, match="can't be run"):
        await run(command(parts))


async def test_output_that_is_closed_is_an_end_that_has_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds.process, "END_AFTER_S", 0.05)
    ctx = FakeContext()
    text = await failure(process("quote(os.getpid())\nos.close(1)\nsys.stdout = None" + FOREVER), ctx)
    assert text.startswith("it closed its standard output and did not end within")
    await assert_gone(pids_in(ctx)[0])


async def test_child_that_holds_the_output_open_does_not_keep_the_feed_from_ending() -> None:
    program = """
if os.fork() == 0:
    time.sleep(1000)
quote(1)
sys.stdout.flush(); os._exit(0)
"""
    assert len((await run(process(program))).ticks) == 1


async def test_child_that_left_the_group_does_not_keep_the_feed_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds.process, "LEFT_OVER_S", 0.05)
    program = """
pid = os.fork()
if pid == 0:
    os.setsid()
    time.sleep(1000)
quote(pid)
time.sleep(0.1)
os._exit(0)
"""
    ctx = await run(process(program))
    [pid] = pids_in(ctx)
    os.kill(pid, signal.SIGKILL)


async def test_all_that_was_written_before_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe is full when the program ends, and the broker takes its time."""
    ctx = Behind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, process("for n in range(1500): quote(n + 1)"), ctx)
        await ctx.wait_for(lambda ctx: len(ctx.ticks) > 0)
        ctx.gate.set()
    assert [int(tick.bid or 0) for tick in ctx.ticks if isinstance(tick, Quote)] == list(range(1, 1501))


# ── standard error ───────────────────────────────────────────────────────────────────────────────


async def test_flood_of_errors_blocks_nobody_and_is_logged_in_part() -> None:
    program = """
for n in range(5000): print("error", n, "x" * 100, file=sys.stderr)
print("\\x1b[31mlast\\n", file=sys.stderr)
quote(1)
"""
    ctx = await run(process(program))
    assert len(ctx.ticks) == 1
    said = [event for event, _ in ctx.log.events if event == "the program says"]
    assert len(said) == ERROR_LINES
    assert ("the program said more", {"lines": 5001 - ERROR_LINES, "last": r"\x1b[31mlast"}) in ctx.log.events


async def test_error_line_without_end_is_cut() -> None:
    ctx = await run(process("sys.stderr.write('x' * 3_000_000)\nquote(1)"))
    [text] = [fields["text"] for event, fields in ctx.log.events if event == "the program says"]
    assert set(text) == {"x"}
    assert len(text) <= 512


# ── cancelled ────────────────────────────────────────────────────────────────────────────────────


async def test_cancellation_leaves_no_process_of_the_group_behind() -> None:
    program = (
        """
pid = os.fork()
if pid == 0:
    while True: time.sleep(1000)
quote(os.getpid()); quote(pid)
"""
        + FOREVER
    )
    ctx = FakeContext()
    await run_while(process(program), ctx, lambda ctx: len(ctx.ticks) == 2)
    for pid in pids_in(ctx):
        await assert_gone(pid)


async def test_program_may_tidy_up_at_sigterm() -> None:
    program = (
        """
def leave(*args):
    print("tidied up", file=sys.stderr); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
quote(os.getpid())
"""
        + FOREVER
    )
    ctx = FakeContext()
    feed = process(program)
    await run_while(feed, ctx, lambda ctx: len(ctx.ticks) == 1)
    await assert_gone(pids_in(ctx)[0])


async def test_program_that_ignores_sigterm_is_killed_after_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds.process, "KILL_AFTER_S", 0.05)
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nquote(os.getpid())" + FOREVER
    ctx = FakeContext()
    await run_while(process(program), ctx, lambda ctx: len(ctx.ticks) == 1)
    [pid] = pids_in(ctx)
    assert not is_there(pid)


async def test_cancelled_feed_gives_up_its_books() -> None:
    ctx = FakeContext()
    await run_while(process("book('snapshot')" + FOREVER), ctx, lambda ctx: len(ctx.ticks) == 1)
    assert ctx.gaps == [("book", "LAB:A")]


async def test_no_descriptor_is_left_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await run(process("quote(1)"))
        await failure(process("sys.exit(1)"))
    assert set(os.listdir("/proc/self/fd")) == before


# ── in a broker ──────────────────────────────────────────────────────────────────────────────────


async def test_broker_starts_a_program_again_and_leaves_none_behind(tmp_path: Path) -> None:
    program = (
        PRELUDE
        + f"""
import pathlib
lives = pathlib.Path({str(tmp_path / "lives")!r})
if not lives.exists():
    lives.touch(); quote(1); sys.exit("not this time")
quote(os.getpid(), sym="LAB:B")
{FOREVER}"""
    )
    table = {"type": "process", "command": [sys.executable, "-c", program], "venue": "LAB"}
    config = load_config(None, {"TAPECAST_FEEDS": json.dumps([table])}, {"server.port": 0})
    stop = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def run_broker(task_status: trio.TaskStatus[Serving]) -> None:
                await serve(config, stop=stop, task_status=task_status)

            where = await nursery.start(run_broker)
            async with httpx.AsyncClient(base_url=where.url) as http:
                ticks: list[Any] = []
                while len(ticks) < 2:
                    await trio.sleep(0.01)
                    ticks = (await http.get("/v1/snapshot?ch=quote&symbols=LAB:*")).json()["data"]
                [feed] = (await http.get("/v1/feeds")).json()["feeds"]
            stop.set()
    assert (feed["state"], feed["restarts"]) == ("live", 1)
    assert feed["last_error"] == f"{sys.executable}: exit code 1: not this time"
    await assert_gone(int(ticks[1]["bid"]))
