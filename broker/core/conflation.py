"""Which queued tick a newer one may take the place of.

Quotes, bars and states are replaced. Trades and books can't be, as the newest alone does not say everything:
they are merged and composed (`broker.core.composing`).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from broker.core.ticks import Bar, Channel, Status, Tick

if TYPE_CHECKING:
    from broker.core.topics import Topic

#: The channels on which the newest tick says everything that the older ones said.
REPLACEABLE: frozenset[Channel] = frozenset({"quote", "bar", "status"})

#: The channels whose topic itself is the key.
SINGLE: frozenset[Channel] = frozenset({"quote", "trade", "book"})


def conflation_key(topic: Topic, tick: Tick) -> Hashable:
    """Return what two ticks share when the later one makes the earlier one worthless.

    Bars of another interval are not replaced by each other. A status is replaced by the next one only
    while the state stays the same: each change of state has to arrive.
    """
    if type(tick) is Bar:
        return topic, tick.interval
    if type(tick) is Status:
        if tick.state != topic.state:
            topic.state = tick.state
            topic.state_changes += 1
        return topic, topic.state_changes
    return topic
