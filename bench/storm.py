"""W6: everybody is cut at once and comes back at once, from where it was.

Each session has one symbol, so its `seq` has to go on behind the cut with the next number.
"""

from __future__ import annotations

import re
import time

from bench import tapecast
from bench.audit import Recording
from bench.client import Client, State
from bench.load import Load
from bench.plan import Report, Storm

_CURSOR = re.compile(rb'"cursor":"([^"]+)"')
_SEQ = re.compile(rb'"seq":(\d+)')
_GAP = b'"type":"gap"'
#: How long a session may take to get a tick, before the cut and behind it.
TICK_S = 10.0


def storm(load: Load) -> Report:
    """Cut every connection, resume all of them together, and return how that went."""
    ends = _cut(load)
    host = f"{load.plan.host}:{load.plan.port}"
    for client, (cursor, _) in ends.items():
        client.greeting = tapecast.greeting(host, client.group, client.symbols, cursor)
        client.recording = Recording()
    began = time.perf_counter()
    failures = load.connect(list(ends))
    result = Storm(resume_s=time.perf_counter() - began, refused=len(failures))
    until = time.perf_counter() + TICK_S
    while time.perf_counter() < until and not all(map(_has_tick, ends)):
        load.turn(0.05)
    for client, (_, seq) in ends.items():
        data = b"" if client.recording is None else client.recording.data
        result.gaps += data.count(_GAP)
        first = _SEQ.search(data)
        if client.state is State.LIVE and (first is None or int(first[1]) != seq + 1):
            result.broken += 1
    return Report("resumed", connected=load.connected, storm=result, failures=failures[:10])


def _cut(load: Load) -> dict[Client, tuple[str, int]]:
    """Cut everybody, each behind a whole message; return the cursor and the `seq` that it had."""
    ends: dict[Client, tuple[str, int]] = {}
    left = [client for client in load.clients if client.state is State.LIVE]
    until = time.perf_counter() + TICK_S
    while left and time.perf_counter() < until:
        for client in left:
            position = _position(client)
            if position is not None:
                ends[client] = position
                load.drop(client)
        left = [client for client in left if client not in ends and client.state is State.LIVE]
        load.turn(0.01)
    return ends


def _position(client: Client) -> tuple[str, int] | None:
    """Return the cursor that stands for all that came, and its `seq`; ``None`` in the middle of a message."""
    cursors, numbers = _CURSOR.findall(client.last), _SEQ.findall(client.last)
    if client.walk is None or not client.walk.is_between_frames or not cursors or not numbers:
        return None
    return cursors[-1].decode(), int(numbers[-1])


def _has_tick(client: Client) -> bool:
    return client.state is not State.LIVE or b'"seq":' in client.last
