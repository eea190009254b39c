"""The messages of the wire, both ways (protocol, section 2); the documents are made from these types.

`snapshot` and `update` carry ticks that are encoded once for everybody, so they are put together as bytes
in `broker.core.framing`; their types here serve clients, tests and documents.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field

from broker.core.delivery import Delivery, DeliveryRequest
from broker.core.mailbox import GapReason, LedgerEntry
from broker.core.ticks import Channel, Nanos, Tick

RequestId = Annotated[int, Meta(description="the client's own number; the answer carries it")]
Cursor = Annotated[str, Meta(description="opaque; covers the whole session", examples=["6f1c2a-1042"])]
Names = Annotated[list[str], Meta(description="names, `VENUE:*` or `*`", min_length=1)]

# ── from the client ──────────────────────────────────────────────────────────────────────────────


class _Request(Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True):
    id: RequestId


class ReplayRequest(Struct, forbid_unknown_fields=True, rename={"since": "from"}):
    """A recording that a subscription begins with, before it goes live.

    Attributes:
        recording: the name of the recording that is played first.
        speed: times the speed at which it was recorded; `max`, the default, is the speed at which you read.
        since: begin with what was recorded at this time: as RFC 3339 or in nanoseconds since the Unix epoch;
            null for its beginning.
    """

    recording: Annotated[str, Meta(max_length=64)]
    speed: Annotated[float, Meta(ge=0.01, le=10_000)] | Literal["max"] = "max"
    since: Annotated[str, Meta(max_length=64)] | int | None = None


class Subscribe(_Request, tag="subscribe"):
    """Ask for the ticks of a channel's symbols.

    Attributes:
        ch: one of the channels: quote, trade, book, bar, status.
        symbols: of one or more venues; at most one subscription of a session gets each symbol.
        delivery: what is left out is up to the channel.
        cursor: resume behind it; null for a fresh start.
        snapshot: whether to begin with the latest ticks; true without a cursor and false with one, if left
            out.
        replay: play a recording first, every tick of it, at the speed at which you read; then go on live
            where it ends.
    """

    ch: str
    symbols: Names
    delivery: DeliveryRequest = field(default_factory=DeliveryRequest)
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    #: Default: true without a cursor, false with one.
    snapshot: bool | None = None
    replay: ReplayRequest | None = None


class Unsubscribe(_Request, tag="unsubscribe"):
    """End a subscription; the ack carries its final ledger.

    Attributes:
        sub: as its ack gave it.
    """

    sub: int


class Modify(_Request, tag="modify"):
    """Change the contract of a live subscription; what is left out stays as it is.

    Attributes:
        sub: as its ack gave it.
        delivery: what is to change.
    """

    sub: int
    delivery: DeliveryRequest


class List(_Request, tag="list"):
    """Ask for the session's subscriptions and their ledgers; answered by `ledger`."""


class Ping(_Request, tag="ping"):
    """Ask for a `pong`, at once."""


class Auth(_Request, tag="auth"):
    """Give a token that was not given in the handshake.

    Attributes:
        token: as an operator gave it out.
    """

    token: str


Request: TypeAlias = Subscribe | Unsubscribe | Modify | List | Ping | Auth
REQUESTS: dict[str, type[Request]] = {
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "modify": Modify,
    "list": List,
    "ping": Ping,
    "auth": Auth,
}

# ── from the broker ──────────────────────────────────────────────────────────────────────────────


class Rejected(Struct):
    """A symbol that was not accepted, and why.

    Attributes:
        symbol: as it was asked for, at most 80 characters.
        code: why.
    """

    symbol: str
    code: Literal["invalid_symbol", "unknown_symbol", "unknown_venue", "already_subscribed"]


class LimitsInfo(Struct):
    """What a session may use.

    Attributes:
        subscriptions: at a time.
        symbols: of all subscriptions together; a pattern counts as one.
        message_bytes: of one message to the broker.
        requests_per_minute: more end the session.
        queue_ticks: the most that `delivery.queue` can be.
        queue_bytes: that may wait for one subscription.
    """

    subscriptions: int
    symbols: int
    message_bytes: int
    requests_per_minute: int
    queue_ticks: int
    queue_bytes: int


class Welcome(Struct, tag_field="type", tag="welcome"):
    """The first message of a session.

    Attributes:
        session: its name in the broker's logs.
        epoch: of the tape; new whenever the broker has started anew.
        heartbeat_s: seconds between two heartbeats.
        limits: what this session may use.
        server: name and version.
    """

    session: str
    epoch: str
    heartbeat_s: float
    limits: LimitsInfo
    server: str


class Ack(Struct, tag_field="type", tag="ack"):
    """A request was carried out; the further fields are those of the op.

    Attributes:
        op: that of the request.
        sub: the number of the subscription.
        ch: its channel.
        symbols: those that were accepted, patterns as given.
        rejected: those that were not.
        delivery: the contract as it is in force.
        cursor: where the subscription begins.
        ledger: the final account of a subscription that has ended.
    """

    id: RequestId
    op: str
    sub: int | UnsetType = UNSET
    ch: Channel | UnsetType = UNSET
    symbols: list[str] | UnsetType = UNSET
    rejected: list[Rejected] | UnsetType = UNSET
    delivery: Delivery | UnsetType = UNSET
    cursor: Cursor | UnsetType = UNSET
    ledger: LedgerEntry | UnsetType = UNSET


class Snapshot(Struct, tag_field="type", tag="snapshot", omit_defaults=True):
    """The latest tick of each symbol (the whole book on `book`).

    Attributes:
        sub: whose it is.
        cursor: what it is valid at.
        data: one tick for each symbol, of a bar one for each interval.
        more: whether further parts of it follow; absent in the last.
    """

    sub: int
    cursor: Cursor
    data: list[Tick]
    more: bool = False


class Update(Struct, tag_field="type", tag="update"):
    """Ticks in order, those of several subscriptions together.

    Attributes:
        cursor: everything up to it has been sent.
        data: those of one topic in the order of `seq`.
    """

    cursor: Cursor
    data: list[Tick]


class Gap(Struct, tag_field="type", tag="gap", rename={"first": "from", "last": "to"}):
    """Ticks that will not come, both ends inclusive; what is not known is null.

    Attributes:
        sub: whose ticks they are.
        ch: their channel.
        sym: their symbol.
        first: `seq` of the first that is missing.
        last: `seq` of the last that is missing.
        reason: why they will not come.
    """

    sub: int
    ch: Channel
    sym: str
    first: int | None
    last: int | None
    reason: GapReason


class Notice(Struct, tag_field="type", tag="notice"):
    """The subscriber is too slow, or has recovered; it comes ahead of the data that waits.

    Attributes:
        state: how the subscriber is, from now on.
        sub: which queue it is about.
        queued: ticks that wait.
        limit: ticks that may wait.
    """

    state: Literal["pressed", "degraded", "recovered"]
    sub: int
    queued: int
    limit: int


class Heartbeat(Struct, tag_field="type", tag="heartbeat"):
    """A sign of life, and the account at this very place of the stream.

    Attributes:
        ts: the broker's time.
        cursor: everything up to it has been sent.
        ledger: of every subscription.
    """

    ts: Nanos
    cursor: Cursor
    ledger: list[LedgerEntry]


class SubscriptionInfo(Struct):
    """One of a session's subscriptions.

    Attributes:
        sub: its number.
        ch: its channel.
        symbols: as accepted, patterns as given.
        delivery: the contract in force.
    """

    sub: int
    ch: Channel
    symbols: list[str]
    delivery: Delivery


class Ledger(Struct, tag_field="type", tag="ledger"):
    """Answer to `list`.

    Attributes:
        subscriptions: in the order in which they were made.
        ledger: of every subscription.
    """

    id: RequestId
    subscriptions: list[SubscriptionInfo]
    ledger: list[LedgerEntry]


class Pong(Struct, tag_field="type", tag="pong"):
    """Answer to `ping`.

    Attributes:
        ts: the broker's time.
    """

    id: RequestId
    ts: Nanos


class Error(Struct, tag_field="type", tag="error"):
    """A request was refused and has changed nothing. Codes are stable, texts are not.

    Attributes:
        id: that of the request; null for what can't be understood at all.
        code: stable, for programs.
        message: names the field, its value, and what would be right; for people.
        retry: whether the same request may succeed later.
    """

    id: RequestId | None
    code: str
    message: str
    retry: bool


class Closing(Struct, tag_field="type", tag="closing"):
    """The last message before the close; ``retry_after_ms`` null: do not come back.

    Attributes:
        code: the WebSocket close code that follows.
        reason: for people.
        retry_after_ms: when to come back; null: never.
        ledger: the final account of every subscription.
        advice: what the client could do otherwise, for people; absent if there is nothing to be said.
    """

    code: int
    reason: str
    retry_after_ms: int | None
    ledger: list[LedgerEntry]
    advice: str | UnsetType = UNSET


#: Those that are encoded one by one.
Message: TypeAlias = Welcome | Ack | Gap | Notice | Heartbeat | Ledger | Pong | Error | Closing
ServerMessage: TypeAlias = Message | Snapshot | Update
