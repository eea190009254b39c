"""The Python client: follow symbols, across reconnects, and know what you got and what you did not.

async with broker.client.connect("localhost:8765") as client:
    async for tick in client.subscribe("quote", "SIM:*"):
        print(tick.sym, tick.bid, tick.ask)
"""

from broker.client.client import Client
from broker.client.connect import connect
from broker.client.errors import ClientClosed, ClientError, ConnectError, SubscribeError
from broker.client.events import ClientStatistics, Event, Gap, Snapshot, State, SubscriptionStatistics, Update
from broker.client.subscription import Subscription
from broker.client.wire import Rejected

__all__ = [
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientStatistics",
    "ConnectError",
    "Event",
    "Gap",
    "Rejected",
    "Snapshot",
    "State",
    "SubscribeError",
    "Subscription",
    "SubscriptionStatistics",
    "Update",
    "connect",
]
