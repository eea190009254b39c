"""Adapters that are wrong in one way each, and the one that they were made of."""

# ruff: noqa: E501  # a line for each change

from __future__ import annotations

from pathlib import Path

from feeds.testing import Kit, Subject, Verdict

#: After a made-up venue: a line is a frame.
FRAMES = """\
//! option symbols = ["BTC-USD"]
{"ch":"hello"}
{"ch":"book","kind":"snapshot","n":1,"sym":"BTC-USD","at":1772366400100,"bids":[["100.10","1.50"]],"asks":[["100.20","2.00"]]}
{"ch":"trade","sym":"BTC-USD","at":1772366400200,"price":"100.20","size":"0.10","id":"1"}
{"ch":"book","kind":"delta","n":2,"sym":"BTC-USD","at":1772366400300,"bids":[["100.00","3.00"]],"asks":[]}
{"ch":"book","kind":"delta","n":3,"sym":"BTC-USD","at":1772366400400,"bids":[],"asks":[["100.30","0.70"]]}
{"ch":"book","kind":"delta","n":4,"sym":"BTC-USD","at":1772366400500,"bids":[["100.00","0"]],"asks":[]}
"""

#: Does its own I/O, so that nothing is mended for it.
RIGHT = '''
import json
import trio
from broker.core.errors import FeedError, FrameError
from broker.core.ticks import Book, Trade
from feeds.base import Feed, FeedOptions
# AT IMPORT


class Lab(Feed):
    """Trades and books of a laboratory."""

    api_version = 1
    venue = "LAB"
    stale_after_s = 60.0

    class Options(FeedOptions):
        symbols: tuple[str, ...]

    def __init__(self, options):
        self.symbols = [f"LAB:{name}" for name in options.symbols]
        self.lives = 0

    async def run(self, ctx):
        async with ctx.connect_ws("wss://lab.example") as socket:
            await self.subscribe(socket)
            number = 0
            while True:
                frame = await socket.receive()
                try:
                    number = self.take(ctx, frame, number)
                except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
                    ctx.refused(FrameError(repr(error), frame))
                    if number:
                        for sym in self.symbols:
                            ctx.gap("book", sym)
                        raise FeedError("a frame that may have been a part of a book") from error
                await ctx.flush()

    async def subscribe(self, socket):
        await socket.send(json.dumps({"subscribe": self.symbols}))

    def take(self, ctx, frame, number):
        at = json.loads(frame)
        if at["ch"] == "hello":
            return number
        sym, stamps = self.symbol(at["sym"]), {"ts": self.nanoseconds(at["at"]), "rts": ctx.time_ns()}
        if at["ch"] == "trade":
            ctx.publish(Trade(sym=sym, **stamps, price=self.number(at["price"]), size=self.number(at["size"]),
                              side=None, id=str(at["id"])))
            return number
        if at["kind"] == "delta" and at["n"] != number + 1:
            raise ValueError("a hole")
        bids, asks = self.levels(at["bids"]), self.levels(at["asks"])
        ctx.publish(Book(sym=sym, **stamps, kind=at["kind"], bids=bids, asks=asks))
        return at["n"]

    def symbol(self, name):
        if f"LAB:{name}" not in self.symbols:
            raise ValueError(name)
        return f"LAB:{name}"

    def nanoseconds(self, at):
        return int(at) * 1_000_000

    def number(self, text):
        if not isinstance(text, str):
            raise TypeError(text)
        return text

    def levels(self, levels):
        return [(self.number(price), self.number(size)) for price, size in levels]
'''


class Wrong:
    """How one adapter differs from `RIGHT`, and which check has to catch it, with which words."""

    def __init__(self, check: str, says: str, *changes: tuple[str, str]) -> None:
        self.check = check
        self.says = says
        self.changes = changes

    @property
    def source(self) -> str:
        text = RIGHT
        for old, new in self.changes:
            assert old in text, old
            text = text.replace(old, new)
        return text


_RECEIVE = "                frame = await socket.receive()\n"
_RUN = '        async with ctx.connect_ws("wss://lab.example") as socket:\n'

WRONG = {
    "reaches for the network at import": Wrong(
        "import", "socket", ("# AT IMPORT", "import socket; socket.getaddrinfo('localhost', 80)")
    ),
    "starts a program at import": Wrong(
        "import", "Popen", ("# AT IMPORT", "import subprocess; subprocess.run(['true'])")
    ),
    "publishes floats": Wrong("decimals", "float", ("        return text\n", "        return float(text)\n")),
    "turns prices into floats and back": Wrong(
        "decimals", "no number with these digits", ("        return text\n", "        return str(float(text))\n")
    ),
    "stamps seconds": Wrong("stamps", "seconds", ("int(at) * 1_000_000", "int(at) // 1000")),
    "stamps milliseconds": Wrong("stamps", "milliseconds", ("int(at) * 1_000_000", "int(at)")),
    "stamps with its own clock": Wrong("stamps", "received", ("ctx.time_ns()", "__import__('time').time_ns()")),
    "takes the time of receipt once": Wrong(
        "stamps", "is it taken anew for each frame", (_RUN, "        self.at = ctx.time_ns()\n" + _RUN), ('"rts": ctx.time_ns()', '"rts": self.at')
    ),
    "takes the venue's time once": Wrong(
        "stamps", "is it taken anew for each frame", ('{"ts": self.nanoseconds(at["at"])', '{"ts": vars(self).setdefault("at", self.nanoseconds(at["at"]))')
    ),
    "ends the process at import": Wrong("import", "the process ends with 0", ("# AT IMPORT", "import os; os._exit(0)")),
    "serves a delta before the snapshot": Wrong(
        "books", "without a snapshot", ('kind=at["kind"]', 'kind="delta" if at["n"] == 1 else "snapshot"')
    ),
    "serves levels in the wrong order": Wrong(
        "books", "best first", ("bids, asks = self", "at['bids'] = [['1', '1'], *at['bids']]; bids, asks = self")
    ),
    "does not notice a lost frame": Wrong("gap", "noticed", ("!= number + 1", "!= at['n']")),
    "goes on behind a gap": Wrong(
        "gap", "without a snapshot", ('                        raise FeedError("a frame that may have been a part of a book") from error', "                        number = 3")
    ),
    "refuses what comes behind a hole and tells no gap": Wrong(
        "gap", "tells no gap",
        ('                    if number:\n                        for sym in self.symbols:\n                            ctx.gap("book", sym)\n                        raise FeedError("a frame that may have been a part of a book") from error', "                    pass")
    ),
    "has a name for a symbol that it does not map back": Wrong(
        "symbols", "not among its symbols", ('        return f"LAB:{name}"\n', '        return f"LAB:{name}".replace("-", "")\n')
    ),
    "subscribes once more with each life": Wrong(
        "reconnects", "sends more",
        ("await self.subscribe(socket)\n", "self.lives += 1\n            for _ in range(self.lives):\n                await self.subscribe(socket)\n"),
    ),
    "subscribes twice": Wrong(
        "reconnects", "sends the same twice",
        ("            await self.subscribe(socket)\n", "            await self.subscribe(socket)\n            await self.subscribe(socket)\n"),
    ),
    "connects again by itself, and tells no gap": Wrong(
        "reconnects", "tells no gap of the book of LAB:BTC-USD",
        (_RUN, "        while True:\n            try:\n                await self.live(ctx)\n            except FeedError:\n                await trio.sleep(5)\n\n    async def live(self, ctx):\n" + _RUN),
    ),
    "raises what is no exception": Wrong(
        "garbage", "GeneratorExit, which is no Exception", ("                    ctx.refused(FrameError(repr(error), frame))", "                    raise GeneratorExit")
    ),
    "connects again by itself, without a pause": Wrong(
        "refused", "without a pause",
        (_RUN, "        while True:\n            try:\n                await self.live(ctx)\n            except FeedError:\n                pass\n\n    async def live(self, ctx):\n" + _RUN),
    ),
    "swallows its cancellation and returns": Wrong(
        "cancel", "as if nothing had been",
        (_RECEIVE, "                try:\n                    frame = await socket.receive()\n                except BaseException:\n                    return\n"),
    ),
    "swallows its cancellation and goes on": Wrong(
        "cancel", "circle",
        (_RECEIVE, "                try:\n                    frame = await socket.receive()\n                except BaseException:\n                    continue\n"),
    ),
    "shields itself from cancellation": Wrong(
        "cancel", "not end", (_RECEIVE, "                with trio.CancelScope(shield=True):\n                    frame = await socket.receive()\n")
    ),
    "leaks a task": Wrong(
        "cancel", "leaves 1 task", (_RUN, "        trio.lowlevel.spawn_system_task(trio.sleep_forever)\n" + _RUN)
    ),
    "leaves its connection open": Wrong(
        "cancel", "connections open",
        (_RUN, '        manager = ctx.connect_ws("wss://lab.example")\n        socket = await manager.__aenter__()\n        self.held = manager\n        if socket:\n'),
    ),
    "raises what it has not declared": Wrong("garbage", "only FeedError", ("(LookupError, TypeError, ValueError, ArithmeticError, RecursionError)", "LookupError")),
    "never flushes": Wrong("frames", "await ctx.flush() behind ctx.publish()", ("                await ctx.flush()\n", "")),
    "can be mute for ever": Wrong("mute", "connects again", ("stale_after_s = 60.0", "stale_after_s = None")),
    "hammers a venue that says 429": Wrong(
        "throttled", "banned",
        (_RUN, "        await self.ask(ctx)\n" + _RUN),
        ("    async def subscribe", "    async def ask(self, ctx):\n        while True:\n            try:\n                return await ctx.get_json('https://lab.example/x')\n            except FeedError as error:\n                if '429' not in str(error):\n                    return None\n                await trio.sleep(0.5)\n\n    async def subscribe"),
    ),
}  # fmt: skip


def write_adapter(folder: Path, source: str = RIGHT, frames: str = FRAMES) -> str:
    """Write an adapter and its frames; return what names it in a ``[[feeds]] type``."""
    (folder / "lab.py").write_text(source)
    (folder / "frames.jsonl").write_text(frames)
    return "lab.py:Lab"


def kit_of(folder: Path, source: str = RIGHT, frames: str = FRAMES) -> Kit:
    return Kit(Subject(write_adapter(folder, source, frames), folder=folder))


def verdicts_of(kit: Kit) -> dict[str, Verdict]:
    return {each.check: each for each in kit.run()}
