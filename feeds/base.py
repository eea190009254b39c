"""What a feed is, and what it is given to work with.

A feed turns what a venue sends into ticks. It is one connection's life: connecting again, backoff,
staleness and counters belong to its supervisor (`broker.runtime.ingest`), not to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

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


class Wanted(Protocol):
    """What subscribers want of the feed's venue: canonical symbols, by channel.

    What nobody wants any more stays for the feed's ``linger_s``. Where the feed has not said which symbols it has,
    subscribers may name any well-formed one: a symbol here need not exist at the venue. While a feed waits in
    `wait_changed` and nothing is wanted, it is ``idle``, and not taken for mute.
    """

    def symbols(self, *channels: Channel) -> frozenset[str]:
        """Return the symbols wanted on any of the channels, or on any at all.

        A pattern (``VENUE:*``) stands for the symbols that the feed has declared, and those seen so far.
        """

    def everything(self, *channels: Channel) -> bool:
        """Tell whether somebody asks for whatever the venue has, by a pattern."""

    async def wait_changed(self, *channels: Channel) -> None:
        """Wait until what is wanted differs from what it was when this returned last.

        The first call in a life of the feed returns as soon as anything is wanted. For one task at a time.

        Args:
            channels: those that the feed brings, all but `status` if there are none; while nothing is wanted on
                them, of the symbols that it has declared, the feed is ``idle``.
        """


class FeedContext(Protocol):
    """What the broker gives to a running feed.

    Deadlines and pauses go by Trio's own clock (``trio.sleep``, ``trio.move_on_after``), which tests can turn.
    """

    log: Log

    @property
    def wanted(self) -> Wanted:
        """What subscribers want now; a feed that brings everything anyway needs not look."""

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

    async def get_json(self, url: str) -> Any:
        """Return the body of an HTTP GET, decoded from JSON.

        A number with a point or an exponent is a text with the digits that were sent, as prices are never floats.
        Raises `FeedError` as `get_body` does, and if the body is not JSON.
        """

    def time_ns(self) -> int:
        """Return wall time, in nanoseconds since the Unix epoch, to stamp ticks with."""


#: The version of what is described here; what an adapter says in its ``api_version``.
API_VERSION = 1


class FeedOptions(BaseModel):
    """The keys of a ``[[feeds]]`` table that every feed has; a feed's own options inherit from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    #: Which feed it is: a name that `feeds.plugins` knows, or where to find it.
    type: str
    #: A name of its own in logs and on ``/v1/feeds``; the type, if empty.
    name: str = ""
    #: A file that all it gets, and the ticks made of it, are recorded into; none, if empty.
    record: str = ""
    #: Of that file and the one before it together, in MiB; the older one goes when they have more.
    record_most_mb: Annotated[int, Field(ge=1, le=1 << 30)] = 1024
    #: Makes the feed that these are the options of; set by whoever found it (`broker.config.feeds`).
    _maker: Callable[[FeedOptions], Feed] | None = PrivateAttr(default=None)

    def set_maker(self, maker: Callable[[FeedOptions], Feed]) -> None:
        """Say how the feed is made; it is no key, and is not shown as one."""
        self._maker = maker

    @property
    def maker(self) -> Callable[[FeedOptions], Feed] | None:
        """What `set_maker` was told; ``None``: the feed is that of the type's name."""
        return self._maker


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
        stale_after_s: how long it may be mute at most before the supervisor connects it again; a feed that always
            has ticks is given less, down to a sixth. ``None``: for ever.
        linger_s: for how long `FeedContext.wanted` names what nobody wants any more.
        resumes: whether a life begins where the one before ended, so that nothing is missed in between. If not, what
            a life that fails has served of books and trades becomes gaps, and books begin anew with a snapshot.
        api_version: the `API_VERSION` that it was written for. An adapter of your own has to say it.
    """

    Options: ClassVar[type[FeedOptions]] = FeedOptions

    venue: str
    symbols: Sequence[str] | None = None
    is_checked: bool = False
    can_pause: bool = False
    stale_after_s: float | None = None
    linger_s: float = 30.0
    resumes: bool = False
    api_version: int

    def __init__(self, options: FeedOptions) -> None:
        """Make a feed of its options, an instance of the class's ``Options``; opens nothing."""

    async def run(self, ctx: FeedContext) -> None:
        """Publish until the connection ends. Returning means that the feed has no more to give.

        Raises:
            FeedError: it can't go on; the supervisor starts it again after a while.
            FeedPermanentError: starting it again is of no use.
        """
        raise NotImplementedError
