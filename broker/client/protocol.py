"""The client's side of the protocol, without I/O: what to send, and what has happened. Pure.

One `ClientProtocol` lives as long as the client, across connections. Three rules carry it:

* A cursor covers those subscriptions only that the broker knows on this connection, so it is kept by
  subscription: an update that comes between two acks says nothing of the second subscription.
* A cursor between two parts of a snapshot says nothing of the parts to come: a snapshot that was not
  received whole is asked for again.
* An update names no subscription. Each ``(ch, sym)`` belongs to one: names before patterns, the earlier
  before the later (protocol, section 2). While a new subscription takes a symbol over from an older one, the
  ticks before its snapshot are still the older one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from broker.client.events import AnyEvent, Gap, Snapshot, Update
from broker.client.sequence import Sequence
from broker.client.state import SubscriptionState
from broker.client.wire import Ack, BadMessage, ClientCodec, Closing, Heartbeat, Welcome
from broker.client.wire import Gap as WireGap
from broker.core.mailbox import LedgerEntry
from broker.core.messages import Error
from broker.core.messages import Snapshot as WireSnapshot
from broker.core.messages import Update as WireUpdate
from broker.core.ticks import Book, Tick

#: Refusals that a broker which has just come up may take back once its feeds are there.
MAY_PASS = frozenset(("unknown_symbol", "unknown_venue", "no_symbols", "too_many_requests"))


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The session is open."""

    session: str
    epoch: str
    heartbeat_s: float
    server: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A subscription is live on this connection."""

    state: SubscriptionState


@dataclass(frozen=True, slots=True)
class Refused:
    """A subscription is not; unless it ``is_final``, it is to be tried again with `ClientProtocol.retry`."""

    state: SubscriptionState
    code: str
    message: str
    is_final: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """An unsubscribe was carried out; ``state.ledger`` is final."""

    state: SubscriptionState


@dataclass(frozen=True, slots=True)
class Occurred:
    """Something for the application."""

    state: SubscriptionState
    event: AnyEvent


@dataclass(frozen=True, slots=True)
class Advanced:
    """Everything up to the cursor of each subscription has been received."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The broker ends the session; ``retry_after_ms`` is ``None`` where it does not want us back."""

    code: int
    reason: str
    retry_after_ms: int | None


@dataclass(frozen=True, slots=True)
class Puzzled:
    """Something that is no part of the protocol, and was ignored."""

    text: str


Effect: TypeAlias = Welcomed | Accepted | Refused | Ended | Occurred | Advanced | Closed | Puzzled


class ClientProtocol:
    """Requests out, messages in.

    Attributes:
        epoch: of the broker, as last told.
        strays: ticks that belong to no subscription: those under way when it ended.
    """

    def __init__(self, codec: ClientCodec) -> None:
        self.epoch: str | None = None
        self.strays = 0
        self._codec = codec
        self._is_open = False
        self._next_id = 1
        self._states: dict[SubscriptionState, None] = {}
        self._by_number: dict[int, SubscriptionState] = {}
        self._pending: dict[int, SubscriptionState] = {}
        self._routes: dict[tuple[str, str], tuple[SubscriptionState, Sequence]] = {}
        self._outgoing: list[str | bytes] = []

    # ── what the application and the connection do ───────────────────────────────────────────────

    @property
    def is_awaiting_answers(self) -> bool:
        """Whether a request has not been answered yet."""
        return bool(self._pending)

    def take_requests(self) -> list[str | bytes]:
        """Remove and return what is to be sent on this connection."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def subscribe(self, state: SubscriptionState) -> None:
        """Take up a subscription, now or as soon as there is a connection."""
        self._states[state] = None
        if self._is_open:
            self._send(state, state.request())

    def retry(self, state: SubscriptionState) -> None:
        """Ask again for a subscription that was refused, unless that is overtaken."""
        is_refused = state.number is None and state not in self._pending.values()
        if self._is_open and state in self._states and is_refused:
            self._send(state, state.request())

    def unsubscribe(self, state: SubscriptionState) -> bool:
        """End a subscription: nothing more occurs on it. Return whether an `Ended` is to come."""
        if state not in self._states:
            return False
        del self._states[state]
        state.is_ended = True
        for key in [key for key, (owner, _) in self._routes.items() if owner is state]:
            del self._routes[key]
        if self._is_open and state.number is not None:
            self._send(state, {"op": "unsubscribe", "sub": state.number})
        return self._is_open and state in self._pending.values()

    def disconnected(self) -> None:
        """The connection is gone, and with it what was under way."""
        self._is_open = False
        self._outgoing.clear()
        self._pending.clear()
        self._by_number.clear()
        self._routes.clear()
        for state in self._states:
            state.number = None

    def _send(self, state: SubscriptionState, request: dict[str, Any]) -> None:
        id_ = self._next_id
        self._next_id += 1
        self._pending[id_] = state
        self._outgoing.append(self._codec.encode({"id": id_, **request}))

    # ── what the broker says ─────────────────────────────────────────────────────────────────────

    def receive(self, payload: str | bytes) -> list[Effect]:
        """Take in one message, and return what it means, in order. Never raises for what is in it."""
        try:
            message = self._codec.decode(payload)
        except BadMessage as exc:
            return [Puzzled(str(exc))]
        match message:
            case WireUpdate():
                return self._update(message)
            case WireSnapshot():
                return self._snapshot(message)
            case WireGap():
                return self._gap(message)
            case Heartbeat():
                self._note_ledger(message.ledger)
                self._advance(message.cursor)
                return [Advanced()]
            case Ack():
                return self._ack(message)
            case Error():
                return self._error(message)
            case Welcome():
                return [self._welcome(message)]
            case Closing():
                self._note_ledger(message.ledger)
                return [Closed(message.code, message.reason, message.retry_after_ms)]
            case _:
                return []

    def _welcome(self, message: Welcome) -> Welcomed:
        is_new_epoch = self.epoch is not None and message.epoch != self.epoch
        self.epoch = message.epoch
        self._is_open = True
        # Names first: otherwise a pattern would begin to catch up with their symbols, and lose them again.
        for state in sorted(self._states, key=lambda state: state.has_patterns):
            for sequence in state.sequences.values():
                sequence.taken_up(is_new_epoch=is_new_epoch)
            self._send(state, state.request())
        return Welcomed(message.session, message.epoch, message.heartbeat_s, message.server)

    def _ack(self, ack: Ack) -> list[Effect]:
        state = self._pending.pop(ack.id, None)
        if state is None:
            return [Puzzled(f"an ack of request {ack.id}, which is not under way")]
        if ack.op != "subscribe":
            self._by_number = {n: s for n, s in self._by_number.items() if s is not state}
            state.ledger = ack.ledger
            state.number = None
            return [Ended(state)]
        if not isinstance(ack.sub, int):
            return [Puzzled(f"an ack of a subscribe ({ack.id}) that names no subscription")]
        state.accept(ack)
        self._by_number[ack.sub] = state
        if state.is_ended:
            # The application has left meanwhile.
            self._send(state, {"op": "unsubscribe", "sub": ack.sub})
            return []
        if not state.awaits_snapshot:
            self._release(state)
        return [Accepted(state)]

    def _error(self, error: Error) -> list[Effect]:
        state = self._pending.pop(error.id, None) if error.id is not None else None
        if state is None:
            return [Puzzled(f"an error ({error.code}): {error.message}")]
        if state.is_ended:
            return [Ended(state)]
        is_final = not (state.was_acked and (error.retry or error.code in MAY_PASS))
        if is_final:
            self._states.pop(state, None)
        return [Refused(state, error.code, error.message, is_final)]

    def _note_ledger(self, ledger: Iterable[LedgerEntry]) -> None:
        for entry in ledger:
            if state := self._by_number.get(entry.sub):
                state.ledger = entry

    def _advance(self, cursor: str | None) -> None:
        if cursor is not None:
            for state in self._by_number.values():
                state.cursor = cursor

    # ── ticks ────────────────────────────────────────────────────────────────────────────────────

    def _update(self, message: WireUpdate) -> list[Effect]:
        parts: list[tuple[SubscriptionState, list[Tick] | Gap]] = []
        open_: dict[SubscriptionState, list[Tick]] = {}
        routes = self._routes
        for tick in message.data:
            route = routes.get((tick.ch, tick.sym)) or self._route(tick.ch, tick.sym)
            if route is None:
                self.strays += 1
                continue
            state, sequence = route
            if sequence.is_lost:
                open_.pop(state, None)
                parts.append((state, self._lost(state, sequence, tick)))
            skipped = sequence.tick(tick.seq)
            if skipped is None:
                state.duplicates += 1
                continue
            if skipped:
                if state.mode == "latest":
                    state.conflated += skipped
                else:
                    open_.pop(state, None)
                    parts.append((state, self._unexplained(state, tick, skipped)))
            ticks = open_.get(state)
            if ticks is None:
                ticks = open_[state] = []
                parts.append((state, ticks))
            ticks.append(tick)
        return self._occurrences(parts, open_, message.cursor)

    def _occurrences(
        self,
        parts: list[tuple[SubscriptionState, list[Tick] | Gap]],
        last: dict[SubscriptionState, list[Tick]],
        cursor: str,
    ) -> list[Effect]:
        """Return the events of one update; its cursor stands behind the last of each subscription."""
        effects: list[Effect] = []
        for state, part in parts:
            if isinstance(part, Gap):
                effects.append(Occurred(state, part))
                continue
            state.ticks += len(part)
            if state.awaits_snapshot and not state.is_resuming:
                # Nothing had happened on its symbols, so there was nothing to make a snapshot of.
                state.awaits_snapshot = False
            at = cursor if last.get(state) is part else state.cursor
            effects.append(Occurred(state, Update(part, at)))
        self._advance(cursor)
        return effects

    def _snapshot(self, message: WireSnapshot) -> list[Effect]:
        state = self._by_number.get(message.sub)
        if state is None or state.is_ended:
            self.strays += len(message.data)
            return []
        effects: list[Effect] = []
        ticks = []
        is_aside = state.is_resuming and state.mode == "every"
        for tick in message.data:
            sequence = self._claim(state, tick.ch, tick.sym)
            if sequence.is_lost:
                effects.append(Occurred(state, self._lost(state, sequence, tick)))
            is_news, skipped = sequence.snapshot(
                tick.seq, state.snapshot_number, is_aside=is_aside, is_whole=type(tick) is Book
            )
            if skipped:
                state.conflated += skipped
            if is_news:
                ticks.append(tick)
            else:
                state.duplicates += 1
        state.snapshots += len(ticks)
        if not message.more:
            state.awaits_snapshot = False
            state.snapshot_number += 1
            self._release(state)
            self._advance(message.cursor)
        if ticks or not message.more:
            cursor = None if message.more else message.cursor
            effects.append(Occurred(state, Snapshot(ticks, cursor, not message.more)))
        return effects

    def _gap(self, message: WireGap) -> list[Effect]:
        state = self._by_number.get(message.sub)
        if state is None or state.is_ended:
            return []
        if message.reason == "cursor_too_old":
            state.awaits_snapshot = True
        bounds = state.sequence(message.sym).gap(message.first, message.last)
        if bounds is None:
            return []
        return [
            Occurred(
                state, state.count_gap(Gap(message.sub, message.ch, message.sym, *bounds, message.reason))
            )
        ]

    def _lost(self, state: SubscriptionState, sequence: Sequence, tick: Tick) -> Gap:
        """Say that the end of a symbol's last epoch is not known, where the broker has not said so."""
        sequence.is_lost = False
        sequence.has_gap = True
        return state.count_gap(Gap(state.number or 0, tick.ch, tick.sym, None, None, "cursor_too_old"))

    def _unexplained(self, state: SubscriptionState, tick: Tick, skipped: int) -> Gap:
        state.unexplained += skipped
        return Gap(state.number or 0, tick.ch, tick.sym, tick.seq - skipped, tick.seq - 1, "unexplained")

    # ── whose a tick is ──────────────────────────────────────────────────────────────────────────

    def _route(self, ch: str, sym: str) -> tuple[SubscriptionState, Sequence] | None:
        """Find the owner of a topic, and remember it."""
        live = [s for _, s in sorted(self._by_number.items()) if s.ch == ch and not s.is_ended]
        owner = next((s for s in live if s.names(sym)), None) or next(
            (s for s in live if s.matches(sym)), None
        )
        if owner is None:
            return None
        route = self._routes[ch, sym] = (owner, owner.sequence(sym))
        return route

    def _claim(self, state: SubscriptionState, ch: str, sym: str) -> Sequence:
        """Make ``state`` the owner of a topic: the broker has just said so."""
        previous = self._routes.get((ch, sym))
        if previous is not None and previous[0] is state:
            return previous[1]
        if previous is not None:
            # What it has seen ends here; should it get the topic back, it begins anew.
            previous[0].sequences.pop(sym, None)
        sequence = state.sequence(sym)
        self._routes[ch, sym] = (state, sequence)
        return sequence

    def _release(self, state: SubscriptionState) -> None:
        """Let the owners of what ``state`` might own be found anew."""
        for (ch, sym), (owner, _) in list(self._routes.items()):
            if owner is not state and ch == state.ch and (state.names(sym) or state.matches(sym)):
                del self._routes[ch, sym]
                route = self._route(ch, sym)
                if route is None or route[0] is not owner:
                    owner.sequences.pop(sym, None)
