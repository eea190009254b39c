"""What the client raises."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.errors import BrokerError


class ClientError(BrokerError):
    """Base of what the client raises."""


class ConnectError(ClientError):
    """The first connection to the broker failed; the text names the URL and the cause.

    Not raised for later ones: those are tried again.
    """


class ClientClosed(ClientError):
    """The client is at its end, and so is every iterator of its subscriptions.

    Raised behind the last tick that had arrived. Not raised for a connection that is merely lost.

    Attributes:
        code: the WebSocket close code that the broker gave (protocol, section 2); 1000 where the application
            closed the client, 1006 where it gave up after ``max_attempts``.
        reason: for people.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed ({code}): {reason}")
        self.code = code
        self.reason = reason


class LedgerMismatch(ClientError):
    """The broker's ledger is not true: it differs from what this client counted.

    Raised by ``Client.verify(strict=True)`` only; not for ticks that were dropped and told.

    Attributes:
        differences: a line for each subscription, with both numbers.
    """

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class RequestRefused(ClientError):
    """The broker refuses a request; the client and its subscriptions go on.

    Attributes:
        code: stable, for programs; as the broker's `error` has it.
        message: for people: names the field, the value, and what would have been right.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class SubscribeError(RequestRefused):
    """The broker refuses a subscription, or a change of one; its other subscriptions go on."""
