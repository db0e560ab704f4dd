"""A short run of tests/chaos/websocket.py; `make chaos` runs the whole one."""

from __future__ import annotations

import random

from tests.chaos import websocket


def test_whatever_clients_say_messages_come_back_breaches_get_their_code_and_others_are_served() -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    counts = websocket.run(seed, 5)
    assert set(websocket.ENDS) <= set(counts), "every end was tried"
