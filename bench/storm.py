"""W6: everybody is cut at once and comes back at once, from where it was."""

from __future__ import annotations

import re
import time

from bench import tapecast
from bench.client import Client, State
from bench.load import Load
from bench.plan import Report, Storm

_CURSOR = re.compile(rb'"cursor":"([^"]+)"')
_SEQ = re.compile(rb'"seq":(\d+)')


def storm(load: Load) -> Report:
    """Cut every connection, resume all of them together, and return how that went."""
    ends = {client: _position(client) for client in load.clients if client.state is State.LIVE}
    host = f"{load.plan.host}:{load.plan.port}"
    symbols = load.plan.symbols
    for client, (cursor, _) in ends.items():
        load.drop(client)
        wanted = client.symbols if client.group.symbols_each else symbols
        client.greeting = tapecast.greeting(host, client.group, wanted, cursor)
    began = time.perf_counter()
    clients = list(ends)
    failures = load.connect(clients)
    result = Storm(resume_s=time.perf_counter() - began, refused=len(failures))
    return Report("resumed", connected=load.connected, storm=result, failures=failures[:10])


def _position(client: Client) -> tuple[str, int]:
    """Return the last cursor that a client got with all that it stands for, and the `seq` it ends with."""
    cursors = _CURSOR.findall(client.last)
    numbers = _SEQ.findall(client.last)
    return (cursors[-1].decode() if cursors else "", int(numbers[-1]) if numbers else 0)
