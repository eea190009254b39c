"""What the REST pages answer with (protocol, section 7); the OpenAPI document is made from these types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias

import orjson
from msgspec import Meta, Struct

from broker.core.delivery import Delivery
from broker.core.errors import FeedFailure
from broker.core.mailbox import LedgerEntry
from broker.core.messages import Cursor, Rejected
from broker.core.ticks import Channel, Symbol, Tick

Count: TypeAlias = Annotated[int, Meta(ge=0)]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, description="seconds")]
PerSecond: TypeAlias = Annotated[float, Meta(ge=0, description="per second, over the last few seconds")]
UtcTime: TypeAlias = Annotated[
    str,
    Meta(
        description="RFC 3339, UTC",
        examples=["2025-06-30T14:03:07.250Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
SessionState = Literal["live", "closed", "all"]
PageFeedState = Literal["starting", "idle", "live", "stale", "down", "ended"]


class SymbolInfo(Struct):
    """An instrument that can be subscribed to.

    Attributes:
        symbol: as it is subscribed to.
        venue: the part of it before the colon.
        channels: those on which it has had a tick since the broker started.
    """

    symbol: Symbol
    venue: str
    channels: list[Channel]


class Symbols(Struct):
    """Answer of `/v1/symbols`.

    Attributes:
        symbols: in the order in which they became known.
    """

    symbols: list[SymbolInfo]


class SnapshotPage(Struct):
    """Answer of `/v1/snapshot`: the same ticks that a `snapshot` message carries. `snapshot_page` encodes it.

    Attributes:
        cursor: where a subscription that goes on from here begins.
        data: the latest ticks, topic by topic; the whole book on `book`, and nothing of a topic that has
            had no tick yet.
        rejected: the names that were asked for in vain.
    """

    cursor: Cursor
    data: list[Tick]
    rejected: list[Rejected]


class FeedRecordingInfo(Struct):
    """The recording of a feed (its key `record`); counts are since the broker started.

    Attributes:
        frames: that the venue sent.
        ticks: that the feed made.
        events: all that was taken in, what became of connections included, and what was lost later.
        lost: events that are not in the recording, as the disk was full or too slow; it says itself where.
        bytes: written to disk, compressed.
        failure: why nothing can be written at present, null if it can.
    """

    frames: Count
    ticks: Count
    events: Count
    lost: Count
    bytes: Count
    failure: str | None


class FeedInfo(Struct):
    """One configured feed; counts are since the broker started.

    Attributes:
        name: as configured; the type, where it was given none.
        type: which adapter it is.
        venue: what its symbols begin with.
        state: `idle` waits until somebody wants something of it, `stale` is connected and mute, `down` waits to be
            started again or is down for good, `ended` has no more to give.
        ticks: those that were published.
        refused: frames of the venue that map to no tick.
        refused_by: why, in short, and how often; the five most frequent reasons.
        last_refusal: the text of the last of them, null if there was none.
        conflated: ticks that were merged into a later one because the broker was behind.
        dropped: ticks that were lost because the broker was behind and too many symbols waited; a `gap` tells it.
        waiting: ticks that it brought and the broker has not taken yet.
        gaps: how often it said that ticks of a topic were missed at the venue.
        restarts: how often it was started again after a failure.
        failures: what its lives ended by, and how often: `connect` (no connection came about), `refused` (with an HTTP
            status), `closed` (the connection ended), `silent` (not even heartbeats), `mute` (no ticks), `venue` (its
            own word), `failed` (all else), `fault` (a mistake in the adapter).
        seconds: how long it has been in each state.
        last_error: the text of the last failure, null if there was none.
        last_tick_age_s: how long ago its last ticks came, null if there were none yet.
        since: when its state began.
        recording: what is recorded of it, null if nothing is to be.
    """

    name: str
    type: str
    venue: str
    state: PageFeedState
    ticks: Count
    refused: Count
    refused_by: dict[str, Count]
    last_refusal: str | None
    conflated: Count
    dropped: Count
    waiting: Count
    gaps: Count
    restarts: Count
    failures: dict[FeedFailure, Count]
    seconds: dict[PageFeedState, Seconds]
    last_error: str | None
    last_tick_age_s: Seconds | None
    since: UtcTime
    recording: FeedRecordingInfo | None


class Feeds(Struct):
    """Answer of `/v1/feeds`.

    Attributes:
        feeds: in the order of the configuration.
    """

    feeds: list[FeedInfo]


class SessionCounts(Struct):
    """Open sessions, by transport.

    Attributes:
        total: of all transports together.
        ws: over `/v1/ws`.
        sse: over `/v1/stream`, as server-sent events.
        ndjson: over `/v1/stream`, as lines.
    """

    total: Count
    ws: Count
    sse: Count
    ndjson: Count


class TapeInfo(Struct):
    """The history that resuming reads from.

    Attributes:
        offset: number of the newest tick of the whole tape; 0 before the first.
        kept_ticks: how many the history holds now.
        kept_bytes: what they take in memory.
    """

    offset: Count
    kept_ticks: Count
    kept_bytes: Count


class QueueInfo(Struct):
    """What waits for subscribers.

    Attributes:
        ticks: queued for all subscriptions together.
        bytes: that wait for those who are behind, in queues and for the kernel, when last counted.
        bytes_limit: above it, those who hold most are ended with `over_total_budget`.
        behind: sessions for which something waited, when last counted.
    """

    ticks: Count
    bytes: Count
    bytes_limit: Count
    behind: Count


class Stats(Struct):
    """Answer of `/v1/stats`; counts are since the broker started.

    Attributes:
        server: name and version.
        epoch: of the tape; a cursor of another one can't be resumed.
        uptime_s: how long the broker has been running.
        sessions: those that are open now.
        closed: sessions that have ended or were turned away, by the name of the reason.
        ticks: those that came in.
        deliveries: ticks handed to subscribers' sockets, each counted once for each subscriber.
        ticks_per_s: rate of `ticks`.
        deliveries_per_s: rate of `deliveries`.
        tape: the history, as it is now.
        queues: what waits now.
    """

    server: str
    epoch: str
    uptime_s: Seconds
    sessions: SessionCounts
    closed: dict[str, Count]
    ticks: Count
    deliveries: Count
    ticks_per_s: PerSecond
    deliveries_per_s: PerSecond
    tape: TapeInfo
    queues: QueueInfo


class SessionQuery(Struct, forbid_unknown_fields=True, frozen=True):
    """What `/v1/sessions` is asked for.

    Attributes:
        state: `live`, the default; `closed`: those that ended last; `all`, which is the default with `id`.
        limit: at most so many.
        peer: only those from this address.
        id: only the session of this name, as its `welcome` gave it.
    """

    state: SessionState | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    peer: Annotated[str, Meta(max_length=64)] | None = None
    id: Annotated[str, Meta(max_length=64)] | None = None


class SessionSubscription(Struct):
    """One subscription of a session.

    Attributes:
        sub: its number.
        ch: its channel.
        symbols: the first five of them, patterns as given.
        symbols_total: how many there are.
        delivery: the contract in force.
        ledger: its account; the final one, where the session has ended.
        queued_bytes: of the queued ticks.
        peak_ticks: the most that were ever queued.
    """

    sub: int
    ch: Channel
    symbols: list[str]
    symbols_total: Count
    delivery: Delivery
    ledger: LedgerEntry
    queued_bytes: Count
    peak_ticks: Count


class SessionEnd(Struct):
    """How a session ended.

    Attributes:
        at: when.
        reason: stable, for programs; the same as in `closed` of `/v1/stats`.
        code: the close code; 1006 where none was sent.
        text: the reason, for people.
        advice: what the client could do otherwise, for people; null if there is nothing to be said.
        closing: what became of the `closing` message. `delivered`: the client closed in good order behind it;
            `undelivered`: nobody knows whether it was read, if it could be sent at all; `under_way`: it is being
            sent; `none`: there was nobody to tell, as the client left first.
    """

    at: UtcTime
    reason: str
    code: int
    text: str
    advice: str | None
    closing: Literal["under_way", "delivered", "undelivered", "none"]


class SessionInfo(Struct):
    """One session: as it is, or as it was right before it ended.

    Attributes:
        id: its name, as its `welcome` gave it.
        state: whether it has ended.
        peer: the client's address, without the port.
        transport: `ws`, `sse` or `ndjson`.
        codec: `json` or `msgpack`.
        opened_at: when it was let in.
        lived_s: for how long it has been there, or was.
        silent_s: how long ago the client last said anything.
        requests: that it made.
        queued_ticks: that wait in its queues.
        queued_bytes: of these ticks.
        unsent_bytes: that the kernel does not take, because the client does not read.
        oldest_tick_age_s: how long the oldest of its queued ticks has waited; null if none is queued.
        subscriptions: the first twenty of them.
        subscriptions_total: how many there are.
        end: null while it lives.
    """

    id: str
    state: Literal["live", "closed"]
    peer: str
    transport: str
    codec: str
    opened_at: UtcTime
    lived_s: Seconds
    silent_s: Seconds
    requests: Count
    queued_ticks: Count
    queued_bytes: Count
    unsent_bytes: Count
    oldest_tick_age_s: Seconds | None
    subscriptions: list[SessionSubscription]
    subscriptions_total: Count
    end: SessionEnd | None


class SessionsPage(Struct):
    """Answer of `/v1/sessions`.

    Attributes:
        live: how many there are.
        closed: how many that have ended are remembered, at most 10000.
        sessions: those that were asked for. Live ones come first, by what waits for them; then those that ended,
            the last one first.
    """

    live: Count
    closed: Count
    sessions: list[SessionInfo]


class Problem(Struct):
    """An error (RFC 9457); further members depend on its code.

    Attributes:
        type: `about:blank`: `title` and `code` say it all.
        title: what the status means.
        status: of the HTTP response.
        detail: names what was wrong, its value, and what would have been right; for people.
        code: stable, for programs; the same as in `error` messages.
    """

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: str


class NotReady(Problem):
    """Answer of `/readyz` while the broker can't do its work: a problem that lists the reasons.

    Attributes:
        ready: always false.
        reasons: for people, at least one.
    """

    ready: bool
    reasons: Annotated[list[str], Meta(min_length=1)]


class Ready(Struct):
    """Answer of `/readyz` while a feed is live, or idle for want of subscribers, and the broker isn't draining.

    Attributes:
        ready: always true.
        reasons: always empty.
    """

    ready: bool = True
    reasons: Annotated[list[str], Meta(max_length=0)] = []


class Health(Struct):
    """Answer of `/healthz`: the process is alive and answers.

    Attributes:
        status: there is no other.
    """

    status: Literal["ok"] = "ok"


class RefusedLine(Struct):
    """A line of a request to `/v1/ingest` that is no tick.

    Attributes:
        line: its number, from 1 on.
        field: what is wrong in it, e.g. `bids[0][1]`; empty if it is the line as a whole.
        problem: the value, and what would have been right.
    """

    line: Annotated[int, Meta(ge=1)]
    field: str
    problem: str


class IngestAnswer(Struct):
    """Answer of `/v1/ingest`: what became of the lines.

    Attributes:
        venue: of the feed that the key belongs to.
        accepted: lines that were ticks; they are on their way to the subscribers.
        refused: lines that were none.
        errors: the first of those.
    """

    venue: str
    accepted: Count
    refused: Count
    errors: list[RefusedLine]


def snapshot_page(cursor: str, ticks: Sequence[bytes], rejected: Sequence[Rejected]) -> bytes:
    """Return a `SnapshotPage` as JSON, of ticks that the JSON codec has encoded."""
    names = orjson.dumps([{"symbol": item.symbol, "code": item.code} for item in rejected])
    return b'{"cursor":%b,"data":[%b],"rejected":%b}' % (orjson.dumps(cursor), b",".join(ticks), names)


def utc_time(ns: int) -> str:
    """Return nanoseconds of Unix time as RFC 3339, to the millisecond (rounded down)."""
    at = datetime.fromtimestamp(ns // 1_000_000_000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ns // 1_000_000 % 1000:03d}Z"
