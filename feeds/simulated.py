"""A simulated market: for demos, tests and benchmarks, offline and without a key.

What comes next is `feeds._market`'s to decide, from the seed; here it is only decided when. The rate is an
open loop: it is kept against the clock, whatever the ticks and their delivery cost, so that a broker that
falls behind shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated, Any, Literal

import trio
from pydantic import Field, ValidationInfo, field_validator

from broker.core.ticks import Tick, is_symbol
from feeds._market import Market
from feeds.base import Feed, FeedContext, FeedOptions

MOST_SYMBOLS = 100_000
MOST_TICKS_PER_SECOND = 100_000

#: Ticks handed over between two flushes; as many as the broker takes in one batch.
FLUSH_TICKS = 256
#: How long to sleep between two handfuls of ticks, at few ticks a second (or until the next one is due), and at most.
#: A wake-up costs as much as 20 ticks, and a large handful is made and passed on with warm caches. The kernel's
#: `epoll_wait` counts whole milliseconds, rounded up.
LEAST_WAKE_S, MOST_WAKE_S = 0.0009, 0.005
#: A feed that was held up makes up for at most so much; what is due beyond that is never made.
CATCH_UP_S = 1.0
#: A wake-up is never exact; a tick may leave early by this part of the gap between two ticks.
_EARLY = 1e-3

#: Busiest first. Invented; of six letters, as tickers of the large venues are shorter.
_FIRST_NAMES = """
ACME ALDERA AMBRIL ARCTIL BASALT BOREAL BRAMBL CALDRA CEDRIX CINDRA CLOVAR CORALT
DAPPLO DELPHA DRIFTA EMBERY ESTRIL FABLEN FATHOM FENWIK FJORDA GALENT GINGKO GLADEN
HARROW HAZELO HELIXA ICARUN INDIGA JASPRO JUNIPO KELPIA KESTRO LANTRA LARKIN LUMARA
MARLIN MISTRA MOSSEL NEBULO NIMBRA OCARIN ORCHID OSPREA PEBBLA PLOVRA QUARTA QUILLO
RAVINA RUNICA SAFFRA SORREL TALLOW THISTA TUNDRO UMBRAL VELLUM WILLOX YARROW ZEPHYA
"""
NAMES = _FIRST_NAMES.split()


def generate_names(count: int) -> list[str]:
    """Return the first ``count`` names of the simulated market; more names begin with the same ones."""
    return NAMES[:count] + [f"S{number:05d}" for number in range(len(NAMES) + 1, count + 1)]


class Simulated(Feed):
    """Simulated market: quotes, trades and books of ten levels, from a seed.

    It can pause: a tick that does not exist yet can't be lost, so every tick that was made is put on the tape, and
    what the broker is behind shows in the rate.
    """

    is_checked = True
    can_pause = True

    class Options(FeedOptions):
        """Keys of a feed of the type ``simulated``."""

        type: Literal["simulated"] = "simulated"
        #: The part before the colon of its symbols.
        venue: str = "SIM"
        #: How many names, or which, without the venue.
        symbols: int | tuple[str, ...] = 20
        #: On average, of all symbols and channels together.
        ticks_per_second: Annotated[
            float, Field(ge=1, le=MOST_TICKS_PER_SECOND, strict=True, allow_inf_nan=False)
        ] = 1000
        channels: Annotated[tuple[Literal["quote", "trade", "book"], ...], Field(min_length=1)] = (
            "quote",
            "trade",
            "book",
        )
        #: The same seed (and the same other options) makes the same market.
        seed: Annotated[int, Field(ge=0, strict=True)] = 1
        #: What `ts` says: when the tick was made, or when it was due, for benchmarks that count from there.
        stamp: Literal["made", "due"] = "made"

        @field_validator("venue")
        @classmethod
        def _can_stand_before_a_colon(cls, venue: str) -> str:
            if len(venue) > 32 or not is_symbol(f"{venue}:A"):
                raise ValueError("must be 1 to 32 capital letters, digits and _, like 'SIM'")
            return venue

        @field_validator("symbols", mode="before")
        @classmethod
        def _are_a_count_or_names(cls, symbols: Any, info: ValidationInfo) -> Any:
            if isinstance(symbols, int) and not isinstance(symbols, bool):
                if not 1 <= symbols <= MOST_SYMBOLS:
                    raise ValueError(f"must be a count from 1 to {MOST_SYMBOLS}")
                return symbols
            if not isinstance(symbols, list | tuple):
                raise ValueError(f"must be a count from 1 to {MOST_SYMBOLS} or a list like ['ACME']")
            problems = _wrong_names(symbols, info.data.get("venue", "SIM"))
            if problems:
                raise ValueError("; ".join(problems))
            return tuple(symbols)

        @field_validator("channels")
        @classmethod
        def _are_all_different(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
            for channel in channels:
                if channels.count(channel) > 1:
                    raise ValueError(f"{channel!r} is listed twice")
            return channels

        def names(self) -> Sequence[str]:
            """Return the names without the venue, the busiest first."""
            return generate_names(self.symbols) if isinstance(self.symbols, int) else self.symbols

    symbols: Sequence[str]

    def __init__(self, options: Options) -> None:
        self.options = options
        self.venue = options.venue
        self.symbols = [f"{options.venue}:{name}" for name in options.names()]

    async def run(self, ctx: FeedContext) -> None:
        """See `Feed.run`; never ends by itself. Each run begins the same market again."""
        options = self.options
        market = Market(self.symbols, options.channels, options.ticks_per_second, options.seed)
        await _open(ctx, market)
        await _keep_rate(ctx, market, options.ticks_per_second, is_due=options.stamp == "due")


def wake_s(rate: float) -> float:
    """Return how long to gather ticks of a rate, in ticks a second: the more there are, the longer."""
    return min(MOST_WAKE_S, max(LEAST_WAKE_S, rate * 1e-7))


async def _open(ctx: FeedContext, market: Market) -> None:
    """Publish every name's book and quote, on top of the rate, so that a page shows all of them at once."""
    waiting = 0
    for instrument in market.instruments:
        for tick in market.standing(instrument, ctx.time_ns()):
            ctx.publish(tick)
            waiting += 1
        if waiting >= FLUSH_TICKS:
            await ctx.flush()
            waiting = 0
    await ctx.flush()


async def _keep_rate(ctx: FeedContext, market: Market, rate: float, *, is_due: bool) -> None:
    """Publish ``rate`` ticks a second for ever: slow ones evenly, one by one, fast ones by the handful.

    ``is_due``: the ticks bear the time at which each was due, not that at which they were made.
    """
    handful = ceil(rate * wake_s(rate))
    paid_until = trio.current_time()
    while True:
        wake = paid_until + handful / rate
        await trio.sleep_until(wake)
        now = trio.current_time()
        paid_until += max(0.0, now - wake - CATCH_UP_S)
        due = int((now - paid_until) * rate + _EARLY)
        next_due_ns = ctx.time_ns() - round((now - paid_until - 1 / rate) * 1e9)
        # Added up by gaps, not by wake-ups: what is not due yet stays owed, so the average is exact.
        paid_until += due / rate
        while due > 0:
            count = min(due, FLUSH_TICKS)
            ticks = market.ticks(count, ctx.time_ns())
            if is_due:
                _stamp(ticks, next_due_ns, 1e9 / rate)
                next_due_ns += round(count * 1e9 / rate)
            for tick in ticks:
                ctx.publish(tick)
            await ctx.flush()
            due -= count


def _stamp(ticks: Sequence[Tick], first_ns: int, gap_ns: float) -> None:
    """Set ``ts`` to when each tick was due: the first at ``first_ns``, the others by the gap."""
    for number, tick in enumerate(ticks):
        tick.ts = first_ns + int(number * gap_ns)


def _wrong_names(names: Sequence[Any], venue: str) -> list[str]:
    """Say what is wrong with a list of names, and what would be right: the first few mistakes."""
    if not 1 <= len(names) <= MOST_SYMBOLS:
        return [f"must be 1 to {MOST_SYMBOLS} names, not {len(names)}"]
    problems: list[str] = []
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str):
            problems.append(f"{name!r:.80} must be a name in quotes, like 'ACME'")
        elif not is_symbol(f"{venue}:{name}"):
            problems.append(_wrong_name(name, venue))
        elif name in seen:
            problems.append(f"{name!r} is listed twice")
        else:
            seen.add(name)
        if len(problems) == 3:
            break
    return problems


def _wrong_name(name: str, venue: str) -> str:
    bare = name.rpartition(":")[2].strip().upper()
    if is_symbol(f"{venue}:{bare}"):
        return f"{name!r:.80} must be in capitals and without a venue: {bare!r}"
    return f"{name!r:.80} must be at most {63 - len(venue)} capital letters, digits and ._/+-, like 'ACME'"
