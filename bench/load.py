"""All subscribers of one load client, read in one loop, and what is counted of them.

The loop is what decides how much load a client can take: a read costs it a `recv`, a pass over the bytes
(`bench.counting`), and a look at where the frames end. Nothing is decoded.
"""

from __future__ import annotations

import random
import selectors
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from bench import tapecast
from bench.audit import AUDITED, Recording
from bench.client import READ_BYTES, Client, State
from bench.counting import Ages, open_counter
from bench.peers import PEERS
from bench.plan import Plan, Report
from bench.wire import PONG, frame

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError)
#: A connection that is not subscribed after so long is given up.
CONNECT_S = 30.0


class Load:
    """The subscribers that are this process's share.

    Attributes:
        clients: all of them, in the order in which they connect.
        received, reads: bytes, and how often something was read, since `reset`.
        idle_s: time spent waiting since `reset`.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.selector = selectors.DefaultSelector()
        self.ages = Ages()
        self._ticks_before = 0
        self.received = self.reads = 0
        self.idle_s = 0.0
        self.began = time.perf_counter()
        self._cpu_before = time.process_time()
        self._frames_before = 0
        self._unread = Ages()
        context = _unverified() if plan.is_tls else None
        self.clients = [self._client(*item, context) for item in _shares(plan)]

    def _client(
        self, group_number: int, number: int, symbols: Sequence[str], tls: ssl.SSLContext | None
    ) -> Client:
        plan = self.plan
        group = plan.groups[group_number]
        host = f"{plan.host}:{plan.port}"
        if plan.peer:
            greeting = PEERS[plan.peer].greeting(host, group, symbols)
        else:
            greeting = tapecast.greeting(host, group, symbols)
        client = Client(
            group,
            symbols,
            greeting,
            open_counter(group.codec, every=plan.ages == "every"),
            is_stalled=number < round(group.subscribers * group.stalled),
            tls=tls,
            walks=group.transport == "ws" and (not plan.peer or PEERS[plan.peer].pings),
        )
        # The last ones of a group: the first may be stalled.
        if not plan.peer and number >= group.subscribers - AUDITED:
            client.recording = Recording()
        return client

    # ── connecting ───────────────────────────────────────────────────────────────────────────────

    def connect(self, clients: Sequence[Client]) -> list[str]:
        """Connect and subscribe, some at a time, while the others are read; return the failures."""
        address = (self.plan.host, self.plan.port)
        waiting = deque(clients)
        under_way: set[Client] = set()
        until = time.perf_counter() + CONNECT_S
        while waiting or under_way:
            while waiting and len(under_way) < self.plan.at_once:
                client = waiting.popleft()
                client.dial(address)
                under_way.add(client)
                if client.state is not State.CLOSED:
                    self.selector.register(client.sock, selectors.EVENT_WRITE, client)
            self.turn(0.05)
            arrived = {c for c in under_way if c.state in (State.LIVE, State.CLOSED)}
            under_way -= arrived
            if arrived:
                until = time.perf_counter() + CONNECT_S
            elif time.perf_counter() > until:
                for client in under_way:
                    self.drop(client, f"not subscribed {CONNECT_S:g} s after it was the last to move")
                under_way.clear()
        return [client.failure for client in clients if client.failure]

    def _advance(self, client: Client) -> None:
        """Let a client that is not live yet, or has something to send, go on."""
        sock = client.sock
        rest = client.advance()
        if client.state is State.CLOSED:
            self.selector.unregister(sock)
            return
        if client.sock is not sock:
            # TLS wraps the socket: the same descriptor in another object.
            self.selector.unregister(sock)
        if client.state is State.LIVE:
            self._begin(client, rest)
        else:
            self._watch(client)

    def _watch(self, client: Client) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.wants_to_write else 0)
        try:
            self.selector.modify(client.sock, events, client)
        except KeyError:
            self.selector.register(client.sock, events, client)

    def _begin(self, client: Client, rest: bytes) -> None:
        if client.is_stalled:
            self.selector.unregister(client.sock)
            self._take(client, rest)
            return
        self._watch(client)
        if rest:
            self._take(client, rest)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def turn(self, timeout_s: float) -> None:
        """Read what is there, from everybody; wait for at most ``timeout_s`` if there is nothing."""
        began = time.perf_counter()
        ready = self.selector.select(timeout_s)
        self.idle_s += time.perf_counter() - began
        live = State.LIVE
        for key, _ in ready:
            client: Client = key.data
            if client.state is live and not client.unsent:
                self._read(client)
            elif client.state is State.ENDING:
                self._read(client)
                if client.unsent and client.state is State.ENDING:
                    client.flush()
                    self._watch(client)
            elif client.state is live:
                client.flush()
                self._watch(client)
            elif client.state is not State.CLOSED:
                self._advance(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.recv(READ_BYTES)
        except _WOULD_BLOCK:
            return
        except OSError:
            data = b""
        if not data:
            self.drop(client, "closed by the server")
            return
        self._take(client, data)
        if self.plan.is_tls:
            self._read_what_is_decrypted(client)

    def _read_what_is_decrypted(self, client: Client) -> None:
        """Read on: what TLS has already taken from the socket does not make it ready again."""
        while client.state is not State.CLOSED and isinstance(client.sock, ssl.SSLSocket):
            if not client.sock.pending():
                return
            self._take(client, client.recv(READ_BYTES))

    def _take(self, client: Client, data: bytes) -> None:
        """Count what was read, and answer its pings."""
        self.reads += 1
        self.received += len(data)
        client.last = data
        if client.recording is not None:
            client.recording.add(data)
        ending = client.state is State.ENDING
        client.counter.read(client.count, data, time.time_ns(), self._unread if ending else self.ages)
        if client.walk is not None:
            for ping in client.walk.read(data):
                self._answer(client, frame(ping, PONG))
        if ending:
            client.look_for_ledger(data)

    def _answer(self, client: Client, data: bytes) -> None:
        """Send something in the middle of reading."""
        client.send(data)
        if client.state is State.CLOSED:
            self.drop(client)
        elif client.unsent:
            self._watch(client)

    def drop(self, client: Client, failure: str = "") -> None:
        """Close a client, and forget its socket."""
        # It may not be watched: a stalled one is not, nor is one whose descriptor has gone already.
        with suppress(KeyError, ValueError):
            self.selector.unregister(client.sock)
        client.close(failure)

    # ── figures ──────────────────────────────────────────────────────────────────────────────────

    @property
    def ticks(self) -> int:
        """Ticks that all have counted since they are connected."""
        return sum(client.count.ticks for client in self.clients)

    @property
    def frames(self) -> int:
        """WebSocket frames that all have read since they are connected."""
        return sum(client.walk.frames for client in self.clients if client.walk is not None)

    @property
    def connected(self) -> int:
        """How many are live."""
        return sum(client.state is State.LIVE for client in self.clients)

    def reset(self) -> None:
        """Begin to count anew."""
        self.ages.counts = {}
        self.ages.max_ns = 0
        self._ticks_before, self._frames_before = self.ticks, self.frames
        self.received = self.reads = 0
        self.idle_s = 0.0
        self.began = time.perf_counter()
        self._cpu_before = time.process_time()

    def report(self, event: str) -> Report:
        """Return what was counted since `reset`."""
        took = time.perf_counter() - self.began
        return Report(
            event,
            connected=self.connected,
            ticks=self.ticks - self._ticks_before,
            received=self.received,
            reads=self.reads,
            frames=self.frames - self._frames_before,
            busy=max(0.0, 1 - self.idle_s / took) if took > 0 else 0.0,
            cpu=(time.process_time() - self._cpu_before) / took if took > 0 else 0.0,
            took_s=took,
            ages=sorted(self.ages.counts.items()),
            max_ns=self.ages.max_ns,
        )


def _shares(plan: Plan) -> list[tuple[int, int, list[str]]]:
    """Return (group, number within it, symbols) of this process's subscribers.

    Drawn in the same way in every process, so that the seed decides, however many share the work.
    """
    rng = random.Random(plan.seed)
    mine = []
    total = 0
    for group_number, group in enumerate(plan.groups):
        for number in range(group.subscribers):
            each = group.symbols_each
            symbols = rng.sample(plan.symbols, min(each, len(plan.symbols))) if each else list(plan.symbols)
            if total % plan.clients == plan.share:
                mine.append((group_number, number, symbols))
            total += 1
    return mine


def _unverified() -> ssl.SSLContext:
    """Return a client's context that takes any certificate: it is the load that counts, not the identity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
