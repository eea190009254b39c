"""Logging: structlog to stderr, with UTC time stamps; lines for people, or JSON for machines."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Literal, TextIO

import orjson
import structlog

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logging(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "console", "json"],
    *,
    stream: TextIO | None = None,
) -> None:
    """Make all loggers, structlog's and the standard library's, write to one stream.

    Args:
        level: what is less important is left out, at the cost of one call.
        form: ``auto``: console where the stream is a terminal, else JSON.
        stream: stderr, unless given.
    """
    out = sys.stderr if stream is None else stream
    is_terminal = out.isatty()
    is_console = form == "console" or (form == "auto" and is_terminal)
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_console:
        processors.append(_console(colors=is_terminal and not os.environ.get("NO_COLOR")))
    else:
        processors += [structlog.processors.format_exc_info, _json]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library: what they warn of must not bypass the format.
    logging.basicConfig(handlers=[_Forward()], level=max(LEVELS[level], logging.WARNING), force=True)


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=0, pad_level=False, exception_formatter=structlog.dev.plain_traceback
    )


def _json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    # What a reader looks for first comes first.
    ordered = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    ordered.update(event)
    return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class _Forward(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(record.levelno, record.getMessage(), logger=record.name, **fields)
