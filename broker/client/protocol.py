"""The client's side of the protocol, without I/O: what to send, and what has happened. Pure.

One `ClientProtocol` lives as long as the client, across connections. Three rules carry it:

* A cursor covers those subscriptions only that the broker knows on this connection, so it is kept by
  subscription: an update that comes between two acks says nothing of the second subscription.
* A cursor between two parts of a snapshot says nothing of the parts to come: a snapshot that was not
  received whole is asked for again.
* A book that lacks deltas is of no use, and only a subscribe brings a snapshot: its subscription is ended and
  begun anew (`_renew`). That takes nothing but what any client may do, and leaves no trace in later requests.

Whose a tick is, and what it means, is the business of `broker.client.flow`.
"""

from __future__ import annotations

from typing import Any

from broker.client.effects import (
    Accepted,
    Advanced,
    Answered,
    Closed,
    Effect,
    Ended,
    Puzzled,
    Refused,
    Welcomed,
)
from broker.client.flow import Flow
from broker.client.requests import Request
from broker.client.state import SubscriptionState
from broker.client.verdict import SubscriptionVerdict, Verdict
from broker.client.wire import Ack, BadMessage, ClientCodec, Closing, Gap, Heartbeat, Ledger, Notice, Welcome
from broker.core.messages import Error, Snapshot, Update

#: Refusals that a broker which has just come up may take back once its feeds are there.
MAY_PASS = frozenset(("unknown_symbol", "unknown_venue", "no_symbols", "too_many_requests"))
#: Verdicts on subscriptions that have ended, and did not agree, that are kept.
MAX_FAULTY = 100


class ClientProtocol:
    """Requests out, messages in.

    Attributes:
        epoch: of the broker, as last told.
        token: shown on every connection, before anything is asked for.
    """

    def __init__(self, codec: ClientCodec, token: str | None = None) -> None:
        self.epoch: str | None = None
        self.token = token
        self._codec = codec
        self._is_open = False
        self._next_id = 1
        self._flow = Flow()
        self._states: dict[SubscriptionState, None] = {}
        self._pending: dict[int, Request] = {}
        #: Those of the application that go out with the next connection, or with their subscription's ack.
        self._waiting: dict[Request, None] = {}
        self._outgoing: list[str | bytes] = []
        self._ended = self._ended_ticks = 0
        self._ended_faulty: list[SubscriptionVerdict] = []

    # ── what the application and the connection do ───────────────────────────────────────────────

    @property
    def is_awaiting_answers(self) -> bool:
        """Whether a request has not been answered yet."""
        return bool(self._pending)

    @property
    def strays(self) -> int:
        """Ticks that belong to no subscription: those under way when it ended."""
        return self._flow.strays

    def take_requests(self) -> list[str | bytes]:
        """Remove and return what is to be sent on this connection."""
        taken, self._outgoing = self._outgoing, []
        return taken

    def subscribe(self, state: SubscriptionState) -> None:
        """Take up a subscription, now or as soon as there is a connection."""
        self._states[state] = None
        if self._is_open:
            self._send(Request("subscribe", state))

    def retry(self, state: SubscriptionState) -> None:
        """Ask again for a subscription that was refused, unless that is overtaken."""
        is_refused = state.number is None and not self._is_pending(state)
        if self._is_open and state in self._states and is_refused:
            self._send(Request("subscribe", state))

    def unsubscribe(self, state: SubscriptionState) -> bool:
        """End a subscription: nothing more occurs on it. Return whether an `Ended` is to come."""
        if state not in self._states:
            return False
        del self._states[state]
        state.is_ended = True
        if not self._is_open:
            self._note_ended(state)
            return False
        if state.number is not None and not self._is_pending(state, "unsubscribe"):
            self._send(Request("unsubscribe", state))
        return self._is_pending(state)

    def ask(self, request: Request) -> None:
        """Send `list`, `modify` or `auth` as soon as that is possible; an `Answered` is to come.

        A connection that is lost meanwhile does not matter: it goes out again with the next one.
        """
        state = request.state
        if self._is_open and (state is None or (state.number is not None and not self._is_pending(state))):
            self._send(request)
        else:
            self._waiting[request] = None

    def forget(self, request: Request) -> None:
        """Expect no answer to a request any more."""
        self._waiting.pop(request, None)

    def verdict(self) -> Verdict:
        """Return how the broker's ledgers compare with what came."""
        living = tuple(state.verdict() for state in self._states)
        return Verdict(living, self._ended, self._ended_ticks, tuple(self._ended_faulty))

    def disconnected(self) -> None:
        """The connection is gone, and with it what was under way."""
        self._is_open = False
        self._outgoing.clear()
        again = [request for request in self._pending.values() if request.is_asked_again]
        self._waiting = {**dict.fromkeys(again), **self._waiting}
        ended = [state for state in self._flow.live.values() if state.is_ended]
        self._pending.clear()
        self._flow.clear()
        for state in ended:
            self._note_ended(state)
        for state in self._states:
            state.number = None
            state.renewed = None

    def _is_pending(self, state: SubscriptionState, *ops: str) -> bool:
        return any(
            request.state is state and request.op in (ops or ("subscribe", "unsubscribe"))
            for request in self._pending.values()
        )

    def _is_busy(self, state: SubscriptionState) -> bool:
        return self._is_pending(state, "subscribe", "unsubscribe", "modify")

    def _send(self, request: Request) -> None:
        id_ = self._next_id
        self._next_id += 1
        self._waiting.pop(request, None)
        self._pending[id_] = request
        state = request.state
        fields: dict[str, Any] = {"op": request.op, **request.fields, "id": id_}
        if request.op == "subscribe":
            assert state is not None
            fields |= state.request()
        elif state is not None:
            fields["sub"] = state.number
        self._outgoing.append(self._codec.encode(fields))

    # ── what the broker says ─────────────────────────────────────────────────────────────────────

    def receive(self, payload: str | bytes) -> list[Effect]:
        """Take in one message, and return what it means, in order. Never raises for what is in it."""
        try:
            message = self._codec.decode(payload)
        except BadMessage as exc:
            return [Puzzled(str(exc))]
        flow = self._flow
        effects: list[Effect]
        match message:
            case Update():
                effects = flow.update(message)
            case Snapshot():
                effects = flow.snapshot(message)
            case Gap():
                effects = flow.gap(message)
            case Notice():
                effects = flow.notice(message)
            case Heartbeat():
                effects = flow.compare(message.ledger)
                flow.advance(message.cursor)
                effects.append(Advanced())
            case Ack():
                effects = self._ack(message)
            case Ledger():
                effects = self._ledger(message)
            case Error():
                effects = self._error(message)
            case Welcome():
                effects = [self._welcome(message)]
            case Closing():
                effects = flow.compare(message.ledger)
                effects.append(Closed(message.code, message.reason, message.retry_after_ms))
            case _:
                effects = []
        if flow.wounded:
            self._renew_wounded()
        return effects

    def _welcome(self, message: Welcome) -> Welcomed:
        is_new_epoch = self.epoch is not None and message.epoch != self.epoch
        self.epoch = message.epoch
        self._is_open = True
        if self.token is not None:
            self._send(Request("auth", fields={"token": self.token}, is_renewal=True))
        # Names first: otherwise a pattern would begin to catch up with their symbols, and lose them again.
        for state in sorted(self._states, key=lambda state: state.has_patterns):
            state.is_epoch_lost = is_new_epoch and state.cursor is not None
            if is_new_epoch:
                state.broken.clear()
            for sequence in state.sequences.values():
                sequence.taken_up(is_new_epoch=is_new_epoch)
            self._send(Request("subscribe", state))
        for request in [request for request in self._waiting if request.state is None]:
            self._send(request)
        return Welcomed(message.session, message.epoch, message.heartbeat_s, message.server)

    def _ack(self, ack: Ack) -> list[Effect]:
        request = self._pending.pop(ack.id, None)
        if request is None:
            return [Puzzled(f"an ack of request {ack.id}, which is not under way")]
        state = request.state
        if state is None:
            self.token = request.fields.get("token", self.token)
            return [] if request.is_renewal else [Answered(request, ack)]
        match request.op:
            case "subscribe":
                return self._accepted(state, ack)
            case "unsubscribe":
                return self._unsubscribed(state, ack, request)
            case _:
                state.modified(request.fields.get("delivery", {}), ack)
                return [Answered(request, ack)]

    def _accepted(self, state: SubscriptionState, ack: Ack) -> list[Effect]:
        if not isinstance(ack.sub, int):
            return [Puzzled(f"an ack of a subscribe ({ack.id}) that names no subscription")]
        state.accept(ack)
        self._flow.attach(state)
        if state.is_ended:
            # The application has left meanwhile.
            self._send(Request("unsubscribe", state))
            return []
        for request in [request for request in self._waiting if request.state is state]:
            self._send(request)
        return [Accepted(state)]

    def _unsubscribed(self, state: SubscriptionState, ack: Ack, request: Request) -> list[Effect]:
        effects: list[Effect] = []
        if ack.ledger is not None:
            effects += self._flow.compare_final(state, ack.ledger)
        self._flow.detach(state, is_renewal=request.is_renewal)
        state.number = None
        if request.is_renewal:
            return effects
        self._note_ended(state)
        return [*effects, *self._abandon(state), Ended(state)]

    def _note_ended(self, state: SubscriptionState) -> None:
        """Keep what there is to know of a subscription that has ended."""
        verdict = state.verdict()
        if verdict.checks:
            self._ended += 1
            self._ended_ticks += verdict.ticks
        if verdict.differences and len(self._ended_faulty) < MAX_FAULTY:
            self._ended_faulty.append(verdict)

    def _abandon(self, state: SubscriptionState) -> list[Effect]:
        """Give up what was to be asked of a subscription that is no more."""
        abandoned = [request for request in self._waiting if request.state is state]
        for request in abandoned:
            del self._waiting[request]
        return [Answered(request, None) for request in abandoned]

    def _ledger(self, message: Ledger) -> list[Effect]:
        effects = self._flow.compare(message.ledger, is_whole=True)
        request = self._pending.pop(message.id, None)
        if request is None:
            return [*effects, Puzzled(f"a ledger for request {message.id}, which is not under way")]
        return [*effects, Answered(request, message)]

    def _error(self, error: Error) -> list[Effect]:
        request = self._pending.pop(error.id, None) if error.id is not None else None
        if request is None:
            return [Puzzled(f"an error ({error.code}): {error.message}")]
        state = request.state
        if request.op == "auth" and request.is_renewal:
            return [Closed(4401, error.message, None)]
        if state is None or request.op == "modify":
            return [Answered(request, error)]
        if state.is_ended:
            return [Ended(state)]
        if request.op == "unsubscribe":
            # The broker does not know it any more: what was to be ended has ended.
            self._flow.detach(state)
            state.number = None
            return []
        is_final = not (state.was_acked and (error.retry or error.code in MAY_PASS))
        refused = Refused(state, error.code, error.message, is_final)
        if not is_final:
            return [refused]
        self._states.pop(state, None)
        self._note_ended(state)
        return [*self._abandon(state), refused]

    # ── books that lack something ────────────────────────────────────────────────────────────────

    def _renew_wounded(self) -> None:
        """Begin subscriptions with a broken book anew, each as soon as no earlier snapshot is under way."""
        for state in list(self._flow.wounded):
            if not state.broken or state.is_ended:
                del self._flow.wounded[state]
            elif state.number is not None and state.renewed is None and not self._is_busy(state):
                del self._flow.wounded[state]
                self._renew(state)

    def _renew(self, state: SubscriptionState) -> None:
        """End a subscription and begin it anew, with a snapshot.

        Its pattern would lose its symbols to a later one that overlaps: so that begins anew behind it.
        """
        group = [state]
        if state.has_patterns:
            group += [
                other
                for number, other in sorted(self._flow.live.items())
                if number > (state.number or 0)
                and other.ch == state.ch
                and other.has_patterns
                and not other.is_ended
                and not self._is_busy(other)
            ]
        for one in group:
            self._send(Request("unsubscribe", one, is_renewal=True))
        for one in group:
            one.renew()
            self._send(Request("subscribe", one, is_renewal=True))
