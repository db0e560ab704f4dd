"""stats.py: the segment's counters as plain data."""

from __future__ import annotations

import json
import os

from channels import __version__, stats
from tests.cluster import Cluster


def test_a_snapshot_is_plain_data_and_names_every_worker() -> None:
    with Cluster(2) as cluster:
        found = json.loads(json.dumps(stats.snapshot(cluster.segment)))
        assert found["version"] == __version__ and found["pid"] == os.getpid()
        assert [worker["id"] for worker in found["workers"]] == [1, 2]
        assert [worker["pid"] for worker in found["workers"]] == [cluster.workers[1].pid, cluster.workers[2].pid]
        assert {worker["state"] for worker in found["workers"]} == {"ready"}
        assert found["segment"]["bytes"] == cluster.segment.size
        assert found["router"]["heartbeat_age"] is not None and found["router"]["heartbeat_age"] >= 0


def test_who_is_dead_is_not_listed_and_who_starts_has_no_counters() -> None:
    with Cluster(2) as cluster:
        cluster.kill(1)
        assert [worker["id"] for worker in stats.workers(cluster.segment)] == [2]
        cluster.segment.set_slot(1, 3, 4711)
        (starting, ready) = stats.workers(cluster.segment)
        assert (starting["state"], starting["pid"], starting["counters"], starting["heartbeat_age"]) == (
            "starting",
            4711,
            {},
            None,
        )
        assert ready["counters"]
