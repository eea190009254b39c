"""``tapecast feed``: which feeds there are, which are configured; checking one, and beginning a new one."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from broker.cli import exits
from broker.cli.feed_check import check
from broker.cli.feed_new import new
from broker.cli.settings import ConfigFlag, load_settings

if TYPE_CHECKING:
    from broker.config import Loaded
    from feeds.base import Feed
    from feeds.plugins import Source

feed_app = App(name="feed", help="List feeds, check one, begin a new one.", help_format="plaintext")
feed_app.command(check)
feed_app.command(new)


@feed_app.command(name="list")
def list_feeds(
    config: ConfigFlag = None,
    *,
    as_json: Annotated[bool, Parameter("--json", negative="", help="As one JSON object.")] = False,
) -> int:
    """List the types of feeds there are, where from, and what feed check last found; and the feeds that are configured.

    Each is imported, and what can't be used says why. Exit code 1 if a configured feed can't be used.
    """
    from feeds.plugins import hidden_feeds, known_feeds

    types = [_about(source) for _, source in sorted(known_feeds().items())]
    if not as_json:
        # Before a mistake in the configuration ends it.
        _print_types(types, list(hidden_feeds()))
    loaded = load_settings(config)
    configured = _configured(loaded)
    if as_json:
        import orjson

        shown = {"types": types, "configured": configured, "configured_in": loaded.feeds_origin}
        print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    else:
        _print_configured(configured, loaded.feeds_origin)
    return exits.FAILURE if any(each["error"] for each in configured) else exits.OK


def _about(source: Source) -> dict[str, Any]:
    """Import a feed, and return what there is to be said of it."""
    from feeds.base import FeedOptions
    from feeds.plugins import PluginError

    about: dict[str, Any] = {
        "type": source.kind,
        "from": source.origin,
        "error": None,
        "summary": "",
        "keys": [],
        "checks": None,
    }
    try:
        feed = source.load()
    except PluginError as exc:
        return {**about, "error": str(exc)}
    summary = (inspect.getdoc(feed) or "").partition("\n")[0].rstrip(".")
    keys = [key for key in feed.Options.model_fields if key not in FeedOptions.model_fields]
    return {**about, "summary": summary, "keys": keys, "checks": _checks(source.kind, feed)}


def _checks_of(kind: str, folder: Path) -> dict[str, Any] | None:
    """Return how the feed of a table stands; ``None``: it can't be imported."""
    from feeds.plugins import PluginError, find_feed

    try:
        return _checks(kind, find_feed(kind, folder).load())
    except (LookupError, PluginError):
        return None


def _checks(kind: str, feed: type[Feed]) -> dict[str, Any]:
    from broker.cli.feed_verdicts import Standing, as_object, standing
    from feeds.testing.subject import NO_ADAPTERS

    if kind in NO_ADAPTERS:
        return as_object(Standing("none", "none, as it has no venue"))
    return as_object(standing(feed, os.environ))


def _configured(loaded: Loaded) -> list[dict[str, Any]]:
    from broker.config.feeds import broken_feeds

    folder = Path() if loaded.path is None else loaded.path.parent
    broken = dict(broken_feeds(loaded.config.feeds))
    return [
        {
            "name": options.name or options.type,
            "type": options.type,
            "settings": options.model_dump(mode="json", exclude_unset=True, exclude={"type", "name"}),
            "error": broken.get(options.name or options.type),
            "checks": _checks_of(options.type, folder),
        }
        for options in loaded.config.feeds
    ]


def _print_types(types: list[dict[str, Any]], hidden: list[tuple[str, str]]) -> None:
    print("Types:")
    width = max([12, *(len(about["type"]) for about in types), *(len(name) for name, _ in hidden)])
    for about in types:
        source = "" if about["from"] == "built-in" else f" (from {about['from']})"
        if about["error"]:
            print(f"  {about['type']:<{width}} BROKEN{source}: {about['error']}")
            continue
        print(f"  {about['type']:<{width}} {about['summary']}{source}")
        print(f"  {'':<{width}} keys: {', '.join(about['keys'])}")
        print(f"  {'':<{width}} checks: {about['checks']['text']}")
    for name, source in hidden:
        print(
            f"  {name:<{width}} HIDDEN (from {source}): Tapecast has a feed of this name; use package.module:Class"
        )


def _print_configured(configured: list[dict[str, Any]], origin: str) -> None:
    from broker.config.problems import show

    print(f"\nConfigured ({origin}):")
    width = max([12, *(len(each["name"]) for each in configured)])
    for each in configured:
        settings = ", ".join(f"{key}={show(value)}" for key, value in each["settings"].items())
        broken = f": BROKEN: {each['error']}" if each["error"] else ""
        print(f"  {each['name']:<{width}} {each['type']}{': ' if settings else ''}{settings}{broken}")
        if ":" in each["type"] and each["checks"]:
            # Not among the types above, as nothing but this table names it.
            print(f"  {'':<{width}} checks: {each['checks']['text']}")
