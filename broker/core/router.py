"""From the tape to the mailboxes. Never waits, never asks a subscriber."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.codecs import json_of, packed_of
from broker.core.encoded import Recall
from broker.core.mailbox import GapReason, Mailbox
from broker.core.tape import Tape
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topic, Topics


class Router:
    """Puts ticks on the tape and offers them to everybody who wants them.

    Attributes:
        offered: ticks handed to mailboxes since the start, each counted once for each of them.
        delivered: those of them that were handed to a socket, and those that a resume replayed.
    """

    def __init__(self, topics: Topics, tape: Tape) -> None:
        self.topics = topics
        self.tape = tape
        self.offered = self.delivered = 0
        #: What ticks are that wait as bytes.
        self.recall = Recall(tape)
        #: All that may be attached to topics, in the order in which they came.
        self.mailboxes: dict[Mailbox, None] = {}

    def publish(self, ticks: Iterable[Tick], now: float, touched: dict[Topic, None]) -> None:
        """Number a batch, and hand it over to everybody who wants it.

        This is where a tick is multiplied: one C call for each delivery, and nothing else.

        Args:
            ticks: in order; those of several topics together.
            now: seconds of the broker's clock.
            touched: the topics that somebody got something of are added; their mailboxes have to be
                settled or flushed before long (`touched_mailboxes`).
        """
        offered = 0
        for topic, item in zip(*self.tape.append(ticks, now), strict=True):
            if isinstance(item, bytes):
                plain = topic.plain_boxes
                if plain:
                    offered += len(plain)
                    touched[topic] = None
                    for inbox in plain:
                        inbox.append(item)
                continue
            count, boxes, json_boxes, packed_boxes = topic.routes or topic.list_routes()
            if not count:
                continue
            offered += count
            touched[topic] = None
            for inbox in boxes:
                inbox.append(item)
            if json_boxes:
                encoded = item.json or json_of(item)
                for inbox in json_boxes:
                    inbox.append(encoded)
            if packed_boxes:
                encoded = item.packed or packed_of(item)
                for inbox in packed_boxes:
                    inbox.append(encoded)
        self.offered += offered

    def touched_mailboxes(self, touched: dict[Topic, None]) -> list[Mailbox]:
        """Return the mailboxes that have something to be sent, in an order that can be repeated.

        Noting each with each delivery would cost as much as the delivery; so they are looked up, by the
        topics that were touched or, where those reach more mailboxes than there are, by looking at all.
        """
        if sum(len(topic.mailboxes) for topic in touched) < len(self.mailboxes):
            found: dict[Mailbox, None] = {}
            for topic in touched:
                found.update(topic.mailboxes)
            return list(found)
        # Who asks for an account has the inbox queued: then it is empty, and something is to be sent nevertheless.
        return [mailbox for mailbox in self.mailboxes if mailbox.inbox or not mailbox.is_clear]

    def gap(self, ch: Channel, sym: str, reason: GapReason = "feed_reset") -> list[Mailbox]:
        """Tell a topic's subscribers that ticks were missed, nobody knows how many; return whom to flush.

        A book is not known from here to the feed's next snapshot (`Tape.reset`); so everybody is told in the place
        where it happened: behind the ticks and the snapshot that wait, or they would make a wrong book afterwards.
        """
        topic = self.topics.on_channel(ch).get(sym)
        if topic is None:
            return []
        self.tape.reset(topic)
        told = [*topic.mailboxes, *topic.resuming]
        for mailbox in told:
            if topic.book is None:
                mailbox.note_gap(topic, None, None, reason)
            else:
                mailbox.note_reset(topic, self.tape.offset, reason)
        return told
