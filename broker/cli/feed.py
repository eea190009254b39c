"""``tapecast feed``: which feeds there are, and which are configured."""

from __future__ import annotations

import inspect

from cyclopts import App

from broker.cli import exits
from broker.cli.settings import ConfigFlag, load_settings

feed_app = App(name="feed", help="List the feeds.", help_format="plaintext")


@feed_app.command(name="list")
def list_feeds(config: ConfigFlag = None) -> int:
    """List the types of feeds there are, with their keys, and the feeds that are configured."""
    from broker.config.problems import show
    from feeds import FEEDS

    print("Types:")
    for kind, feed in sorted(FEEDS.items()):
        summary = (inspect.getdoc(feed) or "").partition("\n")[0].rstrip(".")
        keys = ", ".join(key for key in feed.Options.model_fields if key not in ("type", "name"))
        print(f"  {kind:<12} {summary}")
        print(f"  {'':<12} keys: {keys}")
    loaded = load_settings(config)
    print(f"\nConfigured ({loaded.feeds_origin}):")
    for options in loaded.config.feeds:
        given = options.model_dump(mode="json", exclude_unset=True, exclude={"type", "name"})
        settings = ", ".join(f"{key}={show(value)}" for key, value in given.items())
        print(f"  {options.name or options.type:<12} {options.type}{': ' if settings else ''}{settings}")
    return exits.OK
