"""What simulated subscribers ask for, and what they do: add a line here for whatever is new.

A contract that this broker answers with ``unsupported`` is fine: the client asks for the default instead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

CHANNELS = ("quote", "trade", "book", "bar", "status")
#: On these the default mode is `latest` (protocol, section 4).
REPLACED = frozenset({"quote", "bar", "status"})


@dataclass(frozen=True)
class Contract:
    """What to ask for, how often relative to the others, and on which channels."""

    fields: dict[str, Any]
    weight: int = 2
    channels: tuple[str, ...] = CHANNELS


CONTRACTS = (
    Contract({}, weight=6),
    Contract({"mode": "latest"}, weight=4),
    Contract({"mode": "latest", "max_rate": 5}),
    Contract({"mode": "latest", "max_rate": 2, "max_age_ms": 300}, weight=1),
    Contract({"mode": "latest", "max_delay_ms": 40}),
    Contract({"max_delay_ms": 120}),
    Contract({"max_age_ms": 80}),
    Contract({"mode": "every"}, weight=6),
    Contract({"mode": "every", "queue": 1}),
    Contract({"mode": "every", "queue": 7, "overflow": "gap"}, weight=4),
    Contract({"mode": "every", "queue": 15, "max_age_ms": 60}),
    Contract({"mode": "every", "queue": 20, "max_delay_ms": 200}),
    Contract({"mode": "every", "queue": 4, "overflow": "evict"}),
    Contract({"mode": "every", "queue": 12, "overflow": "evict"}),
    Contract({"mode": "every", "queue": 10, "overflow": "degrade"}, weight=3),
    Contract({"mode": "every", "queue": 10, "overflow": "degrade", "max_delay_ms": 30}, weight=1),
    Contract({"mode": "every", "queue": 10_000_000}, weight=1),
)

#: What a client on a WebSocket does from time to time, and how often relative to the rest.
OPS: dict[str, int] = {
    "subscribe": 5,
    "modify": 6,
    "unsubscribe": 3,
    "list": 4,
    "ping": 2,
    "auth": 1,
    "wrong": 2,
    "garbage": 1,
    "stall": 6,
    "trickle": 4,
    "heal": 4,
}

#: What a request may be refused with, by its op; anything else is a fault.
REFUSALS: dict[str, frozenset[str]] = {
    "subscribe": frozenset({"unsupported", "already_subscribed", "unknown_symbol", "unknown_venue"}),
    "modify": frozenset({"unsupported", "invalid_delivery"}),
    "wrong": frozenset(
        {
            "unknown_subscription",
            "invalid_request",
            "unknown_field",
            "unknown_op",
            "unknown_channel",
            "invalid_symbol",
        }
    ),
}

#: Requests that can be understood, and have to be refused.
REFUSED: tuple[dict[str, Any], ...] = (
    {"op": "unsubscribe", "sub": 999},
    {"op": "modify", "sub": 999, "delivery": {}},
    {"op": "subscribe", "ch": "quotes", "symbols": ["*"]},
    {"op": "subscribe", "ch": "quote", "symbols": []},
    {"op": "subscribe", "ch": "quote", "symbols": ["sim:lower"]},
    {"op": "subscribe", "ch": "quote", "symbols": ["*"], "delivery": {"mode": "some"}},
    {"op": "subscribe", "ch": "quote", "symbols": ["*"], "extra": 1},
    {"op": "sing"},
)
#: What can't be understood at all; more than 20 in a minute would end the session.
GARBAGE: tuple[Any, ...] = ([1, 2], "text", {"op": "ping"}, {"op": "ping", "id": "x"}, None)


def draw_contract(rng: random.Random, ch: str) -> dict[str, Any]:
    """Return a contract for a channel."""
    fitting = [contract for contract in CONTRACTS if ch in contract.channels]
    return rng.choices(fitting, [contract.weight for contract in fitting])[0].fields


def may_conflate(ch: str, delivery: dict[str, Any]) -> bool:
    """Tell whether a contract in force lets ticks be conflated."""
    return delivery["mode"] == "latest" or delivery["overflow"] == "degrade"


def draw_op(rng: random.Random) -> str:
    """Return the name of the next thing to do."""
    return rng.choices(list(OPS), list(OPS.values()))[0]
