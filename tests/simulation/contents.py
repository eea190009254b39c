"""What a client knows of the market, tick by tick, held against what was published."""

from __future__ import annotations

from typing import Any

from tests.simulation.account import Step, key_of
from tests.simulation.oracle import Book, Oracle, Record, apply_levels, number


class Contents:
    """The books of a client, and a check of every tick that comes.

    Attributes:
        books: by symbol; of those that are known, up to a ``seq``.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.books: dict[str, tuple[int, Book]] = {}
        self._oracle = oracle

    def copy(self) -> Contents:
        """Return a copy that goes its own way."""
        other = Contents(self._oracle)
        other.books = dict(self.books)
        return other

    def lose_book(self, sym: str) -> None:
        """Forget a book: ticks of it were missed."""
        self.books.pop(sym, None)

    def wrong_book(self, sym: str, at: float) -> str:
        """Say what is wrong with a book when all has come that happened by a time; empty if nothing is."""
        record = self._oracle.record(("book", sym))
        if sym not in self.books or record is None or record.lost_at > at:
            return ""
        return f"the feed has lost the book of {sym}, and the client still has that of {self.books[sym][0]}"

    def take_snapshot(self, tick: dict[str, Any], *, is_json: bool) -> str:
        """Take a tick of a snapshot in; return what is wrong with it, empty if nothing is."""
        record = self._record(tick)
        if record is None:
            return "a snapshot of a tick that was never published"
        if tick["ch"] != "book":
            return _compare(tick, record, is_json=is_json)
        if tick["kind"] != "snapshot":
            return "a snapshot that holds a delta"
        return self._take_book(tick, record, 0)

    def take_update(self, tick: dict[str, Any], step: Step, *, is_json: bool, is_exact: bool) -> str:
        """Take a tick of an update in; return what is wrong with it, empty if nothing is.

        Args:
            step: from which tick to this one.
            is_exact: what neither came nor was named on the way has been conflated into this one.
        """
        record = self._record(tick)
        if record is None:
            return "a tick that was never published"
        merged = step.skipped
        ch = tick["ch"]
        if ch == "book":
            # A gap may come ahead of the snapshot behind which its ticks are missing: by `seq` it shows.
            if step.told or (merged and not is_exact):
                self.lose_book(tick["sym"])
            # The whole book may come in place of the delta that led to it.
            is_as_published = tick["kind"] == record.ticks[tick["seq"] - 1]["kind"]
            if not merged and is_as_published and (wrong := _compare(tick, record, is_json=is_json)):
                return wrong
            return self._take_book(tick, record, step.before)
        if ch == "trade" and "count" in tick:
            return _compare_merged(tick, record, step) if is_exact else ""
        if ch == "trade" and merged and is_exact:
            return f"{merged} trades are gone without a count"
        if ch == "status" and merged and is_exact and not step.told:
            states = {record.ticks[n]["state"] for n in range(step.before, tick["seq"])}
            if len(states) > 1:
                return f"a change of state was conflated away: {sorted(states)}"
        return _compare(tick, record, is_json=is_json)

    def _record(self, tick: dict[str, Any]) -> Record | None:
        record = self._oracle.record(key_of(tick))
        return record if record is not None and 1 <= tick["seq"] <= record.seq else None

    def _take_book(self, tick: dict[str, Any], record: Record, before: int) -> str:
        """Apply a tick to the book, and compare it with the tape's at this ``seq``."""
        sym, seq = tick["sym"], tick["seq"]
        if wrong := _unordered(tick):
            return wrong
        known_seq, known = self.books.get(sym, (0, ({}, {})))
        if tick["kind"] == "delta" and (known_seq == 0 or known_seq != before):
            self.lose_book(sym)
            return ""
        book = apply_levels(known, tick)
        self.books[sym] = seq, book
        theirs = record.books[seq - 1]
        return "" if book == theirs else f"the book is {book}, the tape's is {theirs}"


def _compare(tick: dict[str, Any], record: Record, *, is_json: bool) -> str:
    published = (record.in_json if is_json else record.ticks)[tick["seq"] - 1]
    return "" if tick == published else f"{tick} came, published was {published}"


def _compare_merged(tick: dict[str, Any], record: Record, step: Step) -> str:
    """Hold a merged trade against those it stands for: last price, summed size, how many."""
    parts = [record.ticks[seq - 1] for seq in range(step.before + 1, tick["seq"] + 1) if seq not in step.told]
    last = parts[-1]
    size = sum(number(part["size"]) for part in parts)
    if tick["count"] != len(parts) or number(tick["size"]) != size or tick["price"] != last["price"]:
        return f"{tick} stands for {len(parts)} trades of {size}, the last at {last['price']}"
    return ""


def _unordered(tick: dict[str, Any]) -> str:
    for name, sign in (("bids", -1), ("asks", 1)):
        prices = [number(price) * sign for price, _ in tick[name]]
        if prices != sorted(set(prices)):
            return f"{name} are not best first: {tick[name]}"
    return ""
