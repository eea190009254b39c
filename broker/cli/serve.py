"""``tapecast serve`` and ``tapecast demo``: run the broker until a signal asks it to end."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from broker.cli import exits
from broker.cli.settings import ConfigFlag, HostFlag, PortFlag, load_settings

if TYPE_CHECKING:
    import trio

    from broker.app import Serving
    from broker.config import Config


def serve(*, config: ConfigFlag = None, host: HostFlag = None, port: PortFlag = None) -> int:
    """Run the broker as configured, until Ctrl-C or SIGTERM."""
    return run_broker(load_settings(config, host, port).config, lambda serving: None)


def demo(*, host: HostFlag = None, port: PortFlag = None) -> int:
    """Run a simulated market, the broker and its page: no configuration, no network, no key.

    If port 8765 is taken and no port was asked for, a free one is used.
    """
    from broker.config import load_config

    def settings(on_port: int | None) -> Config:
        # What is printed here is for people; of the log only what is out of the ordinary belongs between it.
        flags = {"server.host": host, "server.port": on_port, "log.level": "warning"}
        return load_config(None, {}, flags)

    config = settings(port)
    try:
        return run_broker(config, _introduce)
    except exits.Failed as exc:
        if port is not None or exc.errno != errno.EADDRINUSE:
            raise
    print(f"Port {config.server.port} is taken; using a free one.", flush=True)
    return run_broker(settings(0), _introduce)


def _introduce(serving: Serving) -> None:
    url = serving.url
    print(
        f"""\
Tapecast is serving a simulated market at {url}/ (Ctrl-C ends it). Try next:

  curl -N '{url}/v1/stream?ch=quote&symbols=SIM:ACME'
  tapecast watch SIM:ACME 'SIM:*' --url {url}
  open {url}/ in a browser
""",
        flush=True,
    )


def run_broker(config: Config, announce: Callable[[Serving], None]) -> int:
    """Run a broker until SIGINT or SIGTERM, and return the exit code.

    The first signal lets it drain for ``[server] drain_s``, the second ends it at once.

    Args:
        announce: called once it listens.

    Raises:
        ConfigError: the certificate can't be used.
        Failed: it can't listen.
    """
    import trio

    from broker.logs import set_up_logging

    set_up_logging(config.log.level, config.log.format)
    _raise_file_limit()
    try:
        return trio.run(_run, config, announce)
    except BaseExceptionGroup as exc:
        raise exits.innermost(exc) from None


async def _run(config: Config, announce: Callable[[Serving], None]) -> int:
    import trio

    from broker.app import serve as serve_broker

    stop = trio.Event()
    first: list[int] = []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def broker(task_status: trio.TaskStatus[Serving]) -> None:
                await serve_broker(config, stop=stop, task_status=task_status)
                nursery.cancel_scope.cancel()

            nursery.start_soon(_obey, signals, first, stop, nursery.cancel_scope)
            try:
                serving = await nursery.start(broker)
            except OSError as exc:
                raise exits.Failed(exc.strerror or str(exc), exc.errno) from exc
            announce(serving)
    return exits.INTERRUPTED if signal.SIGINT in first else exits.OK


async def _obey(
    signals: AsyncIterator[int], first: list[int], stop: trio.Event, scope: trio.CancelScope
) -> None:
    """Ask the broker to end at the first signal, and make it end at the second."""
    async for signum in signals:
        if stop.is_set():
            scope.cancel()
            return
        first.append(signum)
        stop.set()


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: each session is one, and 1024 is a common default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        # macOS names no limit and then refuses to set that; the default has to do.
        return
