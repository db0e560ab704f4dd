"""The segment's counters as plain data: workers, router, rings.

Reads the segment and nothing else, so whoever has mapped it may ask.  Runs in: any process with a segment.
"""

from __future__ import annotations

import os
import time
from typing import Any

from channels import __version__
from channels.core import native


def workers(segment: native.Segment) -> list[dict[str, Any]]:
    """Every held slot: who it is, how it is, what it has counted."""
    found = []
    now = time.monotonic_ns()
    for slot in range(1, segment.slots):
        generation, pid, attached, ready, heartbeat = segment.slot(slot)
        if not generation & 1:
            continue
        here = attached == generation
        found.append(
            {
                "id": slot,
                "pid": pid,
                "generation": generation,
                "state": "ready" if ready == generation else "attached" if here else "starting",
                "heartbeat_age": max(now - heartbeat, 0) / 1e9 if here and heartbeat else None,  # seconds
                "counters": segment.worker_counters(slot) if here else {},
            }
        )
    return found


def snapshot(segment: native.Segment) -> dict[str, Any]:
    """Everything at once; counters grow for ever, rates are differences."""
    beat = segment.router_heartbeat_ns()
    return {
        "version": __version__,
        "time": time.time(),
        "pid": os.getpid(),
        "segment": {
            "bytes": segment.size,
            "slots": segment.slots,
            "rows": segment.rows,
            "ring_bytes": list(segment.ring_bytes),
            "made": segment.epoch_us / 1e6,
        },
        "router": {
            "heartbeat_age": max(time.monotonic_ns() - beat, 0) / 1e9 if beat else None,
            "counters": segment.router_counters(),
        },
        "workers": workers(segment),
    }
