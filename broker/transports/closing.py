"""How a subscriber's connection ends, whatever its transport."""

from __future__ import annotations

import trio
from msgspec import UNSET

from broker.core.errors import CloseReason
from broker.core.messages import Closing
from broker.runtime.sessions import Sessions
from broker.runtime.stream import Stream
from broker.runtime.subscriber import UNHEARD, Subscriber
from broker.transports.door import FINISH_S


async def answer(stream: Stream, data: bytes) -> None:
    """Send a last answer, and see that it arrives."""
    stream.offer(data)
    await stream.finish(FINISH_S)


async def leave(sessions: Sessions, subscriber: Subscriber, stream: Stream) -> None:
    """Take a session out, close its connection as its end calls for, and note whether its last word arrived."""
    closed = sessions.close(subscriber)
    has_arrived = False
    try:
        if subscriber.ended in UNHEARD:
            stream.abort()
        else:
            with trio.CancelScope(shield=True):
                has_arrived = await stream.finish(FINISH_S)
    finally:
        if closed is not None and closed.closing == "under_way":
            closed.closing = "delivered" if has_arrived else "undelivered"


def refused(reason: CloseReason) -> Closing:
    """Return the `closing` of a session that never began."""
    return Closing(reason.code, reason.text, reason.retry_after_ms, [], reason.advice or UNSET)
