"""The composition root: builds the broker from a configuration, and runs it in one nursery."""

from __future__ import annotations

import errno
import gc
import random
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from broker import __version__
from broker.config import Config
from broker.config.recordings import FeedOptions as FeedRecordingOptions
from broker.config.recordings import RecordingOptions, TapeOptions
from broker.core.delivery import DeliveryLimits
from broker.core.errors import ConfigError
from broker.core.history import HistoryLimits
from broker.core.raw_recording import Begun
from broker.core.router import Router
from broker.core.session import SessionLimits
from broker.core.tape import Tape
from broker.core.topics import Topics
from broker.runtime.budget import BudgetLimits
from broker.runtime.fanout import Fanout
from broker.runtime.feed_recording import FeedRecording
from broker.runtime.feed_runner import Feed
from broker.runtime.ingest import Ingest
from broker.runtime.network import KERNEL, Listener, Waiting
from broker.runtime.raw_files import RawFile
from broker.runtime.raw_recording import RawRecorder
from broker.runtime.recorded_feed import recorded
from broker.runtime.recorder import InThread, Recorder, What
from broker.runtime.replays import Recording, Replays
from broker.runtime.sessions import CHANCE, Sessions, SessionTimes
from broker.runtime.tape_files import TapeWriter
from broker.runtime.tape_recording import TapeRecording
from broker.transports import upstream
from broker.transports.door import Door, Handler
from broker.transports.http_stream import HttpStreamTransport
from broker.transports.ingest import IngestTransport
from broker.transports.rest import Rest
from broker.transports.web import WebTransport
from broker.transports.websocket import WebSocketTransport
from feeds import FEEDS
from feeds.base import FeedOptions
from feeds.ingest import Ingest as IngestFeed
from feeds.plugins import feed_of

log = structlog.get_logger()

SERVER = f"tapecast/{__version__}"
BACKLOG = 4096
#: A peer that vanished without a word is forgotten within ten seconds; the kernel's part of that.
VANISH_S = 8.0


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the broker can be reached.

    Attributes:
        url: for people and clients, e.g. ``http://127.0.0.1:8765``.
    """

    url: str
    host: str
    port: int


class Broker:
    """Everything that one configuration makes; `run` brings it to life."""

    def __init__(
        self,
        config: Config,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        rng: random.Random = CHANCE,
        in_thread: InThread = trio.to_thread.run_sync,
    ) -> None:
        """Build it; nothing is opened yet. Must be called under Trio, whose clock it uses.

        Args:
            time_ns: wall time, in nanoseconds since the Unix epoch.
            rng: all chance there is: a seeded one, a simulated clock and network make a run repeatable.
            in_thread: runs what touches the disk.
        """
        self.config = config
        self.topics = Topics()
        history = HistoryLimits(config.history.ticks, config.history.bytes, config.history.age_s)
        # Time makes it new, chance makes it new when the clock is set back.
        epoch = f"{time_ns() // 1_000_000_000:x}{rng.randbytes(3).hex()}"
        self.tape = Tape(epoch, self.topics, history)
        self.router = Router(self.topics, self.tape)
        self.fanout = Fanout(self.router, max_gap_s=config.server.min_write_gap_ms / 1000)
        self.ingest = Ingest(self.topics, self.fanout, upstream=upstream, time_ns=time_ns)
        feeds = [(options, feed_of(options)) for options in config.feeds]
        self.raw_recorders: list[RawRecorder] = []
        for options, made in feeds:
            feed = self._with_recorder(options, made, time_ns, in_thread) if options.record else made
            self.ingest.add(options.name or options.type, options.type, feed, _child(rng))
        self.recorders: list[Recorder] = []
        recordings = [self._recording(options, time_ns, in_thread) for options in config.recordings]
        self.replays = Replays(self.tape, recordings, most=config.limits.replays)
        self.sessions = Sessions(
            self.fanout,
            most=config.limits.sessions,
            most_per_address=config.limits.sessions_per_address,
            limits=_session_limits(config),
            budget=_budget_limits(config),
            times=SessionTimes(
                heartbeat_s=config.server.heartbeat_s,
                ping_interval_s=config.server.ping_interval_s,
                ping_timeout_s=config.server.ping_timeout_s,
            ),
            server=SERVER,
            time_ns=time_ns,
            rng=rng,
            replays=self.replays,
        )
        self.websocket = WebSocketTransport(self.sessions, time_ns=time_ns)
        self.http_stream = HttpStreamTransport(self.sessions, time_ns=time_ns, rng=_child(rng))
        self.inlets = IngestTransport([feed for _, feed in feeds if isinstance(feed, IngestFeed)])
        self.rest = Rest(
            self.router,
            self.ingest,
            self.sessions,
            recorders=self.raw_recorders,
            admin=config.server.admin,
            time_ns=time_ns,
        )
        self.web = WebTransport(self.rest.app)

    def _with_recorder(
        self, options: FeedOptions, feed: Feed, time_ns: Callable[[], int], in_thread: InThread
    ) -> Feed:
        """Return the feed with all that it gets and makes recorded; `run` runs the recorder."""
        name = options.name or options.type
        try:
            keys = options.model_dump(mode="json", exclude_unset=True, exclude=set(FeedOptions.model_fields))
        except ValueError as exc:
            # A plug-in's; the recording is of use without them.
            log.warning("a feed's keys are not recorded with it", feed=name, error=str(exc))
            keys = {}
        head = partial(Begun, feed=name, kind=options.type, venue=feed.venue, options=keys, by=SERVER)
        file = RawFile(
            Path(options.record).expanduser(),
            lambda: head(at=time_ns()),
            most_bytes=options.record_most_mb << 20,
        )
        recorder = RawRecorder(name, file, time_ns=time_ns, in_thread=in_thread)
        self.raw_recorders.append(recorder)
        return recorded(feed, recorder)

    def _recording(
        self, options: RecordingOptions, time_ns: Callable[[], int], in_thread: InThread
    ) -> Recording:
        """Return what can be played, and keep the recorder if it is also to be recorded."""
        if isinstance(options, FeedRecordingOptions):
            keys = {"path": options.path, "format": options.format, "venue": options.venue}
            feed = FEEDS["replay"].Options.model_validate({"type": "replay", "speed": "max", **keys})
            return FeedRecording(options.name, lambda: FEEDS["replay"](feed), time_ns=time_ns)
        assert isinstance(options, TapeOptions)
        folder = Path(options.path).expanduser()
        recorder = None
        if options.record:
            writer = TapeWriter(folder, file_bytes=options.file_bytes, max_bytes=options.max_bytes)
            what = What(frozenset(options.channels), tuple(options.symbols))
            recorder = Recorder(
                options.name, self.tape, writer, what=what, time_ns=time_ns, in_thread=in_thread
            )
            self.recorders.append(recorder)
        return TapeRecording(options.name, folder, recorder, in_thread=in_thread)

    def door(
        self, listeners: Sequence[Listener], tls: ssl.SSLContext | None, *, waiting: Waiting = KERNEL
    ) -> Door:
        """Return the front door of the broker's transports; ``waiting`` goes with the listeners."""
        routes: dict[str, Handler] = {
            "/v1/ws": self.websocket.serve,
            "/v1/stream": self.http_stream.serve,
            "/v1/ingest": self.inlets.serve,
        }
        if self.config.debug.echo:
            routes["/debug/echo"] = self.websocket.echo
        return Door(
            listeners,
            routes=routes,
            pages=self.web.serve,
            http2=self.web.serve_http2,
            tls=tls,
            handshake_timeout_s=self.config.server.handshake_timeout_s,
            write_deadline_s=self.config.slow_consumer.write_deadline_s,
            vanish_s=VANISH_S,
            waiting=waiting,
        )

    async def run(self, door: Door, stop: trio.Event) -> None:
        """Run until ``stop``, then drain for at most `[server] drain_s` and return."""
        async with trio.open_nursery() as connections, trio.open_nursery() as workers:
            workers.start_soon(self.ingest.run)
            workers.start_soon(self.fanout.run)
            workers.start_soon(self.replays.run)
            for recorder in self.recorders:
                workers.start_soon(recorder.run, name=f"recorder {recorder.name}")
            for raw in self.raw_recorders:
                workers.start_soon(raw.run, name=f"recorder of the feed {raw.name}")
            workers.start_soon(self.sessions.look_after)
            workers.start_soon(self.rest.measure)
            workers.start_soon(door.serve, connections)
            await stop.wait()
            self.sessions.drain()
            with trio.move_on_after(self.config.server.drain_s):
                await door.wait_until_empty()
            connections.cancel_scope.cancel()
            workers.cancel_scope.cancel()


async def serve(
    config: Config,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker until ``stop`` is set.

    Raises:
        ConfigError: the certificate or the key can't be used.
        OSError: it can't listen on the host and port; the text names both.
    """
    tls = _tls_context(config)
    listeners = await _listen(config.server.host, config.server.port)
    try:
        broker = Broker(config)
        door = broker.door(listeners, tls)
        _tune_collector()
        port = listeners[0].getsockname()[1]
        serving = Serving(_url(config.server.host, port, tls is not None), config.server.host, port)
        log.info("listening", url=serving.url, feeds=[runner.name for runner in broker.ingest.feeds])
        task_status.started(serving)
        await broker.run(door, stop)
        log.info("stopped", sessions=len(broker.sessions))
    finally:
        for listener in listeners:
            listener.close()


def _child(rng: random.Random) -> random.Random:
    """Return a generator of its own, so that one part's draws don't change another's."""
    return random.Random(rng.getrandbits(64))


def _session_limits(config: Config) -> SessionLimits:
    limits = config.limits
    return SessionLimits(
        subscriptions=limits.subscriptions,
        symbols=limits.symbols,
        message_bytes=limits.message_bytes,
        requests_per_minute=limits.requests_per_minute,
        delivery=DeliveryLimits(
            limits.queue_ticks,
            limits.queue_bytes,
            config.slow_consumer.high_watermark,
            min(config.slow_consumer.low_watermark, config.slow_consumer.high_watermark),
        ),
    )


def _budget_limits(config: Config) -> BudgetLimits:
    limits = config.limits
    return BudgetLimits(
        session_ticks=limits.session_queue_ticks,
        session_bytes=limits.session_queue_bytes,
        total_ticks=limits.total_queue_ticks,
        total_bytes=limits.total_queue_bytes,
    )


def _tls_context(config: Config) -> ssl.SSLContext | None:
    cert, key = config.server.tls_cert, config.server.tls_key
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            [f"[server] tls_cert = {str(cert)!r}, tls_key = {str(key)!r}: not a usable pair: {exc}"]
        ) from None
    return context


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on every address of ``host``; all on one port, also if that is 0."""
    listeners: list[socket.socket] = []
    try:
        infos = await trio.socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, proto, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, kind, proto)
            listeners.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port or listeners[0].getsockname()[1], *address[2:]))
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as exc:
        for sock in listeners:
            sock.close()
        text = "the port is in use" if exc.errno == errno.EADDRINUSE else exc.strerror or str(exc)
        raise OSError(exc.errno, f"can't listen on {host or '*'} port {port}: {text}") from exc
    return listeners


def _url(host: str, port: int, is_tls: bool) -> str:
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def _tune_collector() -> None:
    """Keep the cyclic collector off the hot path: ticks hold no cycles and are not tracked by it.

    At the default threshold it looks through all sessions thousands of times a minute, tens of
    milliseconds each with 5000 of them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
