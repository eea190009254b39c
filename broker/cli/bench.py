"""``tapecast bench``: what this machine does with the broker, and with its peers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from broker.cli import exits

if TYPE_CHECKING:
    from bench.run import Settings

#: A threshold was missed.
MISSED = 3

bench_app = App(
    name="bench",
    help="Measure the broker, and what else could be used instead, on this machine.",
    help_format="plaintext",
)

_Names = Annotated[list[str] | None, Parameter(negative="")]


@bench_app.default
def bench(
    *,
    workload: Annotated[str, Parameter(help="W1 to W8, or soak; bench/README.md says what each is.")] = "W2",
    duration: Annotated[
        str | None, Parameter(help="What is measured, of each round: 10, 30s, 5m, 1h.")
    ] = None,
    warmup: Annotated[str | None, Parameter(help="What comes before and is not measured.")] = None,
    transport: Annotated[
        list[str] | None, Parameter(negative="", help="ws, sse, ndjson; several are compared.")
    ] = None,
    codec: Annotated[list[str] | None, Parameter(negative="", help="json, msgpack (ws only).")] = None,
    tls: Annotated[
        bool, Parameter(negative="", help="Over TLS as well: beside each transport without.")
    ] = False,
    peer: Annotated[
        list[str] | None,
        Parameter(negative="", help="nats, nchan, centrifugo, websockets, socketify, plain: run beside it."),
    ] = None,
    rounds: Annotated[int | None, Parameter(help="Rounds to and fro; 2 where something is compared.")] = None,
    url: Annotated[str | None, Parameter(help="A broker that runs already, e.g. http://host:8765.")] = None,
    pid: Annotated[
        int | None, Parameter(help="Its process, for CPU and memory, if it is on this machine.")
    ] = None,
    subscribers: Annotated[int | None, Parameter(help="How many in all.")] = None,
    symbols: Annotated[int | None, Parameter(help="Of the simulated market.")] = None,
    symbols_each: Annotated[int | None, Parameter(help="That each subscriber asks for; 0: all.")] = None,
    rate: Annotated[
        list[str] | None, Parameter(negative="", help="Ticks a second that come in; several are swept.")
    ] = None,
    mode: Annotated[Literal["latest", "every"] | None, Parameter(help="Of the delivery.")] = None,
    queue: Annotated[int | None, Parameter(help="Of the delivery, in ticks.")] = None,
    max_rate: Annotated[
        float | None, Parameter(help="Of the delivery, with --mode latest: ticks of each symbol in a second.")
    ] = None,
    stalled: Annotated[
        float | None, Parameter(help="Share of the subscribers that never read, 0 to 1.")
    ] = None,
    ages: Annotated[
        Literal["ends", "every"] | None,
        Parameter(help="Take the ages of each read's ends, or of every tick."),
    ] = None,
    clients: Annotated[int, Parameter(help="Load processes.")] = 1,
    seed: Annotated[int, Parameter(help="Of the market and of who subscribes to what.")] = 1,
    threshold: Annotated[
        list[str] | None, Parameter(negative="", help="e.g. 'p99<20ms'; exit code 3 if it is missed.")
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(help="run.json; beside it come .html, .csv and an .hgrm for each server."),
    ] = None,
) -> int:
    """Run a workload, about ten seconds of it without options, and check every account."""
    from bench.options import Options, UsageError, settings_of

    options = Options(
        workload=workload,
        duration=duration,
        warmup=warmup,
        transports=_split(transport),
        codecs=_split(codec),
        is_tls=tls,
        peers=_split(peer),
        rounds=rounds,
        url=url,
        pid=pid,
        subscribers=subscribers,
        symbols=symbols,
        symbols_each=symbols_each,
        rates=_split(rate),
        mode=mode,
        queue=queue,
        max_rate=max_rate,
        stalled=stalled,
        ages=ages,
        clients=clients,
        seed=seed,
        thresholds=threshold or [],
    )
    try:
        settings = settings_of(options, command=sys.argv[1:], on_progress=_progress())
    except UsageError as exc:
        exits.complain(f"bench: {exc}")
        return exits.USAGE
    if out is not None and not out.parent.is_dir():
        exits.complain(f"bench: --out: there is no folder {str(out.parent)!r}")
        return exits.USAGE
    return _run(settings, out)


@bench_app.command
def micro(
    *,
    seconds: Annotated[float, Parameter(help="For all of them together.")] = 5.0,
    as_json: Annotated[bool, Parameter("--json", negative="", help="As JSON.")] = False,
) -> int:
    """Measure the parts of the hot path without I/O: mailbox, conflation, tape, codecs, framing."""
    import msgspec

    from bench.micro import render, run

    if not 0 < seconds <= 3600:
        exits.complain(f"bench micro: --seconds: {seconds:g} is not above 0 and up to 3600")
        return exits.USAGE
    costs = list(run(seconds))
    print(msgspec.json.encode(costs).decode() if as_json else render(costs))
    return exits.OK


@bench_app.command(name="compare")
def compare_runs(old: Path, new: Path) -> int:
    """Hold one run.json against another, figure by figure."""
    from bench.compare import compare
    from bench.results import UnreadableError, read

    try:
        print(compare(read(old), read(new)))
    except UnreadableError as exc:
        raise exits.Failed(str(exc)) from None
    return exits.OK


def _split(names: list[str] | None) -> list[str]:
    """Return the items of an option that may be repeated, or list several with commas."""
    parts = [part.strip() for text in names or [] for part in text.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def _progress() -> Callable[[str], None]:
    """Return what shows one line that is written over, on a terminal; elsewhere a line when the step changes."""
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif (step := text.split("  ")[0].rstrip("0123456789% ")) != shown:
            shown = step
            print(step, file=sys.stderr, flush=True)

    return show


def _run(settings: Settings, out: Path | None) -> int:
    import trio

    from bench.children import ChildError
    from bench.files import write_all
    from bench.run import run
    from bench.screen import render
    from bench.servers import StartError

    try:
        result = trio.run(run, settings)
    except* (StartError, ChildError) as group:
        raise exits.Failed(str(exits.innermost(group))) from None
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(render(result), flush=True)
    if out is not None:
        written = ", ".join(str(path) for path in write_all(result, out))
        print(f"written: {written}")
    if not result.is_accounted:
        return exits.FAILURE
    return exits.OK if all(judgement.is_met for judgement in result.thresholds) else MISSED
