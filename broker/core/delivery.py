"""The delivery contract: what a subscriber may ask for, and what comes into force (protocol, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.core.conflation import REPLACEABLE
from broker.core.errors import RequestError
from broker.core.ticks import Channel

Mode = Literal["latest", "every"]
Overflow = Literal["gap", "degrade", "evict"]

T = TypeVar("T")

#: What `every` gets when nothing is asked for.
DEFAULT_QUEUE = 1000


class DeliveryRequest(Struct, forbid_unknown_fields=True):
    """What a subscriber asks for; what is left out is up to the channel, null is "none".

    Attributes:
        mode: `latest`: the newest tick of each symbol replaces the queued one, trades being merged and book
            deltas composed; `every`: all ticks, in order. The default is `latest` for quote, bar and status, else
            `every`.
        max_rate: `latest` only: at most so many updates a second of each symbol, of a bar of each interval; the
            newest is sent when its time comes. A change of a `status` is not held back.
        max_delay_ms: how long a tick may be held to send more at once; 0, the default, sends at once and
            still coalesces under load.
        queue: `every` only: how many ticks may wait; 1000 by default.
        overflow: `every` only, when the queue is full: `gap`, the default, drops the oldest and says which;
            `degrade` turns to `latest` until drained, and says so; `evict` closes with 4408.
        max_age_ms: a tick that has waited longer is not sent but counted and told.
    """

    mode: Mode | UnsetType = UNSET
    max_rate: Annotated[float, Meta(ge=0.1, le=1000)] | None | UnsetType = UNSET
    max_delay_ms: Annotated[int, Meta(ge=0, le=60_000)] | UnsetType = UNSET
    queue: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    overflow: Overflow | UnsetType = UNSET
    max_age_ms: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None | UnsetType = UNSET


class Delivery(Struct, frozen=True):
    """The contract in force. ``queue`` (ticks) and ``overflow`` are null with ``latest``, which needs neither.

    Attributes:
        mode: how ticks are queued.
        max_rate: updates a second of each symbol; null: no limit.
        max_delay_ms: how long a tick may be held.
        queue: ticks that may wait.
        overflow: what happens when the queue is full.
        max_age_ms: how long a tick may wait; null: no limit.
    """

    mode: Mode
    max_rate: float | None
    max_delay_ms: int
    queue: int | None
    overflow: Overflow | None
    max_age_ms: int | None


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """What the operator allows: more is asked for in vain, and the echo shows what is in force."""

    queue_ticks: int = 10_000
    queue_bytes: int = 4 << 20
    #: How full a queue is when its subscriber is told that it is too slow, and that it no longer is; 0 to 1.
    high_watermark: float = 0.5
    low_watermark: float = 0.1


def negotiate(
    ch: Channel, asked: DeliveryRequest, limits: DeliveryLimits, current: Delivery | None = None
) -> Delivery:
    """Return the contract that comes into force.

    Args:
        ch: decides the default mode.
        asked: what is unset keeps its value in ``current``, or its default.
        current: the contract that is to be changed, on a ``modify``.

    Raises:
        RequestError: ``invalid_delivery`` for what makes no sense together.
    """
    default: Mode = "latest" if ch in REPLACEABLE else "every"
    kept = msgspec.structs.asdict(current) if current is not None else {}
    mode = _pick(asked.mode, kept.get("mode"), default)
    delay = _pick(asked.max_delay_ms, kept.get("max_delay_ms"), 0)
    age = asked.max_age_ms if asked.max_age_ms is not UNSET else kept.get("max_age_ms")
    if mode == "latest":
        _refuse(asked, ("queue", "overflow"), "every", mode)
        rate = asked.max_rate if asked.max_rate is not UNSET else kept.get("max_rate")
        return Delivery(mode, rate, delay, None, None, age)
    if asked.max_rate is not None:
        _refuse(asked, ("max_rate",), "latest", mode)
    queue = min(_pick(asked.queue, kept.get("queue"), DEFAULT_QUEUE), limits.queue_ticks)
    overflow = _pick(asked.overflow, kept.get("overflow"), "gap")
    return Delivery(mode, None, delay, queue, overflow, age)


def _refuse(asked: DeliveryRequest, fields: tuple[str, ...], goes_with: Mode, mode: Mode) -> None:
    """Refuse what goes with the other mode only."""
    for field in fields:
        value = getattr(asked, field)
        if value is not UNSET:
            raise RequestError(
                "invalid_delivery",
                f"delivery.{field}: {value!r} goes with mode {goes_with!r} only, and the mode is {mode!r}; "
                f"leave it out, or ask for mode {goes_with!r}",
            )


def _pick(asked: T | UnsetType, kept: T | None, default: T) -> T:
    if asked is not UNSET:
        return asked
    return default if kept is None else kept
