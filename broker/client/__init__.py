"""The Python client: follow symbols, across reconnects, and know what you got and what you did not.

async with broker.client.connect("localhost:8765") as client:
    async for tick in client.subscribe("quote", "SIM:*"):
        print(tick.sym, tick.bid, tick.ask)
"""

from broker.client.client import Client
from broker.client.connect import connect
from broker.client.errors import (
    ClientClosed,
    ClientError,
    ConnectError,
    LedgerMismatch,
    RequestRefused,
    SubscribeError,
)
from broker.client.events import (
    ClientStatistics,
    Event,
    Gap,
    Notice,
    Snapshot,
    State,
    SubscriptionStatistics,
    Update,
)
from broker.client.subscription import Subscription
from broker.client.verdict import SubscriptionVerdict, Verdict
from broker.client.wire import Rejected
from broker.core.mailbox import LedgerEntry

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientStatistics",
    "ConnectError",
    "Event",
    "Gap",
    "LedgerEntry",
    "LedgerMismatch",
    "Notice",
    "Rejected",
    "RequestRefused",
    "Snapshot",
    "State",
    "SubscribeError",
    "Subscription",
    "SubscriptionStatistics",
    "SubscriptionVerdict",
    "Update",
    "Verdict",
    "connect",
]
