"""Ways to break the broker on purpose, each of which the simulation has to notice.

Each replaces a function of the broker by one that does something wrong, now and then or always.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.core import tape
from broker.core.backlog import Backlog
from broker.core.composing import BookComposer, TradeMerger
from broker.core.encoded import EncodedQueue
from broker.core.mailbox import Mailbox, Missing, Verdict
from broker.core.outbox import Outbox
from broker.core.pacing import PacedQueue
from broker.core.queues import FifoQueue, LatestQueue
from broker.core.session import Session
from broker.core.tape import Tape
from broker.runtime.fanout import Fanout
from broker.runtime.sessions import Sessions
from broker.runtime.stream import Stream
from broker.runtime.subscriber import Subscriber

#: Where, which function, and what to make of it.
Breakage = tuple[Any, str, Callable[[Callable[..., Any]], Callable[..., Any]]]


def _lose_a_tick(take: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Mailbox, most: int) -> Any:
        taken = take(self, most)
        return taken[:-1] if taken and len(taken) > 2 else taken

    return wrong


def _swap_two_ticks(take: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Mailbox, upto: int | None = None) -> Any:
        return list(reversed(take(self, upto)))

    return wrong


def _shift(by: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def change(first_after: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Tape, topic: Any, offset: int) -> int | None:
            start: int | None = first_after(self, topic, offset)
            return None if start is None or start > topic.seq else max(1, start + by)

        return wrong

    return change


def _count_double(replayed: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, ticks: replayed(self, 2 * ticks)


def _forget_what_was_lost(lost: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Backlog) -> Any:
        list(lost(self))
        return iter(())

    return wrong


def _misname_gaps(take_gaps: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Mailbox) -> list[Missing]:
        gaps: list[Missing] = take_gaps(self)
        for gap in gaps:
            if gap.first is not None and gap.last is not None and gap.last > gap.first:
                gap.first += 1
        return gaps

    return wrong


def _never_bound(settle: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Mailbox) -> Verdict:
        self.admit()
        return Verdict.KEEP

    return wrong


def _queue_twice(everything: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: FifoQueue) -> Any:
        items = everything(self)
        return [*items, *items[-1:]]

    return wrong


def _claim_everything(position: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: self.router.tape.offset


def _lose_a_level(tick: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: BookComposer) -> Any:
        book = tick(self)
        del book.bids[:1]
        return book

    return wrong


def _lose_volume(tick: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: TradeMerger) -> Any:
        trade = tick(self)
        trade.size = trade.size.replace("1", "2")
        return trade

    return wrong


def _conflate_states(key: Callable[..., Any]) -> Callable[..., Any]:
    return lambda topic, tick: topic if tick.ch == "status" else key(topic, tick)


def _never_release(release: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, now: None


def _forget_timers(wake_at: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, subscriber, due: None


def _drop_half_a_frame(write: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Stream) -> None:
        write(self)
        if len(self._pending) == 1 and len(self._pending[0]) > 100:
            self._pending_bytes -= len(self._pending[0]) - 100
            self._pending[0] = self._pending[0][:100]

    return wrong


def _leave_sockets_open(close: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Stream) -> None:
        self._is_closed = True

    return wrong


def _leave_sessions(close: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Sessions, subscriber: Any) -> None:
        if subscriber.transport == "ws":
            close(self, subscriber)

    return wrong


def _forget_gaps(all_gaps: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Outbox, but: int = 0) -> bytes:
        all_gaps(self, but)
        return b""

    return wrong


def _attach_late(claim: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Session, sub: Any, cursor: str | None) -> None:
        claim(self, sub, cursor)
        for topic in list(sub.topics)[1:2]:
            del sub.topics[topic]
            del self._owner[topic]

    return wrong


def _miscount_conflation(put: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: LatestQueue, items: Any) -> int:
        gone: int = put(self, items)
        return max(0, gone - 1)

    return wrong


def _never_evict(evict: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, reason, **why: None


def _forget_the_first(drop_oldest: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: EncodedQueue, *args: Any, **kwargs: Any) -> Any:
        count, named = drop_oldest(self, *args, **kwargs)
        return count - 1, named[1:]

    return wrong


def _keep_the_book(reset: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, topic: None


def _forget_resets(resets_since: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, topic, offset: ()


BREAKAGES: dict[str, Breakage] = {
    "a tick is lost on its way out": (Mailbox, "take_fresh", _lose_a_tick),
    "ticks leave in the wrong order": (Mailbox, "take", _swap_two_ticks),
    "a resume skips a tick": (Tape, "first_after", _shift(1)),
    "a resume doubles a tick": (Tape, "first_after", _shift(-1)),
    "what a resume replays is counted twice": (Mailbox, "replayed", _count_double),
    "what the history forgot is not told": (Backlog, "lost", _forget_what_was_lost),
    "a gap names too little": (Mailbox, "take_gaps", _misname_gaps),
    "gaps are forgotten ahead of a ledger": (Outbox, "_all_gaps", _forget_gaps),
    "queues have no bound": (Mailbox, "settle", _never_bound),
    "who is too slow is not evicted": (Subscriber, "evict", _never_evict),
    "a tick that waited as bytes is dropped unseen": (EncodedQueue, "drop_oldest", _forget_the_first),
    "a changed contract doubles a tick": (FifoQueue, "everything", _queue_twice),
    "a cursor claims more than was sent": (Session, "position", _claim_everything),
    "a composed book lacks a level": (BookComposer, "tick", _lose_a_level),
    "merged trades have another volume": (TradeMerger, "tick", _lose_volume),
    "changes of state are conflated": (tape, "conflation_key", _conflate_states),
    "conflated ticks are counted wrongly": (LatestQueue, "put", _miscount_conflation),
    "what max_rate holds back is never sent": (PacedQueue, "release", _never_release),
    "what max_delay_ms holds back is never sent": (Fanout, "wake_at", _forget_timers),
    "half a frame is dropped": (Stream, "_write_some", _drop_half_a_frame),
    "sockets stay open": (Stream, "_close", _leave_sockets_open),
    "sessions are never forgotten": (Sessions, "close", _leave_sessions),
    "a subscription misses a topic": (Session, "_claim", _attach_late),
    "a book is still shown when the feed has lost it": (Tape, "reset", _keep_the_book),
    "who resumes is not told that a book was lost": (Tape, "resets_since", _forget_resets),
}
