"""Replays: a task for each subscription that reads a recording, as fast as this subscriber takes it.

The reader puts what it has read into the subscription's `Replay`, which is bounded, and waits while that is full.
So backpressure goes from the subscriber's socket over its outbox to the file, and no further: nobody else notices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog
import trio

from broker.core import errors
from broker.core.errors import RequestError
from broker.core.messages import ReplayRequest
from broker.core.playhead import Playhead
from broker.core.replay import Item, Plan, Played, Replay
from broker.core.requests import nearest, show
from broker.core.subscription import Subscription
from broker.core.tape import Tape
from broker.core.ticks import iso_to_ns
from broker.runtime.subscriber import Subscriber

log = structlog.get_logger()


class Recording(ABC):
    """Something that can be played.

    Attributes:
        name: as subscribers ask for it.
        venues: those that it may have symbols of; ``None``: any.
    """

    name: str
    venues: frozenset[str] | None

    @abstractmethod
    def knows(self, epoch: str, offset: int) -> bool:
        """Tell whether it can be played on behind this place.

        Raises:
            OSError: it can't be read.
        """

    @abstractmethod
    async def play(self, player: Player) -> None:
        """Read it, from where the player's plan says, and give all of it to the player; return at its end.

        Raises:
            OSError, BrokerError: it can't be read on; the player logs it, and goes live.
        """


class Player:
    """What a recording is read into: for one subscription, at the speed that its plan says.

    Attributes:
        head: decides what of the recording is for the subscription.
        replay: what the subscription has not been sent yet.
    """

    def __init__(self, subscriber: Subscriber, sub: Subscription, replay: Replay, head: Playhead) -> None:
        self.plan = replay.plan
        self.head = head
        self.replay = replay
        self.is_binary = subscriber.session.codec.is_binary
        self._subscriber = subscriber
        self._sub = sub
        self._room = trio.Event()
        # Here, not in `run`: the subscription may end before its task has begun.
        self._scope = trio.CancelScope()
        replay.cancel = self._scope.cancel
        replay.on_room = self._make_room
        #: Recorded time and Trio's time of the first tick.
        self._began: tuple[int, float] | None = None

    def _make_room(self) -> None:
        if not self.replay.is_full:
            self._room.set()

    async def put(self, items: Iterable[Item]) -> None:
        """Pass items on, each when its time has come and there is room."""
        for item in items:
            if self.plan.speed is not None and isinstance(item, Played):
                await self._wait_until_due(item.at, self.plan.speed)
            while self.replay.is_full:
                await self._wait_for_room()
            self.replay.put(item)
        if len(self.replay):
            self._subscriber.wake()

    async def _wait_until_due(self, at: int, speed: float) -> None:
        """Wait for what was recorded at ``at``, counted from the first tick, so that no delay adds up."""
        if self._began is None:
            self._began = at, trio.current_time()
        first, started = self._began
        due = started + (at - first) / 1e9 / speed
        if due > trio.current_time():
            self._subscriber.wake()
            await trio.sleep_until(due)

    async def _wait_for_room(self) -> None:
        self._room = trio.Event()
        self._subscriber.wake()
        await self._room.wait()

    def read_to(self, offset: int) -> None:
        """Note that everything up to ``offset`` has been put in."""
        self.replay.read_to(offset)
        self._subscriber.wake()

    async def wait_until_sent(self) -> None:
        """Wait until the subscriber has taken everything that was put in."""
        while len(self.replay):
            await self._wait_for_room()

    def end(self, *, is_final: bool) -> None:
        """Say that the subscription can go live when all has been sent; it ends this task by that."""
        self.replay.is_read, self.replay.is_final = True, is_final
        self._subscriber.wake()

    def go_on(self) -> None:
        """Take back `end`: more has been recorded before the subscription went live."""
        self.replay.is_read = False

    async def run(self, recording: Recording) -> None:
        """Play a recording to its end. Whatever goes wrong ends here."""
        with self._scope:
            try:
                await recording.play(self)
                await self.put(self.head.end())
            except (OSError, errors.BrokerError) as exc:
                log.warning("a recording can't be read on", recording=recording.name, error=str(exc))
                await self.put(self.head.end())
            except Exception:
                # Ours, whatever it is; it must not reach the others.
                self._subscriber.fail("a replay failed", recording=recording.name)
                return
            self.end(is_final=True)


class Replays:
    """All recordings that there are, and those who play them.

    Attributes:
        playing: replays at this moment.
    """

    def __init__(self, tape: Tape, recordings: Sequence[Recording], *, most: int) -> None:
        """``most``: replays at a time."""
        self.recordings: Mapping[str, Recording] = {each.name: each for each in recordings}
        self.playing = 0
        self._tape = tape
        self._most = most
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Be there for ever; without it nothing is played."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def of(self, subscriber: Subscriber) -> _Replays:
        """Return what the subscriber's session asks for its replays."""
        return _Replays(self, subscriber)

    def plan(self, request: ReplayRequest, cursor: str | None) -> Plan:
        """See `broker.core.replay.Replays`."""
        recording = self.recordings.get(request.recording)
        if recording is None:
            there = ", ".join(self.recordings) or "none"
            raise RequestError(
                "unknown_recording",
                f"replay.recording: {show(request.recording)} is not one of this broker's; there are {there}"
                f"{nearest(request.recording, self.recordings)}",
            )
        since = _to_ns(request.since)
        after, is_over = self._place(recording, cursor)
        if self.playing >= self._most and not is_over:
            raise RequestError(
                "too_many_replays",
                f"replay: {self.playing} play already, and {self._most} are the most at a time",
                retry=True,
            )
        speed = None if request.speed == "max" else float(request.speed)
        return Plan(recording.name, speed, since, after, recording.venues, is_over)

    def _place(self, recording: Recording, cursor: str | None) -> tuple[tuple[str, int] | None, bool]:
        """Return where to go on behind a cursor, and whether that is not in the recording but live."""
        if cursor is None:
            return None, False
        epoch, _, number = cursor.rpartition("-")
        if not (number.isascii() and number.isdigit() and len(number) <= 19):
            return None, True
        offset = int(number)
        try:
            is_known = recording.knows(epoch, offset)
        except OSError:
            is_known = False
        # What the memory has need not be read from the disk.
        oldest = self._tape.history.oldest
        is_at_hand = epoch == self._tape.epoch and oldest - 1 <= offset <= self._tape.offset
        return ((epoch, offset), False) if is_known and not is_at_hand else (None, True)

    def start(
        self, subscriber: Subscriber, sub: Subscription, plan: Plan, wants: Callable[[str], bool]
    ) -> Replay:
        """See `broker.core.replay.Replays`."""
        assert self._nursery is not None, "replays are not running"
        replay = Replay(plan, self._tape.offset, self._tape.epoch)
        head = Playhead(sub.ch, wants, plan)
        player = Player(subscriber, sub, replay, head)
        self.playing += 1
        self._nursery.start_soon(
            partial(self._run, player), name=f"replay {plan.recording} {subscriber.session.id}"
        )
        return replay

    async def _run(self, player: Player) -> None:
        try:
            await player.run(self.recordings[player.plan.recording])
        finally:
            self.playing -= 1


class _Replays:
    """`broker.core.replay.Replays` for one subscriber."""

    def __init__(self, all_: Replays, subscriber: Subscriber) -> None:
        self._all = all_
        self._subscriber = subscriber

    def plan(self, request: ReplayRequest, cursor: str | None) -> Plan:
        return self._all.plan(request, cursor)

    def start(self, sub: Subscription, plan: Plan, wants: Callable[[str], bool]) -> Replay:
        return self._all.start(self._subscriber, sub, plan, wants)


def _to_ns(since: str | int | None) -> int | None:
    """Return a time as nanoseconds.

    Raises:
        RequestError: it is none.
    """
    if since is None or isinstance(since, int):
        return since
    if since.isascii() and since.isdigit() and len(since) <= 19:
        return int(since)
    try:
        return iso_to_ns(since)
    except ValueError:
        raise RequestError(
            "invalid_request",
            f"replay.from: {show(since)} is not a time; right is RFC 3339 with its zone, as "
            "2024-08-08T23:55:00Z, or nanoseconds since the Unix epoch",
        ) from None
