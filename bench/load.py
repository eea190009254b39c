"""A load of WebSocket subscribers against a running broker, in one cheap process.

    python -m bench.load --url ws://127.0.0.1:8765/v1/ws --subscribers 1000 --symbols-each 20 --duration 30

Each subscriber asks for some symbols of one channel, counts every tick it gets, and at the end compares its
count with the broker's ledger. Ages (from a tick's ``ts`` to its arrival here; both clocks are this
machine's when the feed is simulated) are taken from every ``--sample``-th read. Nothing is decoded on the
way, so that one process can take a million ticks a second; ``busy`` says how much of its time it was at work: above
0.9 it is the client that is being measured.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import resource
import selectors
import socket
import sys
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

_TS = re.compile(rb'"ts":"(\d+)"')
_LEDGER = re.compile(rb'"op":"unsubscribe","sub":1,"ledger":(\{[^}]*\})')
_SEQ = b'"seq":'
_RECEIVE = 256 << 10
#: How long the answers to the last request may take, in seconds.
SETTLE_S = 20.0


@dataclass
class Subscriber:
    """One connection.

    Attributes:
        tail: the last bytes read, in which a pattern may have begun.
        ticks: counted so far.
        is_stalled: whether it stopped reading on purpose.
        is_ending: whether it has unsubscribed; ``end`` is then what came last, ``ledger`` the answer's.
    """

    sock: socket.socket
    symbols: list[str]
    tail: bytes = b""
    ticks: int = 0
    received: int = 0
    is_stalled: bool = False
    is_closed: bool = False
    is_ending: bool = False
    end: bytes = b""
    ledger: str = ""


def frame(payload: bytes) -> bytes:
    """Return a masked text frame; the mask is zero, which RFC 6455 allows a test client to get away with."""
    length = len(payload)
    head = bytes((0x81, 0x80 | length)) if length < 126 else b"\x81\xfe" + length.to_bytes(2, "big")
    return head + b"\0\0\0\0" + payload


def connect(address: tuple[str, int], symbols: list[str], args: argparse.Namespace) -> Subscriber:
    """Open a connection and subscribe; the answers are read with the load."""
    sock = socket.create_connection(address)
    if args.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, args.receive_buffer)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /v1/ws HTTP/1.1\r\nHost: {address[0]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    seen = b""
    while b"\r\n\r\n" not in seen:
        got = sock.recv(4096)
        if not got:
            raise SystemExit(f"refused: {seen[:200]!r}")
        seen += got
    request = {"op": "subscribe", "id": 1, "ch": args.channel, "symbols": symbols, "snapshot": False}
    if args.mode:
        request["delivery"] = {"mode": args.mode}
    sock.sendall(frame(json.dumps(request).encode()))
    sock.setblocking(False)
    return Subscriber(sock, symbols)


class Load:
    """All subscribers, read in one loop."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        url = urlsplit(args.url)
        self.address = (url.hostname or "127.0.0.1", url.port or 80)
        self.selector = selectors.DefaultSelector()
        self.subscribers: list[Subscriber] = []
        self.ages: list[int] = []
        self.reads = 0
        self.idle_s = 0.0

    def open(self) -> None:
        with urllib.request.urlopen(f"http://{self.address[0]}:{self.address[1]}/v1/symbols") as answer:
            names = [item["symbol"] for item in json.load(answer)["symbols"]]
        rng = random.Random(self.args.seed)
        stalled = round(self.args.subscribers * self.args.stalled)
        for index in range(self.args.subscribers):
            chosen = rng.sample(names, min(self.args.symbols_each, len(names)))
            subscriber = connect(self.address, chosen, self.args)
            subscriber.is_stalled = index < stalled
            self.subscribers.append(subscriber)
            if not subscriber.is_stalled:
                self.selector.register(subscriber.sock, selectors.EVENT_READ, subscriber)
            if index % 20 == 0:
                self.read(0)

    def read(self, timeout: float) -> None:
        """Read what is there, from everybody."""
        began = time.perf_counter()
        ready = self.selector.select(timeout)
        self.idle_s += time.perf_counter() - began
        for key, _ in ready:
            subscriber: Subscriber = key.data
            try:
                data = subscriber.sock.recv(_RECEIVE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                subscriber.is_closed = True
                self.selector.unregister(subscriber.sock)
                continue
            seen = subscriber.tail + data
            subscriber.ticks += seen.count(_SEQ)
            subscriber.tail = seen[-5:]
            subscriber.received += len(data)
            if subscriber.is_ending:
                subscriber.end = (subscriber.end + data)[-4096:]
                match = _LEDGER.search(subscriber.end)
                if match:
                    subscriber.ledger = match[1].decode()
            self.reads += 1
            if self.reads % self.args.sample == 0:
                now = time.time_ns()
                self.ages += [now - int(ts) for ts in _TS.findall(data)]

    def run(self, duration_s: float) -> None:
        until = time.perf_counter() + duration_s
        while time.perf_counter() < until:
            self.read(0.05)

    def settle(self) -> tuple[int, int]:
        """Unsubscribe everybody; return how many ledgers agree with our count, and how many do not.

        All are asked before any answer is awaited, and all are read meanwhile: nobody stalls.
        """
        live = [s for s in self.subscribers if not s.is_closed and not s.is_stalled]
        for index, subscriber in enumerate(live):
            subscriber.is_ending = True
            subscriber.sock.sendall(frame(b'{"op":"unsubscribe","id":2,"sub":1}'))
            if index % 20 == 0:
                self.read(0)
        until = time.perf_counter() + SETTLE_S
        while time.perf_counter() < until and not all(s.ledger or s.is_closed for s in live):
            self.read(0.05)
        good = 0
        for subscriber in live:
            ledger = json.loads(subscriber.ledger or "{}")
            parts = ("delivered", "conflated", "dropped", "pending")
            adds_up = ledger and ledger["offered"] == sum(ledger[name] for name in parts)
            if adds_up and ledger["delivered"] == subscriber.ticks:
                good += 1
            else:
                print(f"ledger {ledger} but {subscriber.ticks} ticks counted", file=sys.stderr)
        return good, len(live) - good


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used (proc(5))."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (proc(5))."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentile(ordered: list[int], percent: float) -> int:
    """Return a percentile of what is sorted and not empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def main() -> None:
    """Run a load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="ws://127.0.0.1:8765/v1/ws")
    parser.add_argument("--pid", type=int, help="the broker's process, for its CPU and memory")
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--symbols-each", type=int, default=20)
    parser.add_argument("--channel", default="quote")
    parser.add_argument("--mode", help="latest or every; the channel's own if not given")
    parser.add_argument("--stalled", type=float, default=0.0, help="share of subscribers that never read")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds that are not measured")
    parser.add_argument("--sample", type=int, default=10, help="take ages from every so many-th read")
    parser.add_argument("--receive-buffer", type=int, default=0, help="SO_RCVBUF in bytes, 0: the system's")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = Load(args)
    load.open()
    load.run(args.warmup)
    load.ages.clear()
    load.idle_s = 0.0
    ticks = sum(s.ticks for s in load.subscribers)
    received = sum(s.received for s in load.subscribers)
    cpu = 0.0
    if args.pid:
        cpu = cpu_s(args.pid)
    began = time.perf_counter()
    load.run(args.duration)
    took = time.perf_counter() - began
    ticks = sum(s.ticks for s in load.subscribers) - ticks
    received = sum(s.received for s in load.subscribers) - received
    ages = sorted(load.ages)
    print(f"subscribers        {args.subscribers} x {args.symbols_each} of {args.channel}, {took:.1f} s")
    print(f"deliveries/s       {ticks / took:,.0f}")
    print(f"MB/s               {received / took / 1e6:.1f}")
    if ages:
        shown = ", ".join(f"p{p:g} {percentile(ages, p) / 1e6:.2f}" for p in (50, 90, 99, 99.9))
        print(f"age ms             {shown}, max {ages[-1] / 1e6:.2f}  ({len(ages):,} samples)")
    if args.pid:
        used = cpu_s(args.pid) - cpu
        print(
            f"broker CPU         {used / took:.2f} cores, "
            f"{ticks / max(used, 1e-9):,.0f} deliveries per CPU-second"
        )
        print(f"broker memory      {rss_mb(args.pid):.0f} MB")
    print(f"client busy        {1 - load.idle_s / took:.2f}")
    closed = sum(s.is_closed for s in load.subscribers)
    good, bad = load.settle()
    print(f"ledgers            {good} exact, {bad} not, {closed} sessions ended early")
    raise SystemExit(1 if bad or closed else 0)


if __name__ == "__main__":
    main()
