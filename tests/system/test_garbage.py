"""A worker that writes garbage into shared memory, in a real server: one round of what `make chaos` does for long."""

from __future__ import annotations

from tests.chaos.garbage import WAYS, Run


def test_a_worker_that_writes_garbage_is_quarantined_and_replaced_and_nobody_else_loses_anything() -> None:
    run = Run(times=len(WAYS), seed=1)
    try:
        run.run()
    finally:
        run.close()
    assert run.wrong == []
    assert sum(run.reasons.values()) == len(WAYS)
