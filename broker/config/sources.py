"""Where values come from: a file, the environment, flags; each becomes a `Layer`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.config.problems import did_you_mean, nearest, show
from broker.config.tree import SECTIONS

PREFIX = "TAPECAST_"
#: Names the file, where no flag does.
CONFIG_VARIABLE = "TAPECAST_CONFIG"
FEEDS_VARIABLE = "TAPECAST_FEEDS"
RECORDINGS_VARIABLE = "TAPECAST_RECORDINGS"
#: What stands in lists of tables, each to its variable and an example.
LISTS: dict[str, tuple[str, str]] = {
    "feeds": (FEEDS_VARIABLE, '[{"type": "simulated"}]'),
    "recordings": (RECORDINGS_VARIABLE, '[{"type": "tape", "name": "tape", "path": "recordings/tape"}]'),
}
#: No configuration is larger; whoever names a recording by mistake gets an answer, not a full memory.
MAX_FILE_BYTES = 4 << 20

Key = tuple[str, str]
_AT = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)


@dataclass
class Layer:
    """What one source says.

    Attributes:
        values: by (section, key); only keys that exist.
        feeds: the tables of ``[[feeds]]``, or ``None`` where the source says nothing of them.
        recordings: the same of ``[[recordings]]``.
        where: how a person finds the value of (section, key), e.g. ``config.toml: [server] port``.
        feeds_where: the same, for all of the feeds; a feed's index and key are put behind it.
        recordings_where: the same, for all of the recordings.
        problems: what is wrong already, without a look at the values.
        folder: what the paths of adapters are relative to.
    """

    where: Callable[[Key], str]
    feeds_where: str
    recordings_where: str
    values: dict[Key, object] = field(default_factory=dict)
    feeds: list[object] | None = None
    recordings: list[object] | None = None
    problems: list[str] = field(default_factory=list)
    folder: Path = Path()


def from_file(path: Path) -> Layer:
    """Read a file; one that can't be read, or isn't TOML, is a layer with one problem and no values."""
    layer = Layer(lambda key: f"{path}: [{key[0]}] {key[1]}", f"{path}: feeds", f"{path}: recordings")
    layer.folder = path.parent
    try:
        tables = _parse(path)
    except ValueError as exc:
        layer.problems.append(str(exc))
        return layer
    for name, table in tables.items():
        if name in LISTS:
            _take_list(layer, name, f"{path}: {name}", table)
        elif name not in SECTIONS:
            layer.problems.append(_unknown_section(path, name, table))
        elif not isinstance(table, dict):
            layer.problems.append(f"{path}: {name} = {show(table)}: must be a section, [{name}]")
        else:
            layer.problems.extend(_take_section(layer, name, table))
    return layer


def _parse(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a directory; name a TOML file in it") from None
    except (OSError, ValueError) as exc:
        raise ValueError(f"{path}: can't be read: {getattr(exc, 'strerror', None) or exc}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: not a configuration file: larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        column = exc.start - raw.rfind(b"\n", 0, exc.start)
        raise ValueError(
            f"{path}:{line}:{column}: not TOML: byte 0x{raw[exc.start]:02x} isn't UTF-8 text"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ValueError(_not_toml(path, text, str(exc))) from None
    except RecursionError:
        raise ValueError(f"{path}: not a configuration file: nested too deeply") from None
    except ValueError as exc:
        # Python refuses to read a decimal number of more than 4300 digits.
        raise ValueError(f"{path}: not a configuration file: a number in it is far too long") from exc


def _not_toml(path: Path, text: str, message: str) -> str:
    match = _AT.match(message)
    if match is None:
        return f"{path}: not TOML: {message}"
    what, line, column = match.groups()
    if line is None:
        lines = text.split("\n")
        line, column = str(len(lines)), str(len(lines[-1]) + 1)
        what += ", and the file ends"
    return f"{path}:{line}:{column}: not TOML: {what[:1].lower()}{what[1:]}"


def _unknown_section(path: Path, name: str, table: object) -> str:
    if isinstance(table, dict | list):
        return f"{path}: [{name}]: no such section{did_you_mean(name, [*SECTIONS, *LISTS], form='[{}]')}"
    homes = [section for section, model in SECTIONS.items() if name in model.model_fields]
    if homes:
        return f"{path}: {name} = {show(table)}: belongs to a section; put it under [{homes[0]}]"
    return (
        f"{path}: {name} = {show(table)}: no such key outside of the sections"
        f"{did_you_mean(name, [*SECTIONS, *LISTS], form='[{}]')}"
    )


def _take_section(layer: Layer, section: str, table: Mapping[str, object]) -> Iterator[str]:
    known = SECTIONS[section].model_fields
    for key, value in table.items():
        if key in known:
            layer.values[section, key] = value
            continue
        homes = [name for name, model in SECTIONS.items() if key in model.model_fields]
        hint = f"; it belongs to [{homes[0]}]" if homes else did_you_mean(key, known, form="{}")
        yield f"{layer.where((section, key))} = {show(value)}: no such key{hint}"


def _take_list(layer: Layer, name: str, where: str, tables: object) -> None:
    if isinstance(tables, dict):
        layer.problems.append(f"{where}: must be a list of tables; write [[{name}]], not [{name}]")
    elif not isinstance(tables, list):
        layer.problems.append(f"{where} = {show(tables)}: must be a list of tables, [[{name}]]")
    else:
        setattr(layer, name, tables)


def from_env(env: Mapping[str, str]) -> Layer:
    """Read the variables that begin with ``TAPECAST_``; each must name a key."""
    keys = {variable(key): key for key in all_keys()}
    layer = Layer(variable, FEEDS_VARIABLE, RECORDINGS_VARIABLE)
    lists = {variable_: name for name, (variable_, _) in LISTS.items()}
    for name, text in env.items():
        if not name.upper().startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name in lists:
            _take_json_list(layer, lists[name], text)
        elif name in keys:
            layer.values[keys[name]] = _value(keys[name], text)
        else:
            layer.problems.append(f"{name} = {show(text)}: no such variable{_nearest_variable(name, keys)}")
    return layer


def _nearest_variable(name: str, keys: Iterable[str]) -> str:
    # Without the prefix, which makes every name like every other; and by the key alone, as in TAPECAST_PORT.
    lists = [variable_ for variable_, _ in LISTS.values()]
    known = [full.removeprefix(PREFIX) for full in (*keys, *lists, CONFIG_VARIABLE)]
    rest = name[len(PREFIX) :].upper()
    guess = next((full for full in known if full.endswith(f"__{rest}")), None) or nearest(rest, known)
    return f"; did you mean {PREFIX}{guess}?" if guess else f"; they are called {PREFIX}SECTION__KEY"


def variable(key: Key) -> str:
    """Return the name of a key's environment variable."""
    return f"{PREFIX}{key[0]}__{key[1]}".upper()


def all_keys() -> list[Key]:
    """Return every (section, key), in the order of the file."""
    return [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


_TRUTHS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def _value(key: Key, text: str) -> object:
    """Turn text into the type of the key; text that isn't of it stays text, and is refused as such."""
    kind = SECTIONS[key[0]].model_fields[key[1]].annotation
    try:
        if kind is bool:
            return _TRUTHS.get(text.strip().lower(), text)
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        pass
    return text


def _take_json_list(layer: Layer, name: str, text: str) -> None:
    import orjson

    where, example = LISTS[name]
    try:
        tables = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        layer.problems.append(f"{where} = {show(text)}: must be a list in JSON, e.g. {example}: {exc}")
        return
    if isinstance(tables, list):
        setattr(layer, name, tables)
    else:
        layer.problems.append(f"{where} = {show(text)}: must be a list in JSON, e.g. {example}")


def from_flags(flags: Mapping[str, object]) -> Layer:
    """Take the flags of a command line.

    Args:
        flags: by ``section.key``; ``None`` is a flag that was not given.
    """
    layer = Layer(lambda key: "--" + key[1].replace("_", "-"), "--feeds", "--recordings")
    for name, value in flags.items():
        section, _, key = name.partition(".")
        if key not in SECTIONS[section].model_fields:
            raise KeyError(name)
        if value is not None:
            layer.values[section, key] = value
    return layer
