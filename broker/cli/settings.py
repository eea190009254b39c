"""The flags that several verbs share, and what they load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from broker.config import Loaded

#: `Path` without cyclopts' own checks: a file that isn't there is the configuration's problem to report.
ConfigFlag: TypeAlias = Annotated[
    Path | None,
    Parameter(
        "--config",
        help="TOML file; if none is named, here or by TAPECAST_CONFIG, only defaults and environment count, "
        "also where a ./config.toml exists.",
    ),
]
HostFlag: TypeAlias = Annotated[
    str | None, Parameter("--host", help="Address to listen on; in place of [server] host.")
]
PortFlag: TypeAlias = Annotated[
    int | None, Parameter("--port", help="Port to listen on, 0: a free one; in place of [server] port.")
]


def load_settings(config: Path | None, host: str | None = None, port: int | None = None) -> Loaded:
    """Load the configuration of this process. Raises `ConfigError`."""
    from broker.config import load

    return load(config, os.environ, {"server.host": host, "server.port": port})
