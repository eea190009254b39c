"""``tapecast config``: check it, show what is in force, print the default file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from broker.cli import exits
from broker.cli.settings import ConfigFlag, load_settings
from broker.core.errors import ConfigError

if TYPE_CHECKING:
    from broker.config import Loaded

config_app = App(name="config", help="Check the configuration, or show it.", help_format="plaintext")


@config_app.command
def check(config: ConfigFlag = None) -> int:
    """Report all mistakes of the file and the environment at once; exit code 78 if there are any.

    A feed that can't be used (a plug-in that is broken) counts too, though the broker would run without it.
    """
    from broker.config.feeds import broken_feeds

    loaded = load_settings(config)
    broken = broken_feeds(loaded.config.feeds)
    if broken:
        raise ConfigError([f"the feed {name!r} can't be used: {reason}" for name, reason in broken])
    feeds = [options.name or options.type for options in loaded.config.feeds]
    recordings = [options.name for options in loaded.config.recordings]
    also = f"; recordings: {', '.join(recordings)}" if recordings else ""
    print(f"{_source(loaded)}: no mistakes; feeds: {', '.join(feeds) or 'none'}{also}")
    return exits.OK


@config_app.command
def show(config: ConfigFlag = None) -> int:
    """Show every key's value in force, and where it comes from."""
    from broker.config.problems import show as shown
    from broker.config.recordings import dumped

    loaded = load_settings(config)
    for name, section in loaded.config:
        if name in ("feeds", "recordings"):
            continue
        print(f"[{name}]")
        for key, value in section:
            print(f"{key} = {shown(value)}  # {loaded.origins.get((name, key), 'default')}")
        print()
    for options in loaded.config.feeds:
        print(f"[[feeds]]  # {loaded.feeds_origin}")
        for key, value in options.model_dump(mode="json", exclude_none=True).items():
            print(f"{key} = {shown(value)}")
        print()
    for recording in loaded.config.recordings:
        print(f"[[recordings]]  # {loaded.recordings_origin}")
        for key, value in dumped(recording).items():
            print(f"{key} = {shown(value)}")
        print()
    return exits.OK


@config_app.command
def default() -> int:
    """Print the default file, with a comment for every key: tapecast config default > config.toml."""
    from broker.config import default_toml

    print(default_toml(), end="")
    return exits.OK


def _source(loaded: Loaded) -> str:
    if loaded.path is not None:
        return str(loaded.path)
    here = "; ./config.toml is read only if --config names it" if Path("config.toml").exists() else ""
    return f"no file (defaults and environment{here})"
