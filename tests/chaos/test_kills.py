"""A short run of tests/chaos/kills.py; `make chaos` runs the whole one."""

from __future__ import annotations

import os
import time

from tests.chaos.kills import Run


def test_killed_workers_and_routers_cost_the_survivors_nothing():
    seed = int(os.environ.get("CHANNELS_TEST_SEED", time.time_ns() & 0xFFFFFF))
    run = Run(kills=24, router_kills=2, seed=seed, pause=0.004)
    try:
        run.run()
        assert run.wrong == [], f"seed {seed}; figures: {run.figures}\n{run.server.log[-5000:]}"
        assert run.figures["messages"] > 0
    finally:
        run.close()
