"""What comes out of golden frames: symbols, times, numbers, books, and the same as ever."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from broker.core.books import BookState
from broker.core.decimals import is_zero
from broker.core.errors import FrameError
from broker.core.ticks import Book, Tick, venue_of
from feeds.frames import canonical
from feeds.parsing import ParseFeed
from feeds.testing.checks.bench import Bench, Play, ticks_of
from feeds.testing.golden import GoldenFrame
from feeds.testing.stage import BASE_NS
from feeds.testing.story import Published
from feeds.testing.verdicts import Failed, Skipped, one_line

#: 2001-09-09; what is less is in another unit.
_FIRST_NS = 10**18
_MINUTE_NS = 60 * 10**9
#: Of so many a time must not be the same.
_MOMENTS = 3
#: In the text of a refusal: a number that is no text.
_FLOAT = re.compile(r"float|\b(?:bid|bid_size|ask|ask_size|price|size) = -?[0-9]")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PRICES_AND_SIZES = (
    "bid",
    "bid_size",
    "ask",
    "ask_size",
    "price",
    "size",
    "open",
    "high",
    "low",
    "close",
    "volume",
)
_NOTHING_WANTED = (
    "no tick came out, and it asked no venue. If it brings what somebody wants (ctx.wanted), put a frames.jsonl beside "
    "the adapter: `//! want quote VENUE:SYMBOL`, and `//! get TEXT` ahead of the answer of each page that it asks"
)
#: Of today's Unix time: what is at least so much is in this unit.
_UNITS = (
    (10**15, "microseconds: times 1000"),
    (10**12, "milliseconds: times 10**6"),
    (0, "seconds: times 10**9"),
)


def check_frames(bench: Bench) -> str:
    """Every golden frame is understood, but those that are marked as refused."""
    play = bench.play()
    golden = bench.subject.golden
    if not golden.frames:
        if not play.venue.attempts and not play.venue.gets:
            for fault in _faults(bench):
                raise Failed(fault)
            if not play.story.ticks:
                raise Failed(_NOTHING_WANTED)
            raise Skipped("it asks no venue, so there are no frames")
        raise Failed("no frames: put a frames.jsonl beside the adapter, or name a --recording")
    if not play.story.ticks:
        raise Failed(_why_no_tick(bench, play))
    for fault in _faults(bench):
        raise Failed(fault)
    if not golden.is_recorded:
        _hold_refusals(play, [each for each in golden.frames if each.is_refused])
    counts = Counter(tick.ch for tick in play.story.ticks)
    shown = ", ".join(f"{count} {channel}" for channel, count in sorted(counts.items()))
    refused = Counter(error.kind or one_line(error, 80) for error in play.story.refused).most_common(1)
    note = f", {len(play.story.refused)} refused ({refused[0][0]})" if refused else ""
    left_out = f"; of the others in the recording {golden.left_out}" if golden.left_out else ""
    return f"{len(golden.frames)} frames: {shown}{note}{left_out}"


def _faults(bench: Bench) -> Iterator[str]:
    yield from bench.faults("tick")
    yield from bench.faults("end")
    ticks = len(bench.play().story.ticks)
    if ticks and not bench.play().flushed:
        yield f"publishes ticks, {ticks}, and does not flush: await ctx.flush() behind ctx.publish()"


def _why_no_tick(bench: Bench, play: Play) -> str:
    golden = bench.subject.golden
    text = f"no tick comes out of {len(golden.frames)} frames"
    if play.story.refused:
        first = play.story.refused[0]
        text += f"; {len(play.story.refused)} were refused, the first for: {one_line(first)}: {_shown(first)}"
    elif fault := next(_faults(bench), ""):
        text += f"; {fault}"
    else:
        # The longest one is rather news than an acknowledgement.
        frame = max((each.payload for each in golden.frames if not each.is_body), key=len, default="")
        text += f", and none is refused: is there a branch for frames like {one_line(_text(frame), 160)}"
    sent = any(socket.sent for socket in play.venue.sockets)
    if play.venue.sockets and not sent:
        text += "; it has sent nothing to the venue: what does it subscribe with?"
    return text + (f"; of the others {golden.left_out}" if golden.left_out else "")


def _shown(error: FrameError) -> str:
    return one_line(_text(error.frame), 160)


def _hold_some_tick(bench: Bench) -> None:
    """Raise `Skipped` where no tick came out: that is for the check of the frames to tell, unless it is left out."""
    if bench.play().story.ticks:
        return
    if "frames" in bench.subject.skips:
        raise Failed("no tick came out")
    raise Skipped("no tick came out, see frames")


def _hold_refusals(play: Play, expected: list[GoldenFrame]) -> None:
    heads = {each.payload[:512] for each in expected}
    unexpected = [each for each in play.story.refused if each.frame and not _is_in(each.frame, heads)]
    if unexpected:
        first = unexpected[0]
        raise Failed(f"refuses a frame of its own: {one_line(first)}: {_shown(first)}")
    if len(play.story.refused) > len(expected):
        raise Failed(f"refuses a frame of its own: {one_line(play.story.refused[-1])}")
    if len(play.story.refused) < len(expected):
        raise Failed(f"{len(expected)} frames are marked as refused, and {len(play.story.refused)} were")


def _is_in(frame: str | bytes, heads: set[str | bytes]) -> bool:
    return frame in heads or _text(frame) in {_text(head) for head in heads}


def _text(frame: str | bytes) -> str:
    return frame if isinstance(frame, str) else frame.decode("utf-8", "replace")


def check_symbols(bench: Bench) -> str:
    """Symbols map both ways: what is asked for by its canonical name comes back under it."""
    feed = bench.subject.make()
    names = bench.subject.names()
    if isinstance(feed, ParseFeed):
        _hold_names(feed, names)
    play = bench.play()
    seen = {tick.sym for tick in play.story.ticks if isinstance(tick.sym, str)}
    foreign = sorted(each for each in seen if venue_of(each) != feed.venue)
    if foreign:
        raise Failed(f"published {foreign[0]}, which is not of its venue, {feed.venue}")
    if feed.symbols is not None and (undeclared := sorted(seen - set(feed.symbols))):
        raise Failed(
            f"published {undeclared[0]}, which is not among its symbols {one_line(list(feed.symbols), 120)}"
        )
    _hold_some_tick(bench)
    if bench.subject.golden.frames and not bench.subject.golden.is_recorded:
        silent = sorted(set(feed.symbols or ()) - seen)
        if silent:
            raise Failed(
                f"no tick of {silent[0]} came out: it is not in the frames, or its name is not mapped back"
            )
    if not seen:
        raise Failed("no tick came out")
    return (
        f"{len(seen)} of {'any' if feed.symbols is None else len(feed.symbols)}: {one_line(sorted(seen), 80)}"
    )


def _hold_names(feed: ParseFeed, names: tuple[str, ...]) -> None:
    spellings: dict[str, str] = {}
    for name in names:
        native = feed.venue_name(name)
        other = spellings.setdefault(native, name)
        if other != name:
            raise Failed(f"{other} and {name} are both {native!r} to the venue")
        back = feed.symbol(native)
        if back != canonical(feed.venue, name):
            raise Failed(f"{name} is {native!r} to the venue, and that comes back as {back}")


def check_stamps(bench: Bench) -> str:
    """Times are integers, in nanoseconds of Unix time, and `rts` is when the frame was received."""
    _hold_some_tick(bench)
    for event in bench.play().story.published:
        tick = event.tick
        for name in ("ts", "rts"):
            _hold_stamp(name, getattr(tick, name, None), tick)
        now = BASE_NS + round(event.at * 1e9)
        if not now - _MINUTE_NS <= tick.rts <= now:
            raise Failed(f"rts = {tick.rts} is not when it was received ({now}): is it ctx.time_ns()?")
        if tick.ts > now + _MINUTE_NS:
            raise Failed(f"ts = {tick.ts} lies in the future")
    _hold_anew(bench.play().story.published)
    return f"ts to {_resolution(bench.play().story.ticks)}"


def _hold_anew(published: list[Published]) -> None:
    """Raise `Failed` if a time is taken once and stands in all ticks, though their frames came at several times."""
    for name, count in (
        ("rts", len({event.at for event in published})),
        ("ts", len({event.frame for event in published})),
    ):
        times = {getattr(event.tick, name) for event in published}
        if len(times) == 1 and count >= _MOMENTS:
            raise Failed(
                f"{name} = {times.pop()} in all {len(published)} ticks, and they came at {count} times: "
                "is it taken anew for each frame? If the frames have one time all of them, give them several"
            )


def _hold_stamp(name: str, at: object, tick: Tick) -> None:
    if type(at) is not int:
        raise Failed(
            f"{name} = {at!r:.40} is a {type(at).__name__}; must be an int, in nanoseconds: {tick!r:.120}"
        )
    if not 0 < at < 2**63:
        raise Failed(f"{name} = {at} is no time from 1970 to 2262, in nanoseconds")
    if at < _FIRST_NS:
        unit = next(text for least, text in _UNITS if at >= least)
        raise Failed(f"{name} = {at} is not in nanoseconds; it looks like {unit}")


def _resolution(ticks: list[Tick]) -> str:
    for power, name in ((9, "the second"), (6, "the millisecond"), (3, "the microsecond")):
        if all(tick.ts % 10**power == 0 for tick in ticks):
            return name
    return "the nanosecond"


def check_decimals(bench: Bench) -> str:
    """Prices and sizes are texts, with the digits that the venue sent."""
    play = bench.play()
    numbers = [(name, value) for tick in play.story.ticks for name, value in _numbers(tick)]
    for name, value in numbers:
        if type(value) is not str:
            raise Failed(f"{name} = {value!r:.40} is a {type(value).__name__}; must be a text, never a float")
    if not numbers:
        floats = next((error for error in play.story.refused if _FLOAT.search(str(error))), None)
        if floats is not None:
            raise Failed(f"makes floats of prices: {one_line(floats)}")
        _hold_some_tick(bench)
        raise Failed("no price came out")
    if not play.venue.texts:
        raise Skipped("it asks no venue, so there are no digits to compare with")
    sent = {match for text in play.venue.texts for match in _NUMBER.findall(_text(text))}
    for name, value in numbers:
        if value not in sent and not is_zero(str(value)):
            raise Failed(f"{name} = {value!r:.40}: the venue has sent no number with these digits")
    telling = {
        value
        for _, value in numbers
        if isinstance(value, str) and "." in value and str(float(value)) != value
    }
    if not telling:
        _hold_telling(bench.subject.golden.is_recorded)
    return f"{len(numbers)} numbers with the venue's digits, such as {min(telling)}"


def _hold_telling(is_recorded: bool) -> None:
    """Tell that no number among the frames would show whether an adapter makes floats of them."""
    text = "no price or size in the frames would be changed by a float, so they show nothing"
    if is_recorded:
        raise Skipped(f"{text}; golden frames with one like 100.10 do")
    raise Failed(
        f"{text}: add one like 100.10, even if the venue would leave out the zero; or //! skip decimals REASON"
    )


def _numbers(tick: Tick) -> Iterator[tuple[str, object]]:
    if isinstance(tick, Book):
        for name in ("bids", "asks"):
            for level in getattr(tick, name):
                yield from ((name, number) for number in level)
        return
    for name in _PRICES_AND_SIZES:
        value = getattr(tick, name, None)
        if value is not None:
            yield name, value


def check_books(bench: Bench) -> str:
    """A book begins with a snapshot, and is never crossed when all frames are through."""
    books = [tick for tick in bench.play().story.ticks if isinstance(tick, Book)]
    if not books:
        raise Skipped("no book comes out of its frames")
    for fault in bench.faults("book"):
        raise Failed(fault)
    if not bench.subject.golden.is_recorded:
        _hold_uncrossed(books)
    kinds = Counter(tick.kind for tick in books)
    return f"{kinds['snapshot']} snapshots, {kinds['delta']} deltas of {len({tick.sym for tick in books})} symbols"


def _hold_uncrossed(books: list[Book]) -> None:
    states: dict[str, BookState] = {}
    for tick in books:
        states.setdefault(tick.sym, BookState()).apply(tick)
    for sym, state in states.items():
        bids, asks = state.levels()
        if bids and asks and Decimal(bids[0][0]) >= Decimal(asks[0][0]):
            raise Failed(f"leaves the book of {sym} crossed: {bids[0][0]} bid, {asks[0][0]} asked")


def check_golden(bench: Bench) -> str:
    """The frames make the ticks that they made when somebody last looked at them, byte for byte."""
    lines = ticks_of(bench.play())
    again = ticks_of(bench.play_again())
    if lines != again:
        raise Failed(f"the same frames make other ticks the second time: {_difference(lines, again)}")
    _hold_some_tick(bench)
    path = bench.subject.ticks_path
    if path is None:
        raise Skipped("no file of ticks to compare with: name one with --golden")
    if bench.bless:
        _write(path, lines)
        return f"{len(lines)} ticks written to {path}"
    if not path.exists():
        raise Skipped(f"{path} is not there: look at the ticks, and make it with --bless")
    kept = path.read_bytes().splitlines()
    if kept != lines:
        raise Failed(f"{path}: {_difference(kept, lines)}")
    return f"{len(lines)} ticks as in {path}"


def _write(path: Path, lines: list[bytes]) -> None:
    try:
        path.write_bytes(b"".join(line + b"\n" for line in lines))
    except OSError as error:
        raise Failed(f"can't write {path}: {error.strerror}") from None


def _difference(kept: list[bytes], made: list[bytes]) -> str:
    number = next((n for n, (a, b) in enumerate(zip(kept, made, strict=False)) if a != b), None)
    if number is None:
        return f"{len(kept)} ticks there, {len(made)} made"
    return f"tick {number + 1} is {one_line(made[number].decode(), 160)} and not {one_line(kept[number].decode(), 160)}"
