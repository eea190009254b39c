"""Who may import whom. The table says it, and every import in the tree is held against it.

The core decides and does no I/O; feeds know the core and nothing else of the broker; the runtime knows no
transport; what is composed of all of them is imported by nobody. A library that does I/O is imported by as
few files as possible, so that it can be replaced.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: What is inside -> what of ours it may import, itself included.
OURS: dict[str, set[str]] = {
    "broker.core": set(),
    # Runs adapters under the broker's own supervisor, so it stands above both. Before "feeds": the first match counts.
    "feeds.testing": {"broker.core", "broker.runtime", "feeds"},
    "feeds": {"broker.core"},
    "broker.runtime": {"broker.core"},
    "broker.transports": {"broker.core", "broker.runtime"},
    "broker.client": {"broker.core"},
    "broker.web": set(),
    "broker.config": {"broker.core", "feeds"},
    "broker.logs": {"broker.core"},
}
#: The composition: may import anything, and is imported by nobody but itself.
COMPOSITION = {"broker.app", "broker.cli", "broker.__main__"}
#: The version is for everybody but the core.
COMMON = {"broker"}

#: What is inside -> the libraries it may import; the standard library goes without saying.
LIBRARIES: dict[str, set[str]] = {
    "broker.core": {"msgspec", "msgpack", "orjson"},
    "feeds.testing": {"pydantic", "orjson", "msgspec", "trio", "structlog", "pytest"},
    "feeds": {"pydantic", "orjson", "msgspec", "trio", "pyarrow", "coredis"},
    "broker.runtime": {"trio", "structlog", "msgspec"},
}
#: What of the standard library the core does without: I/O, clocks, chance, threads, logging.
NOT_IN_CORE = {
    "asyncio", "concurrent", "http", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random",
    "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading",
    "time", "urllib", "uuid", "warnings", "weakref",
}  # fmt: skip

#: Library -> the only files, or folders, that import it.
ONLY_IN: dict[str, set[str]] = {
    "trio_websocket": {"broker/transports/upstream.py", "broker/client/"},
    "hypercorn": {"broker/transports/web.py"},
    "prometheus_client": {"broker/transports/"},
    "pyarrow": {"feeds/parquet.py"},
    "cyclopts": {"broker/cli/"},
    "coredis": {"feeds/redis_client.py"},
    "asyncio": set(),
    "anyio": set(),
}


def files() -> list[Path]:
    return sorted([*(ROOT / "broker").rglob("*.py"), *(ROOT / "feeds").rglob("*.py")])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, wherever in the file."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # ``from broker import client`` imports a module as well.
            is_package = (ROOT / module.replace(".", "/") / "__init__.py").exists()
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                path_of_inner = ROOT / inner.replace(".", "/")
                is_module = is_package and (
                    path_of_inner.is_dir() or path_of_inner.with_suffix(".py").exists()
                )
                yield inner if is_module else module


def layer_of(module: str) -> str:
    """Return the entry of the tables that a module of ours belongs to."""
    known = [*OURS, *COMPOSITION]
    return next((name for name in known if module == name or module.startswith(name + ".")), module)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    layer = layer_of(module)
    if layer in COMPOSITION or module == "broker":
        return
    assert layer in OURS, f"{module} is in no layer: where does it belong?"
    for imported in imports_of(path):
        if imported.split(".")[0] in ("broker", "feeds"):
            target = layer_of(imported)
            is_common = imported in COMMON and layer != "broker.core"
            assert target == layer or target in OURS[layer] or is_common, f"{module} imports {imported}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    layer = layer_of(module_of(path))
    for imported in imports_of(path):
        top = imported.split(".")[0]
        if top in ("broker", "feeds"):
            continue
        if top in ONLY_IN:
            assert any(name.startswith(place) for place in ONLY_IN[top]), f"{name} imports {imported}"
        elif layer in LIBRARIES and top not in sys.stdlib_module_names:
            assert top in LIBRARIES[layer], f"{name} imports {imported}"
        if layer == "broker.core":
            assert top not in NOT_IN_CORE, f"{name} imports {imported}"


def test_walk_sees_every_way_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for folder in ("broker", "broker/core", "broker/runtime"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "broker/core/ticks.py").touch()
    path = tmp_path / "broker/runtime/x.py"
    path.write_text(
        "import trio.lowlevel as low\n"
        "from broker import core\n"
        "from broker.core.ticks import Tick\n"
        "from ..core import ticks, other\n"
        "from . import sibling\n"
        "def f():\n"
        "    import socket\n"
        "if TYPE_CHECKING:\n"
        "    from feeds import FEEDS\n"
    )
    assert sorted(imports_of(path)) == [
        "broker.core",
        "broker.core",
        "broker.core.ticks",
        "broker.core.ticks",
        "broker.runtime",
        "feeds",
        "socket",
        "trio.lowlevel",
    ]
