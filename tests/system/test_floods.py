"""One worker does all that it may as fast as it can: the others have their turn, nothing grows beyond its bound.

It never gives its hub a turn, so it reads nothing of what comes to it, as no application of good will does.
"""

from __future__ import annotations

import mmap
import signal
import struct
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

import channels
from channels import alerts
from channels.errors import RingFull
from channels.settings import KIB, MIB
from channels.worker import client as fabric
from tests.cluster import Cluster, wait_until
from tests.worker import kept
from tests.worker.test_alerts import answer_with, counter

ROUNDS = 10
SPILL = 256 * KIB
OWN_EXTRA = 4 * MIB  # what the router keeps of its own answers beyond the bound: core/fanout.c
ROWS = 256
QUEUE = 50

_progress = mmap.mmap(-1, 8)  # shared with the workers, which are forked later


@pytest.fixture(autouse=True)
def from_zero() -> Iterator[None]:
    struct.pack_into("<Q", _progress, 0, 0)
    yield


def progress() -> int:
    """How much of the flood went into rings so far."""
    return int(struct.unpack_from("<Q", _progress)[0])


# ---- run in workers, and in the router ----


def flood_channels_and_alerts(pids: list[int]) -> None:
    done = 0
    while True:
        for pid in (None, *pids):
            try:
                if pid is None:
                    channels.channel_send("flood", bytes(500), timeout=0)
                else:
                    alerts.send(pid, "flood", bytes(500), timeout=0)
                done += 1
            except RingFull:
                pass
        struct.pack_into("<Q", _progress, 0, done)


def flood_joins(way: str) -> None:
    ask = fabric.current().endpoint.ask
    number = done = 0
    while True:
        number += 1
        name = b"flood:%d" % (number % 5000)
        if way == "prefixes":
            done += ask("join_prefix", number, b"") + ask("leave_prefix", 0, b"")
        else:
            done += ask("join", number, name)
            if way == "come and go":
                done += ask("leave", 0, name)
        struct.pack_into("<Q", _progress, 0, done)


def hold_the_handler() -> None:
    alerts.receive("flood", lambda data: gevent.sleep(1000))


def spilled(routing: Any, quarantined: list[Any], slot: int) -> int:
    return int(routing.router.spilled_bytes(slot))


def rows(routing: Any, quarantined: list[Any]) -> list[bytes]:
    return [name for name, _ in routing.names.all()]


# ---- the tests ----


def test_a_flood_of_channels_and_alerts_holds_nobody_up_and_is_bounded() -> None:
    with Cluster(4, spill_soft=SPILL, spill_hard=SPILL, alert_queue_length=QUEUE) as cluster:
        one, two, three, four = cluster.workers.values()
        for worker in (two, three, four):
            worker.run(kept.open_subscription, "f", "flood", maxlen=10)
        three.run(kept.open_subscription, "s", "room")
        three.run(answer_with, "q", b"here")
        three.run(hold_the_handler)
        four.signal(signal.SIGSTOP)
        one.start(flood_channels_and_alerts, [two.pid, three.pid, four.pid])
        wait_until(lambda: cluster.segment.router_counters()["dropped"] > 0)  # the bound of what waits for four is hit
        most = 0
        for number in range(ROUNDS):
            before = progress()
            two.run(kept.send, "room", b"%d" % number)
            assert three.run(kept.take, "s", 1) == [("room", b"%d" % number, 0)]
            assert two.run(alerts.call, three.pid, "q", b"", timeout=20) == b"here"
            most = max(most, cluster.ask_router(spilled, four.slot))
            wait_until(lambda before=before: progress() > before)
        wait_until(lambda: three.run(counter, "alerts_dropped") > QUEUE)
        assert (
            three.run(counter, "alerts_received") == QUEUE + 1 + ROUNDS
        )  # those that wait, the one in hand, the calls
        assert SPILL // 2 < most <= SPILL
        assert cluster.quarantined() == []


@pytest.mark.parametrize("way", ["come and go", "stay", "prefixes"])
def test_a_flood_of_joins_holds_nobody_up_and_the_table_comes_back(way: str) -> None:
    with Cluster(3, channels_max=ROWS, spill_soft=SPILL, spill_hard=SPILL) as cluster:
        one, two, three = cluster.workers.values()
        three.run(kept.open_subscription, "s", "room")
        one.start(flood_joins, way)
        wait_until(lambda: progress() > 20_000)
        for number in range(ROUNDS):
            before = progress()
            three.run(kept.open_subscription, f"s{number}", f"mine:{number}")
            two.run(kept.send, f"mine:{number}", b"new")
            two.run(kept.send, "room", b"%d" % number)
            assert three.run(kept.take, f"s{number}", 1) == [(f"mine:{number}", b"new", 0)]
            assert three.run(kept.take, "s", 1) == [("room", b"%d" % number, 0)]
            assert cluster.ask_router(spilled, one.slot) <= SPILL + OWN_EXTRA
            wait_until(lambda before=before: progress() > before)
        cluster.kill(one.slot)
        left = {b"room", *(b"mine:%d" % number for number in range(ROUNDS))}
        assert set(cluster.ask_router(rows)) == left
        names = [f"mine again:{number}" for number in range(ROWS - len(left) - ROWS // 8)]
        two.run(kept.open_subscription, "all", *names)
        assert len(cluster.ask_router(rows)) == ROWS - ROWS // 8
        assert cluster.quarantined() == []
