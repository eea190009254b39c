"""From the ingest channel over the tape to the wires. Nothing here awaits a subscriber.

Two tasks: one puts batches on the tape and offers them to the mailboxes, the other goes round the
subscribers that have something to get. A round is an `Outbox.take` and a non-blocking write each: no task
switch, no channel, no encoding per delivery. Ticks that come during a round gather for the next; that is
all the batching that load needs. The gap between two rounds grows with their length, up to a
configured most, so that many subscribers cost at most about half a core in writes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import count
from math import inf

import structlog
import trio

from broker.core.mailbox import FULL_ENOUGH, GapReason, Mailbox
from broker.core.outbox import WRITE_TICKS
from broker.core.router import Router
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topic
from broker.runtime.subscriber import Subscriber

log = structlog.get_logger()

#: How long a round may go on before the readers have their turn, in seconds.
TURN_S = 0.001
#: Subscribers that are taken for, and then written to, together: the interpreter and the kernel throw each
#: other out of the processor's caches, so they should not take turns for every subscriber.
GROUP = 32
#: The gap between the starts of two rounds, in lengths of the earlier one.
GAP_ROUNDS = 2.0
#: Trio sleeps whole milliseconds, rounded up, as `epoll_wait` counts them: so a gap that grows is right on average.
HALF_MS = 0.0005


class Fanout:
    """Delivers to all subscribers.

    Attributes:
        rounds: how many have been made.
        behind: those for whom something waits, or did a moment ago; ordered. Whoever keeps up is not in it.
    """

    def __init__(self, router: Router, *, max_gap_s: float) -> None:
        """``max_gap_s``: the most that a tick waits, under load, for the round before to be over long enough."""
        self.router = router
        self.rounds = 0
        self.behind: dict[Subscriber, None] = {}
        self._max_gap_s = max_gap_s
        #: Topics of which somebody got something since the last round; ordered, so that a run can be repeated.
        self._touched: dict[Topic, None] = {}
        self._due: list[Subscriber] = []
        self._delayed: list[tuple[float, int, Subscriber]] = []
        self._order = count()
        self._wake = trio.Event()

    def publish(self, ticks: Iterable[Tick]) -> None:
        """Put a batch on the tape, and hand it over to everybody who wants it. Never waits."""
        self.router.publish(ticks, trio.current_time(), self._touched)
        if self._touched:
            self._wake.set()

    def gap(self, ch: Channel, sym: str, reason: GapReason = "feed_reset") -> None:
        """Tell a topic's subscribers that the venue's ticks were missed, or dropped before they had a number."""
        for mailbox in self.router.gap(ch, sym, reason):
            mailbox.owner.wake()  # type: ignore[attr-defined]  # a Subscriber

    def wake_at(self, subscriber: Subscriber, due: float) -> None:
        """Wake a subscriber at a time of Trio's clock, unless it will be woken earlier anyhow."""
        if due != inf and (not subscriber.timers or due < subscriber.timers[-1]):
            subscriber.timers.append(due)
            heapq.heappush(self._delayed, (due, next(self._order), subscriber))

    def schedule(self, subscriber: Subscriber) -> None:
        """Flush a subscriber in the next round; called by `Subscriber.wake` only."""
        self._due.append(subscriber)
        self._wake.set()

    async def run(self) -> None:
        """Go round for ever."""
        while True:
            await self._wait_until_due()
            start = trio.current_time()
            await self._round(start)
            took = trio.current_time() - start
            gap = min(self._max_gap_s, took * GAP_ROUNDS - HALF_MS)
            await trio.sleep_until(max(start + gap, trio.current_time()))

    async def _wait_until_due(self) -> None:
        while not self._due and not self._touched:
            deadline = self._delayed[0][0] if self._delayed else float("inf")
            if deadline > trio.current_time():
                self._wake = trio.Event()
                with trio.move_on_at(deadline):
                    await self._wake.wait()
            self._collect_delayed()

    def _collect_delayed(self) -> None:
        now = trio.current_time()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, subscriber = heapq.heappop(self._delayed)
            subscriber.timers.pop()
            subscriber.wake()

    def _collect_touched(self, now: float) -> None:
        """Turn touched mailboxes into subscribers to be flushed, now or when their contract says."""
        mailboxes = self.router.touched_mailboxes(self._touched)
        self._touched = {}
        for mailbox in mailboxes:
            subscriber: Subscriber = mailbox.owner  # type: ignore[assignment]  # set in Subscriber
            if subscriber.is_scheduled:
                continue
            if mailbox.is_deferred and self._defer(subscriber, mailbox, now):
                subscriber.note_behind()
                continue
            subscriber.is_scheduled = True
            self._due.append(subscriber)

    def _defer(self, subscriber: Subscriber, mailbox: Mailbox, now: float) -> bool:
        """Let a subscriber wait as its contract says; False if it is to be flushed nevertheless.

        What waits has its place in the queue, where it is bounded and conflated. A queue that is half full
        is sent: the contract says how long the broker may hold a tick, not that it should lose one by it.
        """
        if subscriber.wire.is_blocked:
            return False
        if mailbox.due is not None:
            mailbox.release(now)
            if not mailbox.ready:
                self.wake_at(subscriber, mailbox.due)
                return True
        if not mailbox.max_delay_s:
            return False
        self.wake_at(subscriber, now + mailbox.max_delay_s)
        return mailbox.fill() < FULL_ENOUGH

    async def _round(self, now: float) -> None:
        self.rounds += 1
        self._collect_delayed()
        self._collect_touched(now)
        due, self._due = self._due, []
        turn_ends = now + TURN_S
        for start in range(0, len(due), GROUP):
            self._serve(due[start : start + GROUP], now)
            if trio.current_time() > turn_ends:
                await trio.lowlevel.checkpoint()
                now = trio.current_time()
                turn_ends = now + TURN_S

    def _serve(self, group: list[Subscriber], now: float) -> None:
        """Take for a few subscribers, then write to them.

        Who has a lane is served right here, as `Outbox.take` and `Mailbox.take_fresh` do it for the others: with
        50,000 writes a second, the calls on the way there cost more than the joining of the ticks.
        """
        router = self.router
        cursor = router.tape.cursor()
        delivered = 0
        writes = []
        for subscriber in group:
            subscriber.is_scheduled = False
            lane = subscriber.lane
            try:
                if lane is not None and lane.is_clear and (count := len(inbox := lane.inbox)) <= WRITE_TICKS:
                    if not count:
                        continue
                    taken = inbox[:]
                    inbox.clear()
                    lane.passed += count
                    delivered += count
                    data = subscriber.pack(taken, cursor)
                else:
                    data = subscriber.take(now)
            except Exception:
                subscriber.fail("a flush failed")
            else:
                if data:
                    writes.append((subscriber, data))
        router.delivered += delivered
        for subscriber, data in writes:
            try:
                subscriber.last_sent = now
                subscriber.wire.offer(data)
                if subscriber.lane is None:
                    subscriber.write_on(now)
            except Exception:
                subscriber.fail("a flush failed")
