"""How a subscriber's connection ends, whatever its transport."""

from __future__ import annotations

import trio

from broker.core import errors
from broker.core.errors import CloseReason
from broker.core.messages import Closing
from broker.runtime.stream import Stream
from broker.transports.door import FINISH_S


async def answer(stream: Stream, data: bytes) -> None:
    """Send a last answer, and see that it arrives."""
    stream.offer(data)
    await stream.finish(FINISH_S)


async def finish(stream: Stream, reason: CloseReason | None) -> None:
    """Close a session's connection as its end calls for: properly, or at once."""
    if reason is None or reason.code == errors.CLIENT_GONE.code or reason is errors.WRITE_DEADLINE:
        stream.abort()
        return
    with trio.CancelScope(shield=True):
        await stream.finish(FINISH_S)


def refused(reason: CloseReason) -> Closing:
    """Return the `closing` of a session that never began."""
    return Closing(reason.code, reason.text, reason.retry_after_ms, [])
