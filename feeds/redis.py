"""Redis Streams as a feed: programs add ticks to streams with XADD, and a broker reads them with XREAD.

An entry has one tick or several in the field ``tick``, see `feeds.message_intake`, or is a tick itself: its fields are
the tick's, as ``XADD ticks:ACME * ch trade price 101.5 size 3 side buy id 7``, an empty text is null there, and levels
are JSON. Redis keeps what was not read yet, so each entry comes exactly once: the feed pauses while the broker is
behind, and remembers across connections how far it has read (not across a restart of the broker: see ``start``). What
was trimmed before it was read is a gap, for the topics that its stream has served.

All ticks of one topic should be in one stream: between streams there is no order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
import trio
from msgspec import Raw
from pydantic import Field, SecretStr, field_validator

from broker.core.errors import FeedPermanentError, FrameError
from broker.core.tick_lines import TickLines
from broker.core.ticks import CHANNELS
from feeds.addresses import Address, AddressPattern
from feeds.base import Feed, FeedContext
from feeds.line_intake import LineOptions
from feeds.message_intake import Format, MessageIntake, Source
from feeds.redis_client import (
    MISSING,
    Fields,
    KeyRefusedError,
    LoginError,
    Read,
    RedisClient,
    check_url,
    connected,
    is_installed,
)
from feeds.redis_streams import Position, entry_id

#: How often it is looked which streams there are, and whether they still are the same; less often where there are so
#: many keys that looking takes more than a twentieth of the time.
SURVEY_S = 1.0
SURVEY_SHARE = 1 / 20
#: Entries that are read at a time, of all streams together: some 10 ms.
READ_ENTRIES = 2048
#: Entries that are looked at in one go: about a millisecond, in which nobody else has a turn.
SLICE_ENTRIES = 128
#: Streams of one feed.
MOST_STREAMS = 10_000
#: Fields whose value is JSON where an entry is a tick itself.
_JSON_FIELDS = frozenset((b"bids", b"asks", b"final", b"count"))
_NULL_FIELDS = frozenset((b"bid", b"bid_size", b"ask", b"ask_size", b"side", b"ts"))


class Redis(Feed):
    """Redis Streams; their entries are ticks in JSON or MessagePack, or as fields.

    Attributes:
        was_let_in: whether a server has ever taken its login, and said which streams there are.
    """

    resumes = True

    class Options(LineOptions):
        """Keys of a feed of the type ``redis``."""

        type: Literal["redis"] = "redis"
        #: redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE for TLS, or unix:///PATH.
        url: str = "redis://127.0.0.1:6379/0"
        #: Keys; {ch} and {symbol} say what a tick need not say itself. Streams that appear later are found.
        streams: Annotated[tuple[str, ...], Field(min_length=1)]
        #: Where to begin: "$" is what comes from now on, "0" all that is there, or behind an entry's id.
        start: str = "$"
        #: The field of an entry that has its ticks; where it is missing, the fields are the tick's.
        field: str = "tick"
        format: Format = "json"
        user: str = ""
        password: SecretStr = SecretStr("")
        #: A PEM file with the authority behind the server's certificate, besides the system's.
        tls_ca: str = ""

        @field_validator("url")
        @classmethod
        def _is_server(cls, url: str) -> str:
            check_url(url)
            return url

        @field_validator("streams")
        @classmethod
        def _are_keys(cls, streams: tuple[str, ...]) -> tuple[str, ...]:
            for stream in streams:
                AddressPattern(stream)
                if not stream or len(stream) > 1000:
                    raise ValueError("must be keys of 1 to 1000 characters")
                if streams.count(stream) > 1:
                    raise ValueError(f"{stream!r} is listed twice")
            return streams

        @field_validator("start")
        @classmethod
        def _is_place(cls, start: str) -> str:
            if start != "$":
                entry_id(start)
            return start

    def __init__(self, options: Options) -> None:
        if not is_installed():
            raise FeedPermanentError(MISSING)
        self.options = options
        self.venue = options.venue
        self.symbols = options.canonical()
        self.can_pause = options.can_pause
        self.stale_after_s = options.stale_after_s
        self._patterns = [AddressPattern(stream) for stream in options.streams]
        self._ticks = TickLines(self.venue, self.symbols)
        #: Kept between two lives, so that nothing is missed or read twice.
        self._streams: dict[bytes, _Stream] = {}
        self._refused: set[bytes] = set()
        self.was_let_in = False
        self._has_surveyed = False

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`: one connection.

        Raises:
            FeedError: it ended, or could not be made.
            FeedPermanentError: a login that has never been right is refused, or the server is too old.
        """
        options = self.options
        try:
            async with connected(
                options.url, options.user, options.password.get_secret_value(), options.tls_ca
            ) as client:
                await self._read(ctx, client)
        except LoginError as exc:
            if not self.was_let_in:
                raise FeedPermanentError(str(exc)) from None
            raise

    async def _read(self, ctx: FeedContext, client: RedisClient) -> None:
        for stream in self._streams.values():
            stream.intake.ctx = ctx
        while True:
            began_at = trio.current_time()
            await self._survey(ctx, client)
            self.was_let_in = True
            now = trio.current_time()
            again_at = now + max(SURVEY_S, (now - began_at) / SURVEY_SHARE)
            while (left := again_at - trio.current_time()) > 0:
                positions = {
                    key: stream.position for key, stream in self._streams.items() if not stream.is_left_out
                }
                if not positions:
                    await trio.sleep(left)
                    break
                ready = await client.wait(positions, left)
                if ready:
                    count = max(READ_ENTRIES // len(ready), 1)
                    for read in await client.read({key: positions[key] for key in ready}, count):
                        await self._serve(ctx, self._streams[read.key], read)

    async def _serve(self, ctx: FeedContext, stream: _Stream, read: Read) -> None:
        """Publish what was read of one stream. Cancelled within, the rest is read again."""
        if stream.position.check(read.state):
            ctx.log.warning(
                "entries are missing: they were trimmed, or the stream is a new one",
                stream=stream.source.name,
            )
            stream.intake.abandon()
        for number, (at, fields) in enumerate(read.entries, 1):
            await self._take(stream, f" {at[0]}-{at[1]}", fields)
            stream.position.advance(at)
            if number % SLICE_ENTRIES == 0:
                await ctx.flush()
        stream.position.settle(read.state)
        await ctx.flush()

    async def _take(self, stream: _Stream, place: str, fields: Fields) -> None:
        payload = fields.get(self.options.field.encode())
        if payload is not None:
            await stream.intake.take(stream.source, payload, place)
            return
        try:
            text = _as_json(fields)
        except (msgspec.MsgspecError, ValueError) as exc:
            stream.intake.refuse(stream.source, place, f"not fields of a tick: {exc}", repr(fields).encode())
        else:
            stream.intake.take_object(stream.source, text, place)

    # ── which streams there are ──────────────────────────────────────────────────────────────────

    async def _survey(self, ctx: FeedContext, client: RedisClient) -> None:
        """Find streams that are new, and those that are no more what they were."""
        keys = await self._keys(ctx, client)
        for key, state in zip(keys, await client.states(list(keys)), strict=True):
            if isinstance(state, KeyRefusedError):
                self._leave_out(ctx, key, str(state))
                continue
            stream = self._streams.get(key)
            if stream is None:
                # One that appears later is new from its first entry on.
                is_new = self._has_surveyed and key not in self._refused
                position = Position() if is_new else Position.begin(self.options.start, state)
                stream = self._streams[key] = self._met(ctx, key, position)
            elif stream.position.resume(state):
                ctx.log.warning("a stream was deleted, or went back", stream=stream.source.name)
                stream.intake.abandon()
            stream.is_left_out = False
            self._refused.discard(key)
            if state is None and not keys[key]:
                # It was found by its name, and will be found again.
                del self._streams[key]
        self._has_surveyed = True
        await ctx.flush()

    async def _keys(self, ctx: FeedContext, client: RedisClient) -> dict[bytes, bool]:
        """Return the keys to be read, and whether each stands in the configuration."""
        keys = dict.fromkeys(self._streams, False)
        for pattern in self._patterns:
            if (named := self._named(pattern)) is not None:
                keys.update(dict.fromkeys(named, True))
                continue
            for key in await client.keys(_glob(pattern)):
                if key in keys or key in self._refused or not pattern.match(key.decode("utf-8", "replace")):
                    continue
                if len(keys) < MOST_STREAMS:
                    keys[key] = False
                else:
                    self._leave_out(ctx, key, f"one more than {MOST_STREAMS} streams")
        return keys

    def _named(self, pattern: AddressPattern) -> list[bytes] | None:
        """Return the keys of a pattern where they are known beforehand."""
        if pattern.has_symbol and not self.options.symbols:
            return None
        channels: Iterable[str] = CHANNELS if "{ch}" in pattern.template else ("",)
        return [
            key.replace("{ch}", ch).encode()
            for key in pattern.of_symbols(self.options.symbols)
            for ch in channels
        ]

    def _met(self, ctx: FeedContext, key: bytes, position: Position) -> _Stream:
        name = key.decode("utf-8", "replace")
        addresses = (pattern.match(name) for pattern in self._patterns)
        address = next((found for found in addresses if found is not None), Address())
        intake = MessageIntake(ctx, self._ticks, self.options.format)
        return _Stream(Source(name, address, self.venue), intake, position)

    def _leave_out(self, ctx: FeedContext, key: bytes, why: str) -> None:
        """Read a key no more, until it can be read again; how far it was read is not forgotten."""
        stream = self._streams.get(key)
        if stream is not None:
            stream.is_left_out = True
        if key not in self._refused and len(self._refused) < MOST_STREAMS:
            self._refused.add(key)
            name = key.decode("utf-8", "replace")
            ctx.refused(FrameError(f"{name}: can't be read: {why}", key, kind="a key that can't be read"))


class _Stream:
    """One stream that is read."""

    __slots__ = ("intake", "is_left_out", "position", "source")

    def __init__(self, source: Source, intake: MessageIntake, position: Position) -> None:
        self.source = source
        self.intake = intake
        self.position = position
        self.is_left_out = False


def _glob(pattern: AddressPattern) -> str:
    """Return what SCAN finds the keys of a pattern by."""
    parts = re.split(r"\{(?:ch|symbol)\}", pattern.template)
    return "*".join(re.sub(r"([*?\[\]\\])", r"\\\1", part) for part in parts)


def _as_json(fields: Fields) -> bytes:
    """Return an entry that is a tick itself as the JSON of one."""
    made: dict[str, str | Raw | None] = {}
    for name, value in fields.items():
        if not value and name in _NULL_FIELDS:
            made[name.decode()] = None
        elif name in _JSON_FIELDS:
            made[name.decode()] = Raw(msgspec.json.decode(value, type=Raw))
        else:
            made[name.decode()] = value.decode()
    return msgspec.json.encode(made)
