"""What is said on one connection: requests and their answers, and every message held against the record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.account import Account, Entry, Subscribed
from tests.simulation.contracts import REFUSALS, may_conflate
from tests.simulation.world import BEGIN_NS

if TYPE_CHECKING:
    from tests.simulation.subscriber import Client, Place, Wanted

Message = dict[str, Any]

#: A run is at rest when nothing was published for so long: longer than any contract lets a tick wait, in seconds.
REST_S = 1.6

#: A request and an answer on their way, at most, in seconds; the slowest link takes a fifth of it one way.
MOST_ON_THE_WAY_S = 0.5

#: Close code to whether a client may come back (protocol, section 2); 1013 and 4429 are not provoked.
COMES_BACK = {1000: True, 1001: True, 4408: True}
#: What a step on the ladder may come behind; at first a subscriber is as if it had recovered.
COMES_BEHIND = {
    "pressed": ("recovered",),
    "degraded": ("recovered", "pressed"),
    "recovered": ("pressed", "degraded"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request under way.

    Attributes:
        at: when it was sent.
        wanted: the subscription that it is about, where it is one to be had again.
        is_wrong: it has to be refused.
    """

    request: Message
    at: float
    wanted: Wanted | None
    cursor: str | None
    is_wrong: bool


class Conversation:
    """One session, as its client understands it.

    Attributes:
        accounts: by channel, of the subscriptions there are now.
        pending: requests without an answer, by their number.
        nonsense: messages sent that can't be understood, and that have no answer yet.
        closing: the broker's last message, if it came.
        is_quiet: whether the client has had time to read everything.
        retry: a subscription to be asked for again, with the default contract.
    """

    def __init__(self, client: Client, name: str, place: Place | None, *, is_json: bool) -> None:
        self.accounts: dict[str, Account] = {}
        self.pending: dict[int, Asked] = {}
        self.nonsense = 0
        self.welcome: Message | None = None
        self.closing: Message | None = None
        self._closed_at = float("inf")
        self.retry: list[Wanted] = []
        self.is_quiet = False
        self._client = client
        self._oracle = client.rules.oracle
        self._world = client.rules.world
        self._name = name
        self._is_json = is_json
        self._high_before = dict(client.high) if place is not None else {}
        self._subs: dict[int, Account] = {}
        self._ladder: dict[int, str] = {}
        self._last_heartbeat = 0.0

    def fail(self, text: str) -> None:
        """Report something that must not be."""
        self._client.rules.fail(f"{self._name}: {text}")

    def unanswered(self) -> dict[int, Asked]:
        """Return the requests that should have been answered: not those that crossed the closing on their way."""
        return {
            id_: asked
            for id_, asked in self.pending.items()
            if asked.at < self._closed_at - MOST_ON_THE_WAY_S
        }

    def asked(
        self,
        request: Message,
        wanted: Wanted | None = None,
        cursor: str | None = None,
        *,
        is_wrong: bool = False,
    ) -> None:
        """Note a request that is sent now."""
        self.pending[request["id"]] = Asked(request, self._world.now, wanted, cursor, is_wrong)
        delivery = request.get("delivery", {})
        if (
            request["op"] == "modify"
            and wanted
            and ("latest" in delivery.values() or "degrade" in delivery.values())
        ):
            self.accounts[wanted.ch].may_skip = True

    def take(self, message: Message) -> None:
        """Take one message of the broker; types that are not known are passed over (protocol, section 2)."""
        if self.closing is not None:
            self.fail(f"a message behind the closing: {message}")
        # Whoever is not let in, as the broker is going down, is told so and nothing else.
        if self.welcome is None and message["type"] not in ("welcome", "closing"):
            self.fail(f"before the welcome: {message}")
        handle = getattr(self, f"_on_{message['type']}", None)
        if handle is not None:
            handle(message)

    @property
    def is_resuming(self) -> bool:
        """Whether a subscription that resumes has not been acknowledged."""
        return any(asked.cursor is not None for asked in self.pending.values())

    # ── ticks and gaps ───────────────────────────────────────────────────────────────────────────

    def _on_update(self, message: Message) -> None:
        high, before = self._client.high, self._high_before
        contents = self._client.contents
        for tick in message["data"]:
            ch, sym, seq = tick["ch"], tick["sym"], tick["seq"]
            account = self.accounts.get(ch)
            if account is None:
                self.fail(f"nobody asked for it: {tick}")
                continue
            step = account.take_update(sym, seq)
            if step is None:
                continue
            key = ch, sym
            if before and seq <= before.get(key, 0):
                self.fail(f"it came before the resume already: {tick}")
            is_exact = account.is_alone and not account.slack
            if step.skipped and is_exact and not account.may_skip:
                self.fail(f"{step.skipped} ticks are missing without a gap before {tick}")
            wrong = contents.take_update(tick, step, is_json=self._is_json, is_exact=is_exact)
            if wrong:
                self.fail(wrong)
            high[key] = seq

    def _on_snapshot(self, message: Message) -> None:
        account = self._subs[message["sub"]]
        for tick in message["data"]:
            if tick["ch"] != account.ch:
                self.fail(f"a snapshot of {account.ch} with {tick}")
                continue
            account.take_snapshot(message["sub"], tick["sym"], tick["seq"])
            wrong = self._client.contents.take_snapshot(tick, is_json=self._is_json)
            if wrong:
                self.fail(wrong)
            key = tick["ch"], tick["sym"]
            self._client.high[key] = max(self._client.high.get(key, 0), tick["seq"])
        if not message.get("more", False):
            account.subs[message["sub"]].awaits_snapshot = False

    def _on_gap(self, message: Message) -> None:
        account = self._subs[message["sub"]]
        if message["ch"] != account.ch or not account.subs[message["sub"]].covers(message["sym"]):
            self.fail(f"a gap of somebody else's: {message}")
        account.take_gap(message)
        if message["ch"] == "book":
            self._client.contents.lose_book(message["sym"])

    def check_books(self, at: float) -> None:
        """Hold the books against the feeds', when all has come that happened by a time."""
        account = self.accounts.get("book")
        for sym in list(self._client.contents.books) if account is not None else ():
            if account.owner(sym) is not None and (wrong := self._client.contents.wrong_book(sym, at)):
                self.fail(wrong)

    def _on_notice(self, message: Message) -> None:
        sub, state = message["sub"], message["state"]
        if self._ladder.get(sub, "recovered") not in COMES_BEHIND[state]:
            self.fail(f"{message} comes behind {self._ladder.get(sub)}")
        self._ladder[sub] = state
        if state == "degraded" and not self._subs[sub].may_skip:
            self.fail(f"degraded, and the contract does not allow it: {message}")

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    def _on_welcome(self, message: Message) -> None:
        if self.welcome is not None or message["epoch"] != self._oracle.epoch:
            self.fail(f"a welcome out of place: {message}")
        self.welcome = message

    def _answered(self, message: Message, *ops: str) -> Asked | None:
        asked = self.pending.pop(message["id"], None)
        if asked is None or asked.request["op"] not in ops:
            self.fail(f"an answer to nothing: {message}")
            return None
        return asked

    def _on_ack(self, message: Message) -> None:
        asked = self._answered(message, "subscribe", "unsubscribe", "modify", "auth")
        if asked is None:
            return
        if message["op"] != asked.request["op"]:
            self.fail(f"{message} is no answer to {asked.request}")
        elif message["op"] == "subscribe":
            self._begin(message, asked)
        elif message["op"] == "unsubscribe":
            self._end(message)
        elif message["op"] == "modify":
            self._check_contract(message["delivery"], asked.request["delivery"])

    def _begin(self, ack: Message, asked: Asked) -> None:
        request, wanted = asked.request, asked.wanted
        ch, number, delivery = ack["ch"], ack["sub"], ack["delivery"]
        assert wanted is not None
        if ch != request["ch"] or not set(ack["symbols"]) <= set(request["symbols"]) or number in self._subs:
            self.fail(f"{ack} is no answer to {request}")
        self._check_contract(delivery, request.get("delivery", {}))
        account = self.accounts.setdefault(ch, Account(ch, self._oracle, self.fail))
        account.may_skip |= may_conflate(ch, delivery)
        offset = None if asked.cursor is None else self._oracle.position(asked.cursor)
        # A cursor of another epoch is answered by gaps and a snapshot, as if it had been asked for.
        wants = request.get("snapshot", False) or (offset is None and request.get("snapshot", True))
        is_aside = offset is not None and request.get("snapshot", False)
        sub = Subscribed(number, ack["symbols"], offset=offset, is_aside=is_aside)
        account.begin(sub, asked_at=asked.at, wants_snapshot=wants, is_fresh=asked.cursor is None)
        # Of what was held back before, the count begins at the snapshot; of all else at the cursor.
        account.is_vague |= is_aside and "~" in (asked.cursor or "")
        if ch == "book" and asked.cursor is None and not wants:
            # Whatever was missed until now, nobody says so to who wants no book.
            for sym in [sym for sym in self._client.contents.books if sub.covers(sym)]:
                self._client.contents.lose_book(sym)
        self._subs[number] = account
        wanted.number = number
        wanted.symbols = ack["symbols"]

    def _end(self, ack: Message) -> None:
        account = self._subs[ack["sub"]]
        account.end(ack["sub"], ack["ledger"], "the end of a subscription")
        if not account.live:
            del self.accounts[account.ch]

    def _check_contract(self, force: Message, asked: Message) -> None:
        for name, value in asked.items():
            limits = (self.welcome or {})["limits"]
            if force[name] != (min(value, limits["queue_ticks"]) if name == "queue" else value):
                self.fail(f"in force is {force}, asked for was {asked}")

    def _on_error(self, message: Message) -> None:
        if message["id"] is None:
            self.nonsense -= 1
            if self.nonsense < 0 or message["code"] != "invalid_message":
                self.fail(f"an error out of nothing: {message}")
            return
        asked = self.pending.pop(message["id"], None)
        if asked is None:
            self.fail(f"an answer to nothing: {message}")
            return
        kind = "wrong" if asked.is_wrong else asked.request["op"]
        if message["code"] not in REFUSALS.get(kind, frozenset()):
            self.fail(f"{asked.request} is refused: {message}")
        if asked.wanted is not None and kind == "subscribe":
            if message["code"] == "unsupported":
                asked.wanted.delivery = {}
                self.retry.append(asked.wanted)
            else:
                self._client.wanted.remove(asked.wanted)

    def _on_pong(self, message: Message) -> None:
        self._answered(message, "ping")

    # ── ledgers ──────────────────────────────────────────────────────────────────────────────────

    def _on_ledger(self, message: Message) -> None:
        self._answered(message, "list")
        listed = {item["sub"]: (item["ch"], item["symbols"]) for item in message["subscriptions"]}
        mine = {sub.sub: (a.ch, sub.symbols) for a in self.accounts.values() for sub in a.live}
        if listed != mine:
            self.fail(f"listed are {listed}, there are {mine}")
        self._check(message["ledger"], "list")

    def _on_heartbeat(self, message: Message) -> None:
        if isinstance(message["ts"], str) is not self._is_json:
            self.fail(f"ts is of the wrong type: {message}")
        time = (int(message["ts"]) - BEGIN_NS) / 1e9
        if not self._last_heartbeat <= time <= self._world.now:
            self.fail(f"a heartbeat of {time}: {message}")
        self._last_heartbeat = time
        for account, entries in self._check(message["ledger"], "heartbeat"):
            account.check_offered(entries, time, f"heartbeat of {time:.3f}")

    def _on_closing(self, message: Message) -> None:
        self.closing = message
        self._closed_at = self._world.now
        code, retry = message["code"], message["retry_after_ms"]
        if code not in COMES_BACK or (retry is not None) is not COMES_BACK[code]:
            self.fail(f"a close out of place: {message}")
        self._check(message["ledger"], "closing")

    def _check(self, ledger: list[Entry], where: str) -> Iterable[tuple[Account, list[Entry]]]:
        """Hold a ledger of the whole session against the accounts; return which entries are whose."""
        by_number = {entry["sub"]: entry for entry in ledger}
        mine = {sub.sub for account in self.accounts.values() for sub in account.live}
        if set(by_number) != mine:
            self.fail(f"{where}: ledgers of {sorted(by_number)}, there are {sorted(mine)}")
            return []
        checked = []
        for account in self.accounts.values():
            entries = [by_number[sub.sub] for sub in account.live]
            if self.is_quiet and self._world.now >= self._oracle.last_at + REST_S:
                account.check_quiet(entries, f"{where} at rest")
            else:
                account.check(entries, where)
            checked.append((account, entries))
        return checked

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def check_cursor(self, cursor: str) -> None:
        """Hold the last cursor against what came: everything up to it, where nothing may be left out."""
        offset = self._oracle.position(cursor)
        if offset is None:
            self.fail(f"a cursor of another epoch: {cursor}")
            return
        for account in self.accounts.values():
            if account.may_skip or not account.is_exact or account.slack:
                continue
            for (ch, sym), record in self._oracle.topics.items():
                if ch == account.ch and account.owner(sym) is not None:
                    due, top = record.seq_at(offset), account.topic(sym).top
                    if due > top:
                        self.fail(f"the cursor {cursor} says that {ch} {sym} came up to {due}, it is {top}")
