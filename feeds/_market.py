"""A market that does not exist: which ticks it makes is decided by a seed alone.

Each name has a fair price, which nobody sees: a random walk of its own plus its share (beta) of one
that all names have in common. Quotes follow it from outside: every event picks a name, moves its fair
price, and then one of these happens:

* a trade takes size at the touch, more often on the side that the fair price has left behind; one that takes
  all of it moves the touch out by a tick;
* the quotes move around the fair price, where that has left them or where the spread is too wide;
* a level, mostly the touch, changes its size.

An event gives its ticks in the order trade, book, quote, so that each quote is the touch of the book as
it stands then. Time is counted in ticks, not read from a clock: pacing does not change what comes next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import cycle
from math import copysign, exp, floor, log, sqrt
from random import Random

from broker.core.ticks import Book, Channel, Level, Quote, Tick, Trade
from feeds._ladder import DEPTH, MOST_LOTS, Band, Ladder, Touch, make_bands

#: Volatility of the common factor and of each name's own walk, per square root of a second: two to
#: three times that of a large share, so that something is to be seen, with correlations around 0.5.
MARKET_VOLATILITY = 0.00015
OWN_VOLATILITY = 0.00015
#: At few ticks a second a name rests for long; one event never moves a fair price by more than this.
MOST_OWN_MOVE = 0.002
MOST_MARKET_MOVE = 0.01
#: A fair price stays within this factor of where it began, so no price ever comes near zero.
RANGE = 4.0

TRADE_SHARE = 0.2
#: Where trades alone are asked for, the quotes still have to move in between, unseen.
TRADE_SHARE_ALONE = 0.75
DEEP_SHARE = 0.35
#: How far, in ticks, the middle of the quotes may be from the fair price until they move.
SLACK = 0.75
#: A spread wider than the usual by so many ticks is first closed before there is a trade again.
WIDEST = 3

LOWEST_PRICE, HIGHEST_PRICE = 2.0, 1500.0
#: Pre-drawn sizes; primes, so that the two cycles and that of the turns do not fall together.
_LEVEL_DRAWS, _TRADE_DRAWS = 8191, 4093
_TURNS = 32_768
#: Turns a uniform number of width 1 around 0 into one with variance 1.
_UNIT = sqrt(12)


class Instrument:
    """One name: its fair price, in tick sizes, and the book around it."""

    __slots__ = (
        "_beta",
        "_ceiling",
        "_floor",
        "_market_seen",
        "_step",
        "asks",
        "bids",
        "fair",
        "lots",
        "spread",
        "sym",
        "trades",
    )

    def __init__(
        self,
        sym: str,
        band: Band,
        price: float,
        *,
        spread: int,
        beta: float,
        step: float,
        draw: Callable[[], int],
        has_book: bool,
    ) -> None:
        """Put a book around the first price.

        Args:
            sym: canonical, with its venue.
            band: the one that ``price`` lies in.
            price: where it begins.
            spread: the usual one, in tick sizes.
            beta: how much of the common factor's return it takes.
            step: the width of one event's own return, which is uniform around 0.
            draw: the size of a level, in lots.
            has_book: whether anybody gets the levels.
        """
        self.sym = sym
        self.lots = band.lots
        self.fair = price / band.tick_size
        self.spread = spread
        self.trades = 0
        self._floor, self._ceiling = self.fair / RANGE, self.fair * RANGE
        self._beta, self._step = beta, step
        self._market_seen = 0.0
        bid = self.wanted_bid()
        side = Ladder if has_book else Touch
        self.bids = side(-1, bid, band, draw)
        self.asks = side(+1, bid + spread, band, draw)

    def drift(self, market: float, draw: float) -> float:
        """Move the fair price.

        Args:
            market: the log of the common factor, as of now.
            draw: the name's own luck, uniform from -0.5 to 0.5.

        Returns:
            By how many tick sizes the fair price is above the middle of the quotes.
        """
        common = (market - self._market_seen) * self._beta
        self._market_seen = market
        if not -MOST_MARKET_MOVE < common < MOST_MARKET_MOVE:
            common = copysign(MOST_MARKET_MOVE, common)
        fair = self.fair * (1.0 + common + draw * self._step)
        if not self._floor < fair < self._ceiling:
            fair = self._floor if fair <= self._floor else self._ceiling
        self.fair = fair
        return fair - (self.bids.best + self.asks.best) * 0.5

    def wanted_bid(self) -> int:
        """Return the bid that puts the usual spread around the fair price."""
        return floor(self.fair - self.spread * 0.5 + 0.5)

    def quote(self, now_ns: int) -> Quote:
        """Return the touch as a tick."""
        bids, asks = self.bids, self.asks
        return Quote(
            sym=self.sym,
            ts=now_ns,
            rts=now_ns,
            bid=bids.price,
            bid_size=bids.size,
            ask=asks.price,
            ask_size=asks.size,
        )

    def snapshot(self, now_ns: int) -> Book:
        """Return the whole book as a tick."""
        assert isinstance(self.bids, Ladder)
        assert isinstance(self.asks, Ladder)
        bids, asks = self.bids.levels(), self.asks.levels()
        return Book(sym=self.sym, ts=now_ns, rts=now_ns, kind="snapshot", bids=bids, asks=asks)


class Market:
    """Makes the ticks of all names. Pure: no clock, no I/O; the same arguments give the same ticks.

    Attributes:
        instruments: in the order of the names; the first are the busiest.
    """

    def __init__(
        self, symbols: Sequence[str], channels: Collection[Channel], ticks_per_second: float, seed: int
    ) -> None:
        """Draw the names' properties and their first books.

        Args:
            symbols: canonical, without repetition, at least one.
            channels: some of quote, trade and book.
            ticks_per_second: of all names together; says how far prices go from one tick to the next.
            seed: decides everything else.
        """
        self._rng = Random(seed)
        self._random = self._rng.random
        self._on_quote, self._on_trade, self._on_book = (ch in channels for ch in ("quote", "trade", "book"))
        self._trade_share = TRADE_SHARE if self._on_quote or self._on_book else TRADE_SHARE_ALONE
        self._deep_share = DEEP_SHARE if self._on_book else 0.0
        self._draw_level = cycle(self._sizes(_LEVEL_DRAWS, median=12, spread=0.8)).__next__
        self._draw_trade = cycle(self._sizes(_TRADE_DRAWS, median=4, spread=1.0)).__next__
        event_s = self._ticks_per_event() / ticks_per_second
        self._log_factor = 0.0
        self._step = MARKET_VOLATILITY * sqrt(event_s) * _UNIT
        self._unsent: list[Tick] = []
        # Zipf's law, flattened at the top so that the first name is not the whole market.
        weights = [1 / (rank + 3) for rank in range(len(symbols))]
        pace = event_s * sum(weights)
        band_of = make_bands()
        self.instruments = [
            self._instrument(sym, pace / weight, band_of)
            for sym, weight in zip(symbols, weights, strict=True)
        ]
        self._next_turn = cycle(self._draw_turns(weights)).__next__

    def ticks(self, count: int, now_ns: int) -> list[Tick]:
        """Return the next ticks, all stamped with ``now_ns``.

        Where ``count`` cuts an event in two, the rest of it opens the next call.
        """
        out = self._unsent
        for tick in out:
            tick.ts = tick.rts = now_ns
        while len(out) < count:
            self._event(now_ns, out)
        self._unsent = out[count:]
        del out[count:]
        return out

    def standing(self, instrument: Instrument, now_ns: int) -> list[Tick]:
        """Return an instrument's book and quote as they are, on the chosen channels.

        For the start: deltas make no sense without them. Not for later, as half an event may be unsent.
        """
        ticks: list[Tick] = []
        if self._on_book:
            ticks.append(instrument.snapshot(now_ns))
        if self._on_quote:
            ticks.append(instrument.quote(now_ns))
        return ticks

    def _sizes(self, count: int, *, median: float, spread: float) -> list[int]:
        """Draw sizes in lots, with the long tail that sizes have (lognormal)."""
        draw = self._rng.lognormvariate
        return [min(max(round(draw(log(median), spread)), 1), MOST_LOTS) for _ in range(count)]

    def _ticks_per_event(self) -> float:
        """Return about how many ticks an event makes on the chosen channels."""
        return self._on_book + self._on_quote * (1 - self._deep_share) + self._on_trade * self._trade_share

    def _instrument(self, sym: str, pause_s: float, band_of: Callable[[float], Band]) -> Instrument:
        """Draw one name's properties; ``pause_s`` is the mean time between its events."""
        uniform = self._rng.uniform
        price = exp(uniform(log(LOWEST_PRICE), log(HIGHEST_PRICE)))
        return Instrument(
            sym,
            band_of(price),
            price,
            spread=1 + int(3 * self._random() ** 2),
            beta=uniform(0.6, 1.4),
            step=min(OWN_VOLATILITY * sqrt(pause_s), MOST_OWN_MOVE) * _UNIT,
            draw=self._draw_level,
            has_book=self._on_book,
        )

    def _draw_turns(self, weights: Sequence[float]) -> list[Instrument]:
        """Return whose turn it is, event by event: by weight, but everybody's at least once."""
        names = self.instruments
        turns = names + self._rng.choices(names, weights, k=max(_TURNS, len(names)))
        self._rng.shuffle(turns)
        return turns

    def _event(self, now_ns: int, out: list[Tick]) -> None:
        """Let one thing happen in the market, and append its ticks."""
        random = self._random
        name = self._next_turn()
        factor = self._log_factor = self._log_factor + (random() - 0.5) * self._step
        lean = name.drift(factor, random() - 0.5)
        #: By how many tick sizes the spread is wider than usual; never below 0.
        excess = name.asks.best - name.bids.best - name.spread
        if random() < self._trade_share and excess < WIDEST:
            self._trade(name, lean, now_ns, out)
        elif not -SLACK <= lean <= SLACK or excess > 1:
            bid = name.wanted_bid()
            bids = name.bids.move(bid, self._draw_level)
            asks = name.asks.move(bid + name.spread, self._draw_level)
            self._tell(name, bids, asks, True, now_ns, out)
        else:
            self._resize(name, now_ns, out)

    def _trade(self, name: Instrument, lean: float, now_ns: int, out: list[Tick]) -> None:
        """Trade at the touch, more likely on the side that the fair price leans to."""
        is_buy = self._random() - 0.5 < lean * 0.15
        side = name.asks if is_buy else name.bids
        lots = min(self._draw_trade(), side.lots)
        name.trades += 1
        if self._on_trade:
            out.append(
                Trade(
                    sym=name.sym,
                    ts=now_ns,
                    rts=now_ns,
                    price=side.price,
                    size=name.lots[lots],
                    side="buy" if is_buy else "sell",
                    id=str(name.trades),
                )
            )
        changed = side.consume(lots, self._draw_level)
        self._tell(name, [] if is_buy else changed, changed if is_buy else [], True, now_ns, out)

    def _resize(self, name: Instrument, now_ns: int, out: list[Tick]) -> None:
        """Let orders come to one level, or leave it."""
        draw = self._random()
        is_bid = draw < 0.5
        deep = (draw if is_bid else draw - 0.5) * 2
        level = 0 if deep >= self._deep_share else 1 + int(deep / self._deep_share * (DEPTH - 1))
        side = name.bids if is_bid else name.asks
        changed = side.resize(level, self._draw_level())
        self._tell(name, changed if is_bid else [], [] if is_bid else changed, not level, now_ns, out)

    def _tell(
        self,
        name: Instrument,
        bids: list[Level],
        asks: list[Level],
        is_touch: bool,
        now_ns: int,
        out: list[Tick],
    ) -> None:
        """Append the delta, and behind it the quote if the touch has changed."""
        if self._on_book:
            out.append(Book(sym=name.sym, ts=now_ns, rts=now_ns, kind="delta", bids=bids, asks=asks))
        if is_touch and self._on_quote:
            out.append(name.quote(now_ns))
