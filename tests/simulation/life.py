"""One connection of a simulated subscriber, from the request to its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.simulation.contracts import GARBAGE, REFUSED, draw_contract, draw_op
from tests.simulation.conversation import Conversation, Message
from tests.simulation.network import Link, Weather
from tests.simulation.wires import WebSocket, Wire, WireError

if TYPE_CHECKING:
    from tests.simulation.subscriber import Client, Place, Wanted

#: How a client ends a connection, and how often relative to the rest.
ENDS = {"stay": 8, "polite": 2, "close": 2, "abort": 2, "cut": 2, "vanish": 1, "half-close": 1}
#: How long a client waits, on average, before it does something, in seconds.
PAUSE_S = 0.7


class Life:
    """One connection.

    Attributes:
        is_over: nothing comes any more.
        left: how the client itself ended it, if it did.
        conversation: what was said.
    """

    def __init__(self, client: Client, number: int, wire: Wire, place: Place | None) -> None:
        self.name = f"client {client.number} life {number} ({wire.name})"
        self.is_over = False
        self.left = ""
        self.wire = wire
        if isinstance(wire, WebSocket):
            wire.reply = self.say
        self.conversation = Conversation(client, self.name, place, is_json=wire.is_json)
        self.link: Link
        self._client = client
        self._cursor = place.cursor if place else None
        self._rng = client.rng
        self._world = client.rules.world
        self._until = client.rules.until
        self._next_id = 1
        self._asked_last_at = 0.0
        #: The cursor of all that came, and the furthest offset of any.
        self._reached: str | None = None
        self._furthest = 0
        #: The client leaves after so many more bytes.
        self._bytes_left: int | None = None
        self._plan = self._rng.choices(list(ENDS), list(ENDS.values()))[0]

    # ── the connection ───────────────────────────────────────────────────────────────────────────

    def start(self, weather: Weather) -> None:
        """Connect, ask, and let things take their course."""
        self.link = self._client.rules.listener.connect(self, weather, f"10.0.0.{self._client.number}")
        self.say(self.wire.request(self._rng, self._query(), self._cursor))
        for wanted in self._client.wanted:
            self._subscribe(wanted, self._cursor)
        self._world.after(self._rng.expovariate(1 / PAUSE_S), self._act)
        if self._plan != "stay":
            self._world.after(self._rng.uniform(0.0, 2.5), self._leave)

    def _query(self) -> dict[str, str]:
        wanted = self._client.wanted
        query = {"ch": ",".join(item.ch for item in wanted), "symbols": ",".join(wanted[0].symbols)}
        if any(item.snapshot_is_due for item in wanted) and self._cursor is not None:
            query["snapshot"] = "true"
        return query | {name: str(value) for name, value in wanted[0].delivery.items()}

    def say(self, data: bytes) -> None:
        """Send something as it is."""
        if not self.is_over:
            self._world.note(f"{self.name} says", data)
            self.link.send(data)

    def on_data(self, data: bytes) -> None:
        """Take what came."""
        if self.is_over:
            return
        if self._bytes_left is not None:
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        self._world.note(self.name, data)
        try:
            for message, cursor in self.wire.receive(data):
                self._take(message, cursor)
        except (WireError, ValueError, KeyError, TypeError, IndexError) as exc:
            self.conversation.fail(f"not understood: {exc!r}: {data[:300]!r}")
            self._finish("abort")
        if self._bytes_left == 0:
            self._finish("cut")

    def _take(self, message: Message, cursor: str | None) -> None:
        talk = self.conversation
        talk.take(message)
        if cursor is not None:
            offset = self._client.rules.oracle.position(cursor) or 0
            # The ack of a subscription that resumes goes back to where it begins.
            is_exact = offset >= self._furthest
            self._furthest = max(self._furthest, offset)
            if self._cursor is not None and talk.is_resuming:
                # A cursor says nothing of subscriptions that the broker does not know of yet.
                cursor, is_exact = self._cursor, False
            self._reached = cursor if is_exact else None
            self._client.at_cursor(cursor, is_exact=is_exact)
        elif message.get("data"):
            self._reached = None
            self._client.off_cursor()
        while talk.retry:
            wanted = talk.retry.pop()
            # Resuming what another subscription has would bring its ticks a second time.
            others = [other for other in self._client.wanted if other is not wanted and other.ch == wanted.ch]
            self._subscribe(wanted, None if others else self._cursor)

    def on_eof(self) -> None:
        """Take the broker's end."""
        self._world.note(f"{self.name} eof", b"")
        self.link.close()
        self._ended()

    def on_reset(self) -> None:
        """Take the broker's reset."""
        self._world.note(f"{self.name} reset", b"")
        self._ended()

    def _finish(self, how: str) -> None:
        """Leave, as a client does."""
        if self.is_over:
            return
        self.left = how
        if how == "vanish":
            self.link.vanish()
        elif how == "close":
            self.link.close()
        else:
            self.link.abort()
        self._ended()

    def _leave(self) -> None:
        if self.is_over or self._world.now >= self._until:
            return
        match self._plan:
            case "polite" if isinstance(self.wire, WebSocket):
                self.left = "polite"
                self.say(self.wire.close_frame())
            case "polite" | "half-close":
                self.left = "half-close"
                self.link.half_close()
            case "cut":
                self._bytes_left = self._rng.randint(1, 400)
            case how:
                self._finish(how)

    def _ended(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        client = self._client
        if self.wire.status == 400:
            self._refused()
        elif self._reached is not None:
            self.conversation.check_cursor(self._reached)
        for wanted in client.wanted:
            account = self.conversation.accounts.get(wanted.ch)
            wanted.snapshot_is_due |= account is not None and account.awaits_snapshot
            wanted.number = None
        client.life_ended()

    def _refused(self) -> None:
        """Take the HTTP answer to a query that the broker does not like."""
        try:
            code = json.loads(self.wire.refusal)["code"]
        except ValueError:
            return  # cut off in the middle of it
        if code != "unsupported":
            self.conversation.fail(f"{self._query()} is refused: {self.wire.refusal!r}")
        for wanted in self._client.wanted:
            wanted.delivery = {}

    def rest(self) -> None:
        """Read everything from now on, at full speed."""
        if not self.is_over:
            self._bytes_left = None
            self.link.clear_up()

    def last_list(self) -> None:
        """Ask for a ledger at rest, and expect what comes to be the whole truth."""
        if not (self.is_over or self.left):
            self.conversation.is_quiet = True
            self._asked_last_at = self._world.now
            self._list()

    def conclude(self) -> None:
        """Judge the life when all is over: whoever stayed was told why it ended, and got every answer."""
        talk = self.conversation
        if not talk.is_quiet or self.wire.status == 408:
            return
        if talk.closing is None or not self.is_over:
            talk.fail(f"the broker went down without a word: over: {self.is_over}, status {self.wire.status}")
        talk.check_books(self._asked_last_at)
        if (pending := talk.unanswered()) or talk.nonsense:
            talk.fail(f"without an answer: {pending}, {talk.nonsense} of nonsense")

    # ── what it does ─────────────────────────────────────────────────────────────────────────────

    def _act(self) -> None:
        """Do something now and then."""
        if self.is_over or self.left or self._world.now >= self._until:
            return
        op = draw_op(self._rng)
        if self.wire.status == 101 or op in ("stall", "trickle", "heal"):
            getattr(self, "_" + op)()
        self._world.after(self._rng.expovariate(1 / PAUSE_S), self._act)

    def _stall(self) -> None:
        self.link.is_stalled = True

    def _trickle(self) -> None:
        self.link.resume()
        self.link.sip = self._rng.choice(((20, 0.01), (200, 0.05), (1000, 0.2)))

    def _heal(self) -> None:
        self.link.resume()

    def _subscribe(self, wanted: Wanted | None = None, cursor: str | None = None) -> None:
        if wanted is None:
            wanted = self._client.want(self._rng.choice(self._client.channels))
        request: Message = {"op": "subscribe", "ch": wanted.ch, "symbols": wanted.symbols}
        if wanted.delivery:
            request["delivery"] = wanted.delivery
        if cursor is not None:
            request["cursor"] = cursor
            if wanted.snapshot_is_due:
                request["snapshot"] = True
        elif isinstance(self.wire, WebSocket) and self._rng.random() < 0.15:
            request["snapshot"] = False
        wanted.snapshot_is_due = False
        self._ask(request, wanted, cursor)

    def _unsubscribe(self) -> None:
        wanted = self._some()
        if wanted is not None:
            self._client.wanted.remove(wanted)
            self._ask({"op": "unsubscribe", "sub": wanted.number})

    def _modify(self) -> None:
        wanted = self._some()
        if wanted is not None:
            delivery = draw_contract(self._rng, wanted.ch)
            self._ask({"op": "modify", "sub": wanted.number, "delivery": delivery}, wanted)

    def _some(self) -> Wanted | None:
        acknowledged = [wanted for wanted in self._client.wanted if wanted.number is not None]
        return self._rng.choice(acknowledged) if acknowledged else None

    def _list(self) -> None:
        self._ask({"op": "list"})

    def _ping(self) -> None:
        self._ask({"op": "ping"})

    def _auth(self) -> None:
        self._ask({"op": "auth", "token": "a token"})

    def _wrong(self) -> None:
        self._ask(dict(self._rng.choice(REFUSED)), is_wrong=True)

    def _garbage(self) -> None:
        if isinstance(self.wire, WebSocket):
            self.conversation.nonsense += 1
            self.say(self.wire.encode(self._rng.choice(GARBAGE)))

    def _ask(
        self,
        request: dict[str, Any],
        wanted: Wanted | None = None,
        cursor: str | None = None,
        *,
        is_wrong: bool = False,
    ) -> None:
        """Send a request; those of an HTTP stream stand in its query, and are answered all the same."""
        request["id"] = self._next_id
        self._next_id += 1
        if isinstance(self.wire, WebSocket):
            self.conversation.asked(request, wanted, cursor, is_wrong=is_wrong)
            self.say(self.wire.encode(request))
        elif request["op"] == "subscribe":
            self.conversation.asked(request, wanted, cursor)
