"""The commented default configuration, ``config.toml``, written from the keys themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from broker.config.problems import show
from broker.config.tree import SECTIONS, Section

HEAD = """\
# Tapecast: every key, with its default. Copy what you change; what is left out keeps its default.
#
#   tapecast config check --config config.toml    reports all mistakes at once
#   tapecast serve --config config.toml           runs it; without --config no file is read
#   tapecast config default > config.toml         writes this file
#
# Flags win over environment variables, these over the file, and the file over the defaults. Each key is
# also a variable, TAPECAST_SECTION__KEY, e.g. TAPECAST_SERVER__PORT=9000; the feeds are TAPECAST_FEEDS, the
# recordings TAPECAST_RECORDINGS, each a list in JSON; TAPECAST_CONFIG names the file. The unit is the end of a
# key's name: _s seconds, _ms milliseconds. Paths are relative to the directory that the broker is started in.
"""

FEEDS = """\
# What brings ticks in: one table for each feed; `type` says which. `tapecast feed list` names them all.
# A feed goes by its `name` in logs and on /v1/feeds; by its type, if it has none; no two have the same.
# If the file has no table at all, the simulated market below is in force.

[[feeds]]
type = "simulated"
name = ""
# Every feed has these two. All that it gets (frames, answers) and the ticks made of them are recorded into this file,
# which is appended to; `tapecast replay FILE` plays it, and so does a feed of the type replay. Empty: not recorded.
record = ""
# With half of that (MiB), the file becomes FILE.1, in place of the one that was, and a new one is begun.
record_most_mb = 1024
# The part before the colon of its symbols, as in SIM:ACME.
venue = "SIM"
# How many names, or which: ["ACME", "GLOBEX"].
symbols = 20
# On average, all symbols and channels together; 1 to 100000.
ticks_per_second = 1000
channels = ["quote", "trade", "book"]
# The same seed makes the same market.
seed = 1
# What ts says: when a tick was made, or when it was due ("due"), for benchmarks that count from there.
stamp = "made"

# [[feeds]]
# type = "replay"
# # A recording: a file, a folder or a pattern, plain or .gz.
# path = "recordings/coinbase.gz"
# # coinbase, binance and other venues; raw (what `record` wrote: its ticks), lines (CSV, NDJSON or Parquet of
# # ticks), ticks (what Tapecast itself sends as NDJSON), or auto: looks at what is in it.
# format = "auto"
# # As recorded is 1; 10 is ten times as fast; "max" does not wait at all.
# speed = 1
# # Begin again at its end.
# loop = false
# # In place of the recording's own venue, so that it does not mix with a live feed of the same.
# venue = "REPLAY"

# [[feeds]]
# type = "coinbase"
# symbols = ["BTC-USD", "ETH-USD"]
# channels = ["quote", "trade", "book"]
# url = "wss://ws-feed.exchange.coinbase.com"
# # Connected again if it has been mute for so long.
# stale_after_s = 60.0

# [[feeds]]
# type = "binance"
# symbols = ["BTC-USDT", "ETH-USDT"]
# channels = ["quote", "trade", "book"]
# url = "wss://stream.binance.com:9443"
# rest_url = "https://api.binance.com"
# stale_after_s = 60.0

# [[feeds]]
# # A program of any language that writes ticks to its standard output, one JSON object a line.
# type = "process"
# # The program and its arguments; no shell, unless it is one.
# command = ["python3", "examples/feeds/program.py"]
# venue = "LAB"
# # The only ones that may come, without the venue; [] means any.
# symbols = []
# # Whether the program waits while the broker is behind; else what is too much is conflated.
# can_pause = true
# # Ended and started again if it has written nothing for so long; never, if this is left out.
# stale_after_s = 60.0

# [[feeds]]
# # Ticks that programs send to POST /v1/ingest, in the same form.
# type = "ingest"
# venue = "DESK"
# # What a request has to show, as Authorization: Bearer KEY. At least 16 characters; of this feed alone.
# key = "change-this-to-a-long-random-key"
# symbols = []
# can_pause = true

# [[feeds]]
# # Messages of a NATS server, as programs publish them: one tick or several in each, in the same form.
# type = "nats"
# venue = "BUS"
# # Tried one after the other; tls://HOST:PORT insists on TLS.
# urls = ["nats://127.0.0.1:4222"]
# # {ch} and {symbol} say what a tick need not say itself; * and > are those of NATS.
# subjects = ["md.{ch}.{symbol}"]
# # The only ones that may come, without the venue; [] means any.
# symbols = []
# # json or msgpack.
# format = "json"
# # A login, or a token.
# user = ""
# password = ""
# token = ""
# # A PEM file with the authority behind the server's certificate, besides the system's. Insists on TLS.
# tls_ca = ""

# [[feeds]]
# # Streams of a Redis server (7.0 or newer, or Valkey), each entry exactly once. Needs: pip install 'tapecast[redis]'
# type = "redis"
# venue = "DESK"
# # redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE for TLS, or unix:///PATH.
# url = "redis://127.0.0.1:6379/0"
# # Keys; those with {symbol} are looked for, unless symbols are listed.
# streams = ["ticks:{symbol}"]
# symbols = []
# # What comes from now on ("$"), all that is there ("0"), or behind an entry's id ("1700000000000-0").
# start = "$"
# # The field of an entry that has its ticks; where it is missing, the fields are the tick's.
# field = "tick"
# format = "json"
# user = ""
# password = ""
# tls_ca = ""
# # Whether entries wait in Redis while the broker is behind; else what is too much is conflated.
# can_pause = true

# [[feeds]]
# # An adapter of your own: the name that an installed package gives it, package.module:Class, or a file, relative
# # to this one. Its other keys are its own.
# type = "./examples/feeds/parse_only.py:Okx"
# symbols = ["BTC-USDT"]
"""

RECORDINGS = """\
# What subscribers can have played, each for itself and at its own speed, before they go live:
# /v1/stream?replay=NAME, or `replay` in a subscribe request. There are none by default.

# [[recordings]]
# # The broker's own tape. A subscriber that comes to its end goes on live without a missing or doubled tick.
# type = "tape"
# name = "tape"
# # A folder, made if need be.
# path = "recordings/tape"
# # Whether this broker writes it; false only plays it.
# record = false
# # What is recorded of the tape; a replay shows what is left out from where it goes live.
# channels = ["quote", "trade", "book", "bar", "status"]
# symbols = ["*"]
# # Of all files together: above it the oldest are deleted (1 GiB).
# max_bytes = 1073741824
# # A file that has so many is followed by a new one (32 MiB). A replay from a point in time reads the file of that
# # time from its beginning.
# file_bytes = 33554432

# [[recordings]]
# # What a feed of the type `replay` reads: recorded venue traffic, or saved NDJSON. At its end the live state follows.
# type = "replay"
# name = "coinbase"
# path = "recordings/coinbase.gz"
# format = "auto"
# # In place of the recording's own venue.
# venue = "REPLAY"
"""

_WIDTH = 110


def default_toml() -> str:
    """Return the text of ``config.toml``: every key, its meaning and its default."""
    sections = ["\n".join(_section(name, model)) + "\n" for name, model in SECTIONS.items()]
    return "\n".join([HEAD, *sections, FEEDS, RECORDINGS])


def _section(name: str, model: type[Section]) -> Iterator[str]:
    yield from _comment(model.__doc__ or "")
    yield f"[{name}]"
    for key, field in model.model_fields.items():
        yield from _comment(field.description or "")
        yield f"{key} = {show(field.default)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")
