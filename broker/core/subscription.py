"""One subscription of a session: its topics, its mailbox, and what it still has to catch up with."""

from __future__ import annotations

from collections import deque

from broker.core.backlog import Backlog
from broker.core.delivery import Delivery
from broker.core.mailbox import LedgerEntry, Mailbox
from broker.core.replay import Replay
from broker.core.tape import Entry
from broker.core.ticks import Channel
from broker.core.topics import Topic, parse_pattern


class Subscription:
    """State only; `broker.core.session` changes it, `broker.core.outbox` empties it.

    Attributes:
        symbols: as accepted, patterns as given.
        patterns: the venues of its patterns, ``"*"`` for all.
        topics: those that it owns now, each of them attached to the mailbox or in the backlog; with the ``seq`` of
            the first tick that it was offered of it.
        snapshot: what has yet to be sent of it, valid at ``snapshot_offset``.
        shown_since: behind which offset the snapshot stands for ticks that an earlier session held back.
        backlog: what has yet to be read from the history.
        replay: the recording that is played to it; its topics are not attached before that is over.
    """

    __slots__ = (
        "backlog",
        "ch",
        "delivery",
        "id",
        "mailbox",
        "patterns",
        "replay",
        "shown_since",
        "snapshot",
        "snapshot_offset",
        "symbols",
        "topics",
    )

    def __init__(
        self, id_: int, ch: Channel, symbols: list[str], delivery: Delivery, mailbox: Mailbox
    ) -> None:
        self.id = id_
        self.ch = ch
        self.symbols = symbols
        self.patterns = [venue for symbol in symbols if (venue := parse_pattern(symbol)) is not None]
        self.delivery = delivery
        self.mailbox = mailbox
        self.topics: dict[Topic, int] = {}
        self.snapshot: deque[Entry] | None = None
        self.snapshot_offset = 0
        self.shown_since: int | None = None
        self.backlog: Backlog | None = None
        self.replay: Replay | None = None

    def ledger(self) -> LedgerEntry:
        """Return the account as of now; what the backlog holds is offered and pending."""
        return self.mailbox.ledger(self.id, self.backlog.pending() if self.backlog else 0)

    def position(self, newest: int) -> int:
        """Return the offset up to which everything has been sent; ``newest`` if nothing waits.

        But for the ticks of a ``max_rate``: others overtake them, and must not come twice (`held_since`).
        """
        position = newest
        first = self.mailbox.first_offset()
        if first is not None:
            position = min(position, first - 1)
        if self.backlog:
            position = min(position, self.backlog.position())
        if self.replay is not None:
            position = min(position, self.replay.live_position)
        if (mark := self.mailbox.first_mark()) is not None:
            # Who comes back from there is told of it (`Tape.resets_since`).
            position = min(position, mark[0])
        return position

    def held_since(self, position: int) -> int:
        """Return behind which offset a ``max_rate`` holds ticks back; ``position`` if it does not."""
        first = self.mailbox.first_overtaken()
        since = position if first is None else min(position, first - 1)
        return since if self.snapshot is None or self.shown_since is None else min(since, self.shown_since)

    def leave(self, topic: Topic) -> int | None:
        """Give up a topic. What is queued of it is still sent; what is in the backlog is not.

        Returns:
            ``seq`` of the first tick that was to be read from the history, if there is one.
        """
        del self.topics[topic]
        return self.backlog.forget(topic) if self.backlog is not None else None
