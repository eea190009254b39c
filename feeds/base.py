"""What a feed is, and what it is given to work with.

A feed turns what a venue sends into ticks. It is one connection's life: connecting again, backoff,
staleness and counters belong to its supervisor (`broker.runtime.ingest`), not to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from broker.core.errors import FrameError
from broker.core.ticks import Channel, Tick


class Log(Protocol):
    """The part of a structlog logger that feeds use: an event and its numbers as keywords."""

    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...


class VenueSocket(Protocol):
    """A WebSocket towards a venue."""

    async def send(self, message: str | bytes) -> None:
        """Send one message: text for ``str``, binary for ``bytes``. Raises `FeedError` once it is closed."""

    async def receive(self) -> str | bytes:
        """Return the next message. Raises `FeedError` once it is closed; it says by whom and why."""


class FeedContext(Protocol):
    """What the broker gives to a running feed."""

    log: Log

    def publish(self, tick: Tick) -> None:
        """Hand over one tick; never blocks. ``seq`` is assigned later, by the tape.

        Ticks gather until the next `flush`. Those of a feed that publishes without end and never flushes are
        conflated above a bound, as if the broker were behind.
        """

    async def flush(self) -> None:
        """Send what was published to the broker. Always a checkpoint.

        A feed that can pause waits here until the broker has room: this is where backpressure is felt. Cancelled
        while waiting, the ticks stay for the next flush. A live feed never waits: where the broker is behind by more
        than 8192 ticks, they are conflated as for a slow subscriber (quotes, bars and states are replaced, trades
        merged, books composed), and ``/v1/feeds`` counts them.
        """

    def gap(self, ch: Channel, sym: str) -> None:
        """Say that ticks of this topic were missed at the venue; the next one must be a snapshot."""

    def rewind(self) -> None:
        """Say that event time begins anew, as when a recording is played again: open bars are closed."""

    def refused(self, error: FrameError) -> None:
        """Count a frame that maps to no tick, and log the first of its kind."""

    def connect_ws(
        self, url: str, *, max_message_bytes: int = 16 << 20
    ) -> AbstractAsyncContextManager[VenueSocket]:
        """Connect a WebSocket to a venue. Entering raises `FeedError` if that fails or takes too long."""

    async def get_body(self, url: str) -> bytes:
        """Return the body of an HTTP GET. Raises `FeedError` unless the answer is a 200."""

    def time_ns(self) -> int:
        """Return wall time, in nanoseconds since the Unix epoch, to stamp ticks with."""


class FeedOptions(BaseModel):
    """The keys of a ``[[feeds]]`` table that every feed has; a feed's own options inherit from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Which feed it is (a key of `feeds.FEEDS`).
    type: str
    #: A name of its own in logs and on ``/v1/feeds``; the type, if empty.
    name: str = ""


class Feed:
    """Base of all feeds.

    Attributes:
        venue: upper case; the part before the colon of every symbol it publishes.
        symbols: the canonical symbols it will publish, where it knows them before it runs, else ``None``:
            then any well-formed symbol of the venue can be subscribed to in advance.
        is_checked: whether its tests hold every tick to the types of its fields; then the broker need not
            look at each (0.5 µs).
        can_pause: whether `FeedContext.flush` may make it wait while the broker is behind, as for a file. A venue
            does not wait for us; what it sends in the meantime is conflated then.
        stale_after_s: how long it may be mute before the supervisor connects it again; ``None``: for ever.
    """

    Options: ClassVar[type[FeedOptions]] = FeedOptions

    venue: str
    symbols: Sequence[str] | None = None
    is_checked: bool = False
    can_pause: bool = False
    stale_after_s: float | None = None

    def __init__(self, options: FeedOptions) -> None:
        """Make a feed of its options, an instance of the class's ``Options``; opens nothing."""

    async def run(self, ctx: FeedContext) -> None:
        """Publish until the connection ends. Returning means that the feed has no more to give.

        Raises:
            FeedError: it can't go on; the supervisor starts it again after a while.
            FeedPermanentError: starting it again is of no use.
        """
        raise NotImplementedError
