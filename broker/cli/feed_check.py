"""``tapecast feed check``: the conformance kit on one feed, or the feed on its real venue for a while."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from broker.cli import exits
from broker.cli.settings import ConfigFlag, load_settings

if TYPE_CHECKING:
    from feeds.testing import Subject


def check(
    name: Annotated[
        str, Parameter(help="A type of feed, package.module:Class, ./file.py:Class, or a feed's name.")
    ],
    *,
    option: Annotated[
        list[str] | None,
        Parameter(
            "--option", negative="", help="key=value of its [[feeds]] table, e.g. symbols=BTC-USD,ETH-USD."
        ),
    ] = None,
    config: ConfigFlag = None,
    frames: Annotated[
        Path | None, Parameter("--frames", help="Golden frames; else frames.jsonl beside the adapter.")
    ] = None,
    recording: Annotated[
        Path | None,
        Parameter(
            "--recording",
            help="In place of golden frames: a file of tapecast record, whose options are taken, or another recording "
            "of the venue.",
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        Parameter("--golden", help="The ticks that the frames make; else ticks.jsonl beside them."),
    ] = None,
    bless: Annotated[
        bool, Parameter("--bless", negative="", help="Keep the ticks that come out as those that are right.")
    ] = False,
    skip: Annotated[
        list[str] | None,
        Parameter("--skip", negative="", help="CHECK=REASON: leave a check out, and say why."),
    ] = None,
    live: Annotated[
        float | None, Parameter("--live", help="Connect to the venue for so many seconds, and report.")
    ] = None,
    as_json: Annotated[bool, Parameter("--json", negative="", help="As one JSON object.")] = False,
) -> int:
    """Check an adapter offline: against its golden frames, on a simulated clock, with all that goes wrong.

    The exit code is 1 if a check fails. With --config, NAME may be that of a configured feed. What was found is kept
    for feed list, in $XDG_STATE_HOME or ~/.local/state.
    """
    from feeds.testing import SubjectError

    if live is not None and not (math.isfinite(live) and live > 0):
        exits.complain(f"feed check: --live {live:g}: must be a number of seconds above 0")
        return exits.USAGE
    try:
        settings = _pairs(option, "--option")
        skips = _pairs(skip, "--skip")
    except ValueError as error:
        exits.complain(f"feed check: {error}")
        return exits.USAGE
    kind, table, folder = _table(name, config)
    paths = {"frames": frames, "recording": recording, "golden_ticks": golden}
    try:
        subject = _subject(kind, {**table, **settings}, folder, skips, paths)
        if live is not None:
            return _live(subject, live, as_json)
        return _offline(subject, bless, as_json)
    except SubjectError as error:
        raise exits.Failed(f"feed check: {error}") from None


def _subject(
    kind: str, settings: dict[str, Any], folder: Path, skips: dict[str, Any], paths: dict[str, Path | None]
) -> Subject:
    from feeds.testing import Subject

    texts = {check: str(reason) for check, reason in skips.items()}
    return Subject(kind, settings, folder=folder, skips=texts, **paths)


def _offline(subject: Subject, bless: bool, as_json: bool) -> int:
    from broker.cli.feed_verdicts import keep
    from feeds.testing.kit import Kit
    from feeds.testing.verdicts import as_json as to_json
    from feeds.testing.verdicts import as_line, as_summary, has_failed

    verdicts = []
    for verdict in Kit(subject, bless=bless).run():
        verdicts.append(verdict)
        if not as_json:
            print(as_line(verdict), flush=True)
    print(to_json(subject.kind, verdicts) if as_json else f"\n{subject.kind}: {as_summary(verdicts)}")
    if subject.is_loaded:
        fault = keep(
            subject.feed, subject.kind, subject.source.origin, subject.golden.where, verdicts, os.environ
        )
        if fault:
            exits.complain(f"feed check: what was found can't be kept for feed list: {fault}")
    return exits.FAILURE if has_failed(verdicts) else exits.OK


def _live(subject: Subject, seconds: float, as_json: bool) -> int:
    import orjson
    import trio

    from broker.transports import upstream
    from feeds.testing.live import observe

    subject.load()
    seen = trio.run(observe, subject, seconds, upstream)
    if as_json:
        shown = {"feed": subject.kind, "passed": seen.is_good, **seen.as_object()}
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        print(*seen.as_lines(), sep="\n")
    if not seen.story.ticks:
        exits.complain("feed check: no tick came")
    return exits.OK if seen.is_good else exits.FAILURE


def _table(name: str, config: Path | None) -> tuple[str, dict[str, Any], Path]:
    """Return type, settings and folder of the feed: that of a configuration, if it is named there."""
    if config is None:
        return name, {}, Path()
    for options in load_settings(config).config.feeds:
        if name in (options.name, options.type):
            # Not as JSON, in which a secret would be stars.
            table = options.model_dump(exclude_unset=True, exclude={"type", "name"})
            return options.type, table, config.parent
    return name, {}, Path()


def _pairs(texts: list[str] | None, flag: str) -> dict[str, Any]:
    from feeds.testing.subject import read_setting

    try:
        return dict(read_setting(text) for text in texts or [])
    except ValueError as error:
        raise ValueError(f"{flag} {error}") from None
