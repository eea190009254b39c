"""What the checks of one feed share: the feed, how it plays its golden frames, and what it talks to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from broker.core.encoding import tick_to_json
from broker.core.errors import FeedPermanentError
from feeds.testing.guard import Watchdog, run_guarded
from feeds.testing.scripted_venue import Plan, ScriptedVenue
from feeds.testing.stage import Stage, open_stage
from feeds.testing.story import Rule, Story, faults_in, innermost
from feeds.testing.subject import Subject
from feeds.testing.verdicts import Failed, Skipped, one_line

#: In seconds of simulated time: how long a feed has to come back after whatever happened; the backoff is 30 s at most.
COMEBACK_S = 300.0
#: For what is done after the last frame, such as fetching a snapshot a second time.
_SETTLE_S = 5.0
_NO_NETWORK_S = 10.0
_POLLING_S = 20.0


@dataclass(frozen=True, slots=True)
class Play:
    """The golden frames, played once to the end, on a venue that behaves.

    Attributes:
        flushed: how often it has flushed.
    """

    story: Story
    venue: ScriptedVenue
    flushed: int


class Bench:
    """One feed under check."""

    def __init__(self, subject: Subject, *, bless: bool = False) -> None:
        """``bless``: the ticks that come out are right, and are to be kept as such."""
        self.subject = subject
        self.bless = bless
        self._play: Play | None = None

    def play(self) -> Play:
        """Return how the feed plays its frames; played once.

        Raises:
            Failed: it doesn't.
        """
        if self._play is None:
            self._play = run_guarded(self._play_once)
        return self._play

    def play_again(self) -> Play:
        """Play once more, from the beginning."""
        return run_guarded(self._play_once)

    def broken_rules(self) -> set[Rule]:
        """Return the rules that it breaks already when it just plays its frames."""
        play = self.play()
        return {rule for rule, _ in faults_in(play.story, self.subject.make().venue)}

    def faults(self, rule: Rule) -> list[str]:
        """Return how it breaks a rule when it just plays its frames."""
        found = faults_in(self.play().story, self.subject.make().venue)
        return [text for each, text in found if each == rule]

    def stage(self, venue: ScriptedVenue, seed: int = 1) -> AbstractAsyncContextManager[Stage]:
        """Run the feed against a venue, and hold the rules that it hasn't broken already."""
        return open_stage(self.subject, venue, seed=seed, known=self.broken_rules())

    def socket_play(self) -> Play:
        """Return `play` of a feed that opens a WebSocket, and has frames for it.

        Raises:
            Skipped: it opens none.
            Failed: there are no frames.
        """
        play = self.play()
        if not play.venue.attempts:
            raise Skipped("it opens no WebSocket")
        if not any(not each.is_body for each in self.subject.golden.frames):
            raise Failed("no frames: put a frames.jsonl beside the adapter, or name a --recording")
        return play

    async def _play_once(self, watchdog: Watchdog) -> Play:
        venue = ScriptedVenue(self.subject.golden)
        # What it breaks here is told by the check whose concern it is, and not by each.
        async with open_stage(self.subject, venue, known=("tick", "book", "end")) as stage:
            await self._until_through(stage, venue)
            await trio.sleep(_SETTLE_S)
            flushed = stage.runner.gate.flushes
        return Play(stage.story, venue, flushed)

    async def _until_through(self, stage: Stage, venue: ScriptedVenue) -> None:
        limit_s = COMEBACK_S + len(self.subject.golden.frames)
        with trio.move_on_after(limit_s):
            while not stage.story.is_over:
                await trio.sleep(0.05)
                failure = innermost(stage.story.failure)
                if isinstance(failure, FeedPermanentError):
                    break
                if venue.sockets:
                    if all(each.is_drained for each in venue.sockets if each.is_open):
                        return
                elif (venue.gets and trio.current_time() > _POLLING_S) or (
                    not venue.attempts and not venue.gets and trio.current_time() > _NO_NETWORK_S
                ):
                    return
        failure = stage.story.failure
        if failure is not None:
            raise Failed(f"can't play its frames: {type(failure).__name__}: {one_line(failure)}")
        if not stage.story.is_over:
            raise Failed(f"has not come to the end of its frames within {limit_s:g} s")


def drained(venue: ScriptedVenue, number: int) -> Callable[[], bool]:
    """Return whether the connection of this number, or a later one, has had all its frames taken."""
    return lambda: any(each.is_drained and each.number >= number for each in venue.sockets)


def ticks_of(play: Play) -> list[bytes]:
    """Return the ticks, one line of JSON each.

    Raises:
        Failed: one can't be encoded.
    """
    try:
        return [tick_to_json(tick) for tick in play.story.ticks]
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Failed(f"publishes a tick that can't be encoded: {one_line(error)}") from None


def planned(*plans: Plan) -> Callable[[int], Plan]:
    """Return the plans one after the other, for a venue; after them it behaves."""
    return lambda number: plans[number] if number < len(plans) else Plan()
