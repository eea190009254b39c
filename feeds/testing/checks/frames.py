"""Frames that no venue should send: refused, or the connection is given up; nothing else, and no wrong tick."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from broker.core.errors import FeedError
from feeds.testing.checks.bench import COMEBACK_S, Bench, drained, planned
from feeds.testing.golden import GoldenFrame
from feeds.testing.guard import Watchdog, run_guarded
from feeds.testing.mutations import garbage, giants, halves, with_mutations
from feeds.testing.scripted_venue import Plan, ScriptedVenue
from feeds.testing.stage import PlainContext, Watched, hold_law
from feeds.testing.story import Rule, Story, innermost
from feeds.testing.verdicts import Failed

#: Runs of all golden frames with some of them mutated.
_FUZZED = 200


def check_garbage(bench: Bench) -> str:
    """What is no frame of any venue."""
    return _check_among(bench, garbage())


def check_truncated(bench: Bench) -> str:
    """Each kind of frame, cut off."""
    bench.socket_play()
    frames = [each.payload for each in bench.subject.golden.frames if not each.is_body]
    step = -(-len(frames) // 8)
    return _check_among(bench, [half for frame in frames[::step] for half in halves(frame)])


def check_huge(bench: Bench) -> str:
    """Frames of megabytes, one of them larger than a connection takes."""
    return _check_among(bench, giants())


def _check_among(bench: Bench, odd: Sequence[str | bytes]) -> str:
    """Send each odd frame among the golden ones, then lose the connection; the last one has none."""
    bench.socket_play()
    refused, ended = run_guarded(lambda dog: _send_among(bench, odd))
    return f"{len(odd)} frames: {refused} refused, {ended} connections given up for them"


async def _send_among(bench: Bench, odd: Sequence[str | bytes]) -> tuple[int, int]:
    frames = bench.subject.golden.frames
    middle = max(len(frames) // 2, 1)
    plans = [Plan(frames=[*frames[:middle], GoldenFrame(each), *frames[middle:]], end="lost") for each in odd]
    venue = ScriptedVenue(bench.subject.golden, planned(*plans))
    async with bench.stage(venue) as stage:
        limit_s = COMEBACK_S + 40.0 * len(odd)
        await stage.until(drained(venue, len(plans)), limit_s, "comes back after such frames")
    given_up = sum(not each.is_drained for each in venue.sockets[: len(plans)])
    return len(stage.story.refused), given_up


def check_fuzz(bench: Bench) -> str:
    """Golden frames with parts of them changed: nothing is raised but what is declared, and every tick is one."""
    bench.play()
    if not bench.subject.golden.frames:
        bench.socket_play()
    known: set[Rule] = bench.broken_rules() | {"book"}
    if not bench.subject.make().is_checked:
        # Then the broker looks at every tick itself.
        known.add("tick")
    refused = ended = 0
    for seed in range(_FUZZED):
        story = run_guarded(_fuzz(bench, seed))
        try:
            hold_law(story, bench.subject.make().venue, known)
        except Failed as failure:
            raise Failed(f"seed {seed}: {failure}") from None
        refused += len(story.refused)
        ended += isinstance(innermost(story.failure), FeedError)
    return f"{_FUZZED} runs: {refused} frames refused, {ended} connections given up"


def _fuzz(bench: Bench, seed: int) -> Callable[[Watchdog], Awaitable[Story]]:
    golden = bench.subject.golden
    frames = with_mutations(golden.frames, random.Random(seed))

    async def run(watchdog: Watchdog) -> Story:
        story = Story()
        # Its pages are those of the mutated frames, too.
        venue = ScriptedVenue(replace(golden, frames=tuple(frames)), lambda number: Plan(end="lost"))
        feed = bench.subject.make()
        ctx = PlainContext(venue, feed, bench.subject.wanted(feed))
        watched = Watched(feed, story, lambda: venue.delivered)
        # An adapter that connects again by itself would go on for ever.
        with trio.move_on_after(30.0):
            try:
                await watched.run(ctx)
            except Exception:
                return story
        return story

    return run
