"""What has happened, as the client's protocol says it to whoever does its I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from broker.client.events import AnyEvent
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.client.wire import Ack, Ledger
from broker.core.messages import Error


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session is open."""

    session: str
    epoch: str
    heartbeat_s: float
    server: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A subscription is live on this connection."""

    state: SubscriptionState


@dataclass(frozen=True, slots=True)
class Refused:
    """A subscription is not; unless it ``is_final``, it is to be tried again with `ClientProtocol.retry`."""

    state: SubscriptionState
    code: str
    message: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """An unsubscribe was carried out; ``state.ledger`` is final."""

    state: SubscriptionState


@dataclass(frozen=True, slots=True)
class Answered:
    """A request of the application's own has its answer; ``None``: it will never have one."""

    request: Request
    answer: Ack | Ledger | Error | None


@dataclass(frozen=True, slots=True)
class Occurred:
    """Something for the application."""

    state: SubscriptionState
    event: AnyEvent


@dataclass(frozen=True, slots=True)
class Advanced:
    """Everything up to the cursor of each subscription has been received."""


@dataclass(frozen=True, slots=True)
class Disagreed:
    """A ledger differs from the client's own account, of this subscription for the first time."""

    state: SubscriptionState
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Closed:
    """The broker ends the session; ``retry_after_ms`` is ``None`` where it does not want us back."""

    code: int
    reason: str
    retry_after_ms: int | None


@dataclass(frozen=True, slots=True)
class Puzzled:
    """Something that is no part of the protocol, and was ignored."""

    text: str


Effect: TypeAlias = (
    Welcomed | Accepted | Refused | Ended | Answered | Occurred | Advanced | Disagreed | Closed | Puzzled
)
