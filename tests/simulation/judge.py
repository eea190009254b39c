"""What must hold at every step and at the end, looked at from inside of the broker.

What subscribers find by themselves is judged where they find it (`conversation.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import trio

from broker.app import Broker
from broker.core.mailbox import Level
from broker.core.subscription import Subscription
from broker.core.ticks import CHANNELS
from tests.simulation.network import Kernel

#: What may wait for one socket: a write of 64 KiB, and the answers to what was asked meanwhile.
MOST_PENDING_BYTES = 96 << 10
#: More of them in a few seconds mean that time stands still.
MOST_ROUNDS = 10_000


class Judge:
    """Collects everything that is wrong with a run.

    Attributes:
        faults: in the order in which they were found.
        peak: the most ticks that were seen in one queue.
        looks: how often all of them were looked at.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.faults: list[str] = []
        self.peak = self.looks = 0
        self.most_pending_bytes = MOST_PENDING_BYTES
        self._now = now

    def fail(self, text: str) -> None:
        """Note a fault."""
        self.faults.append(f"{self._now():.4f} s: {text}")

    def log(self, _logger: object, level: str, event: dict[str, Any]) -> str:
        """Take a line of the broker's log: an error is a fault of the broker's, but for those we provoke."""
        is_provoked = event["event"].startswith("no descriptor left")
        if (level in ("error", "critical", "exception") and not is_provoked) or event[
            "event"
        ] == "a connection failed":
            cause = event.get("exc_info")
            self.fail(f"logged: {event['event']}: {cause!r}")
        return ""

    def watch(self, broker: Broker) -> None:
        """Look at every queue after each round of the fan-out: what is queued then has to wait."""
        fanout = broker.fanout
        go_round = fanout._round

        async def watched(now: float) -> None:
            await go_round(now)
            if fanout.rounds > MOST_ROUNDS:
                raise RuntimeError("the fan-out goes round without end")
            # What came meanwhile has had no round yet; looking must not do its work.
            if not (fanout._touched or fanout._due):
                self.look(broker)

        fanout._round = watched  # type: ignore[method-assign]

    def look(self, broker: Broker) -> None:
        """Hold every account and every queue of this moment against its bounds."""
        self.looks += 1
        for subscriber in broker.sessions:
            pending = subscriber.wire.pending_bytes  # type: ignore[attr-defined]  # a Stream
            if pending > self.most_pending_bytes:
                self.fail(f"{pending} bytes wait for the socket of {subscriber.session.id}")
            if subscriber.ended is not None:
                continue
            for sub in subscriber.session.subscriptions.values():
                # Most are empty and say so; that this is true is looked at now and then.
                if not sub.mailbox.inbox and not (sub.mailbox.is_clear and self.looks % 8):
                    self._look_at_queue(sub)
        history = broker.tape.history
        if history.kept_ticks > history.limits.ticks or history.kept_bytes > history.limits.bytes:
            self.fail(
                f"{history.kept_ticks} ticks, {history.kept_bytes} bytes in the history: {history.limits}"
            )

    def _look_at_queue(self, sub: Subscription) -> None:
        mailbox, delivery = sub.mailbox, sub.delivery
        waiting = len(mailbox)
        if not waiting:
            return
        self.peak = max(self.peak, waiting)
        # Where it is conflated: one for each topic, and the changes of state and bar intervals on top.
        most = mailbox.limits.queue_ticks + 2 * mailbox.topic_count
        if delivery.mode == "every" and mailbox.level is not Level.DEGRADED:
            most = delivery.queue or 0
        if waiting > most or (waiting > 1 and mailbox.bytes > mailbox.limits.queue_bytes):
            self.fail(f"{waiting} ticks, {mailbox.bytes} bytes wait, {most} ticks may: {delivery}")
        entry = sub.ledger()
        if entry.offered != entry.delivered + entry.conflated + entry.dropped + entry.pending:
            self.fail(f"a ledger does not add up: {entry}")

    def look_at_the_end(self, broker: Broker, kernel: Kernel, tasks: int) -> None:
        """After the broker has returned nothing of it may be left.

        Args:
            tasks: those that there were before it began.
        """
        statistics = trio.lowlevel.current_statistics()
        if statistics.tasks_living != tasks:
            self.fail(f"{statistics.tasks_living - tasks} tasks are left")
        if statistics.seconds_to_next_deadline != inf:
            self.fail(f"a timer is left: {statistics.seconds_to_next_deadline} s")
        if kernel.open:
            self.fail(f"{len(kernel.open)} sockets are left")
        if len(broker.sessions) or broker.router.mailboxes or sum(broker.sessions.live.values()):
            self.fail(f"{len(broker.sessions)} sessions, {len(broker.router.mailboxes)} mailboxes are left")
        for ch in CHANNELS:
            for topic in broker.topics.on_channel(ch).values():
                if topic.mailboxes:
                    self.fail(f"{topic} has subscribers left")
        if broker.ingest.broken or broker.tape.malformed:
            self.fail(f"{broker.ingest.broken} batches, {broker.tape.malformed} ticks were not published")
