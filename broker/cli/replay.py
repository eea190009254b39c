"""``tapecast replay``: serve a recording, or hold it against what the adapter makes of it now."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from broker.cli import exits
from broker.cli.serve import run_broker
from broker.cli.settings import HostFlag, PortFlag
from broker.cli.tables import SetFlag, feed_options, keys_of

if TYPE_CHECKING:
    from broker.app import Serving
    from broker.config import Config
    from feeds.raw_playback import Verdict


def replay(
    file: Annotated[
        str, Parameter(help="A recording: a file, a folder or a pattern in quotes, plain or .gz.")
    ],
    *,
    speed: Annotated[str, Parameter(help='Times the recorded speed, or "max".')] = "1",
    loop: Annotated[bool, Parameter(negative="", help="Begin again at the end.")] = False,
    form: Annotated[
        str,
        Parameter("--format", help="What it holds, where that is not recognised: raw, lines, coinbase, …"),
    ] = "auto",
    venue: Annotated[str | None, Parameter(help="Another venue for its symbols.")] = None,
    verify: Annotated[
        bool,
        Parameter(
            negative="",
            help="Serve nothing: give a recorded feed's frames to its adapter, compare the ticks.",
        ),
    ] = False,
    settings: SetFlag = None,
    host: HostFlag = None,
    port: PortFlag = None,
) -> int:
    """Serve a recording as a feed: of `tapecast record`, venue traffic, or ticks as CSV, NDJSON or Parquet.

    If port 8765 is taken and no port was asked for, a free one is used. With --verify, exit code 1 tells that the
    adapter does not make the recorded ticks of the recorded frames any more; --set gives it other keys.
    """
    if verify:
        return _verify(Path(file), keys_of(settings))
    config = _config(_keys(file, speed, loop, form, venue), host, port)
    try:
        return run_broker(config, lambda serving: _introduce(serving, config, file))
    except exits.Failed as exc:
        if port is not None or exc.errno != errno.EADDRINUSE:
            raise
    print(f"Port {config.server.port} is taken; using a free one.", flush=True)
    config = _config(_keys(file, speed, loop, form, venue), host, 0)
    return run_broker(config, lambda serving: _introduce(serving, config, file))


def _keys(file: str, speed: str, loop: bool, form: str, venue: str | None) -> dict[str, Any]:
    try:
        times: float | str = float(speed)
    except ValueError:
        times = speed
    keys = {"path": file, "speed": times, "loop": loop, "format": form}
    return keys if venue is None else {**keys, "venue": venue}


def _config(keys: dict[str, Any], host: str | None, port: int | None) -> Config:
    """Return the configuration of a broker with this one feed.

    Raises:
        Failed: the keys are wrong, or there is nothing to play.
    """
    from broker.config import load_config
    from broker.core.errors import FeedPermanentError
    from feeds.plugins import feed_of
    from feeds.replay import Replay

    options = feed_options("replay", keys, "--")
    feed = feed_of(options)
    assert isinstance(feed, Replay)
    try:
        feed.what_to_play()
    except FeedPermanentError as exc:
        raise exits.Failed(f"replay: {exc}") from None
    # What is printed here is for people; of the log only what is out of the ordinary belongs between it.
    flags = {"server.host": host, "server.port": port, "log.level": "warning"}
    return load_config(None, {}, flags).model_copy(update={"feeds": (options,)})


def _introduce(serving: Serving, config: Config, file: str) -> None:
    from feeds.plugins import feed_of

    url, venue = serving.url, feed_of(config.feeds[0]).venue
    print(
        f"""\
Tapecast is serving {file} at {url}/ (Ctrl-C ends it). Try next:

  tapecast watch '{venue}:*' --url {url}
  curl -N '{url}/v1/stream?ch=quote,trade&symbols={venue}:*'
  open {url}/ in a browser
""",
        flush=True,
    )


def _verify(path: Path, keys: dict[str, Any]) -> int:
    import structlog
    import trio
    from trio.testing import MockClock

    from broker.logs import set_up_logging
    from feeds.plugins import BrokenFeed, feed_of
    from feeds.raw_playback import has_input, verify
    from feeds.raw_recordings import first_of

    try:
        begun = first_of(path)
        if begun is None:
            raise exits.Failed(
                f"replay: {path}: not a recording of `tapecast record`, so there is nothing to compare"
            )
        if not has_input(path):
            raise exits.Failed(
                f"replay: {path}: there are no frames in it to be compared: "
                f"the feed {begun.feed!r} gets its ticks otherwise"
            )
        feed = feed_of(feed_options(begun.kind, {**begun.options, **keys}, str(path)))
        if isinstance(feed, BrokenFeed):
            raise exits.Failed(f"replay: the feed {begun.kind!r} can't be used: {feed.reason}")
        set_up_logging("warning", "auto")
        clock = MockClock(autojump_threshold=0)
        verdict = trio.run(verify, path, feed, structlog.get_logger().bind(feed=begun.feed), clock=clock)
    except OSError as exc:
        raise exits.Failed(f"replay: {path}: {exc.strerror or exc}") from None
    return _tell(path, verdict)


def _tell(path: Path, verdict: Verdict) -> int:
    counts = f"{verdict.frames} frames and answers, {verdict.ticks} ticks"
    more = {"frames refused": verdict.refused, "events not taken": verdict.ignored, "holes": verdict.holes}
    counts += "".join(f", {count} {name}" for name, count in more.items() if count)
    if verdict.differs:
        print(f"{path}: the ticks differ, behind {counts}.")
        print(
            f"  recorded: {verdict.expected or 'nothing more'}\n  made now: {verdict.found or 'nothing more'}"
        )
        return exits.FAILURE
    print(f"{path}: the same ticks, byte for byte: {counts}.")
    return exits.OK
