"""Logging: both formats, the level, and what libraries log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import structlog

from broker.logs import set_up_logging


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_auto_writes_json_where_stderr_is_no_terminal() -> None:
    out = io.StringIO()
    set_up_logging("info", "auto", stream=out)
    structlog.get_logger().bind(feed="simulated").warning("feed is stale", after_s=3.5, what={1})
    [line] = out.getvalue().splitlines()
    record = json.loads(line)
    assert [*record] == ["timestamp", "level", "event", "feed", "after_s", "what"]
    assert record | {"timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "event": "feed is stale",
        "feed": "simulated",
        "after_s": 3.5,
        "what": "{1}",
    }
    assert datetime.fromisoformat(record["timestamp"]).utcoffset() == timedelta(0)


def test_auto_writes_for_people_where_stderr_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    set_up_logging("info", "auto", stream=out)
    structlog.get_logger().info("listening", url="http://127.0.0.1:8765")
    timestamp, _, rest = out.getvalue().partition(" ")
    assert datetime.fromisoformat(timestamp).utcoffset() == timedelta(0)
    assert rest == "[info] listening url=http://127.0.0.1:8765\n"


def test_console_on_a_terminal_has_colours_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    set_up_logging("info", "console", stream=out)
    structlog.get_logger().info("listening")
    assert "\x1b[" in out.getvalue()
    plain = io.StringIO()
    set_up_logging("info", "console", stream=plain)
    structlog.get_logger().info("listening")
    assert "\x1b[" not in plain.getvalue()


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_leaves_out_what_is_less_important(level: str, seen: int) -> None:
    out = io.StringIO()
    set_up_logging(level, "json", stream=out)  # type: ignore[arg-type]
    log = structlog.get_logger()
    for method in (log.debug, log.info, log.warning, log.error):
        method("it happened")
    assert len(out.getvalue().splitlines()) == seen


def test_exception_is_one_json_line_with_its_traceback() -> None:
    out = io.StringIO()
    set_up_logging("info", "json", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("a page failed")
    [line] = out.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_warnings_of_libraries_come_in_the_same_format() -> None:
    out = io.StringIO()
    set_up_logging("debug", "json", stream=out)
    logging.getLogger("somewhere.else").info("chatter")
    logging.getLogger("somewhere.else").warning("%d retries", 3)
    [line] = out.getvalue().splitlines()
    record = json.loads(line)
    assert (record["event"], record["level"], record["logger"]) == ("3 retries", "warning", "somewhere.else")
