"""When a worker takes the next connection, and when it lets go for a moment so that another one does.

The rule follows nginx's `accept_disabled`, with what all workers can see: how many connections each of them has.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

STEP = 0.0005  # seconds per connection that this worker has more than the least loaded one
STEP_MAX = 0.004
PATIENCE = 4  # times in a row; then it takes one: whoever has fewer may be busy
FULL_PAUSE = 0.02  # seconds between looks while it is full
DESCRIPTORS_PAUSE = 0.25  # seconds without accepting after EMFILE and its like


class AcceptPolicy:
    """The decision of one worker.

    Args:
        others: The number of connections of every other worker that accepts.
    """

    def __init__(self, others: Callable[[], Sequence[int]] = lambda: ()) -> None:
        self._others = others
        self._waited = 0

    def delay(self, connections: int, limit: int) -> float:
        """Seconds to let go before accepting; 0: accept now.

        Args:
            connections: How many this worker has.
            limit: How many it may have.
        """
        if connections >= limit:
            return FULL_PAUSE
        others = self._others()
        least = min(others, default=connections)
        if 8 * connections > 7 * limit and least <= connections and 8 * least <= 7 * limit and others:
            return FULL_PAUSE
        if connections > least and self._waited < PATIENCE:
            self._waited += 1
            return min(STEP_MAX, STEP * (connections - least))
        self._waited = 0
        return 0.0
