"""Layers of values, put together into one `Config`; every mistake in any of them is reported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from broker.config.checks import cross_checks
from broker.config.feeds import default_feeds, read_feeds, same_names
from broker.config.problems import nearest, one_line, show, wanted
from broker.config.recordings import RecordingOptions, read_recordings
from broker.config.sources import CONFIG_VARIABLE, Key, Layer, from_env, from_file, from_flags
from broker.config.tree import SECTIONS, Config
from broker.core.errors import ConfigError
from feeds.base import FeedOptions

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each of its values comes from.

    Attributes:
        path: the file that was read, if one was named.
        origins: by (section, key): only those that are not the default.
        feeds_origin: the same for the list of feeds.
        recordings_origin: the same for that of recordings.
    """

    config: Config
    path: Path | None
    origins: Mapping[Key, str]
    feeds_origin: str
    recordings_origin: str


def load_config(path: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """Return the configuration in force; see `load`."""
    return load(path, env, flags).config


def load(path: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Put together what flags, environment, file and defaults say, in this order of precedence.

    Args:
        path: the file; ``None``: the one that ``TAPECAST_CONFIG`` names, or none.
        env: the environment.
        flags: by ``section.key``; ``None`` is a flag that was not given.

    Raises:
        ConfigError: lists all mistakes of all layers, those that a higher layer hides included.
    """
    if path is None and env.get(CONFIG_VARIABLE):
        path = Path(env[CONFIG_VARIABLE])
    merge = _Merge()
    if path is not None:
        merge.add(from_file(path))
    merge.add(from_env(env))
    merge.add(from_flags(flags))
    config = merge.config()
    problems = [*merge.problems, *cross_checks(config, merge.where, merge.bad)]
    if problems:
        raise ConfigError([one_line(problem) for problem in problems])
    return Loaded(config, path, merge.origins, merge.feeds_origin, merge.recordings_origin)


class _Merge:
    """Layers, the lowest first; a value that its key does not take is a problem, and left out."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.bad: set[Key] = set()
        self.origins: dict[Key, str] = {}
        self.feeds_origin = self.recordings_origin = DEFAULT
        self._feeds: Sequence[FeedOptions] = ()
        self._recordings: Sequence[RecordingOptions] = ()
        self._values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}

    def add(self, layer: Layer) -> None:
        refused = _refused(layer)
        self.problems += [*layer.problems, *refused.values()]
        self.bad |= refused.keys()
        for key, value in layer.values.items():
            if key not in refused:
                self._values[key[0]][key[1]] = value
                self.origins[key] = layer.where(key)
        if layer.feeds is not None:
            good, mistakes = read_feeds(layer.feeds, layer.feeds_where, layer.folder)
            self.problems += [*mistakes, *same_names(good, layer.feeds_where)]
            self._feeds, self.feeds_origin = [options for _, options in good], layer.feeds_where
        if layer.recordings is not None:
            self._recordings, mistakes = read_recordings(layer.recordings, layer.recordings_where)
            self.problems += mistakes
            self.recordings_origin = layer.recordings_where

    def config(self) -> Config:
        sections: dict[str, Any] = {name: model(**self._values[name]) for name, model in SECTIONS.items()}
        feeds = default_feeds() if self.feeds_origin == DEFAULT else tuple(self._feeds)
        return Config(**sections, feeds=feeds, recordings=tuple(self._recordings))

    def where(self, key: Key) -> str:
        return self.origins.get(key) or f"[{key[0]}] {key[1]}"


def _refused(layer: Layer) -> dict[Key, str]:
    """Return a line for each value of the layer that its key does not take."""
    refused: dict[Key, str] = {}
    for (section, key), value in layer.values.items():
        model = SECTIONS[section]
        try:
            model.model_validate({key: value})
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            if error["type"] == "value_error":
                text = str(error["ctx"]["error"])
            else:
                text = wanted(model.model_fields[key]) + _hint(model.model_fields[key].annotation, value)
            refused[section, key] = f"{layer.where((section, key))} = {show(value)}: {text}"
    return refused


def _hint(annotation: Any, value: object) -> str:
    choices = getattr(annotation, "__args__", ())
    guess = nearest(value, choices) if choices and isinstance(value, str) else None
    return f'; did you mean "{guess}"?' if guess else ""
