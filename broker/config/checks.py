"""Checks of keys against each other, and of the files they name."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from itertools import pairwise

from broker.config.problems import show
from broker.config.recordings import TapeOptions
from broker.config.sources import Key
from broker.config.tree import Config
from feeds.ingest import Ingest

Where = Callable[[Key], str]
CERT, KEY = ("server", "tls_cert"), ("server", "tls_key")
DEADLINE = ("slow_consumer", "write_deadline_s")
HISTORY = (("history", "ticks"), ("history", "bytes"), ("history", "age_s"))
PING_INTERVAL, PING_TIMEOUT = ("server", "ping_interval_s"), ("server", "ping_timeout_s")


def cross_checks(config: Config, where: Where, bad: set[Key]) -> Iterator[str]:
    """Yield a line for each mistake that only shows when keys are held together.

    Args:
        where: the origin of the value in force of a key.
        bad: keys that have been refused already: what hangs on their value is not judged.
    """
    if not bad & {CERT, KEY}:
        yield from _tls(config, where)
    yield from _budgets(config, where, bad)
    if not bad & {DEADLINE, PING_INTERVAL, PING_TIMEOUT}:
        yield from _silence(config, where)
    if not bad & {*HISTORY}:
        yield from _recording(config, where)
    yield from _keys(config)
    yield from _same_files(config)


def _keys(config: Config) -> Iterator[str]:
    # A key says whose ticks they are.
    owners: dict[str, str] = {}
    for options in config.feeds:
        if isinstance(options, Ingest.Options):
            name = options.name or options.type
            owner = owners.setdefault(options.key.get_secret_value(), name)
            if owner != name:
                yield f"feeds: {show(name)} and {show(owner)} have the same key; give each feed a key of its own"


def _same_files(config: Config) -> Iterator[str]:
    # Two recorders would write into each other's blocks.
    owners: dict[str, str] = {}
    for options in config.feeds:
        if options.record:
            name = options.name or options.type
            owner = owners.setdefault(options.record, name)
            if owner != name:
                both = f"{show(name)} and {show(owner)}"
                yield f"feeds: {both} have the same record = {show(options.record)}; give each a file of its own"


def _recording(config: Config, where: Where) -> Iterator[str]:
    # The recorder takes what it writes from there.
    names = [each.name for each in config.recordings if isinstance(each, TapeOptions) and each.record]
    for key in HISTORY if names else ():
        if not getattr(config.history, key[1]):
            yield f"{where(key)} = 0: must be more than 0, as the recording {show(names[0])} is taken from the history"


def _tls(config: Config, where: Where) -> Iterator[str]:
    cert, key = config.server.tls_cert, config.server.tls_key
    if cert and not key:
        yield f"{where(CERT)} = {show(cert)}: needs tls_key too"
    if key and not cert:
        yield f"{where(KEY)} = {show(key)}: needs tls_cert too"
    unreadable = False
    for path, origin in ((cert, CERT), (key, KEY)):
        trouble = _unreadable(path)
        if trouble:
            unreadable = True
            yield f"{where(origin)} = {show(path)}: must be a PEM file: {trouble}"
    if cert and key and not unreadable:
        yield from _pair(cert, key, where)


def _unreadable(path: str) -> str | None:
    if not path:
        return None
    try:
        with open(path, "rb"):
            return None
    except (OSError, ValueError) as exc:
        return str(getattr(exc, "strerror", None) or exc)


def _pair(cert: str, key: str, where: Where) -> Iterator[str]:
    def no_passphrase() -> str:
        raise ValueError("the key has a passphrase, and nobody is there to enter it")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as exc:
        text = (exc.reason or str(exc)).lower().replace("_", " ")
        yield (
            f"{where(CERT)} = {show(cert)}, {where(KEY)} = {show(key)}: "
            f"must be a certificate and its own key: {text}"
        )
    except (OSError, ValueError) as exc:
        yield f"{where(KEY)} = {show(key)}: {exc}"


def _budgets(config: Config, where: Where, bad: set[Key]) -> Iterator[str]:
    # A budget below what it is made of would end sessions that keep to their contract.
    limits = config.limits
    for unit in ("ticks", "bytes"):
        for smaller, larger in pairwise((f"queue_{unit}", f"session_queue_{unit}", f"total_queue_{unit}")):
            least, most = getattr(limits, smaller), getattr(limits, larger)
            if most < least and not bad & {("limits", smaller), ("limits", larger)}:
                yield (
                    f"{where(('limits', larger))} = {show(most)}: must be at least {smaller} = {least} "
                    f"({where(('limits', smaller))})"
                )


def _silence(config: Config, where: Where) -> Iterator[str]:
    # A client that stops reading stops answering too: were it given up as silent first, the write
    # deadline would never evict anybody, and the reason given would be the wrong one.
    deadline = config.slow_consumer.write_deadline_s
    interval, timeout = config.server.ping_interval_s, config.server.ping_timeout_s
    if deadline >= interval + timeout:
        yield (
            f"{where(DEADLINE)} = {show(deadline)}: must be less than ping_interval_s + ping_timeout_s = "
            f"{interval:g} + {timeout:g} s ({where(PING_INTERVAL)}, {where(PING_TIMEOUT)}), "
            "or clients are given up as silent first"
        )
