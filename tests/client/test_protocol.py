"""The client's protocol against the broker's own core (`tests.client.peers`)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.client import events
from broker.client.effects import Accepted, Closed, Ended, Puzzled, Refused
from broker.client.state import SubscriptionState
from broker.client.wire import CodecName
from broker.core import errors
from broker.core.history import HistoryLimits
from broker.core.tape import Tape
from broker.core.ticks import Book
from broker.core.topics import Topics
from tests.client.peers import SYMBOLS, Peers, bar, quote, trade

# ── single cases ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_snapshot_comes_first_and_updates_go_on_from_it(codec: CodecName) -> None:
    peers = Peers(codec)
    peers.publish(trade(), trade(), trade())
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade(), trade())
    peers.settle()
    assert peers.snapshot_seqs(state) == [3]
    assert peers.seqs(state) == [4, 5]
    assert state.statistics(0).unexplained == 0


def test_resume_in_mode_every_yields_each_tick_once() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:*")
    peers.publish(*[trade() for _ in range(10)])
    peers.settle()
    peers.publish(*[trade() for _ in range(10)])
    peers.write()
    peers.disconnect()
    peers.publish(*[trade() for _ in range(10)])
    peers.settle()
    assert peers.seqs(state) == list(range(1, 31))
    assert peers.gaps(state) == []


def test_resume_in_mode_latest_counts_what_was_conflated() -> None:
    peers = Peers()
    state = peers.follow("quote", "SIM:*")
    peers.publish(quote())
    peers.settle()
    peers.disconnect()
    peers.publish(*[quote() for _ in range(9)])
    peers.settle()
    assert peers.seqs(state) == [1, 10]
    assert state.statistics(0).conflated == 8
    assert peers.gaps(state) == []


def test_resume_behind_the_end_of_the_history_tells_the_gap_and_brings_a_snapshot() -> None:
    peers = Peers(history=5)
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade())
    peers.settle()
    peers.disconnect()
    peers.publish(*[trade() for _ in range(20)])
    peers.settle()
    peers.publish(trade())
    peers.settle()
    assert peers.gaps(state) == [(2, 21, "cursor_too_old")]
    assert peers.snapshot_seqs(state) == [21]
    assert peers.seqs(state) == [1, 22]
    assert state.statistics(0).missing == 20


def test_cursor_of_an_earlier_process_brings_every_tick_since_also_with_a_snapshot() -> None:
    peers = Peers()
    peers.publish(trade())
    peers.publish(*[trade() for _ in range(5)])
    later = peers.follow("trade", "SIM:A", cursor="e1-1", snapshot=True)
    assert peers.seqs(later) == [2, 3, 4, 5, 6]
    assert peers.snapshot_seqs(later) in ([], [6])


def test_whole_book_comes_besides_the_deltas_that_a_cursor_brings() -> None:
    peers = Peers()
    for n in range(3):
        peers.publish(
            Book(
                sym="SIM:A",
                ts=1,
                rts=2,
                kind="snapshot" if not n else "delta",
                bids=[(f"{n + 1}", "1")],
                asks=[],
            )
        )
    state = peers.follow("book", "SIM:A", cursor="e1-1", snapshot=True)
    assert peers.seqs(state) == [2, 3]
    (shown,) = [event for event in peers.seen[state] if isinstance(event, events.Snapshot)]
    assert [(tick.seq, len(tick.bids)) for tick in shown.ticks if isinstance(tick, Book)] == [(3, 3)]


def test_new_epoch_is_told_as_a_gap_of_unknown_size() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade(), trade())
    peers.settle()
    peers.restart()
    peers.publish(trade())
    peers.settle()
    peers.publish(trade())
    peers.settle()
    assert peers.gaps(state) == [(None, None, "cursor_too_old")]
    assert peers.snapshot_seqs(state) == [1]
    assert peers.seqs(state) == [1, 2, 2]


def test_new_epoch_of_a_symbol_that_the_broker_has_forgotten_is_told_with_its_next_tick() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade(), trade())
    peers.settle()
    peers.restart()
    peers.settle()
    assert peers.gaps(state) == []
    peers.publish(trade())
    peers.settle()
    assert peers.gaps(state) == [(None, None, "cursor_too_old")]
    assert peers.seqs(state) == [1, 2, 1]


def test_snapshot_that_was_cut_off_is_asked_for_again() -> None:
    peers = Peers()
    # Large enough for several parts.
    names = [f"SIM:S{n}" for n in range(1500)]
    peers.publish(*[quote(sym) for sym in names])
    state = peers.subscribe("quote", "*")
    peers.connect()
    peers.receive()
    peers.request()
    peers.write()
    peers.write()
    peers.receive()
    (part,) = [event for event in peers.seen[state] if isinstance(event, events.Snapshot)][:1]
    assert not part.is_complete
    assert part.cursor is None
    peers.disconnect()
    peers.settle()
    shown = [t.sym for e in peers.seen[state] if isinstance(e, events.Snapshot) for t in e.ticks]
    assert sorted(shown) == sorted(names)


def test_cursor_of_one_subscription_is_not_taken_for_another_that_is_not_back_yet() -> None:
    peers = Peers()
    first = peers.follow("trade", "SIM:A")
    second = peers.follow("trade", "SIM:B")
    peers.publish(trade("SIM:A"), trade("SIM:B"))
    peers.settle()
    peers.disconnect()
    peers.publish(trade("SIM:A"), trade("SIM:B"))
    peers.connect()
    peers.receive()
    # Only the first subscribe reaches the broker, which writes at once; then the connection is lost.
    requests = peers.client.take_requests()
    assert peers.session is not None
    peers._fly(peers.outbox.message(peers.session.handle(requests[0], 0.0, 0)))
    peers.write()
    peers.receive()
    peers.disconnect()
    peers.settle()
    assert peers.seqs(first, "SIM:A") == [1, 2]
    assert peers.seqs(second, "SIM:B") == [1, 2]


def test_names_win_over_patterns_and_no_gap_is_told_for_that_on_a_reconnect() -> None:
    peers = Peers()
    pattern = peers.follow("trade", "SIM:*")
    named = peers.follow("trade", "SIM:A")
    peers.publish(trade("SIM:A"), trade("SIM:B"))
    peers.settle()
    peers.disconnect()
    peers.publish(trade("SIM:A"), trade("SIM:B"))
    peers.settle()
    assert peers.seqs(named, "SIM:A") == [1, 2]
    assert peers.seqs(pattern, "SIM:B") == [1, 2]
    assert peers.seqs(pattern, "SIM:A") == []
    assert peers.gaps(pattern) == peers.gaps(named) == []


def test_symbol_goes_back_to_its_pattern_without_a_false_alarm() -> None:
    peers = Peers()
    pattern = peers.follow("trade", "SIM:*")
    peers.publish(trade())
    peers.settle()
    named = peers.follow("trade", "SIM:A")
    peers.publish(trade(), trade())
    peers.settle()
    assert peers.client.unsubscribe(named)
    peers.request()
    peers.publish(trade())
    peers.settle()
    assert peers.seqs(pattern) == [1, 4]
    assert peers.seqs(named) == [2, 3]
    assert pattern.statistics(0).unexplained == 0
    assert Ended(named) in peers.effects
    assert named.ledger is not None
    assert named.ledger.delivered == 2


def test_ticks_before_the_snapshot_of_a_new_owner_are_still_the_old_ones() -> None:
    peers = Peers()
    pattern = peers.follow("trade", "SIM:*")
    peers.publish(trade())
    peers.settle()
    peers.publish(trade())
    named = peers.subscribe("trade", "SIM:A")
    peers.settle()
    assert peers.seqs(pattern) == [1, 2]
    assert peers.snapshot_seqs(named) == [2]
    assert peers.seqs(named) == []


def test_overflow_is_a_gap_and_what_it_names_is_missing() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A", delivery={"queue": 3})
    peers.publish(*[trade() for _ in range(10)])
    peers.settle()
    assert peers.gaps(state) == [(1, 7, "overflow")]
    assert peers.seqs(state) == [8, 9, 10]
    assert state.statistics(0).missing == 7
    assert state.statistics(0).unexplained == 0


def test_jump_in_mode_every_without_a_gap_is_unexplained() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade())
    peers.settle()
    peers.publish(trade())
    peers.write()
    peers.flight.clear()
    peers.publish(trade())
    peers.settle()
    assert state.statistics(0).unexplained == 1
    assert peers.gaps(state) == [(2, 2, "unexplained")]


def test_bars_of_two_intervals_share_a_numbering_and_both_are_shown() -> None:
    peers = Peers()
    peers.publish(bar(interval="1s"), bar(interval="1m"), bar(interval="1s"))
    state = peers.follow("bar", "SIM:A")
    assert sorted(peers.snapshot_seqs(state)) == [2, 3]


def test_refusal_of_a_new_subscription_is_final() -> None:
    peers = Peers()
    state = peers.follow("trade", "NO:SUCH")
    (refused,) = [effect for effect in peers.effects if isinstance(effect, Refused)]
    assert (refused.state, refused.code, refused.is_final) == (state, "unknown_symbol", True)


def test_subscription_that_was_live_is_tried_again_where_a_new_broker_does_not_know_it_yet() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A")
    peers.publish(trade())
    peers.settle()
    peers.restart()
    peers.router.topics = Topics()
    peers.router.tape = Tape("e-later", peers.router.topics, HistoryLimits())
    peers.settle()
    (refused,) = [effect for effect in peers.effects if isinstance(effect, Refused)]
    assert not refused.is_final
    peers.router.topics.declare("SIM", None)
    peers.client.retry(state)
    peers.request()
    peers.settle()
    peers.publish(trade())
    peers.settle()
    assert peers.seqs(state) == [1, 1]


def test_rejected_symbols_are_named_and_the_others_are_followed() -> None:
    peers = Peers()
    state = peers.follow("trade", "SIM:A", "NO:SUCH")
    assert [(r.symbol, r.code) for r in state.rejected] == [("NO:SUCH", "unknown_symbol")]
    assert state.symbols == ["SIM:A"]


def test_closing_says_when_to_come_back() -> None:
    peers = Peers()
    peers.settle()
    assert peers.session is not None
    peers._fly(peers.outbox.message(peers.session.close(errors.DRAINING)))
    peers.receive()
    assert Closed(1001, errors.DRAINING.text, 1000) in peers.effects


def test_nonsense_is_reported_and_changes_nothing() -> None:
    peers = Peers("json")
    peers.settle()
    assert isinstance(peers.client.receive("{")[0], Puzzled)
    assert isinstance(peers.client.receive('{"type":"ack","id":99,"op":"subscribe","sub":1}')[0], Puzzled)
    assert (
        peers.client.receive('{"type":"gap","sub":9,"ch":"quote","sym":"A:B","from":1,"to":2,"reason":"x"}')
        == []
    )
    assert peers.client.receive('{"type":"notice","state":"pressed","sub":1,"queued":1,"limit":2}') == []
    assert peers.client.receive('{"type":"weather","sun":true}') == []


# ── any order of things ──────────────────────────────────────────────────────────────────────────

TICKS = {"quote": quote, "trade": trade}
TOPICS = st.tuples(st.sampled_from(sorted(TICKS)), st.sampled_from(SYMBOLS))
STEPS = st.one_of(
    st.tuples(st.just("publish"), st.lists(TOPICS, max_size=8)),
    st.tuples(st.sampled_from(["write", "request", "heartbeat"]), st.none()),
    st.tuples(st.just("receive"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["connect", "disconnect", "settle"]), st.none()),
)


def check(peers: Peers, state: SubscriptionState, sym: str) -> None:
    """Within an epoch no tick comes twice, and every tick between the first and the last is accounted for."""
    account = state.statistics(0)
    assert account.unexplained == 0
    seqs = peers.seqs(state, sym)
    assert seqs == sorted(set(seqs))
    topic = peers.router.topics.on_channel(state.ch).get(sym)  # type: ignore[arg-type]
    if topic is None or not topic.seq:
        return
    shown = [
        tick.seq
        for event in peers.seen[state]
        if not isinstance(event, events.Gap)
        for tick in event.ticks
        if tick.sym == sym
    ]
    told = {
        seq
        for gap in peers.seen[state]
        if isinstance(gap, events.Gap) and gap.sym == sym and gap.missing
        for seq in range(gap.first or 0, (gap.last or 0) + 1)
    }
    assert topic.seq in {*shown, *told}
    if state.mode == "every" and seqs:
        assert set(range(seqs[0], topic.seq + 1)) <= {*seqs, *told}


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=40), st.sampled_from([4, 20, 1000]), st.sampled_from([2, 1000]))
def test_whatever_happens_nothing_comes_twice_and_nothing_is_missed_unnoticed(
    steps: list[tuple[str, object]], history: int, queue: int
) -> None:
    peers = Peers(history=history)
    states = [
        peers.subscribe("quote", "*"),
        peers.subscribe("trade", "SIM:*", delivery={"queue": queue}),
        peers.subscribe("trade", "SIM:B", "OTHER:C"),
    ]
    for name, argument in steps:
        if name == "publish":
            assert isinstance(argument, list)
            peers.publish(*[TICKS[ch](sym) for ch, sym in argument])
        elif name == "receive":
            assert isinstance(argument, int)
            peers.receive(argument)
        else:
            getattr(peers, name)()
    peers.settle()
    assert not [effect for effect in peers.effects if isinstance(effect, Puzzled | Refused)]
    assert {effect.state for effect in peers.effects if isinstance(effect, Accepted)} == set(states)
    for sym in SYMBOLS:
        check(peers, states[0], sym)
    check(peers, states[1], "SIM:A")
    check(peers, states[2], "SIM:B")
    check(peers, states[2], "OTHER:C")
