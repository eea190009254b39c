"""Counting raw bytes, beside what was put into them, wherever a read ends."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.counting import Ages, Count, open_counter
from bench.histogram import SHIFT
from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.framing import NdjsonFraming, SseFraming, WebSocketFraming
from broker.core.history import HistoryLimits
from broker.core.mailbox import LedgerEntry
from broker.core.messages import Ack, Heartbeat
from broker.core.tape import Tape
from broker.core.ticks import Quote, Tick, Trade
from broker.core.topics import Topics
from tests.fakes import put

NOW = 1_795_000_000_000_000_000
#: Ages of the ticks in ms, oldest first.
AGES_MS = [40, 30, 20, 10, 10, 5, 3]
LEDGER = LedgerEntry(1, 7, 5, 1, 1, 0)


def ticks() -> list[Tick]:
    made: list[Tick] = []
    for number, age_ms in enumerate(AGES_MS):
        ts = NOW - age_ms * 1_000_000
        if number % 2:
            made.append(Trade(sym="SIM:ACME", ts=ts, rts=ts + 5, price="1", size="2", side=None, id="rts"))
        else:
            made.append(Quote(sym="SIM:ACME", ts=ts, rts=ts, bid="1", bid_size="1", ask=None, ask_size=None))
    return made


def stream(codec: Codec, kind: str) -> bytes:
    """Return what a subscriber may read: an update, a heartbeat with an account, another update."""
    tape = Tape("e", Topics(), HistoryLimits())
    entries = put(tape, ticks())
    framing = {
        "ws": WebSocketFraming(is_binary=codec.is_binary),
        "sse": SseFraming(chunked=True, retry_ms=1000),
        "ndjson": NdjsonFraming(chunked=True),
    }[kind]
    messages = [
        ("update", codec.update("e-5", codec.ticks(entries[:5]))),
        ("heartbeat", codec.encode(Heartbeat(NOW, "e-5", [LEDGER]))),
        ("update", codec.update("e-7", codec.ticks(entries[5:]))),
    ]
    return b"".join(framing.batch(framing.frame(name, payload)) for name, payload in messages)


KINDS = [(JSON, "ws"), (JSON, "sse"), (JSON, "ndjson"), (MSGPACK, "ws")]
cuts = st.lists(st.integers(1, 400), max_size=30)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut data into pieces of these sizes, and the rest."""
    cut, at = [], 0
    for size in sizes:
        cut.append(data[at : at + size])
        at += size
    return [piece for piece in [*cut, data[at:]] if piece]


@pytest.mark.parametrize(("codec", "kind"), KINDS)
@pytest.mark.parametrize("every", [False, True])
@given(sizes=cuts)
def test_every_tick_is_counted_once_wherever_the_reads_end(
    codec: Codec, kind: str, every: bool, sizes: list[int]
) -> None:
    counter, count, ages = open_counter(codec.name, every=every), Count(), Ages()
    for piece in pieces(stream(codec, kind), sizes):
        counter.read(count, piece, NOW, ages)
    assert count.ticks == len(AGES_MS)
    assert sum(ages.counts.values()) == len(AGES_MS)
    assert ages.max_ns == 40_000_000


@pytest.mark.parametrize(("codec", "kind"), KINDS)
def test_ages_are_those_of_the_ticks(codec: Codec, kind: str) -> None:
    counter, ages = open_counter(codec.name, every=True), Ages()
    counter.read(Count(), stream(codec, kind), NOW, ages)
    expected: dict[int, int] = {}
    for age_ms in AGES_MS:
        expected[age_ms * 1_000_000 >> SHIFT] = expected.get(age_ms * 1_000_000 >> SHIFT, 0) + 1
    assert ages.counts == expected


@pytest.mark.parametrize(("codec", "kind"), KINDS)
def test_ends_spread_the_ticks_between_the_oldest_and_the_newest(codec: Codec, kind: str) -> None:
    counter, ages = open_counter(codec.name, every=False), Ages()
    counter.read(Count(), stream(codec, kind), NOW, ages)
    spread = [bucket << SHIFT for bucket in ages.counts]
    assert min(spread) >= 3_000_000
    assert max(spread) <= 40_000_000
    assert len(spread) == 4


@pytest.mark.parametrize(("codec", "kind"), KINDS)
def test_an_account_is_found_with_its_place(codec: Codec, kind: str) -> None:
    data = stream(codec, kind)
    counter = open_counter(codec.name, every=False)
    found = counter.ledger(data)
    assert found is not None
    start, ledger = found
    assert ledger == msgspec.structs.asdict(LEDGER)
    before = Count()
    counter.read(before, data[:start], NOW, Ages())
    assert before.ticks == 5


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_an_answer_with_a_single_account_is_understood_and_half_of_one_is_not(codec: Codec) -> None:
    data = codec.encode(Ack(2, "unsubscribe", sub=1, ledger=LEDGER))
    counter = open_counter(codec.name, every=False)
    found = counter.ledger(data)
    assert found is not None
    assert found[1]["delivered"] == 5
    # Its last field is behind the account's end in neither codec.
    assert counter.ledger(data[: found[0] + 40]) is None


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_heartbeat_of_a_session_without_subscriptions_has_no_account(codec: Codec) -> None:
    assert open_counter(codec.name, every=False).ledger(codec.encode(Heartbeat(NOW, "e-5", []))) is None
