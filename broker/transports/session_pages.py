"""The page `/v1/sessions`: who is connected, and how those who are no longer have ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import get_args

import msgspec
import trio
from starlette.datastructures import QueryParams

from broker.core.errors import RequestError
from broker.core.requests import convert, nearest, show
from broker.runtime.closed import ClosedSession
from broker.runtime.records import SessionRecord, SubscriptionRecord
from broker.runtime.sessions import Sessions
from broker.transports import pages
from broker.transports.pages import SessionQuery, SessionState

STATES: tuple[str, ...] = get_args(SessionState)


def parse_query(query: QueryParams) -> SessionQuery:
    """Return what is asked for.

    Raises:
        RequestError: naming the parameter, its value and what is right; unknown ones are not looked for.
    """
    for name in query:
        if len(query.getlist(name)) > 1:
            raise RequestError("invalid_request", f"{name}: is given twice")
    state = query.get("state", "live")
    if state not in STATES:
        there = ", ".join(STATES)
        raise RequestError(
            "invalid_request", f"state: {show(state)} is not one of {there}{nearest(state, STATES)}"
        )
    return convert(dict(query), SessionQuery, strict=False)


def sessions_page(sessions: Sessions, query: SessionQuery, now_ns: int) -> pages.SessionsPage:
    """Return the sessions that match, at most ``query.limit`` of them: the live ones before the others."""
    # A session that is known by its name is looked for wherever it is.
    state = query.state or ("all" if query.id is not None else "live")
    found: Iterable[pages.SessionInfo] = chain(
        _live(sessions, query, now_ns) if state != "closed" else (),
        _closed(sessions, query) if state != "live" else (),
    )
    return pages.SessionsPage(len(sessions), len(sessions.last_closed), list(islice(found, query.limit)))


def _live(sessions: Sessions, query: SessionQuery, now_ns: int) -> Iterator[pages.SessionInfo]:
    now = trio.current_time()
    for subscriber in sessions.most_behind_first():
        if query.id in (None, subscriber.session.id) and query.peer in (None, subscriber.peer):
            record = subscriber.record(now)
            yield _info(record, now_ns - round((now - subscriber.opened) * 1e9), None)


def _closed(sessions: Sessions, query: SessionQuery) -> Iterator[pages.SessionInfo]:
    wanted = [text.encode() for text in (query.id, query.peer) if text is not None]
    for closed in sessions.last_closed:
        if not all(map(closed.may_contain, wanted)):
            continue
        record = closed.record
        if query.id in (None, record.id) and query.peer in (None, record.peer):
            yield _info(record, closed.at_ns - round(record.lived_s * 1e9), _end(closed))


def _end(closed: ClosedSession) -> pages.SessionEnd:
    reason = closed.reason
    return pages.SessionEnd(
        at=pages.utc_time(closed.at_ns),
        reason=reason.name,
        code=reason.code,
        text=reason.text,
        advice=reason.advice or None,
        closing=closed.closing,
    )


def _info(record: SessionRecord, opened_ns: int, end: pages.SessionEnd | None) -> pages.SessionInfo:
    return pages.SessionInfo(
        id=record.id,
        state="live" if end is None else "closed",
        peer=record.peer,
        transport=record.transport,
        codec=record.codec,
        opened_at=pages.utc_time(opened_ns),
        lived_s=round(record.lived_s, 3),
        silent_s=round(record.silent_s, 3),
        requests=record.requests,
        queued_ticks=record.queued_ticks,
        queued_bytes=record.queued_bytes,
        unsent_bytes=record.unsent_bytes,
        oldest_tick_age_s=None if record.oldest_s is None else round(record.oldest_s, 3),
        subscriptions=list(map(_subscription, record.subscriptions)),
        subscriptions_total=record.subscriptions_total,
        end=end,
    )


def _subscription(record: SubscriptionRecord) -> pages.SessionSubscription:
    return pages.SessionSubscription(**msgspec.structs.asdict(record))
