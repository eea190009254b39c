"""A request of the client that waits for its answer, if need be across connections. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.client.state import SubscriptionState


class Request:
    """One request. Hashed by identity.

    Attributes:
        op: as the protocol names it.
        state: the subscription that it is about, if it is about one.
        fields: besides ``op``, ``id`` and ``sub``.
        is_renewal: the client's own: the application neither asked for it nor learns of its answer.
    """

    __slots__ = ("fields", "is_renewal", "op", "state")

    def __init__(
        self,
        op: str,
        state: SubscriptionState | None = None,
        fields: Mapping[str, Any] | None = None,
        *,
        is_renewal: bool = False,
    ) -> None:
        self.op = op
        self.state = state
        self.fields = dict(fields or {})
        self.is_renewal = is_renewal

    @property
    def is_asked_again(self) -> bool:
        """Whether it goes out again on the next connection, should this one end before the answer."""
        return self.op in ("list", "modify")
