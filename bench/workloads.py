"""The workloads, W1 to W8 and soak: who subscribes to what, and how many ticks come in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

T = TypeVar("T")

Kind = Literal["steady", "storm", "idle"]
Transport = Literal["ws", "sse", "ndjson"]
CodecName = Literal["json", "msgpack"]
Ages = Literal["ends", "every"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Subscribers that are alike.

    Attributes:
        subscribers: how many.
        symbols_each: how many symbols each asks for, drawn from the seed; 0: all, by one pattern.
        mode: of the delivery; ``None``: the channel's own.
        queue: of the delivery, for ``every``; 0: the broker's default.
        max_rate: of the delivery, for ``latest``: ticks of each symbol in a second; 0: none.
        stalled: the share of them that never read.
    """

    subscribers: int
    symbols_each: int
    channel: str = "quote"
    transport: Transport = "ws"
    codec: CodecName = "json"
    mode: str | None = "every"
    queue: int = 0
    max_rate: float = 0.0
    stalled: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What comes in, and who gets it.

    Attributes:
        name: as ``--workload`` has it.
        title: for people, in a few words.
        symbols: of the simulated market.
        ticks_per_second: of all symbols and channels together.
        kind: ``steady``: subscribe and read; ``storm``: connect at once, be cut, and resume; ``idle``: hold on.
        is_paced: whether the ticks keep a schedule that is within reach, so that an age counts from it. Else
            they come as fast as they are taken, and an age counts from when the tick was made.
        ages: of which ticks of a read the age is taken (`bench.counting`).
        is_mixed: whether it says itself which transports and codecs are used.
    """

    name: str
    title: str
    symbols: int
    ticks_per_second: float
    groups: tuple[Group, ...]
    channels: tuple[str, ...] = ("quote",)
    kind: Kind = "steady"
    is_paced: bool = True
    ages: Ages = "ends"
    is_mixed: bool = False
    warmup_s: float = 1.0
    duration_s: float = 6.0

    @property
    def subscribers(self) -> int:
        """How many there are in all groups."""
        return sum(group.subscribers for group in self.groups)


def _mixed() -> tuple[Group, ...]:
    """Return W8's groups: each transport, codec and mode, in shares that a public deployment may have."""
    return (
        Group(subscribers=250, symbols_each=20, mode="latest"),
        Group(subscribers=100, symbols_each=20, mode="every"),
        Group(subscribers=100, symbols_each=20, mode="latest", codec="msgpack"),
        Group(subscribers=50, symbols_each=20, mode="every", codec="msgpack"),
        Group(subscribers=100, symbols_each=10, mode="latest", transport="sse"),
        Group(subscribers=50, symbols_each=10, mode="every", channel="trade", transport="sse"),
        Group(subscribers=50, symbols_each=10, mode="every", channel="book"),
        Group(subscribers=50, symbols_each=10, mode="every", channel="trade", transport="ndjson"),
        Group(subscribers=10, symbols_each=0, mode="latest", transport="ndjson"),
    )


_ALL = (
    Workload(
        name="W1",
        title="firehose: 100 subscribers of all of 100 symbols, as fast as it goes",
        symbols=100,
        ticks_per_second=100_000,
        groups=(Group(subscribers=100, symbols_each=0, queue=10_000),),
        is_paced=False,
    ),
    Workload(
        name="W2",
        title="dashboards: 1000 subscribers, 20 of 1000 symbols each, 50,000 ticks/s",
        symbols=1000,
        ticks_per_second=50_000,
        groups=(Group(subscribers=1000, symbols_each=20),),
    ),
    Workload(
        name="W3",
        title="one hot ticker: 5000 subscribers of one symbol, 20 ticks/s",
        symbols=1,
        ticks_per_second=20,
        groups=(Group(subscribers=5000, symbols_each=1),),
        warmup_s=2.0,
    ),
    Workload(
        name="W4",
        title="idle: 200 subscribers, 10 of 100 symbols each, 2000 ticks/s; latency",
        symbols=100,
        ticks_per_second=2000,
        groups=(Group(subscribers=200, symbols_each=10),),
        ages="every",
    ),
    Workload(
        name="W5",
        title="slow consumers: W2, and one subscriber in ten never reads",
        symbols=1000,
        ticks_per_second=50_000,
        groups=(Group(subscribers=1000, symbols_each=20, stalled=0.1),),
    ),
    Workload(
        name="W6",
        title="storm: 5000 sessions connect at once, are cut, and resume",
        symbols=100,
        ticks_per_second=1000,
        groups=(Group(subscribers=5000, symbols_each=1),),
        kind="storm",
        duration_s=3.0,
    ),
    Workload(
        name="W7",
        title="connections: 10,000 idle sessions; memory and CPU",
        symbols=1,
        ticks_per_second=1,
        groups=(Group(subscribers=10_000, symbols_each=1, channel="book"),),
        kind="idle",
        duration_s=10.0,
        warmup_s=5.0,
    ),
    Workload(
        name="W8",
        title="mixed: all transports, codecs and delivery modes together",
        symbols=200,
        ticks_per_second=10_000,
        channels=("quote", "trade", "book"),
        groups=_mixed(),
        is_mixed=True,
    ),
    Workload(
        name="soak",
        title="soak: memory over time; a run of W2 at two fifths of its rate, 2 % of the readers stalled",
        symbols=1000,
        ticks_per_second=20_000,
        groups=(Group(subscribers=500, symbols_each=20, stalled=0.02),),
        duration_s=600.0,
        warmup_s=5.0,
    ),
)

#: By name, in the order of the issue.
WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a user wants to be otherwise; ``None``: as the workload has it."""

    subscribers: int | None = None
    symbols: int | None = None
    symbols_each: int | None = None
    mode: str | None = None
    queue: int | None = None
    max_rate: float | None = None
    stalled: float | None = None
    ages: Ages | None = None
    warmup_s: float | None = None
    duration_s: float | None = None


def change(workload: Workload, changes: Changes) -> Workload:
    """Return a workload with a user's parameters; numbers of subscribers keep the groups' proportions.

    Raises:
        ValueError: what is asked for makes no sense; names the option.
    """
    _check(changes)
    groups = workload.groups
    if changes.subscribers is not None:
        groups = _spread(groups, changes.subscribers)
    symbols = workload.symbols if changes.symbols is None else changes.symbols
    if changes.symbols_each is not None and changes.symbols_each > symbols:
        raise ValueError(f"--symbols-each: {changes.symbols_each} is more than there are symbols ({symbols})")
    groups = tuple(_change_group(group, changes, symbols) for group in groups)
    return replace(
        workload,
        groups=groups,
        symbols=symbols,
        ages=_or(changes.ages, workload.ages),
        warmup_s=_or(changes.warmup_s, workload.warmup_s),
        duration_s=_or(changes.duration_s, workload.duration_s),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _check(changes: Changes) -> None:
    """Raise `ValueError` for a number that is out of range."""
    ranges: list[tuple[str, float | None, float, float]] = [
        ("--subscribers", changes.subscribers, 1, 1_000_000),
        ("--symbols", changes.symbols, 1, 100_000),
        ("--symbols-each", changes.symbols_each, 0, 100_000),
        ("--queue", changes.queue, 1, 10_000_000),
        ("--max-rate", changes.max_rate, 0.1, 1000),
        ("--stalled", changes.stalled, 0, 1),
        ("--warmup", changes.warmup_s, 0, 3600),
        ("--duration", changes.duration_s, 0.1, 1_000_000),
    ]
    for option, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise ValueError(f"{option}: {value:g} is not from {low:g} to {high:g}")


def _change_group(group: Group, changes: Changes, symbols: int) -> Group:
    mode = group.mode if changes.mode is None else changes.mode
    if mode == "latest" and changes.queue is not None:
        raise ValueError("--queue: goes with --mode every; 'latest' holds one tick of each symbol")
    if mode == "every" and changes.max_rate is not None:
        raise ValueError("--max-rate: goes with --mode latest; 'every' sends all ticks")
    return replace(
        group,
        symbols_each=min(_or(changes.symbols_each, group.symbols_each), symbols),
        mode=mode,
        queue=0 if mode == "latest" else _or(changes.queue, group.queue),
        max_rate=0.0 if mode == "every" else _or(changes.max_rate, group.max_rate),
        stalled=_or(changes.stalled, group.stalled),
    )


def _spread(groups: tuple[Group, ...], subscribers: int) -> tuple[Group, ...]:
    """Return the groups with so many subscribers in all; groups that get none are left out."""
    total = sum(group.subscribers for group in groups)
    spread = []
    before = given = 0
    for group in groups:
        before += group.subscribers
        share = round(subscribers * before / total) - given
        given += share
        if share:
            spread.append(replace(group, subscribers=share))
    return tuple(spread)
