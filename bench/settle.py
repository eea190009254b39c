"""The end of a run: every account against what its subscriber counted."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Mapping

from bench import tapecast
from bench.audit import audit
from bench.client import Client, State
from bench.load import Load
from bench.plan import Accounts
from broker.core.conflation import REPLACEABLE

#: How long the accounts may take; longer than the broker's heartbeats are apart (10 s by default).
SETTLE_S = 20.0
#: A peer that has sent nothing for so long has sent what it had.
QUIET_S = 0.5
_PARTS = ("delivered", "conflated", "dropped", "pending")


def settle(load: Load, on_waiting: Callable[[], None]) -> Accounts:
    """Ask for every account and compare it; all are asked before any answer is awaited.

    Args:
        on_waiting: called once only streams are missing theirs: these come with a heartbeat, or when the
            broker drains.
    """
    asked = [client for client in load.clients if client.state is State.LIVE]
    for index, client in enumerate(asked):
        if client.is_stalled:
            load.selector.register(client.sock, selectors.EVENT_READ, client)
        client.leave(tapecast.farewell(client.group) if client.group.transport == "ws" else b"")
        if index % 20 == 0:
            load.turn(0)
    until = time.perf_counter() + SETTLE_S
    has_told = False
    while time.perf_counter() < until:
        missing = [client for client in asked if client.ledger is None and client.state is State.ENDING]
        if not missing:
            break
        if not has_told and all(client.group.transport != "ws" for client in missing):
            has_told = True
            on_waiting()
        load.turn(0.05)
    accounts = Accounts()
    for client in load.clients:
        _judge(client, accounts)
    return accounts


def _judge(client: Client, accounts: Accounts) -> None:
    ledger = client.ledger
    if ledger is None:
        if client.state is not State.CLOSED:
            _blame(accounts, f"no account came within {SETTLE_S:g} s; {client.count.ticks} ticks counted")
        elif client.is_stalled or client.was_evicted:
            accounts.evicted += 1
            accounts.unseen += 1
        else:
            accounts.closed += 1
            _note(accounts, f"a session ended early: {client.failure}")
        return
    accounts.offered += ledger.get("offered", 0)
    for name in _PARTS:
        setattr(accounts, name, getattr(accounts, name) + ledger.get(name, 0))
    if client.was_evicted:
        accounts.evicted += 1
    for problem in _audit(client, accounts)[:3]:
        _blame(accounts, problem)
        return
    adds_up = ledger.get("offered") == sum(ledger.get(name, 0) for name in _PARTS)
    if adds_up and ledger.get("delivered") == client.at_ledger:
        accounts.exact += 1
    else:
        _blame(accounts, f"{client.at_ledger} ticks counted, but the account is {ledger}")


def _audit(client: Client, accounts: Accounts) -> list[str]:
    """Check a subscriber tick by tick, if all that it read was kept."""
    if client.recording is None:
        return []
    accounts.audited += 1
    group = client.group
    mode = group.mode or ("latest" if group.channel in REPLACEABLE else "every")
    return audit(client.recording, group.transport, group.codec, is_every=mode == "every")


def _blame(accounts: Accounts, text: str) -> None:
    accounts.wrong += 1
    _note(accounts, text)


def _note(accounts: Accounts, text: str) -> None:
    if len(accounts.details) < 10:
        accounts.details.append(text)


def settle_peer(load: Load, published: Mapping[str, int]) -> Accounts:
    """Read what a peer still has to send, and compare each count with what was published on its symbols."""
    until = time.perf_counter() + SETTLE_S
    quiet_since = time.perf_counter()
    before = load.received
    while time.perf_counter() < min(until, quiet_since + QUIET_S):
        load.turn(0.05)
        if load.received != before:
            before, quiet_since = load.received, time.perf_counter()
    accounts = Accounts()
    for client in load.clients:
        expected = sum(published.get(symbol, 0) for symbol in client.symbols)
        accounts.offered += expected
        accounts.delivered += client.count.ticks
        if client.is_stalled:
            continue
        accounts.lost += max(0, expected - client.count.ticks)
        if client.state is State.CLOSED:
            accounts.closed += 1
            _note(accounts, f"a session ended early: {client.failure}")
        elif client.count.ticks == expected:
            accounts.exact += 1
        else:
            _blame(accounts, f"{client.count.ticks} ticks counted of {expected} published")
    return accounts
