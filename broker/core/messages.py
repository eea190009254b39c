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


class Subscribe(_Request, tag="subscribe"):
    """Ask for the ticks of a channel's symbols."""

    ch: str
    symbols: Names
    delivery: DeliveryRequest = field(default_factory=DeliveryRequest)
    cursor: Annotated[str, Meta(max_length=256)] | None = None
    #: Default: true without a cursor, false with one.
    snapshot: bool | None = None


class Unsubscribe(_Request, tag="unsubscribe"):
    """End a subscription; the ack carries its final ledger."""

    sub: int


class Modify(_Request, tag="modify"):
    """Change the contract of a live subscription; what is left out stays as it is."""

    sub: int
    delivery: DeliveryRequest


class List(_Request, tag="list"):
    """Ask for the session's subscriptions and their ledgers; answered by `ledger`."""


class Ping(_Request, tag="ping"):
    """Ask for a `pong`, at once."""


class Auth(_Request, tag="auth"):
    """Give a token that was not given in the handshake."""

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
    """A symbol that was not accepted, and why."""

    symbol: str
    code: Literal["invalid_symbol", "unknown_symbol", "unknown_venue", "already_subscribed"]


class LimitsInfo(Struct):
    """What a session may use."""

    subscriptions: int
    symbols: int
    message_bytes: int
    requests_per_minute: int
    queue_ticks: int
    queue_bytes: int


class Welcome(Struct, tag_field="type", tag="welcome"):
    """The first message of a session."""

    session: str
    epoch: str
    heartbeat_s: float
    limits: LimitsInfo
    server: str


class Ack(Struct, tag_field="type", tag="ack"):
    """A request was carried out; the further fields are those of the op."""

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
    """The latest tick of each symbol (the whole book on `book`)."""

    sub: int
    cursor: Cursor
    data: list[Tick]
    more: bool = False


class Update(Struct, tag_field="type", tag="update"):
    """Ticks in order, those of several subscriptions together."""

    cursor: Cursor
    data: list[Tick]


class Gap(Struct, tag_field="type", tag="gap", rename={"first": "from", "last": "to"}):
    """Ticks that will not come, both ends inclusive; what is not known is null."""

    sub: int
    ch: Channel
    sym: str
    first: int | None
    last: int | None
    reason: GapReason


class Notice(Struct, tag_field="type", tag="notice"):
    """The subscriber is too slow, or has recovered (sent from a later version on)."""

    state: Literal["pressed", "degraded", "recovered"]
    sub: int
    queued: int
    limit: int


class Heartbeat(Struct, tag_field="type", tag="heartbeat"):
    """A sign of life, and the account at this very place of the stream."""

    ts: Nanos
    cursor: Cursor
    ledger: list[LedgerEntry]


class SubscriptionInfo(Struct):
    """One of a session's subscriptions."""

    sub: int
    ch: Channel
    symbols: list[str]
    delivery: Delivery


class Ledger(Struct, tag_field="type", tag="ledger"):
    """Answer to `list`."""

    id: RequestId
    subscriptions: list[SubscriptionInfo]
    ledger: list[LedgerEntry]


class Pong(Struct, tag_field="type", tag="pong"):
    """Answer to `ping`."""

    id: RequestId
    ts: Nanos


class Error(Struct, tag_field="type", tag="error"):
    """A request was refused and has changed nothing. Codes are stable, texts are not."""

    id: RequestId | None
    code: str
    message: str
    retry: bool


class Closing(Struct, tag_field="type", tag="closing"):
    """The last message before the close; ``retry_after_ms`` null: do not come back."""

    code: int
    reason: str
    retry_after_ms: int | None
    ledger: list[LedgerEntry]


#: Those that are encoded one by one.
Message: TypeAlias = Welcome | Ack | Gap | Notice | Heartbeat | Ledger | Pong | Error | Closing
ServerMessage: TypeAlias = Message | Snapshot | Update
