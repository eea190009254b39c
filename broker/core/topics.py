"""Topics, and who wants them.

A topic is a ``(ch, sym)``: what a subscriber asks for, what is numbered, kept and conflated. It is created
by its first tick, or by the first subscriber who names it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from broker.core.books import BookState
from broker.core.conflation import SINGLE
from broker.core.demand import EVERYTHING, Demand
from broker.core.errors import RequestError
from broker.core.ticks import CHANNELS, TICK_TYPES, Channel, is_symbol, venue_of

if TYPE_CHECKING:
    from broker.core.mailbox import Mailbox
    from broker.core.tape import Entry


#: How many inboxes there are, and those that get entries, JSON, and MessagePack: lists of lists, which are walked
#: and appended to fastest.
Routes: TypeAlias = tuple[int, list[list[Any]], list[list[Any]], list[list[Any]]]


class _Hot:
    """Slots of a base class come first: what every tick looks at shares a line of the cache."""

    __slots__ = (
        "book",
        "encoded",
        "is_plain",
        "newest",
        "offset",
        "offsets",
        "plain_boxes",
        "seq",
        "wants_json",
    )


class Topic(_Hot):
    """One ``(ch, sym)``: its number, its state, its history, its mailboxes. Hashed by identity.

    Attributes:
        seq: number of the last tick, 0 before the first.
        offset: place of the last tick on the tape, 0 before the first.
        is_single: whether there is one newest tick; else (bars, states) one of each conflation key that matters.
        newest, current: it, or them: what a snapshot shows. ``newest`` is ``None`` as well while `encoded` says it.
        encoded: the newest tick of a plain topic, as it is in the history; else out of date.
        plain_boxes: the inboxes of those who get a plain topic's ticks.
        book: levels, on ``book`` only.
        resets: at which of the tape's offsets the feed missed something of the book, oldest first, with ticks between
            any two; those before the last forgotten tick may be left out.
        offsets: which of the tape's history are its ticks, oldest first; and, until `History.trim`, some before.
        forgotten: offset of the last tick before those, 0 if there is none.
        mailboxes: those who get the next tick; a dict for its order and its O(1) removal.
        resuming: those who still read its ticks from the history.
        routes: their inboxes; ``None`` once that is out of date.
        demand: is told when the first mailbox comes and the last one goes; ``None`` where nobody wants to know.
        wants_json: whether somebody needs every tick as JSON: then it is made while it is in the processor's cache.
        is_plain: whether its ticks are nothing but bytes to all who get them, the same ones. Then a tick and what it
            was made of are freed at once, while the processor's cache has them: of a thousand topics' newest ticks,
            each is in nobody's cache any more when the next one takes its place.
    """

    __slots__ = (
        "ch",
        "current",
        "demand",
        "forgotten",
        "is_single",
        "mailboxes",
        "rendered",
        "resets",
        "resuming",
        "routes",
        "state",
        "state_changes",
        "sym",
        "venue",
    )

    def __init__(self, ch: Channel, sym: str) -> None:
        self.ch = ch
        self.sym = sym
        self.venue = venue_of(sym)
        self.seq = 0
        self.offset = 0
        self.is_single = ch in SINGLE
        self.newest: Entry | None = None
        self.encoded = b""
        self.plain_boxes: list[list[Any]] = []
        self.current: dict[str, Entry] = {}
        self.book: BookState | None = BookState() if ch == "book" else None
        self.rendered: Entry | None = None
        self.resets = array("Q")
        self.offsets = array("Q")
        self.forgotten = 0
        self.mailboxes: dict[Mailbox, None] = {}
        self.resuming: dict[Mailbox, None] = {}
        self.routes: Routes | None = None
        self.demand: Demand | None = None
        self.wants_json = self.is_plain = False
        self.state = ""
        self.state_changes = 0

    def __repr__(self) -> str:
        return f"<Topic {self.ch} {self.sym} seq={self.seq}>"

    def attach(self, mailbox: Mailbox) -> None:
        """Hand the topic's ticks to the mailbox from the next one on; harmless if it is attached."""
        self.resuming.pop(mailbox, None)
        if mailbox not in self.mailboxes:
            if self.demand is not None and not self.mailboxes:
                self.demand.begin(self.ch, self.sym)
            self.mailboxes[mailbox] = None
            self.forget_routes()
            mailbox.topic_count += 1

    def detach(self, mailbox: Mailbox) -> None:
        """Hand no more of the topic's ticks to the mailbox; harmless if it was not attached."""
        self.resuming.pop(mailbox, None)
        if mailbox in self.mailboxes:
            del self.mailboxes[mailbox]
            self.forget_routes()
            mailbox.topic_count -= 1
            if self.demand is not None and not self.mailboxes:
                self.demand.end(self.ch, self.sym)

    def forget_routes(self) -> None:
        """Have ``routes`` set anew before the next tick is handed on: who gets it, or in which form, has changed."""
        self.routes = None
        self.is_plain = False

    def list_routes(self) -> Routes:
        """Set ``routes`` anew, once after any number of changes."""
        self.wants_json = any(mailbox.wants_json for mailbox in self.mailboxes)
        entries: list[list[Any]] = []
        json: list[list[Any]] = []
        packed: list[list[Any]] = []
        for mailbox in self.mailboxes:
            boxes = entries if not mailbox.is_encoded else json if mailbox.wants_json else packed
            boxes.append(mailbox.inbox)
        self.routes = len(self.mailboxes), entries, json, packed
        self.is_plain = self.is_single and not entries and not (json and packed)
        self.plain_boxes = json or packed
        return self.routes

    @property
    def is_lost(self) -> bool:
        """Whether it has a book that is not known: the feed has missed something, and sent no snapshot since."""
        return self.book is not None and not self.book.is_known

    @property
    def first_kept(self) -> int:
        """``seq`` of the first tick of ``offsets``; ``seq + 1`` if there is none."""
        return self.seq - len(self.offsets) + 1


def parse_pattern(text: str) -> str | None:
    """Return the venue that a pattern covers (``"*"`` for all), or ``None`` if it is not a pattern."""
    if text == "*":
        return "*"
    venue, colon, rest = text.partition(":")
    if colon and rest == "*" and is_symbol(venue + ":X"):
        return venue
    return None


class Topics:
    """All topics, the instruments that are known, and the patterns that wait for new ones."""

    def __init__(self) -> None:
        self._by_channel: dict[Channel, dict[str, Topic]] = {ch: {} for ch in CHANNELS}
        #: The same dicts by the type of the tick, for the tape.
        self.by_type: dict[type, dict[str, Topic]] = {kind: self._by_channel[kind.ch] for kind in TICK_TYPES}
        self._known: dict[str, None] = {}
        #: Venues whose feed can't say in advance which symbols it has: any well-formed name will do.
        self._open_venues: set[str] = set()
        self._venues: set[str] = set()
        #: (ch, venue or "*") -> callbacks that take in a new topic.
        self._watchers: dict[tuple[Channel, str], dict[Hashable, Callable[[Topic], None]]] = {}
        #: Of the venues whose feed has asked for it.
        self._demands: dict[str, Demand] = {}

    def declare(self, venue: str, symbols: Iterable[str] | None) -> None:
        """Make known what a feed will publish; ``None``: any symbol of the venue may come."""
        self._venues.add(venue)
        if symbols is None:
            self._open_venues.add(venue)
        else:
            self._known.update(dict.fromkeys(symbols))

    @property
    def symbols(self) -> list[str]:
        """All known symbols, in the order in which they became known."""
        return list(self._known)

    def channels_of(self, sym: str) -> list[Channel]:
        """Return the channels on which ``sym`` has had a tick."""
        return [ch for ch, topics in self._by_channel.items() if sym in topics and topics[sym].seq]

    def everything(self) -> list[Topic]:
        """Return all topics."""
        return [topic for topics in self._by_channel.values() for topic in topics.values()]

    def on_channel(self, ch: Channel) -> dict[str, Topic]:
        """Return the topics of one channel by symbol. Live, not a copy; not to be changed."""
        return self._by_channel[ch]

    def knows(self, sym: str) -> bool:
        """Tell whether a subscriber may name ``sym``."""
        return sym in self._known or (venue_of(sym) in self._open_venues and is_symbol(sym))

    def knows_venue(self, venue: str) -> bool:
        """Tell whether some feed brings, or brought, symbols of this venue."""
        return venue == "*" or venue in self._venues

    def matching(self, ch: Channel, pattern: str) -> list[Topic]:
        """Return the topics that there are of a venue, or all of the channel for ``"*"``."""
        topics = self._by_channel[ch].values()
        return [topic for topic in topics if pattern in ("*", topic.venue)]

    def get(self, ch: Channel, sym: str) -> Topic:
        """Return a topic, made if need be. Those whose pattern matches a new one take it in at once."""
        topic = self._by_channel[ch].get(sym)
        if topic is None:
            topic = self._by_channel[ch][sym] = Topic(ch, sym)
            topic.demand = self._demands.get(topic.venue)
            for pattern in (topic.venue, "*"):
                for take_in in list(self._watchers.get((ch, pattern), {}).values()):
                    take_in(topic)
        return topic

    def learn(self, topic: Topic) -> None:
        """Note that a topic has had its first tick: its symbol and venue are known from now on."""
        self._known.setdefault(topic.sym)
        self._venues.add(topic.venue)

    def discard_unused(self, topic: Topic) -> None:
        """Forget a topic that nobody wants and that never had a tick, so that names can't pile up."""
        if not topic.seq and not topic.mailboxes:
            self._by_channel[topic.ch].pop(topic.sym, None)

    def watch(self, ch: Channel, pattern: str, key: Hashable, take_in: Callable[[Topic], None]) -> None:
        """Call ``take_in`` with each topic of this pattern that appears from now on."""
        self._watchers.setdefault((ch, pattern), {})[key] = take_in
        for demand in self._demands_of(pattern):
            demand.begin(ch, EVERYTHING)

    def unwatch(self, ch: Channel, pattern: str, key: Hashable) -> None:
        """End `watch`; harmless if there was none."""
        watchers = self._watchers.get((ch, pattern))
        if watchers is not None:
            watchers.pop(key, None)
            if not watchers:
                del self._watchers[ch, pattern]
                for demand in self._demands_of(pattern):
                    self._end_pattern(ch, demand)

    def demand(self, venue: str) -> Demand:
        """Return what is wanted of a venue, kept up to date from now on; costs what the venue's topics are."""
        demand = self._demands.get(venue)
        if demand is None:
            demand = self._demands[venue] = Demand(venue)
            for ch, topics in self._by_channel.items():
                for topic in topics.values():
                    if topic.venue == venue:
                        topic.demand = demand
                        if topic.mailboxes:
                            demand.begin(ch, topic.sym)
                if (ch, venue) in self._watchers or (ch, "*") in self._watchers:
                    demand.begin(ch, EVERYTHING)
        return demand

    def _demands_of(self, pattern: str) -> list[Demand]:
        """Return those of the venues that a pattern covers."""
        if pattern == "*":
            return list(self._demands.values())
        return [self._demands[pattern]] if pattern in self._demands else []

    def _end_pattern(self, ch: Channel, demand: Demand) -> None:
        if (ch, demand.venue) not in self._watchers and (ch, "*") not in self._watchers:
            demand.end(ch, EVERYTHING)


def check_channel(ch: str) -> Channel:
    """Return ``ch`` as a channel.

    Raises:
        RequestError: ``unknown_channel``, naming those there are.
    """
    for known in CHANNELS:
        if ch == known:
            return known
    raise RequestError("unknown_channel", f"ch: {ch!r:.80} is not a channel; there are {', '.join(CHANNELS)}")
