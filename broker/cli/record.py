"""``tapecast record``: keep what a feed gets, and the ticks made of it, in a file."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from broker.cli import exits
from broker.cli.settings import ConfigFlag, load_settings
from broker.cli.tables import SetFlag, feed_options, keys_of

if TYPE_CHECKING:
    from broker.config import Config
    from broker.runtime.raw_recording import RawRecorder
    from feeds.base import FeedOptions

#: No bound, as far as a disk knows one.
_NO_BOUND_MB = 1 << 30
_LOOK_S = 0.25


def record(
    file: Annotated[Path, Parameter(help="Appended to, if it is there.")],
    *,
    feed: Annotated[str, Parameter(help="The name of a configured feed, or a type of feed.")],
    settings: SetFlag = None,
    seconds: Annotated[float | None, Parameter(help="End after so long; else at Ctrl-C.")] = None,
    most_mb: Annotated[int | None, Parameter(help="End when so many MiB have been written.")] = None,
    config: ConfigFlag = None,
) -> int:
    """Record a feed: all that it gets, with the times, and the ticks made of it. Nobody is served.

    A configured feed is recorded as it is configured; any other is given by its type and --set.
    """
    import trio

    from broker.logs import set_up_logging

    if (seconds is not None and not seconds > 0) or (most_mb is not None and most_mb < 1):
        exits.complain("record: --seconds and --most-mb must be above 0")
        return exits.USAGE
    loaded = load_settings(config).config
    options = _options(loaded, feed, settings).model_copy(
        update={"record": str(file), "record_most_mb": _NO_BOUND_MB}
    )
    set_up_logging("warning", loaded.log.format)
    alone = loaded.model_copy(update={"feeds": (options,), "recordings": ()})
    most_bytes = None if most_mb is None else most_mb << 20
    try:
        recorder, is_interrupted, error = trio.run(_record, alone, seconds, most_bytes)
    except BaseExceptionGroup as exc:
        raise exits.innermost(exc) from None
    return _conclude(file, recorder, is_interrupted, error)


def _options(config: Config, feed: str, settings: list[str] | None) -> FeedOptions:
    from broker.config.problems import did_you_mean
    from feeds.plugins import known_feeds

    keys = keys_of(settings)
    configured = {options.name or options.type: options for options in config.feeds}
    if feed in configured and not keys:
        return configured[feed]
    if feed not in known_feeds() and ":" not in feed:
        there = {**configured, **known_feeds()}
        raise exits.Failed(f'record: --feed: there is no feed "{feed}"{did_you_mean(feed, there)}')
    return feed_options(feed, keys, "--set")


async def _record(
    config: Config, seconds: float | None, most_bytes: int | None
) -> tuple[RawRecorder, bool, str]:
    """Record until it is enough; return the recorder, whether Ctrl-C ended it, and the feed's last failure."""
    import trio

    from broker.app import Broker
    from broker.core.demand import EVERYTHING
    from broker.core.ticks import CHANNELS

    broker = Broker(config)
    [recorder], [runner] = broker.raw_recorders, broker.ingest.feeds
    demand = broker.topics.demand(runner.feed.venue)
    for channel in CHANNELS:
        demand.begin(channel, EVERYTHING)
    is_interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                nonlocal is_interrupted
                is_interrupted = await anext(signals) == signal.SIGINT
                nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            nursery.start_soon(broker.fanout.run)
            nursery.start_soon(recorder.run)
            nursery.start_soon(broker.ingest.run)
            with trio.move_on_after(float("inf") if seconds is None else seconds):
                while not recorder.is_over and not recorder.failure:
                    if most_bytes is not None and recorder.written_bytes >= most_bytes:
                        break
                    _show(recorder)
                    await trio.sleep(_LOOK_S)
            nursery.cancel_scope.cancel()
    return recorder, is_interrupted, runner.last_error


def _show(recorder: RawRecorder) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{_counts(recorder)}  (Ctrl-C ends it)", end="", file=sys.stderr, flush=True)


def _counts(recorder: RawRecorder) -> str:
    lost = f", {recorder.lost} events lost" if recorder.lost else ""
    written = recorder.written_bytes / 1e6
    return f"{recorder.frames} frames, {recorder.ticks} ticks, {written:.1f} MB written{lost}"


def _conclude(file: Path, recorder: RawRecorder, is_interrupted: bool, error: str) -> int:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if recorder.failure:
        raise exits.Failed(f"record: {recorder.failure}")
    if not recorder.frames and not recorder.ticks:
        raise exits.Failed(f"record: the feed {recorder.name!r} brought nothing{error and ': '}{error}")
    print(f"{file}: {_counts(recorder)}. Play it: tapecast replay {file}", flush=True)
    return exits.INTERRUPTED if is_interrupted else exits.OK
