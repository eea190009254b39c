"""The keys, with their defaults, ranges and meaning; nothing else in the project repeats a default.

A description says what the key does, what happens when it is exceeded, and what 0 means; it is the
comment in ``config.toml``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.config.feeds import default_feeds
from broker.config.recordings import RecordingOptions
from feeds.base import FeedOptions


def _host(text: str) -> str:
    if any(char.isspace() or char in "/\0" for char in text):
        raise ValueError("must be a host name or an address, e.g. 127.0.0.1")
    try:
        text.encode("idna")  # as the resolver will
    except UnicodeError as exc:
        raise ValueError("must be a host name or an address, e.g. 127.0.0.1") from exc
    return text


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("must be the path of a file")
    return text


def _int(default: int, low: int, high: int, description: str) -> Any:
    return Field(default, ge=low, le=high, description=description)


def _float(default: float, low: float, high: float, description: str) -> Any:
    return Field(default, ge=low, le=high, allow_inf_nan=False, description=description)


class Section(BaseModel):
    """Base of the sections: frozen, no keys but the named ones, no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Server(Section):
    """Where the broker listens, and how it keeps its connections."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default="127.0.0.1", description='Where to listen; "0.0.0.0" is every IPv4 address, "" every address.'
    )
    port: int = _int(8765, 0, 65_535, "One port serves everything; 0 takes a free one and logs which.")
    tls_cert: Annotated[str, AfterValidator(_path)] = Field(
        default="", description='PEM file with the certificate chain; "" means no TLS. Goes with tls_key.'
    )
    tls_key: Annotated[str, AfterValidator(_path)] = Field(
        default="", description="PEM file with the certificate's private key, without a passphrase."
    )
    heartbeat_s: float = _float(10.0, 1, 3600, "Between two heartbeats, which carry cursor and ledger.")
    ping_interval_s: float = _float(
        4.0,
        1,
        3600,
        "A WebSocket client that is silent for so long is pinged, which finds programs that hang; of a machine that "
        "has vanished TCP tells within ten seconds. All clients together get at most 125 pings a second: from 500 "
        "on the interval grows with their number, to 80 s for 10,000.",
    )
    ping_timeout_s: float = _float(
        4.0, 1, 3600, "It is given up if it stays silent for so long after the ping, and used to answer."
    )
    handshake_timeout_s: float = _float(
        5.0, 0.1, 300, "A connection that has sent no whole request after so long is closed."
    )
    drain_s: float = _float(
        3.0, 0, 300, "Ctrl-C and SIGTERM give sessions so long to leave; 0 cuts them off at once."
    )
    admin: Literal["local", "everyone", "nobody"] = Field(
        default="local",
        description="Who may ask for /v1/sessions, which names clients: local (on this machine, not through a "
        "proxy), everyone, nobody.",
    )
    min_write_gap_ms: float = _float(
        17.0, 0, 1000, "Smallest gap between two rounds of writes under load; longer saves CPU. 0: none."
    )


class History(Section):
    """How much of the tape is kept for those who resume; 0 of any keeps nothing."""

    ticks: int = _int(200_000, 0, 100_000_000, "The oldest above so many are forgotten.")
    bytes: int = _int(33_554_432, 0, 1 << 36, "The oldest above so many bytes are forgotten (32 MiB).")
    age_s: float = _float(300.0, 0, 604_800, "What is older is forgotten.")


class Limits(Section):
    """What subscribers may take; who asks for more is refused, and told which limit it was."""

    sessions: int = _int(10_000, 1, 1_000_000, "Sessions at a time; the next one is closed with 1013.")
    sessions_per_address: int = _int(
        0,
        0,
        1_000_000,
        "Of them, from one address; the next one is closed with 4409. 0: no limit of its own.",
    )
    subscriptions: int = _int(100, 1, 100_000, "Subscriptions of a session.")
    symbols: int = _int(10_000, 1, 1_000_000, "Symbols that a session names in all its subscriptions.")
    message_bytes: int = _int(
        262_144, 1024, 16_777_216, "An inbound message above it closes the session with 1009 (256 KiB)."
    )
    requests_per_minute: int = _int(6_000, 1, 10_000_000, "More close the session with 4429.")
    replays: int = _int(16, 0, 100_000, "Recordings played at a time; 0 plays none.")
    queue_ticks: int = _int(10_000, 1, 10_000_000, "The most that `queue` may ask for; more gets this.")
    queue_bytes: int = _int(
        4_194_304, 4096, 1 << 32, "What may wait for a subscription; above it, `overflow` decides (4 MiB)."
    )
    session_queue_ticks: int = _int(
        100_000, 1, 1_000_000_000, "What may wait for a session in all; above it, it is ended with 4408."
    )
    session_queue_bytes: int = _int(
        16_777_216, 4096, 1 << 40, "The same in bytes, what its socket does not take included (16 MiB)."
    )
    total_queue_ticks: int = _int(
        2_000_000,
        1,
        1_000_000_000,
        "What may wait for all sessions; above it, those that hold most are ended with 4408 until it fits.",
    )
    total_queue_bytes: int = _int(268_435_456, 4096, 1 << 40, "The same in bytes (256 MiB).")


class SlowConsumer(Section):
    """When a subscriber that does not keep up is told so, and when it is given up."""

    high_watermark: float = _float(
        0.5, 0.01, 1, "How full a queue is (0 to 1) when its subscriber gets the notice `pressed`."
    )
    low_watermark: float = _float(
        0.1, 0, 1, "How full it is at the most when the subscriber gets the notice `recovered`."
    )
    write_deadline_s: float = _float(
        5.0, 0.1, 300, "A write that makes no progress for so long evicts the subscriber with 4408."
    )


class LogOptions(Section):
    """What is logged, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error; what is less important is left out."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="console (for people), json (for machines); auto: console on a terminal, else json.",
    )


class Debug(Section):
    """For those who work on the broker; off in production."""

    echo: bool = Field(
        default=False,
        description="Serve /debug/echo, a WebSocket echo of up to 16 MiB, for the Autobahn test suite.",
    )


class Config(BaseModel):
    """The whole tree, frozen.

    Attributes:
        feeds: in the order of the file; each is the ``Options`` of its feed's class.
        recordings: what is recorded, and what can be played.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: Server = Server()
    history: History = History()
    limits: Limits = Limits()
    slow_consumer: SlowConsumer = SlowConsumer()
    log: LogOptions = LogOptions()
    debug: Debug = Debug()
    feeds: tuple[FeedOptions, ...] = Field(default_factory=default_feeds)
    recordings: tuple[RecordingOptions, ...] = ()


#: Section name to its model, in the order of the file.
SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
