"""How an adapter comes and goes: importing it opens nothing, cancelling it leaves nothing, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import trio

from broker.core.errors import FeedError, FrameError
from broker.core.ticks import Tick
from feeds.testing.checks.bench import Bench
from feeds.testing.guard import run_guarded
from feeds.testing.scripted_venue import CONNECT_S, PAUSE_S, Plan, ScriptedVenue
from feeds.testing.stage import BASE_NS, PlainContext
from feeds.testing.subject import Subject
from feeds.testing.verdicts import Failed, Skipped, one_line
from feeds.venue import VenueFeed

_IMPORT_S = 60.0
_MOMENTS = 40
#: A stuck connection takes 2 s to close; what takes longer holds up the broker's going down.
_LONGEST_END_S = 5.0
_MEASURE_S = 0.3
_MARK, _DONE = "tapecast-import: ", "tapecast-imported"


def check_import(subject: Subject) -> str:
    """Importing the adapter reaches no network, starts no program and no thread."""
    command = [sys.executable, "-m", "feeds.testing.importing", subject.kind, str(subject.folder.absolute())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each or os.getcwd() for each in sys.path)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            timeout=_IMPORT_S,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"importing it takes more than {_IMPORT_S:g} s") from None
    found = [line.removeprefix(_MARK) for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if found:
        raise Failed(f"at import: {one_line(found[0])}")
    if done.returncode or _DONE not in done.stdout.splitlines():
        raise Failed(f"at import: the process ends with {done.returncode}: {one_line(done.stderr[-200:])}")
    return f"from {subject.source.origin}"


def check_cancel(bench: Bench) -> str:
    """Cancelled at any moment, it ends soon, says so, and leaves no task, no thread and no connection."""
    play = bench.play()
    frames = len(bench.subject.golden.frames)
    whole_s = CONNECT_S + PAUSE_S * (frames + 2) if play.venue.attempts else 3.0
    moments = [whole_s * n / (_MOMENTS - 1) for n in range(_MOMENTS)]
    longest = max(run_guarded(lambda dog, at=at: _cancel(bench, at)) for at in moments)  # type: ignore[misc]
    stuck = run_guarded(lambda dog: _cancel(bench, whole_s, Plan(end="stuck")))
    return f"at {_MOMENTS + 1} moments, over within {max(longest, stuck):.2f} s"


async def _cancel(bench: Bench, at: float, plan: Plan | None = None) -> float:
    """Cancel once; return how long it took."""
    venue = ScriptedVenue(bench.subject.golden, lambda number: plan or Plan())
    feed = bench.subject.make()
    ctx = PlainContext(venue, feed, bench.subject.wanted(feed))
    threads = set(threading.enumerate())
    ended: list[BaseException | None] = []

    async def run() -> None:
        try:
            await feed.run(ctx)
        except BaseException as error:
            ended.append(error)
            raise
        ended.append(None)

    tasks = set(_all_tasks())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.sleep(at)
            if ended:
                raise _Over
            began = trio.current_time()
            nursery.cancel_scope.cancel()
    except* _Over:
        raise Failed(f"ends by itself after {at:.2f} s: {_what(ended[0])}") from None
    except* FeedError as group:
        raise Failed(f"ends by itself: {one_line(group.exceptions[0])}") from None
    took = trio.current_time() - began
    _hold_nothing_left(
        ended, took, at, venue, set(_all_tasks()) - tasks, set(threading.enumerate()) - threads
    )
    return took


class _Over(Exception):
    """The feed ended before it was cancelled."""


def _hold_nothing_left(
    ended: list[BaseException | None],
    took: float,
    at: float,
    venue: ScriptedVenue,
    tasks: set[trio.lowlevel.Task],
    threads: set[threading.Thread],
) -> None:
    when = f"cancelled after {at:.2f} s, it"
    if ended == [None]:
        raise Failed(
            f"{when} returns as if nothing had been: it must not catch trio.Cancelled, or BaseException"
        )
    if took > _LONGEST_END_S:
        raise Failed(f"{when} takes {took:.1f} s to end")
    if tasks:
        raise Failed(f"{when} leaves {len(tasks)} task: {one_line(min(task.name for task in tasks))}")
    own = [each.name for each in threads if not each.name.startswith("Trio")]
    if own:
        raise Failed(f"{when} leaves a thread: {own[0]}")
    if venue.open:
        raise Failed(f"{when} leaves {venue.open} connections open")


def _all_tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def _what(error: BaseException | None) -> str:
    return "run() returned" if error is None else one_line(f"{type(error).__name__}: {error}")


def check_cost(bench: Bench) -> str:
    """What a tick costs; nothing is required."""
    play = bench.play()
    frames = [each.payload for each in bench.subject.golden.frames if not each.is_body]
    feed = bench.subject.make()
    if not isinstance(feed, VenueFeed) or not frames or not play.story.ticks:
        raise Skipped("its frames are not read by a parser that can be measured alone")
    ticks = rounds = 0
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < _MEASURE_S:
        ticks += _parse_all(feed, frames)
        rounds += 1
    each = spent * 1e9 / rounds
    shown = f"{each * rounds / ticks:,.0f} ns a tick, " if ticks else ""
    return f"{shown}{each / len(frames):,.0f} ns a frame, parsed alone"


def _parse_all(feed: VenueFeed, frames: list[str | bytes]) -> int:
    parser = feed.new_parser()
    ticks: list[Tick] = []
    for frame in frames:
        try:
            ticks += parser.parse(frame, BASE_NS)
        except FrameError:
            continue
    return len(ticks)
