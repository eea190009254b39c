"""From the options of the command line to what is run, with every mistake named before anything starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import cast, get_args
from urllib.parse import urlsplit

from bench.measure import Target
from bench.peers import PEERS
from bench.results import Missing
from bench.run import Settings
from bench.thresholds import ThresholdError, parse
from bench.workloads import WORKLOADS, Ages, Changes, CodecName, Transport, Workload, change
from feeds.simulated import MOST_TICKS_PER_SECOND

TRANSPORTS: tuple[str, ...] = get_args(Transport)
CODECS: tuple[str, ...] = get_args(CodecName)
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class UsageError(Exception):
    """An option makes no sense; the text names it, its value, and what would be right."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asked for, unchecked."""

    workload: str = "W2"
    duration: str | None = None
    warmup: str | None = None
    transports: Sequence[str] = ()
    codecs: Sequence[str] = ()
    is_tls: bool = False
    peers: Sequence[str] = ()
    rounds: int | None = None
    url: str | None = None
    pid: int | None = None
    subscribers: int | None = None
    symbols: int | None = None
    symbols_each: int | None = None
    rates: Sequence[str] = ()
    mode: str | None = None
    queue: int | None = None
    max_rate: float | None = None
    stalled: float | None = None
    ages: Ages | None = None
    clients: int = 1
    seed: int = 1
    thresholds: Sequence[str] = field(default_factory=list)


def settings_of(options: Options, *, command: Sequence[str], on_progress: Callable[[str], None]) -> Settings:
    """Return what is to be run. Raises `UsageError`."""
    workload = _workload(options)
    rates = _rates(options.rates)
    if rates and options.url:
        raise UsageError("--rate: goes with a broker of our own; that at --url has its own feed")
    if rates:
        # The first of several is the one that peers are asked about.
        workload = replace(workload, ticks_per_second=rates[0])
    targets = _broker_targets(options, workload)
    peers, missing = _peer_targets(options, workload)
    targets += peers
    if len(rates) > 1:
        targets = [
            replace(target, name=f"{target.name}@{rate:g}", rate=rate) for target in targets for rate in rates
        ]
    _check_numbers(options)
    try:
        thresholds = [parse(text) for text in options.thresholds]
    except ThresholdError as exc:
        raise UsageError(f"--threshold: {exc}") from None
    rounds = options.rounds or (2 if len(targets) > 1 else 1)
    return Settings(
        workload=workload,
        targets=targets,
        missing=missing,
        seed=options.seed,
        clients=options.clients,
        rounds=rounds,
        thresholds=thresholds,
        command=command,
        on_progress=on_progress,
    )


def _check_numbers(options: Options) -> None:
    for name, value, low, high in (
        ("--rounds", options.rounds, 1, 1000),
        ("--clients", options.clients, 1, 64),
        ("--seed", options.seed, 0, 2**63 - 1),
    ):
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name}: {value} is not from {low} to {high}")
    if options.pid is not None and not options.url:
        raise UsageError("--pid: goes with --url; a broker of our own is known")


def _workload(options: Options) -> Workload:
    by_name = {name.lower(): workload for name, workload in WORKLOADS.items()}
    found = by_name.get(options.workload.lower())
    if found is None:
        raise UsageError(f"--workload: {options.workload!r} is not one of {', '.join(WORKLOADS)}")
    changes = Changes(
        subscribers=options.subscribers,
        symbols=options.symbols,
        symbols_each=options.symbols_each,
        mode=options.mode,
        queue=options.queue,
        max_rate=options.max_rate,
        stalled=options.stalled,
        ages=options.ages,
        warmup_s=_seconds("--warmup", options.warmup),
        duration_s=_seconds("--duration", options.duration),
    )
    try:
        return change(found, changes)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


def _seconds(option: str, text: str | None) -> float | None:
    """Return a time such as ``10``, ``1.5s``, ``5m`` or ``1h`` in seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text.strip())
    if match is None:
        raise UsageError(f"{option}: {text!r} is not a time like 10, 30s, 5m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]


def _broker_targets(options: Options, workload: Workload) -> list[Target]:
    transports = _known("--transport", options.transports, TRANSPORTS)
    codecs = _known("--codec", options.codecs, CODECS)
    url, is_tls = options.url or "", options.is_tls
    if url:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise UsageError(f"--url: {url!r} is not like http://127.0.0.1:8765")
        if is_tls:
            raise UsageError("--tls: say https:// in --url instead")
    if workload.is_mixed:
        if transports or codecs:
            raise UsageError(f"--transport, --codec: {workload.name} is the mix of them all")
        return _with_tls(
            [Target(name="tapecast", title="all transports and codecs", url=url, pid=options.pid)], is_tls
        )
    if workload.kind == "storm" and (codecs or set(transports) - {"ws"}):
        raise UsageError(f"--transport, --codec: {workload.name} is for ws and json")
    targets = []
    for transport, codec in product(transports or ["ws"], codecs or ["json"]):
        if transport != "ws" and codec != "json":
            continue
        is_plain = (transport, codec) == ("ws", "json")
        kind = codec if transport == "ws" and codec != "json" else transport
        targets.append(
            Target(
                name="tapecast" if is_plain else f"tapecast-{kind}",
                title=f"Tapecast, {transport}, {codec}",
                url=url,
                pid=options.pid,
                transport=cast(Transport, transport),
                codec=cast(CodecName, codec),
            )
        )
    if not targets:
        raise UsageError("--codec: msgpack goes with --transport ws only")
    return _with_tls(targets, is_tls)


def _with_tls(targets: list[Target], is_tls: bool) -> list[Target]:
    if not is_tls:
        return targets
    return targets + [
        replace(target, name=f"{target.name}+tls", title=f"{target.title}, TLS", is_tls=True)
        for target in targets
    ]


def _rates(given: Sequence[str]) -> list[float]:
    """Return the rates of ticks that were asked for."""
    rates = []
    for text in given:
        try:
            rate = float(text.replace("_", ""))
        except ValueError:
            rate = 0.0
        if not 1 <= rate <= MOST_TICKS_PER_SECOND:
            raise UsageError(f"--rate: {text!r} is not a number from 1 to {MOST_TICKS_PER_SECOND}")
        rates.append(rate)
    return rates


def _peer_targets(options: Options, workload: Workload) -> tuple[list[Target], list[Missing]]:
    targets, missing = [], []
    for name in _known("--peer", options.peers, tuple(PEERS)):
        peer = PEERS[name]
        reason = _unsuitable(workload) or peer.unfit(workload) or peer.missing()
        if reason:
            missing.append(Missing(name, reason))
        else:
            targets.append(Target(name=name, title=peer.title, peer=peer, transport="ws", codec="json"))
    return targets, missing


def _unsuitable(workload: Workload) -> str | None:
    if workload.is_mixed:
        return f"{workload.name} is made of transports and delivery modes that only the broker has"
    if workload.kind == "storm":
        return f"{workload.name} resumes with cursors, which only the broker has"
    if not workload.is_paced:
        return f"{workload.name} goes as fast as the broker's own feed, which a peer does not have; use W2"
    return None


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{option}: {name!r} is not one of {', '.join(known)}{hint}")
    return list(given)
