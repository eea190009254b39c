"""From the tape to the mailboxes. Never waits, never asks a subscriber."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.mailbox import Mailbox, Verdict
from broker.core.tape import Tape
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topic, Topics


class Router:
    """Puts ticks on the tape and offers them to everybody who wants them.

    Attributes:
        deliveries: ticks offered to mailboxes since the start.
    """

    def __init__(self, topics: Topics, tape: Tape) -> None:
        self.topics = topics
        self.tape = tape
        self.deliveries = 0

    def publish(self, ticks: Iterable[Tick], now: float) -> list[tuple[Verdict, Mailbox]]:
        """Number a batch and offer it; return the verdicts that call for something to be done.

        Args:
            ticks: in order; those of several topics together.
            now: seconds of the broker's clock.
        """
        todo = []
        deliveries = 0
        for entry in self.tape.append(ticks, now):
            mailboxes = entry.topic.mailboxes
            deliveries += len(mailboxes)
            for mailbox in mailboxes:
                verdict = mailbox.offer(entry)
                if verdict:
                    todo.append((verdict, mailbox))
        self.deliveries += deliveries
        return todo

    def gap(self, ch: Channel, sym: str) -> list[Mailbox]:
        """Tell a topic's subscribers that the venue's ticks were missed; return whom to flush."""
        topic = self.topics.on_channel(ch).get(sym)
        if topic is None:
            return []
        for mailbox in topic.mailboxes:
            mailbox.note_gap(topic, None, None, "feed_reset")
        return list(topic.mailboxes)

    @staticmethod
    def attach(topic: Topic, mailbox: Mailbox) -> None:
        """Offer the topic's ticks to the mailbox from the next one on; harmless if it is attached."""
        if mailbox not in topic.mailboxes:
            topic.mailboxes[mailbox] = None
            mailbox.topic_count += 1

    @staticmethod
    def detach(topic: Topic, mailbox: Mailbox) -> None:
        """Offer no more of the topic's ticks to the mailbox; harmless if it was not attached."""
        if mailbox in topic.mailboxes:
            del topic.mailboxes[mailbox]
            mailbox.topic_count -= 1
