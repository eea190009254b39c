"""``tapecast bench micro``: what the parts of the hot path cost, without I/O.

The least of some repeats is reported: everything that disturbs a measurement makes it longer, nothing makes it shorter.
The median beside it says how much it was disturbed.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from broker.core.codecs import JSON, MSGPACK, Codec
from broker.core.delivery import DeliveryLimits, DeliveryRequest, Mode, negotiate
from broker.core.encoding import tick_to_json
from broker.core.framing import WEBSOCKET_TEXT, Framing, NdjsonFraming, SseFraming
from broker.core.history import HistoryLimits
from broker.core.mailbox import Mailbox
from broker.core.tape import Entry, Tape
from broker.core.ticks import Channel, Tick
from broker.core.topics import Topics
from feeds._market import Market
from feeds.simulated import generate_names

#: Ticks of one call; as many as a feed flushes at once.
BATCH = 256
#: Ticks in the messages that are framed: what W2 puts into one write.
WRITE = 20
#: Messages of one call.
MESSAGES = 50
_SYMBOLS = 100
_FEW_SYMBOLS = 20
_NOW_NS = 1_795_000_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One part.

    Attributes:
        name: what it does.
        unit: what one operation is.
        operations: in one call.
        prepare: makes what a call works on, outside the time; called before each.
        call: what is timed.
    """

    name: str
    unit: str
    operations: int
    prepare: Callable[[], object]
    call: Callable[[object], object]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a part costs, in ns per operation."""

    name: str
    unit: str
    least_ns: float
    median_ns: float


def run(seconds: float) -> Iterator[Cost]:
    """Measure every part for about so many seconds together."""
    cases = list(_cases())
    for case in cases:
        yield _measure(case, seconds / len(cases))


def _measure(case: Case, seconds: float) -> Cost:
    times: list[int] = []
    until = time.perf_counter() + seconds
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while len(times) < 5 or time.perf_counter() < until:
            subject = case.prepare()
            began = time.perf_counter_ns()
            case.call(subject)
            times.append(time.perf_counter_ns() - began)
    finally:
        if was_enabled:
            gc.enable()
    times.sort()
    return Cost(
        name=case.name,
        unit=case.unit,
        least_ns=times[0] / case.operations,
        median_ns=statistics.median(times) / case.operations,
    )


def _cases() -> Iterator[Case]:
    market = Market([f"SIM:{name}" for name in generate_names(_SYMBOLS)], ["quote"], 50_000, 1)
    ticks = market.ticks(BATCH, _NOW_NS)
    entries = _entries(ticks)
    yield Case(
        name="feed: make a quote of the simulated market",
        unit="tick",
        operations=BATCH,
        prepare=lambda: None,
        call=lambda _: market.ticks(BATCH, _NOW_NS),
    )
    yield _tape_case(ticks)
    yield _mailbox_case("quote", "every", entries)
    channels: tuple[Channel, ...] = ("quote", "trade", "book")
    for ch in channels:
        yield _mailbox_case(ch, "latest", _entries(_ticks(ch)))
    yield from _codec_cases(ticks, entries)
    yield from _framing_cases(entries[:WRITE])


def _tape() -> Tape:
    return Tape("bench", Topics(), HistoryLimits())


def _entries(ticks: Sequence[Tick]) -> list[Entry]:
    """Return ticks as a tape hands them to those who want more of them than their bytes."""
    _, items = _tape().append(ticks, 0.0)
    return [item for item in items if isinstance(item, Entry)]


def _tape_case(ticks: Sequence[Tick]) -> Case:
    tape = _tape()
    clock = count()
    return Case(
        name="tape: number, encode and keep a tick",
        unit="tick",
        operations=len(ticks),
        prepare=lambda: next(clock),
        call=lambda at: tape.append(ticks, float(at)),  # type: ignore[arg-type]
    )


def _ticks(ch: Channel) -> list[Tick]:
    """Return ticks of few names, so that there is something to conflate."""
    market = Market([f"SIM:{name}" for name in generate_names(_FEW_SYMBOLS)], [ch], 50_000, 1)
    return market.ticks(BATCH, _NOW_NS)


def _mailbox_case(ch: Channel, mode: Mode, entries: Sequence[Entry]) -> Case:
    limits = DeliveryLimits()
    mailbox = Mailbox(ch, negotiate(ch, DeliveryRequest(mode=mode), limits), limits)

    def call(_: object) -> None:
        append = mailbox.inbox.append
        for entry in entries:
            append(entry)
        mailbox.settle()
        mailbox.take()

    what = "queue" if mode == "every" else "conflate"
    return Case(
        name=f"mailbox, {mode}, {ch}: hand over, {what} and take",
        unit="tick",
        operations=len(entries),
        prepare=lambda: None,
        call=call,
    )


def _codec_cases(ticks: Sequence[Tick], entries: Sequence[Entry]) -> Iterator[Case]:
    yield Case(
        name="codec: a quote to JSON",
        unit="tick",
        operations=len(ticks),
        prepare=lambda: None,
        call=lambda _: [tick_to_json(tick) for tick in ticks],
    )
    few = list(entries[:WRITE])
    codecs: tuple[Codec, ...] = (JSON, MSGPACK)
    for codec in codecs:
        yield _update_case(codec, codec.ticks(few))


def _update_case(codec: Codec, encoded: Sequence[bytes]) -> Case:
    numbers = count()

    def call(_: object) -> None:
        # A cursor of its own each time: the same one again would be answered from memory.
        for _ in range(MESSAGES):
            codec.update(f"bench-{next(numbers)}", encoded)

    return Case(
        name=f"codec, {codec.name}: an update of {WRITE} encoded ticks",
        unit="message",
        operations=MESSAGES,
        prepare=lambda: None,
        call=call,
    )


def _framing_cases(entries: Sequence[Entry]) -> Iterator[Case]:
    encoded = JSON.ticks(entries)
    framings: tuple[Framing, ...] = (
        WEBSOCKET_TEXT,
        SseFraming(chunked=True, retry_ms=1000),
        NdjsonFraming(chunked=True),
    )
    for framing in framings:
        yield _framing_case(framing, [JSON.update(f"bench-{number}", encoded) for number in range(MESSAGES)])


def _framing_case(framing: Framing, payloads: Sequence[bytes]) -> Case:
    def call(_: object) -> None:
        for payload in payloads:
            framing.batch(framing.frame("update", payload, "bench-1"))

    return Case(
        name=f"framing, {framing.name}: an update of {WRITE} ticks",
        unit="message",
        operations=len(payloads),
        prepare=lambda: None,
        call=call,
    )


def render(costs: Sequence[Cost]) -> str:
    """Return the costs as a table."""
    wide = max(len(cost.name) for cost in costs)
    lines = [f"{'':<{wide}}{'least':>10}{'median':>10}  ns for each"]
    lines += [
        f"{cost.name:<{wide}}{cost.least_ns:>10,.0f}{cost.median_ns:>10,.0f}  {cost.unit}" for cost in costs
    ]
    return "\n".join(lines)
