"""One round of one server: start it, subscribe, warm up, measure, and settle the accounts."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import trio

from bench.children import Child, ChildError, run_child
from bench.histogram import Histogram
from bench.peers.base import Peer
from bench.plan import Accounts, Command, Plan, Report, Storm
from bench.processes import cpu_s, idle_s, rss_bytes
from bench.publish import Publication, Published
from bench.results import Sample
from bench.servers import Server, StartError, run_broker, run_peer
from bench.workloads import CodecName, Transport, Workload
from feeds.simulated import generate_names


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server to be measured, and how it is talked to.

    Attributes:
        url: of a broker that runs already; empty: a broker of our own, or the peer.
        pid: of that broker's process, where it is on this machine.
        transport, codec, rate: ``None``: as the workload says.
    """

    name: str
    title: str
    url: str = ""
    pid: int | None = None
    peer: Peer | None = None
    transport: Transport | None = None
    codec: CodecName | None = None
    rate: float | None = None
    is_tls: bool = False

    def fit(self, workload: Workload) -> Workload:
        """Return the workload over this target's transport and codec."""
        groups = tuple(
            replace(group, transport=self.transport or group.transport, codec=self.codec or group.codec)
            for group in workload.groups
        )
        return replace(workload, groups=groups, ticks_per_second=self.rate or workload.ticks_per_second)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is the same for all targets of a run."""

    workload: Workload
    seed: int
    clients: int
    folder: Path
    certificate: tuple[str, str] | None
    on_progress: Callable[[str], None]


@dataclass(kw_only=True)
class Round:
    """What one round brought.

    Attributes:
        ages: of the ticks that came while it was measured.
        idle_bytes, memory_bytes: of the server before anybody connected, and at the end.
        fed_per_s: ticks that the broker took in, or that were published to the peer.
        machine_idle: share of the machine's time that nobody used.
        publisher_busy: share of its time that a peer's publisher was at work.
    """

    ages: Histogram = field(default_factory=Histogram)
    ticks: int = 0
    received: int = 0
    frames: int = 0
    took_s: float = 0.0
    cpu_s: float | None = None
    idle_bytes: int = 0
    memory_bytes: int = 0
    sessions: int = 0
    busy: float = 0.0
    client_cpu: float = 0.0
    fed_per_s: float = 0.0
    machine_idle: float = 0.0
    connect_s: float = 0.0
    accounts: Accounts = field(default_factory=Accounts)
    storm: Storm | None = None
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    publisher_busy: float | None = None


async def measure(target: Target, conditions: Conditions) -> Round:
    """Measure one round.

    Raises:
        StartError: the server does not start.
        ChildError: a load process ended.
    """
    conditions = replace(conditions, workload=target.fit(conditions.workload))
    async with _serve(target, conditions) as server:
        return await _Measurement(target, conditions, server).run()


@asynccontextmanager
async def _serve(target: Target, conditions: Conditions) -> AsyncIterator[Server]:
    workload, folder = conditions.workload, conditions.folder
    if target.url:
        url = httpx.URL(target.url)
        is_tls = url.scheme in ("https", "wss")
        yield Server(host=url.host, port=url.port or (443 if is_tls else 80), is_tls=is_tls, pid=target.pid)
    elif target.peer is not None:
        async with run_peer(target.peer, workload, folder) as server:
            yield server
    else:
        certificate = conditions.certificate if target.is_tls else None
        async with run_broker(workload, folder, seed=conditions.seed, certificate=certificate) as server:
            yield server


class _Measurement:
    """One round, step by step."""

    def __init__(self, target: Target, conditions: Conditions, server: Server) -> None:
        self._target = target
        self._conditions = conditions
        self._workload = conditions.workload
        self._server = server
        self._round = Round(sessions=conditions.workload.subscribers)
        self._clients: list[Child[Report]] = []
        self._publisher: Child[Published] | None = None

    async def run(self) -> Round:
        """Return what it brought."""
        async with AsyncExitStack() as stack:
            symbols = await self._symbols()
            self._round.idle_bytes = self._memory()
            self._say("connecting")
            for plan in self._plans(symbols):
                self._clients.append(await stack.enter_async_context(run_child("bench.worker", plan, Report)))
            if self._target.peer is not None and self._workload.kind != "idle":
                publication = self._publication(symbols)
                self._publisher = await stack.enter_async_context(
                    run_child("bench.publish", publication, Published)
                )
                await self._publisher.hear()
            await self._hear_all("live", self._note_live)
            if self._publisher is not None:
                await self._publisher.tell(Command("go"))
            self._say("warming up")
            await trio.sleep(self._workload.warmup_s)
            await self._measure()
            published = await self._stop_publishing()
            if self._workload.kind == "storm":
                self._say("cutting all connections")
                await self._tell_all(Command("cut"))
                await self._hear_all("resumed", self._note_storm)
                await trio.sleep(self._workload.warmup_s)
            self._say("settling accounts")
            await self._tell_all(Command("settle", published))
            await self._settle()
        return self._round

    # ── before ───────────────────────────────────────────────────────────────────────────────────

    async def _symbols(self) -> list[str]:
        if self._target.url:
            found = (await self._get("/v1/symbols"))["symbols"]
            return [str(item["symbol"]) for item in found]
        return [f"SIM:{name}" for name in generate_names(self._workload.symbols)]

    async def _get(self, path: str) -> dict[str, list[dict[str, object]]]:
        scheme = "https" if self._server.is_tls else "http"
        url = f"{scheme}://{self._server.host}:{self._server.port}{path}"
        try:
            async with httpx.AsyncClient(trust_env=False, verify=False, timeout=10) as client:
                answer = await client.get(url)
                answer.raise_for_status()
                return answer.json()  # type: ignore[no-any-return]
        except (httpx.HTTPError, ValueError) as exc:
            raise StartError(f"no broker answers at {url}: {str(exc) or type(exc).__name__}") from exc

    def _plans(self, symbols: Sequence[str]) -> list[Plan]:
        workload, conditions = self._workload, self._conditions
        return [
            Plan(
                host=self._server.host,
                port=self._server.port,
                groups=list(workload.groups),
                symbols=list(symbols),
                peer=self._target.peer.name if self._target.peer else "",
                is_tls=self._server.is_tls,
                ages=workload.ages,
                seed=conditions.seed,
                share=share,
                clients=conditions.clients,
                at_once=workload.subscribers if workload.kind == "storm" else 200,
            )
            for share in range(conditions.clients)
        ]

    def _publication(self, symbols: Sequence[str]) -> Publication:
        assert self._target.peer is not None
        workload = self._workload
        return Publication(
            peer=self._target.peer.name,
            port=self._server.publish_port,
            symbols=list(symbols),
            channels=list(workload.channels),
            ticks_per_second=workload.ticks_per_second,
            seed=self._conditions.seed,
            seconds=workload.warmup_s + workload.duration_s + 1,
        )

    def _note_live(self, report: Report) -> None:
        self._round.connect_s = max(self._round.connect_s, report.took_s)
        self._round.failures += report.failures

    # ── measuring ────────────────────────────────────────────────────────────────────────────────

    async def _measure(self) -> None:
        self._say("measuring")
        fed = await self._fed()
        idle = idle_s()
        seconds: list[list[Report]] = [[] for _ in self._clients]
        async with trio.open_nursery() as nursery:
            # Heard as they are said: a client whose reports fill the pipe would stop to read.
            for client, reports in zip(self._clients, seconds, strict=True):
                nursery.start_soon(self._hear_progress, client, reports)
            await self._tell_all(Command("measure"))
            took = await self._watch()
            self._round.machine_idle = (idle_s() - idle) / took / (os.cpu_count() or 1)
            self._round.fed_per_s = (await self._fed() - fed) / took
            await self._tell_all(Command("stop"))
        self._round.memory_bytes = self._memory()
        self._merge_progress(seconds)

    async def _watch(self) -> float:
        """Look at the server's process now and then while it is measured; return how long that took."""
        began, cpu = time.perf_counter(), self._cpu()
        last_at, last_cpu = began, cpu
        until = began + self._workload.duration_s
        step = max(1.0, self._workload.duration_s / 600)
        while (now := time.perf_counter()) < until - 0.001:
            await trio.sleep(min(step, until - now))
            now, used = time.perf_counter(), self._cpu()
            cores = (used - last_cpu) / (now - last_at)
            self._sample(now - began, cores)
            last_at, last_cpu = now, used
        took = time.perf_counter() - began
        if self._server.pid is not None:
            self._round.cpu_s = self._cpu() - cpu
        self._round.took_s = took
        return took

    def _sample(self, at_s: float, cores: float) -> None:
        self._round.samples.append(Sample(at_s, 0, 0, 0, 0, cores, self._memory() / 1e6))
        done = at_s / self._workload.duration_s
        self._say(f"measuring {done:4.0%}  {cores:.2f} cores  {self._memory() / 1e6:.0f} MB")

    async def _hear_progress(self, client: Child[Report], seconds: list[Report]) -> None:
        """Keep a client's reports of its seconds until it stops, and add up its totals."""
        while (report := await client.hear()).event == "progress":
            seconds.append(report)
        total = self._round
        total.ages.add(Histogram(dict(report.ages), report.max_ns))
        total.ticks += report.ticks
        total.received += report.received
        total.frames += report.frames
        total.busy = max(total.busy, report.busy)
        total.client_cpu += report.cpu

    def _merge_progress(self, clients: list[list[Report]]) -> None:
        """Put what the clients saw in each second beside what the server used then."""
        per_sample = max(1, round(max(1.0, self._workload.duration_s / 600)))
        for index, sample in enumerate(self._round.samples):
            ages = Histogram()
            for seconds in clients:
                for report in seconds[index * per_sample : (index + 1) * per_sample]:
                    ages.add(Histogram(dict(report.ages), report.max_ns))
                    sample.deliveries_per_s += report.ticks / max(report.took_s, 0.01) / per_sample
                    sample.mb_per_s += report.received / 1e6 / max(report.took_s, 0.01) / per_sample
            sample.age_p50, sample.age_p99 = ages.percentile(50) / 1e6, ages.percentile(99) / 1e6

    async def _fed(self) -> int:
        """Return how many ticks have come into the broker."""
        if self._target.peer is not None:
            return 0
        feeds = (await self._get("/v1/feeds"))["feeds"]
        return sum(int(str(item["ticks"])) for item in feeds)

    def _cpu(self) -> float:
        return 0.0 if self._server.pid is None else cpu_s(self._server.pid)

    def _memory(self) -> int:
        return 0 if self._server.pid is None else rss_bytes(self._server.pid)

    # ── after ────────────────────────────────────────────────────────────────────────────────────

    async def _stop_publishing(self) -> dict[str, int]:
        if self._publisher is None:
            return {}
        await self._publisher.tell(Command("stop"))
        published = await self._publisher.hear()
        self._round.publisher_busy = published.busy
        self._round.fed_per_s = sum(published.ticks.values()) / published.took_s
        return published.ticks

    def _note_storm(self, report: Report) -> None:
        assert report.storm is not None
        storm = self._round.storm or Storm()
        storm.resume_s = max(storm.resume_s, report.storm.resume_s)
        storm.refused += report.storm.refused
        storm.gaps += report.storm.gaps
        storm.broken += report.storm.broken
        self._round.storm = storm
        self._round.failures += report.failures

    async def _settle(self) -> None:
        """Collect the accounts; a broker of ours drains once nothing but streams is missing theirs."""
        waiting = 0

        async def collect(client: Child[Report]) -> None:
            nonlocal waiting
            report = await client.hear()
            waiting += 1
            if waiting == len(self._clients) and self._server.stop is not None:
                self._server.stop()
            if report.event == "waiting":
                report = await client.hear()
            assert report.accounts is not None
            self._round.accounts.add(report.accounts)

        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(collect, client)

    async def _tell_all(self, command: Command) -> None:
        for client in self._clients:
            await client.tell(command)

    async def _hear_all(self, event: str, note: Callable[[Report], None]) -> None:
        for client in self._clients:
            report = await client.hear()
            if report.event != event:
                raise ChildError(f"a load process said {report.event!r} where {event!r} was expected")
            note(report)

    def _say(self, text: str) -> None:
        self._conditions.on_progress(f"{self._target.name}: {text}")
