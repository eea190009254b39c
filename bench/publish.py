"""The publisher for the peers: a process that publishes the simulated market's ticks on schedule.

It makes the same ticks as the broker's own simulated feed does, from the same seed and of the same sizes, but ahead
of time, so that it takes as little of the machine as it can; while it publishes it only stamps them with the
time at which each is due. A run that is longer than what was made begins again.
"""

from __future__ import annotations

import gc
import socket
import time
from collections import Counter
from threading import Thread

from msgspec import Struct

from bench.peers import PEERS
from bench.plan import Command, Orders, say
from broker.core.encoding import tick_to_json
from feeds._market import Market
from feeds.simulated import wake_s

#: Made ahead, in ticks: some 50 MB.
MOST_READY = 200_000


class Publication(Struct, frozen=True):
    """The first line that the publisher reads; ``seconds`` is about how long it will publish."""

    peer: str
    port: int
    symbols: list[str]
    channels: list[str]
    ticks_per_second: float
    seed: int
    seconds: float


class Published(Struct):
    """What the publisher says: ``ready``, and at its end ``published`` with how many of each symbol.

    Attributes:
        busy: share of its time that it was at work.
    """

    event: str
    ticks: dict[str, int] = {}
    busy: float = 0.0
    took_s: float = 0.0


def main() -> None:
    """Publish until told to end."""
    orders = Orders()
    publication = orders.wait(Publication)
    ready = _make(publication)
    gc.disable()
    peer = PEERS[publication.peer]
    sock = socket.create_connection(("127.0.0.1", publication.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(peer.hello())
    Thread(target=_ignore, args=(sock,), daemon=True).start()
    say(Published("ready"))
    orders.wait(Command)
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    wall_ns = time.time_ns()
    gap_s = 1 / publication.ticks_per_second
    # As often as the broker's simulated feed does.
    pause_s = wake_s(publication.ticks_per_second)
    index = 0
    idle_s = 0.0
    while orders.next() is None:
        now = time.perf_counter()
        due = int((now - began) / gap_s)
        if due > index:
            batch = []
            for number in range(index, due):
                sym, before, behind = ready[number % len(ready)]
                stamp = b"%d" % (wall_ns + round((number + 1) * gap_s * 1e9))
                batch.append((sym, b'%b"ts":"%b","rts":"%b"%b' % (before, stamp, stamp, behind)))
                counts[sym] += 1
            index = due
            sock.sendall(peer.publish(batch))
        wake = max(now + pause_s, began + (index + 1) * gap_s)
        pause = wake - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
            idle_s += pause
    took = time.perf_counter() - began
    say(Published("published", dict(counts), max(0.0, 1 - idle_s / took), took))


def _make(publication: Publication) -> list[tuple[str, bytes, bytes]]:
    """Return ticks, each as its symbol and its JSON before and behind the two times."""
    rate = publication.ticks_per_second
    market = Market(publication.symbols, publication.channels, rate, publication.seed)  # type: ignore[arg-type]
    count = min(MOST_READY, int(rate * publication.seconds) + 1)
    made = []
    seqs: Counter[tuple[str, str]] = Counter()
    for tick in market.ticks(count, time.time_ns()):
        seqs[tick.ch, tick.sym] += 1
        tick.seq = seqs[tick.ch, tick.sym]
        raw = tick_to_json(tick)
        start = raw.index(b'"ts":"')
        end = raw.index(b'"', raw.index(b'"rts":"') + 7) + 1
        made.append((tick.sym, raw[:start], raw[end:]))
    return made


def _ignore(sock: socket.socket) -> None:
    """Read and forget what the server answers."""
    try:
        while sock.recv(65_536):
            pass
    except OSError:
        return


if __name__ == "__main__":
    main()
