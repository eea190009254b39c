"""Redis Streams through coredis, the one file that knows it: three questions, and its errors as ours.

coredis runs on Trio by itself. It is an extra, and takes 0.4 s to import; so it is imported when a feed first connects.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import trio

from broker.core.errors import FeedError, FeedPermanentError
from feeds.redis_streams import EntryId, Position, StreamState
from feeds.tls import tls_context

if TYPE_CHECKING:
    import coredis

#: For connecting and logging in.
CONNECT_S = 10.0
#: What any answer may take, beyond what it was asked to wait for.
ANSWER_S = 15.0
#: Streams that are asked about in one go.
KEYS_AT_ONCE = 200
#: What is to be said where it is not installed.
MISSING = "needs coredis, which is not installed: pip install 'tapecast[redis]'"

Fields: TypeAlias = Mapping[bytes, bytes]


class Read(NamedTuple):
    """What stood behind a position of one stream, and the stream at that moment."""

    key: bytes
    entries: Sequence[tuple[EntryId, Fields]]
    state: StreamState


class LoginError(FeedError):
    """The server does not know us, or wants us to log in."""


class KeyRefusedError(FeedError):
    """One key can't be read: it is no stream, or is not for us."""


class RedisClient:
    """A connection to a server; not for several tasks at once."""

    def __init__(self, redis: coredis.Redis[bytes], name: str) -> None:
        """``name``: of the server, for errors."""
        self._redis = redis
        self._name = name

    async def states(self, keys: Sequence[bytes]) -> list[StreamState | KeyRefusedError | None]:
        """Return how each stream is; ``None``: there is none of this name."""
        states: list[StreamState | KeyRefusedError | None] = []
        for start in range(0, len(keys), KEYS_AT_ONCE):
            with self._translated():
                async with self._redis.pipeline(transaction=False, raise_on_error=False) as pipe:
                    for key in keys[start : start + KEYS_AT_ONCE]:
                        pipe.xinfo_stream(key)
                states += map(self._state_or_error, pipe.results or ())
        return states

    async def keys(self, pattern: str) -> list[bytes]:
        """Return the streams whose keys match a glob pattern."""
        found: dict[bytes, None] = {}
        cursor = 0
        while True:
            with self._translated():
                cursor, keys = await self._redis.scan(cursor, match=pattern, count=1000, type_="stream")
            found.update(dict.fromkeys(keys))
            if not cursor:
                return list(found)

    async def wait(self, positions: Mapping[bytes, Position], patience_s: float) -> list[bytes]:
        """Wait until something stands behind any position, and return of which streams."""
        with self._translated(patience_s):
            # In Redis 0 is for ever.
            found = await self._redis.xread(_ids(positions), count=1, block=max(round(patience_s * 1000), 1))
        return list(found or ())

    async def read(self, positions: Mapping[bytes, Position], count: int) -> list[Read]:
        """Return what stands behind the positions, at most ``count`` entries of each, as of one moment.

        A stream that has gone in the meantime is left out.
        """
        from coredis.exceptions import ResponseError

        with self._translated():
            async with self._redis.pipeline(transaction=True, raise_on_error=False) as pipe:
                pipe.xread(_ids(positions), count=count)
                for key in positions:
                    pipe.xinfo_stream(key)
            found, *infos = pipe.results or ()
            if isinstance(found, Exception):
                raise found
        reads: list[Read] = []
        for key, info in zip(positions, infos, strict=True):
            if isinstance(info, ResponseError) or not found or key not in found:
                continue
            entries = [(_id(each.identifier), each.field_values) for each in found[key]]
            reads.append(Read(key, entries, self._state(info)))
        return reads

    def _state_or_error(self, info: Any) -> StreamState | KeyRefusedError | None:
        from coredis.exceptions import AuthorizationError, ResponseError, WrongTypeError

        if isinstance(info, WrongTypeError | AuthorizationError):
            return KeyRefusedError(str(info))
        if isinstance(info, ResponseError) and "no such key" in str(info):
            return None
        if isinstance(info, Exception):
            raise info
        return self._state(info)

    def _state(self, info: Any) -> StreamState:
        first, length, added = info["first-entry"], info["length"], info["entries-added"]
        if added < length:
            raise FeedPermanentError(
                f"{self._name}: Redis 7.0 or newer, or Valkey, is needed to tell what was trimmed"
            )
        return StreamState(
            None if first is None else _id(first.identifier),
            _id(info["last-generated-id"]),
            length,
            added,
        )

    @contextmanager
    def _translated(self, patience_s: float = 0.0) -> Iterator[None]:
        """Make a `FeedError` of what coredis raises, and of an answer that does not come."""
        from coredis.exceptions import AuthenticationError, RedisError

        try:
            with trio.fail_after(patience_s + ANSWER_S):
                yield
        except AuthenticationError as exc:
            raise LoginError(f"{self._name}: {exc}") from None
        except trio.TooSlowError:
            raise FeedError(f"{self._name}: no answer within {patience_s + ANSWER_S:g} s") from None
        except (RedisError, TimeoutError, OSError) as exc:
            raise FeedError(f"{self._name}: {_reason(exc)}") from None


def _ids(positions: Mapping[bytes, Position]) -> dict[bytes | str, bytes | str | int | float]:
    return {key: str(position) for key, position in positions.items()}


def _id(text: bytes) -> EntryId:
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds), int(number)


def is_installed() -> bool:
    """Tell whether coredis is there; does not import it."""
    return find_spec("coredis") is not None


def check_url(url: str) -> None:
    """Raise `ValueError` unless this is ``redis://HOST:PORT/DATABASE``, ``rediss://`` (TLS) or ``unix:///PATH``."""
    wanted = "must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE for TLS, or unix:///PATH"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"{wanted}: {exc}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "must not name a user or a password, which would be shown: they have keys of their own"
        )
    is_path = parts.scheme == "unix" and not parts.netloc and len(parts.path) > 1
    is_host = parts.scheme in ("redis", "rediss") and parts.hostname and port != 0
    number = parts.path.removeprefix("/")
    if parts.query or parts.fragment or not (is_path or (is_host and (not number or number.isdigit()))):
        raise ValueError(wanted)


@asynccontextmanager
async def connected(url: str, user: str, password: str, ca_file: str) -> AsyncGenerator[RedisClient, None]:
    """Connect when first asked, and hang up in the end.

    Raises:
        FeedPermanentError: coredis is not installed.
    """
    if not is_installed():
        raise FeedPermanentError(MISSING)
    import coredis
    from coredis.retry import NoRetryPolicy

    # What goes wrong is told by the feed; with a traceback of coredis's it would be in the log twice.
    logging.getLogger("coredis").setLevel(logging.CRITICAL)
    parts = urlsplit(url)
    options: dict[str, Any] = {"connect_timeout": CONNECT_S, "client_name": "tapecast"}
    if password:
        options |= {"username": user or "default", "password": password}
    if parts.scheme == "rediss":
        options["ssl_context"] = tls_context(ca_file)
    redis = coredis.Redis.from_url(url, retry_policy=NoRetryPolicy(), **options)
    failure: Exception | None = None
    async with redis:
        try:
            yield RedisClient(redis, parts.netloc or parts.path)
        except Exception as exc:
            # Its nursery would put a group around it.
            failure = exc
    if failure is not None:
        raise failure


def _reason(exc: BaseException) -> str:
    """Return what happened, with what is behind it where coredis says no more than that it failed."""
    cause = exc.__cause__
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(exc) or type(exc).__name__
    return f"{text}: {cause}" if cause is not None and str(cause) and str(cause) not in text else text
