"""A client and a broker's core, joined by bytes: what comes out of one goes into the other.

Here the broker is real up to the bytes, and the network is a list: it delivers in order, some now and some
later, and loses what is under way whenever a connection breaks.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from broker.client import events
from broker.client.effects import Disagreed, Effect, Occurred
from broker.client.protocol import ClientProtocol
from broker.client.state import SubscriptionState
from broker.client.wire import ClientCodec, CodecName
from broker.core.codecs import JSON, MSGPACK
from broker.core.history import HistoryLimits
from broker.core.outbox import Outbox
from broker.core.router import Router
from broker.core.session import Session, SessionLimits
from broker.core.tape import Tape
from broker.core.ticks import Bar, Quote, Tick, Trade
from broker.core.topics import Topic, Topics

SYMBOLS = ("SIM:A", "SIM:B", "OTHER:C")


class Payloads:
    """A framing that lets messages be told apart again."""

    name = "list"

    @property
    def shared(self) -> Payloads:
        return self

    def frame(self, kind: str, payload: bytes, cursor: str = "") -> bytes:
        return len(payload).to_bytes(4, "big") + payload

    def batch(self, framed: bytes) -> bytes:
        return framed


def split(framed: bytes) -> Iterable[bytes]:
    while framed:
        end = 4 + int.from_bytes(framed[:4], "big")
        yield framed[4:end]
        framed = framed[end:]


def quote(sym: str = "SIM:A") -> Tick:
    return Quote(sym=sym, ts=1, rts=2, bid="1.0", bid_size="1", ask="1.5", ask_size=None)


def trade(sym: str = "SIM:A") -> Tick:
    return Trade(sym=sym, ts=1, rts=2, price="1.0", size="1", side=None, id="x")


def bar(sym: str = "SIM:A", interval: str = "1s") -> Bar:
    return Bar(
        sym=sym, ts=1, rts=2, interval=interval, start=0, open="1", high="1", low="1", close="1", volume="1",
        count=1, final=False,
    )  # fmt: skip


class Peers:
    """A client, a broker and what is between them.

    Attributes:
        seen: events by subscription, in order.
        now: seconds of the broker's clock.
    """

    def __init__(self, codec: CodecName = "msgpack", history: int = 1000) -> None:
        self.client = ClientProtocol(ClientCodec(codec))
        self._codec = JSON if codec == "json" else MSGPACK
        self._history = history
        self._epochs = 0
        self.seen: defaultdict[SubscriptionState, list[events.AnyEvent]] = defaultdict(list)
        self.effects: list[Effect] = []
        self.flight: deque[bytes] = deque()
        self.session: Session | None = None
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        """Replace the broker by a new one, which knows nothing."""
        self.disconnect()
        self._epochs += 1
        topics = Topics()
        for symbol in SYMBOLS:
            topics.declare(symbol.partition(":")[0], None)
        tape = Tape(f"e{self._epochs}", topics, HistoryLimits(ticks=self._history))
        self.router = Router(topics, tape)

    def connect(self) -> None:
        self.disconnect()
        self.session = Session("s", self.router, self._codec, SessionLimits())
        self.outbox = Outbox(self.session, self._codec, Payloads())
        self._fly(self.outbox.message(self.session.welcome("t", 10.0)))

    def disconnect(self) -> None:
        """Lose the connection, and everything under way."""
        self.flight.clear()
        self.client.disconnected()
        if self.session is not None:
            self.session.closed()
            self.session = None

    def _fly(self, framed: bytes) -> None:
        self.flight.extend(split(framed))

    def publish(self, *ticks: Tick) -> None:
        touched: dict[Topic, None] = {}
        self.router.publish(ticks, self.now, touched)
        for mailbox in self.router.touched_mailboxes(touched):
            mailbox.settle()

    def request(self) -> None:
        """Bring the client's requests to the broker, and its answers on their way."""
        for request in self.client.take_requests():
            assert self.session is not None
            self._fly(self.outbox.message(self.session.handle(request, self.now, 0)))

    def write(self) -> bool:
        """Let the broker write once; tell whether it had anything to write."""
        framed = self.outbox.take(self.now) if self.session is not None else b""
        self._fly(framed)
        return bool(framed)

    def heartbeat(self) -> None:
        if self.session is not None:
            self._fly(self.outbox.heartbeat(0))

    def receive(self, most: int = 1_000_000) -> None:
        """Let at most so many messages arrive."""
        for _ in range(min(most, len(self.flight))):
            raw = self.flight.popleft()
            for effect in self.client.receive(raw if self._codec.is_binary else raw.decode()):
                self.effects.append(effect)
                if isinstance(effect, Occurred):
                    self.seen[effect.state].append(effect.event)

    def settle(self) -> None:
        """Go on until there is nothing more to be said."""
        if self.session is None:
            self.connect()
        busy = True
        while busy or self.flight:
            self.receive()
            self.request()
            busy = self.write()

    def subscribe(self, ch: str, *symbols: str, **more: object) -> SubscriptionState:
        state = SubscriptionState(ch, symbols, **more)  # type: ignore[arg-type]
        self.client.subscribe(state)
        self.request()
        return state

    def follow(self, ch: str, *symbols: str, **more: object) -> SubscriptionState:
        """Subscribe, and settle."""
        state = self.subscribe(ch, *symbols, **more)
        self.settle()
        return state

    @property
    def disagreements(self) -> list[str]:
        """What differed between a ledger and the client's account, of all subscriptions."""
        return [
            text for effect in self.effects if isinstance(effect, Disagreed) for text in effect.differences
        ]

    def seqs(self, state: SubscriptionState, sym: str = "SIM:A") -> list[int]:
        return [
            tick.seq
            for event in self.seen[state]
            if isinstance(event, events.Update)
            for tick in event.ticks
            if tick.sym == sym
        ]

    def snapshot_seqs(self, state: SubscriptionState) -> list[int]:
        return [
            tick.seq
            for event in self.seen[state]
            if isinstance(event, events.Snapshot)
            for tick in event.ticks
        ]

    def gaps(self, state: SubscriptionState) -> list[tuple[int | None, int | None, str]]:
        return [(g.first, g.last, g.reason) for g in self.seen[state] if isinstance(g, events.Gap)]
