"""What venues and networks do to connections, and that the feed comes back from each as if it were the first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import trio

from broker.core.ticks import Book
from feeds.testing.checks.bench import COMEBACK_S, Bench, drained, planned
from feeds.testing.guard import run_guarded
from feeds.testing.scripted_venue import Plan, ScriptedVenue, VirtualSocket
from feeds.testing.story import Began, Ended, Gapped, Published, Refused, Story
from feeds.testing.verdicts import Failed, Skipped

_RECONNECTS = 20
_REFUSALS = 12
_THROTTLED_S = 600.0
#: Attempts and requests while a venue says 429.
_MOST_A_SECOND = 0.5
#: A cap of 30 s, as the supervisor has it, and what connecting takes.
_LONGEST_PAUSE_S = 60.0


def check_refused(bench: Bench) -> str:
    """Connections are refused: it tries again, later and later, never twice in the same rhythm, and comes back."""
    bench.socket_play()
    pauses = [run_guarded(lambda dog, seed=seed: _refuse(bench, seed)) for seed in (1, 2)]  # type: ignore[misc]
    for each in pauses:
        if sum(each) < _REFUSALS / 2:
            raise Failed(f"tries {len(each) + 1} times within {sum(each):.2f} s: without a pause that grows")
        if max(each) > _LONGEST_PAUSE_S:
            raise Failed(f"waits {max(each):.0f} s before it tries again")
    if [round(each, 3) for each in pauses[0]] == [round(each, 3) for each in pauses[1]]:
        raise Failed(
            "waits exactly as long each time: without jitter all clients of a venue come back together"
        )
    return f"pauses of {min(pauses[0]):.2f} to {max(pauses[0]):.1f} s, with jitter"


async def _refuse(bench: Bench, seed: int) -> list[float]:
    venue = ScriptedVenue(bench.subject.golden, planned(*[Plan(refusal="connection refused")] * _REFUSALS))
    async with bench.stage(venue, seed) as stage:
        await stage.until(drained(venue, _REFUSALS), COMEBACK_S * 2, "connects after refusals")
    first = venue.attempts[: _REFUSALS + 1]
    return [after - before for before, after in pairwise(first)]


def check_throttled(bench: Bench) -> str:
    """A venue says 429 for ten minutes: it asks rarely, and comes back afterwards."""
    play = bench.play()
    if not play.venue.attempts and not play.venue.gets:
        raise Skipped("it asks no venue")
    if not play.story.ticks:
        raise Skipped("no tick comes out of its frames, so it would not show that it is back")
    asked = run_guarded(lambda dog: _throttle(bench, is_whole=True))
    if play.venue.attempts and play.venue.gets:
        # Its sockets are all right, and its pages are not.
        asked = max(asked, run_guarded(lambda dog: _throttle(bench, is_whole=False)))
    if asked > _MOST_A_SECOND * _THROTTLED_S:
        raise Failed(
            f"asks {asked} times in {_THROTTLED_S:g} s while the venue answers 429: that gets it banned"
        )
    return f"asks {asked} times in {_THROTTLED_S:g} s"


async def _throttle(bench: Bench, *, is_whole: bool) -> int:
    refusal = "HTTP 429 Too Many Requests"
    is_throttling = is_whole
    venue = ScriptedVenue(bench.subject.golden, lambda number: Plan(refusal=refusal if is_throttling else ""))
    venue.get_refusal = refusal
    async with bench.stage(venue) as stage:
        await trio.sleep(_THROTTLED_S)
        asked = len(venue.attempts) + len(venue.gets)
        is_throttling, venue.get_refusal = False, ""
        before = len(stage.story.ticks)
        await stage.until(lambda: len(stage.story.ticks) > before, COMEBACK_S, "brings ticks after 429")
    return asked


def check_dropped(bench: Bench) -> str:
    """The connection is lost behind each frame: it comes back each time, with all its frames."""
    bench.socket_play()
    frames = bench.subject.golden.frames
    cuts = sorted({round(n * len(frames) / 10) for n in range(10)})
    run_guarded(lambda dog: _drop(bench, [Plan(frames=frames[:cut], end="lost") for cut in cuts]))
    return f"comes back from {len(cuts)} lost connections"


async def _drop(bench: Bench, plans: list[Plan]) -> None:
    venue = ScriptedVenue(bench.subject.golden, planned(*plans))
    async with bench.stage(venue) as stage:
        await stage.until(
            drained(venue, len(plans)), COMEBACK_S * (1 + len(plans) / 4), "comes back from lost connections"
        )


def check_mute(bench: Bench) -> str:
    """A connection that is there and says nothing is given up, and another one is made."""
    bench.socket_play()
    waited = run_guarded(lambda dog: _go_mute(bench, Plan()))
    return f"gives it up after {waited:.0f} s"


def check_half_open(bench: Bench) -> str:
    """A connection whose other end is gone, so that sending and closing hang, is given up as well."""
    bench.socket_play()
    first = run_guarded(lambda dog: _go_mute(bench, Plan(is_stuck=True)))
    later = run_guarded(lambda dog: _go_mute(bench, Plan(end="stuck")))
    return f"gives it up after {first:.0f} s, or {later:.0f} s after the last frame"


async def _go_mute(bench: Bench, plan: Plan) -> float:
    venue = ScriptedVenue(bench.subject.golden, planned(plan))
    async with bench.stage(venue) as stage:
        feed = stage.runner.feed
        patience_s = (feed.stale_after_s or COMEBACK_S) + COMEBACK_S
        what = "connects again" + ("" if feed.stale_after_s else " (it has no stale_after_s)")
        if not plan.is_stuck:
            await stage.until(drained(venue, 0), COMEBACK_S, "takes all frames")
        began = trio.current_time()
        await stage.until(lambda: len(venue.attempts) > 1, patience_s, what)
        waited = trio.current_time() - began
        await stage.until(drained(venue, 1), COMEBACK_S, "takes all frames of the next connection")
    return waited


def check_reconnects(bench: Bench) -> str:
    """After twenty reconnects there is one connection, with one subscription, and each tick comes once."""
    play = bench.socket_play()
    story, venue = run_guarded(lambda dog: _reconnect(bench))
    if venue.most_open > play.venue.most_open:
        raise Failed(
            f"holds {venue.most_open} connections at a time, after reconnects; before {play.venue.most_open}"
        )
    if story.lives <= _RECONNECTS:
        _hold_gaps_between(story)
    first, *later = _by_life(venue, play.venue.most_open)
    twice = next((text for socket in first for text in _sent_twice(socket)), None)
    if twice is not None:
        raise Failed(f"sends the same twice as it begins: {twice!r:.160}")
    for number, sockets in enumerate(later[:_RECONNECTS], 1):
        asked, again = _asked(first), _asked(sockets)
        if asked != again:
            more = again - asked or asked - again
            word = "more" if again - asked else "fewer"
            raise Failed(f"reconnect {number}: sends {word} than at first: {next(iter(more))!r:.160}")
    counts = [
        Counter(event.tick.ch for event in life if isinstance(event, Published))
        for life in story.lives_apart()
    ]
    if len(counts) > _RECONNECTS and counts[_RECONNECTS] != counts[0]:
        raise Failed(
            f"brings {dict(counts[_RECONNECTS])} ticks after reconnects, and {dict(counts[0])} before"
        )
    return f"{_RECONNECTS} reconnects, {sum(_asked(first).values())} requests each"


def _hold_gaps_between(story: Story) -> None:
    """Raise `Failed` if a feed that connects again by itself says nothing of what it may have missed."""
    live: set[str] = set()
    for event in story.events:
        if isinstance(event, Gapped | Began):
            live = live - {event.sym} if isinstance(event, Gapped) else set()
        elif isinstance(event, Published) and isinstance(event.tick, Book):
            if event.tick.kind == "snapshot" and event.tick.sym in live:
                raise Failed(
                    f"connects again by itself and tells no gap of the book of {event.tick.sym}: "
                    "ctx.gap('book', symbol) as the connection ends, or raise FeedError and leave it to the supervisor"
                )
            live.add(event.tick.sym)


def _sent_twice(socket: VirtualSocket) -> list[str]:
    """Return what was sent more than once within a second of the first."""
    if not socket.sent:
        return []
    until = socket.sent[0][0] + 1.0
    counts = Counter(str(message) for at, message in socket.sent if at <= until)
    return [text for text, count in counts.items() if count > 1]


async def _reconnect(bench: Bench) -> tuple[Story, ScriptedVenue]:
    at_once = max(bench.play().venue.most_open, 1)
    last = _RECONNECTS * at_once
    venue = ScriptedVenue(bench.subject.golden, lambda number: Plan(end="lost" if number < last else "mute"))
    async with bench.stage(venue) as stage:
        await stage.until(drained(venue, last), COMEBACK_S * 4, f"comes back {_RECONNECTS} times")
        # For what is fetched behind the last frame.
        await trio.sleep(0.5)
    return stage.story, venue


def _by_life(venue: ScriptedVenue, at_once: int) -> list[list[VirtualSocket]]:
    step = max(at_once, 1)
    return [venue.sockets[start : start + step] for start in range(0, len(venue.sockets), step)]


def _asked(sockets: list[VirtualSocket]) -> Counter[str]:
    """Count what was sent; numbers in it, such as ids of requests and times, may differ."""
    texts = (str(message) for socket in sockets for _, message in socket.sent)
    return Counter(re.sub(r"[0-9]+", "0", text) for text in texts)


def check_gap(bench: Bench) -> str:
    """A frame of a book that is lost at the venue becomes a gap and a snapshot, with nothing in between."""
    play = bench.socket_play()
    spots = _delta_frames(play.story)
    if not spots:
        raise Skipped("no delta of a book, with another one behind it, comes out of its frames")
    chosen = spots[:: -(-len(spots) // 6)]
    noticed = sum(run_guarded(lambda dog, spot=spot: _lose(bench, *spot)) for spot in chosen)  # type: ignore[misc]
    if not noticed:
        raise Failed(
            f"none of {len(chosen)} lost frames was noticed. If the venue numbers nothing, say so: //! skip gap REASON"
        )
    return f"{noticed} of {len(chosen)} lost frames were missed, and became gaps, then snapshots"


def _delta_frames(story: Story) -> list[tuple[int, str]]:
    """Return the numbers of frames, from 0, that brought a delta, and its symbol; but the last of each symbol."""
    books = [(each.frame - 1, each.tick) for each in story.published if isinstance(each.tick, Book)]
    last = {tick.sym: number for number, tick in books}
    return [(number, tick.sym) for number, tick in books if tick.kind == "delta" and number < last[tick.sym]]


async def _lose(bench: Bench, lost: int, sym: str) -> bool:
    """Lose one frame; tell whether it was noticed."""
    golden = bench.subject.golden
    position = [n for n, each in enumerate(golden.frames) if not each.is_body][lost]
    frames = [*golden.frames[:position], *golden.frames[position + 1 :]]
    venue = ScriptedVenue(golden, planned(Plan(frames=frames)))
    async with bench.stage(venue) as stage:
        await stage.until(lambda: venue.delivered > lost, COMEBACK_S, "takes its frames")

        def noticed_at() -> int | None:
            """Return where in the story it was noticed: the first thing behind the frames before, that is no tick."""
            events = stage.story.events
            earlier = [
                n for n, each in enumerate(events) if isinstance(each, Published) and each.frame <= lost
            ]
            later = range(max(earlier, default=0) + 1, len(events))
            return next((n for n in later if isinstance(events[n], Gapped | Ended | Refused)), None)

        with trio.move_on_after(10.0):
            while noticed_at() is None:  # noqa: ASYNC110  # whatever the story tells
                await trio.sleep(0.01)
        noticed = noticed_at()
        if noticed is None:
            return False
        with trio.move_on_after(10.0):
            while not _is_told(stage.story.events[noticed:], sym):  # noqa: ASYNC110
                await trio.sleep(0.01)
        if not _is_told(stage.story.events[noticed:], sym):
            raise Failed(
                f"refuses the frame behind one that was lost, and tells no gap of the book of {sym}: "
                "ctx.gap('book', symbol), or raise FeedError"
            )
        await stage.until(
            lambda: any(_is_snapshot(each, sym) for each in stage.story.events[noticed:]),
            COMEBACK_S,
            f"serves the book of {sym} again, whole, after a frame was lost",
        )
    return True


def _is_told(events: Sequence[object], sym: str) -> bool:
    return any(isinstance(each, Ended) or each == Gapped("book", sym) for each in events)


def _is_snapshot(event: object, sym: str) -> bool:
    return (
        isinstance(event, Published)
        and isinstance(event.tick, Book)
        and event.tick.sym == sym
        and event.tick.kind == "snapshot"
    )
