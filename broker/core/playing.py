"""What a session that replays is sent next, where its cursor stands, and how it goes live. Pure.

Replays of one session that play the same are merged in the order of the recording, and go live together. A
cursor counts on the tape that is being played: on the broker's own one it is as good as any; another's
resumes the replay, and only that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from broker.core.codecs import Codec
from broker.core.framing import Framing
from broker.core.replay import END, Plan, Replay, Shown, Skipped

if TYPE_CHECKING:
    from broker.core.session import Session
    from broker.core.subscription import Subscription

#: Subscriptions that play the same.
Group: TypeAlias = "list[tuple[Subscription, Replay]]"

_NOWHERE = (END, END)


def cursor_of(session: Session) -> tuple[str, bool]:
    """Return the cursor of all that has been sent, and whether resuming with it misses nothing.

    It does where tapes are played that have no cursor in common, or live subscriptions stand beside.
    """
    tape = session.router.tape
    subs = session.subscriptions.values()
    replays = [sub.replay for sub in subs if sub.replay is not None]
    epochs = {replay.epoch for replay in replays}
    if not replays or epochs == {tape.epoch}:
        return session.cursor(session.position()), True
    if len(epochs) == 1 and len(replays) == len(subs) and replays[0].epoch:
        return f"{replays[0].epoch}-{min(replay.position for replay in replays)}", True
    return session.cursor(session.position()), False


def take_played(
    session: Session, codec: Codec, framing: Framing, now: float, most: tuple[int, int]
) -> bytes | None:
    """Return the next write of the session's replays, empty if there is nothing to be sent yet.

    Args:
        now: seconds of the broker's clock.
        most: ticks and bytes of one write.

    Returns:
        ``None``: something has changed that the rest of the session has to be asked for first: there are gaps to
        be told, or a replay has gone live.
    """
    groups: dict[Plan, Group] = {}
    for sub in session.subscriptions.values():
        if sub.replay is not None:
            groups.setdefault(sub.replay.plan, []).append((sub, sub.replay))
    for group in groups.values():
        following = _following(group)
        if following is not None:
            return _take(session, group, following, codec, framing, most)
        if all(replay.is_read and not len(replay) for _, replay in group):
            for sub, replay in group:
                go_live(session, sub, replay, now)
            return None
    return b""


def _following(group: Group) -> tuple[Subscription, Replay, tuple[int, int]] | None:
    """Return which replay is next, and the place up to which it is; ``None`` if that has not been read yet."""
    if len(group) == 1:
        return (*group[0], _NOWHERE) if len(group[0][1]) else None
    (place, index), (upto, _), *_ = sorted((replay.next_place(), n) for n, (_, replay) in enumerate(group))
    sub, replay = group[index]
    if not len(replay):
        # One that waits for what is recorded next stands behind the others that have as much.
        return next(((*each, upto) for each in group if len(each[1]) and each[1].next_place() == place), None)
    return sub, replay, upto


def _take(
    session: Session,
    group: Group,
    following: tuple[Subscription, Replay, tuple[int, int]],
    codec: Codec,
    framing: Framing,
    most: tuple[int, int],
) -> bytes | None:
    sub, replay, _ = following
    ticks = _merge(group, *most)
    if ticks:
        session.router.delivered += len(ticks)
        cursor, is_resumable = cursor_of(session)
        payload = codec.update(cursor, codec.repack(ticks))
        return framing.batch(framing.frame("update", payload, cursor if is_resumable else ""))
    item = replay.pop()
    if isinstance(item, Shown):
        return _show(session, sub, item, codec, framing, most[1])
    if isinstance(item, Skipped):
        _skip(sub, replay, item)
        while isinstance(replay.head(), Skipped):
            _skip(sub, replay, replay.pop())
    return None


def _merge(group: Group, most: int, size: int) -> list[bytes]:
    """Take what is next of a group, in the order of the recording, up to an item that is no tick."""
    ticks: list[bytes] = []
    while len(ticks) < most and size > 0:
        following = _following(group)
        if following is None:
            break
        sub, replay, upto = following
        taken = replay.take(most - len(ticks), size, upto)
        if not taken:
            break
        sub.mailbox.replayed(len(taken))
        for _, other in group:
            other.pass_by(replay.turn, replay.sent)
        size -= sum(map(len, taken))
        ticks += taken
    return ticks


def _skip(sub: Subscription, replay: Replay, item: object) -> None:
    assert isinstance(item, Skipped)
    topic = replay.topic(sub.ch, item.sym)
    if item.first is not None and item.last is not None:
        sub.mailbox.lose(topic, item.first, item.last, item.reason)
    else:
        sub.mailbox.note_gap(topic, item.first, item.last, item.reason)


def _show(
    session: Session, sub: Subscription, item: Shown, codec: Codec, framing: Framing, size: int
) -> bytes:
    """Return a snapshot, in parts, in one write: it is made of what was read ahead, which is bounded."""
    cursor, is_resumable = cursor_of(session)
    waiting = deque(codec.repack([tick for _, _, tick in item.states]))
    framed: list[bytes] = []
    while waiting:
        part = [waiting.popleft()]
        left = size - len(part[0])
        while waiting and len(waiting[0]) <= left:
            part.append(waiting.popleft())
            left -= len(part[-1])
        payload = codec.snapshot(sub.id, cursor, part, more=bool(waiting))
        resumable = cursor if is_resumable and not waiting else ""
        framed.append(framing.frame("snapshot", payload, resumable))
    return framing.batch(b"".join(framed))


def go_live(session: Session, sub: Subscription, replay: Replay, now: float) -> None:
    """End a replay, and take the subscription up live: where it ended if that is on this tape, else anew."""
    sub.replay = None
    replay.cancel()
    tape = session.router.tape
    if replay.epoch == tape.epoch:
        unheard = []
        for topic in sub.topics:
            last = replay.heard.get(topic.sym)
            first = tape.first_after(topic, replay.position)
            if last is None and first != 1:
                unheard.append(topic)
            elif last is not None and first is not None and first > last + 1:
                # The recording has a hole at its end.
                sub.mailbox.lose(topic, last + 1, first - 1, "overflow")
        session.resume(sub, replay.position, now, shown=unheard)
        return
    for sym in replay.heard:
        sub.mailbox.note_gap(replay.topic(sub.ch, sym), None, None, "feed_reset")
    session.begin_live(sub, now)
