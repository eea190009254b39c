"""A feed on its real venue for a while: what came, what was missed, what was refused, and how late it was."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import trio
from structlog.testing import capture_logs

from broker.core.ticks import Tick
from broker.runtime.feed_runner import Upstream
from feeds.testing.stage import open_stage
from feeds.testing.story import Ended, Gapped, Story, faults_in
from feeds.testing.subject import Subject
from feeds.testing.verdicts import one_line

#: A tick whose `ts` is later than this after its `rts` can't be right.
_AHEAD_NS = 60 * 10**9


class Observation:
    """What a feed did while it was looked at.

    Attributes:
        seconds: for how long.
        story: all of it.
        faults: what it did that no feed may do, each once; empty if all was well.
    """

    def __init__(self, subject: Subject, seconds: float, story: Story, faults: list[str]) -> None:
        self.subject = subject
        self.seconds = seconds
        self.story = story
        self.faults = faults

    @property
    def is_good(self) -> bool:
        """Whether ticks came, and nothing was wrong with them."""
        return bool(self.story.ticks) and not self.faults

    def as_object(self) -> dict[str, Any]:
        """Return it as what JSON can carry; times in milliseconds."""
        ticks = self.story.ticks
        ends = [
            each.error for each in self.story.events if isinstance(each, Ended) and each.error is not None
        ]
        return {
            "seconds": self.seconds,
            "ticks": dict(sorted(Counter(tick.ch for tick in ticks).items())),
            "symbols": sorted({tick.sym for tick in ticks}),
            "gaps": sum(isinstance(each, Gapped) for each in self.story.events),
            "refused": dict(Counter(each.kind or one_line(each, 120) for each in self.story.refused)),
            "connections": self.story.lives,
            "errors": [
                one_line(f"{type(each).__name__}: {each}") for each in ends if isinstance(each, Exception)
            ],
            "lag_ms": _lag(ticks),
            "faults": self.faults,
        }

    def as_lines(self) -> list[str]:
        """Return it for people."""
        shown = self.as_object()
        counts = ", ".join(f"{count} {channel}" for channel, count in shown["ticks"].items()) or "none"
        lines = [
            f"{self.seconds:g} s live: {shown['connections']} connections, {shown['gaps']} gaps",
            f"ticks    {counts}; symbols: {one_line(', '.join(shown['symbols']) or 'none', 160)}",
        ]
        if shown["lag_ms"]:
            lag = shown["lag_ms"]
            lines.append(
                f"lag      median {lag['median']:.1f} ms, 99 % {lag['p99']:.1f} ms, most {lag['most']:.1f} ms"
            )
        lines += [f"refused  {count} × {reason}" for reason, count in shown["refused"].items()]
        lines += [f"ended    {error}" for error in shown["errors"]]
        return lines + [f"FAILED   {fault}" for fault in self.faults]


async def observe(subject: Subject, seconds: float, upstream: Upstream) -> Observation:
    """Run the feed against its real venue, under the broker's supervisor.

    Args:
        subject: the feed, loaded.
        seconds: for how long.
        upstream: the network.
    """
    with capture_logs():
        async with open_stage(
            subject, None, upstream=upstream, time_ns=time.time_ns, known=("tick", "book", "end")
        ) as stage:
            with trio.move_on_after(seconds):
                while not stage.story.is_over:  # noqa: ASYNC110  # whatever the story tells
                    await trio.sleep(0.1)
    story = stage.story
    faults = dict.fromkeys(text for _, text in faults_in(story, subject.make().venue))
    faults.update(dict.fromkeys(_odd_times(story.ticks)))
    return Observation(subject, seconds, story, list(faults)[:20])


def _odd_times(ticks: list[Tick]) -> list[str]:
    odd = [
        tick
        for tick in ticks
        if not isinstance(tick.ts, int) or not 10**18 <= tick.ts <= tick.rts + _AHEAD_NS
    ]
    return [f"ts = {odd[0].ts!r} is not when it happened, in nanoseconds"] if odd else []


def _lag(ticks: list[Tick]) -> dict[str, float]:
    """Return how much later than ``ts`` ticks were received; empty without any."""
    lags = sorted((tick.rts - tick.ts) / 1e6 for tick in ticks if type(tick.ts) is type(tick.rts) is int)
    if not lags:
        return {}
    return {"median": lags[len(lags) // 2], "p99": lags[len(lags) * 99 // 100], "most": lags[-1]}
