"""The table of verbs, and the one door where exceptions become exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from broker import __version__
from broker.cli import exits
from broker.cli.bench import bench_app
from broker.cli.config import config_app
from broker.cli.feed import feed_app
from broker.cli.record import record
from broker.cli.replay import replay
from broker.cli.serve import demo, serve
from broker.cli.watch import watch
from broker.core.errors import ConfigError

EPILOGUE = """\
Exit codes: 0 fine, 1 failure, 2 wrong usage, 78 wrong configuration, 130 Ctrl-C.
"""


def build_app() -> App:
    """Return the command line with all of its verbs."""
    app = App(
        name="tapecast",
        version=f"tapecast {__version__}",
        version_flags=["--version"],
        help="A live market data fan-out broker: one feed in, any number of subscribers out.",
        help_format="plaintext",
        help_epilogue=EPILOGUE,
        suppress_keyboard_interrupt=False,
    )
    app.command(demo)
    app.command(serve)
    app.command(watch)
    app.command(record)
    app.command(replay)
    app.command(config_app)
    app.command(feed_app)
    app.command(bench_app)
    return app


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = build_app()(argv, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()  # while a failure can still be reported
    except CycloptsError as exc:
        exits.complain(f"{exc}\nTry 'tapecast --help'.")
        return exits.USAGE
    except BaseException as exc:
        return _code_of(exits.innermost(exc))
    return code if isinstance(code, int) else exits.OK


def _code_of(exc: BaseException) -> int:
    match exc:
        case ConfigError(problems=problems):
            exits.complain("\n  ".join(["the configuration can't be used:", *problems]))
            return exits.CONFIGURATION
        case KeyboardInterrupt():
            return exits.INTERRUPTED
        case BrokenPipeError():  # whoever read our output has enough of it
            _abandon_stdout()
            return exits.OK
        case OSError(errno=errno.ENOSPC):
            _abandon_stdout()
            exits.complain(f"can't write: {exc.strerror}")
            return exits.FAILURE
        case exits.Failed():
            exits.complain(str(exc))
            return exits.FAILURE
    raise exc


def _abandon_stdout() -> None:
    """Keep Python from complaining, at its exit, of what it still has to write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(main(sys.argv[1:]))
