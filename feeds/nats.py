"""NATS as a feed: programs publish ticks to a subject tree, and a broker listens to it.

A message has one tick or several, see `feeds.message_intake`. Core NATS remembers nothing: what is published while the
connection is down is lost, so a connection that ends is a gap for every topic that was served, and a book is served
again from its next snapshot on. A publisher should send a snapshot now and then. NATS does not wait for slow readers
either, it cuts them off; so the feed always reads, and what the broker has no room for is conflated.

Source: see `feeds.nats_client` and, for subjects, https://docs.nats.io/nats-concepts/subjects, read 2026-11-21.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from broker.core.errors import FeedError, FeedPermanentError
from broker.core.tick_lines import TickLines
from feeds.addresses import Address, AddressPattern
from feeds.base import Feed, FeedContext
from feeds.line_intake import LineOptions
from feeds.message_intake import Format, MessageIntake, Source
from feeds.nats_client import Login, NatsConnection, Refused, connected, server_of
from feeds.nats_protocol import Event, Message, Refusal, TooLong

_WILDCARDS = {"*": "[^.]+", ">": ".+"}
#: Subjects that are remembered, with what they say; above it, they are looked at anew.
_MOST_SOURCES = 100_000


class Nats(Feed):
    """A subject tree of a NATS server; its messages are ticks in JSON or MessagePack.

    Attributes:
        was_let_in: whether a server has ever taken its login and its subjects.
    """

    class Options(LineOptions):
        """Keys of a feed of the type ``nats``."""

        type: Literal["nats"] = "nats"
        #: Servers, one after the other if one fails: nats://HOST:PORT, or tls://HOST:PORT, which insists on TLS.
        urls: Annotated[tuple[str, ...], Field(min_length=1)] = ("nats://127.0.0.1:4222",)
        #: What to listen to, with * and > as in NATS; {ch} and {symbol} say what a tick need not say itself.
        subjects: Annotated[tuple[str, ...], Field(min_length=1)]
        format: Format = "json"
        user: str = ""
        password: SecretStr = SecretStr("")
        #: Instead of a user and a password.
        token: SecretStr = SecretStr("")
        #: A PEM file with the authority behind the server's certificate, besides the system's. Insists on TLS.
        tls_ca: str = ""
        #: NATS does not wait.
        can_pause: Literal[False] = False

        @field_validator("urls")
        @classmethod
        def _are_servers(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
            for url in urls:
                server_of(url)
            return urls

        @field_validator("subjects")
        @classmethod
        def _can_be_listened_to(cls, subjects: tuple[str, ...]) -> tuple[str, ...]:
            asked = [_with_wildcards(pattern_of(subject)) for subject in subjects]
            for index, subject in enumerate(asked):
                for other in asked[:index]:
                    if _overlap(other.split("."), subject.split(".")):
                        raise ValueError(f"{other!r} and {subject!r} overlap: messages would come twice")
            return subjects

        @model_validator(mode="after")
        def _one_login(self) -> Nats.Options:
            if self.token.get_secret_value() and (self.user or self.password.get_secret_value()):
                raise ValueError("token goes without user and password")
            return self

    def __init__(self, options: Options) -> None:
        self.options = options
        self.venue = options.venue
        self.symbols = options.canonical()
        self.can_pause = False
        self.stale_after_s = options.stale_after_s
        self._patterns = [pattern_of(subject) for subject in options.subjects]
        self._login = Login(
            options.user, options.password.get_secret_value(), options.token.get_secret_value()
        )
        self._ticks = TickLines(self.venue, self.symbols)
        self._sources: dict[bytes, Source] = {}
        self._lives = 0
        self.was_let_in = False

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`: one connection, with the next of the servers in each life.

        Raises:
            FeedError: it ended, or could not be made.
            FeedPermanentError: a login that has never been right is refused, or every subject is.
        """
        url = self.options.urls[self._lives % len(self.options.urls)]
        self._lives += 1
        try:
            async with connected(url, self._login, self.options.tls_ca) as connection:
                await self.listen(ctx, connection)
        except Refused as exc:
            if exc.is_lasting and not self.was_let_in:
                raise FeedPermanentError(str(exc)) from None
            raise

    async def listen(self, ctx: FeedContext, connection: NatsConnection) -> None:
        """Serve one connection that has been greeted until it ends, which it does with a `FeedError`."""
        intake = MessageIntake(ctx, self._ticks, self.options.format)
        try:
            await self._subscribe(ctx, connection)
            self.was_let_in = True
            while True:
                for event in await connection.receive():
                    await self._take(intake, event)
                await ctx.flush()
        finally:
            intake.abandon()

    async def _subscribe(self, ctx: FeedContext, connection: NatsConnection) -> None:
        subjects = self.subjects()
        refusals = await connection.subscribe(subjects)
        if len(refusals) >= len(subjects):
            kind = FeedError if self.was_let_in else FeedPermanentError
            raise kind(f"the server refuses every subject: {refusals[0]}")
        for text in refusals[:20]:
            ctx.log.warning("the server refuses a subject", error=text, refused=len(refusals))

    def subjects(self) -> list[str]:
        """Return what is subscribed to: of listed symbols only their own subjects."""
        if not self.options.symbols:
            return [_with_wildcards(pattern) for pattern in self._patterns]
        subjects = [
            subject.replace("{ch}", "*")
            for pattern in self._patterns
            for subject in pattern.of_symbols(self.options.symbols)
        ]
        return list(dict.fromkeys(subjects))

    async def _take(self, intake: MessageIntake, event: Event) -> None:
        if type(event) is Message:
            await intake.take(self._sources.get(event.subject) or self._meet(event.subject), event.payload)
        elif type(event) is TooLong:
            source = self._sources.get(event.subject) or self._meet(event.subject)
            intake.refuse(source, "", f"too long: {event.size} bytes", b"")
        elif type(event) is Refusal:
            raise FeedError(f"the server says: {event.text}")

    def _meet(self, subject: bytes) -> Source:
        """Look at a subject for the first time."""
        name = subject.decode("utf-8", "replace")
        if len(self._sources) >= _MOST_SOURCES:
            self._sources.clear()
        addresses = (pattern.match(name) for pattern in self._patterns)
        address = next((found for found in addresses if found is not None), Address())
        source = self._sources[subject] = Source(name, address, self.venue)
        return source


def pattern_of(subject: str) -> AddressPattern:
    """Return the pattern of a configured subject.

    Raises:
        ValueError: it can't be one; the text says why.
    """
    pattern = AddressPattern(subject, ".", _WILDCARDS)
    tokens = _with_wildcards(pattern).split(".")
    for index, token in enumerate(tokens):
        is_last = index == len(tokens) - 1
        if not token or any(char <= " " or char == "\x7f" for char in token):
            raise ValueError(f"{subject!r:.80} must be tokens with dots between them, without blanks")
        if len(token) > 1 and ("*" in token or ">" in token):
            raise ValueError(f"{subject!r:.80}: a placeholder, * or > must stand alone between its dots")
        if token == ">" and not is_last:
            raise ValueError(f"{subject!r:.80}: > must stand at the end")
    if len(subject) > 1000:
        raise ValueError(f"{subject!r:.80} is too long")
    return pattern


def _with_wildcards(pattern: AddressPattern) -> str:
    # A symbol such as BRK.B is two tokens, which only > takes.
    return pattern.filled("*", "*", last=">")


def _overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Tell whether there is a subject that both take in."""
    for left, right in zip(one, other, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(one) == len(other)
