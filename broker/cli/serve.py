"""``tapecast serve`` and ``tapecast demo``: run the broker until a signal asks it to end."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.cli import exits
from broker.cli.settings import ConfigFlag, HostFlag, PortFlag, load_settings

if TYPE_CHECKING:
    import trio

    from broker.app import Serving
    from broker.config import Config

#: Who was asked to end and has not so long after the drain never will: a feed's program gets 5 s, a dead connection 2.
LEFT_BEHIND_S = 15.0


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

    stop, first, last_resort = trio.Event(), list[int](), _LastResort()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        try:
            async with trio.open_nursery() as nursery:

                async def broker(task_status: trio.TaskStatus[Serving]) -> None:
                    await serve_broker(config, stop=stop, task_status=task_status)
                    nursery.cancel_scope.cancel()

                async def obey() -> None:
                    async for signum in signals:
                        if stop.is_set():
                            last_resort.set(LEFT_BEHIND_S)
                            nursery.cancel_scope.cancel()
                            return
                        first.append(signum)
                        last_resort.set(config.server.drain_s + LEFT_BEHIND_S)
                        stop.set()

                nursery.start_soon(obey)
                try:
                    serving = await nursery.start(broker)
                except OSError as exc:
                    raise exits.Failed(exc.strerror or str(exc), exc.errno) from exc
                announce(serving)
        finally:
            last_resort.clear()
    return exits.INTERRUPTED if signal.SIGINT in first else exits.OK


class _LastResort:
    """Ends the process if it is still there then: an adapter that catches its cancellation can't be ended alone."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """Begin to wait, anew if it has begun."""
        self.clear()
        self._timer = threading.Timer(seconds, _leave)
        self._timer.daemon = True
        self._timer.start()

    def clear(self) -> None:
        """Wait no more: all has ended."""
        if self._timer is not None:
            self._timer.cancel()


def _leave() -> None:
    exits.complain(
        "something does not let itself be ended (does an adapter catch trio.Cancelled?); left as it is"
    )
    os._exit(exits.FAILURE)


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: each session is one, and 1024 is a common default."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        # macOS names no limit and then refuses to set that; the default has to do.
        return
