"""What can go wrong, by whose fault, and what a session is told when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: What ends a connection of a feed; ``fault``: a mistake in the adapter, which is no `FeedError`.
FeedFailure = Literal["connect", "refused", "closed", "silent", "mute", "venue", "failed", "fault"]


class BrokerError(Exception):
    """Base of everything that Tapecast raises on purpose."""


class ConfigError(BrokerError):
    """The configuration can't be used; raised before anything opens, and lists every mistake.

    Not raised for a feed that can't connect: that is retried.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FeedError(BrokerError):
    """A feed can't go on as it is; the supervisor connects it again, with backoff.

    Not raised for a single frame that makes no sense: that is a `FrameError`, counted, and the feed goes on.

    Attributes:
        reason: what it is counted as: ``connect`` (no connection comes about), ``refused`` (an HTTP status other
            than wanted), ``closed`` (a connection that was there has ended), ``silent`` (not even heartbeats come),
            ``mute`` (no ticks come), ``venue`` (its own word), ``failed`` (all else).
        retry_after_s: the venue asks to be left alone for so long.
    """

    def __init__(
        self, message: str, *, reason: FeedFailure = "failed", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason: FeedFailure = reason
        self.retry_after_s = retry_after_s


class FeedPermanentError(FeedError):
    """Trying again is of no use (a file that isn't there, a symbol the venue refuses): the feed stays down.

    Attributes:
        unless_live: but if it ever was live, the same has worked before, and may again: it is tried on.
    """

    def __init__(self, message: str, *, reason: FeedFailure = "failed", unless_live: bool = False) -> None:
        super().__init__(message, reason=reason)
        self.unless_live = unless_live


class FrameError(FeedError):
    """One frame of a venue maps to no well-formed tick.

    Attributes:
        frame: what the venue sent, cut to 512 bytes.
        kind: what it is counted and logged as, where the text says more than that (a line's number, a value);
            empty: the text.
    """

    def __init__(self, message: str, frame: bytes | str = b"", *, kind: str = "") -> None:
        super().__init__(message)
        self.frame = frame[:512]
        self.kind = kind


class RequestError(BrokerError):
    """A subscriber's request is refused; answered with an ``error``, and the session lives on.

    Attributes:
        code: stable, for programs.
        retry: whether the same request may succeed later.
        detail: further members for an HTTP problem (RFC 9457, section 3.2).
    """

    def __init__(self, code: str, message: str, *, retry: bool = False, **detail: Any) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.detail = detail


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a session ends (protocol, section 2, "Close codes").

    Attributes:
        code: the WebSocket close code.
        name: stable, for counters and logs.
        text: for people.
        retry_after_ms: ``None``: do not come back.
        advice: what the client could do otherwise, for people; empty if there is nothing to be said.
    """

    code: int
    name: str
    text: str
    retry_after_ms: int | None
    advice: str = ""


_RESUME = "come back after retry_after_ms with the last cursor: nothing is lost as far as the history reaches"
_LIGHTER = "ask for mode latest, a max_rate, or fewer symbols"

ASKED = CloseReason(1000, "asked", "closed as asked", 0)
DRAINING = CloseReason(1001, "draining", "the broker is going down", 1000, _RESUME)
TOO_BIG = CloseReason(
    1009,
    "message_too_big",
    "a message over the inbound limit",
    None,
    "welcome.limits.message_bytes is the most; spread symbols over several requests",
)
FAULT = CloseReason(1011, "fault", "a fault of the broker's", 1000, _RESUME)
FULL = CloseReason(
    1013,
    "full",
    "no room for another session",
    5000,
    "come back later; the operator's limit is [limits] sessions",
)
GARBAGE = CloseReason(
    4400,
    "too_many_bad_requests",
    "too many requests that could not be understood",
    None,
    "each message is one object with op and an integer id, in the codec of the session; see /asyncapi.json",
)
NOT_AUTHENTICATED = CloseReason(4401, "not_authenticated", "not authenticated", None)
NOT_ALLOWED = CloseReason(4403, "not_allowed", "not allowed", None)
#: Causes that call for different remedies, so each has its name and its counter, under one code.
OVER_LIMIT = CloseReason(
    4408,
    "over_limit",
    "slow consumer: its queue is over the limit",
    1000,
    f"read faster, {_LIGHTER}, or overflow gap",
)
OVER_SESSION_BUDGET = CloseReason(
    4408,
    "over_session_budget",
    "slow consumer: more waits for the session than a session may hold",
    1000,
    f"read faster, or {_LIGHTER}",
)
OVER_TOTAL_BUDGET = CloseReason(
    4408,
    "over_total_budget",
    "slow consumer: more waits than the broker may hold, and the most of it for this session",
    1000,
    f"read faster, or {_LIGHTER}",
)
WRITE_DEADLINE = CloseReason(
    4408,
    "write_deadline",
    "slow consumer: a write passed its deadline",
    1000,
    f"read without pause, or {_LIGHTER}",
)
UNREAD_ANSWERS = CloseReason(
    4408,
    "unread_answers",
    "slow consumer: too many messages beside the data wait for it",
    1000,
    "read what is answered before asking more",
)
TOO_MANY_SESSIONS = CloseReason(
    4409,
    "too_many_sessions",
    "too many sessions for this address",
    None,
    "end a session first, or put its subscriptions into another one",
)
TOO_MANY_REQUESTS = CloseReason(
    4429,
    "too_many_requests",
    "too many requests",
    10_000,
    "one subscribe can name many symbols; welcome.limits.requests_per_minute is the most",
)
#: Not sent to anybody: the client left, or fell silent.
CLIENT_GONE = CloseReason(1006, "client_gone", "the client is gone", None)
CLIENT_SILENT = CloseReason(1006, "client_silent", "the client answers no ping", None)
PROTOCOL_ERROR = CloseReason(1002, "protocol_error", "not valid WebSocket", None)
