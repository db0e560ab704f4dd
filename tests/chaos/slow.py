"""A worker that stands still for 20 seconds under load: what it costs the others, and what it is told.

    python -m tests.chaos.slow [--seconds 20] [--rate 10000] [--seed N]

The others' 99th percentile must stay below twice what it was (and a floor, below which the machine's own noise lies);
what the router keeps must never pass `spill_hard`; when it goes on, what the stopped one got and what it was told to
have missed must be every number, exactly.
"""

from __future__ import annotations

import argparse
import signal
import struct
import sys
import threading
import time
from typing import Any

import gevent

from channels import channel_send, subscribe
from tests.cluster import Cluster

RECEIVERS = (2, 3)
STOPPED = 4
BODY = struct.Struct("<QQ40x")
FLOOR_NS = 2_000_000
PHASE = {"before": 0, "while": 1, "after": 2}
phase = [0]  # of the sender
SPILL_HARD = 8 << 20  # so small that it is reached


def send(rate: int, seconds: float, part: int) -> int:
    """In a worker: so many a second, in small batches."""
    began, sent = time.monotonic(), 0
    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * rate:
            channel_send("clock", BODY.pack(time.monotonic_ns(), part))
            sent += 1
        gevent.sleep(0.002)
    return sent


def listen() -> None:
    """In a worker: from now on, until the message that says so."""
    ready = gevent.event.Event()
    gevent.spawn(_listen, ready)
    ready.wait()


heard: dict[str, Any] = {"late": {0: [], 1: [], 2: []}, "got": 0, "missed": 0, "wrong": [], "last": 0, "over": False}


def _listen(ready: Any) -> None:
    with subscribe("clock", maxlen=1 << 22, max_bytes=1 << 31) as mine:
        ready.set()
        for message in mine:
            number = int(message.id.rpartition("-")[2])
            if heard["last"] and number != heard["last"] + message.missed + 1:
                heard["wrong"].append(f"{number} after {heard['last']}, missed={message.missed}")
            heard["got"] += 1
            heard["missed"] += message.missed
            heard["last"] = number
            sent, part = BODY.unpack(message.data)
            if part == 3:
                break
            heard["late"][part].append(time.monotonic_ns() - sent)
    heard["over"] = True


def report() -> dict[str, Any]:
    """In a worker, when the last message has come."""
    while not heard["over"]:
        gevent.sleep(0.01)
    late = {part: sorted(values) for part, values in heard["late"].items()}
    return {**heard, "late": {part: values[int(len(values) * 0.99)] if values else 0 for part, values in late.items()}}


def _spilled(routing: Any, quarantined: list[Any], slot: int) -> int:
    return routing.router.spilled_bytes(slot)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="nothing is chosen here")
    given = parser.parse_args()
    wrong: list[str] = []
    with Cluster(4, spill_soft=SPILL_HARD, spill_hard=SPILL_HARD) as cluster:
        for slot in (*RECEIVERS, STOPPED):
            cluster.workers[slot].run(listen)
        sender, most = cluster.workers[1], 0
        sent = sender.run(send, given.rate, given.seconds / 2, 0, seconds=120)
        cluster.workers[STOPPED].signal(signal.SIGSTOP)
        sender.start(send, given.rate, given.seconds, 1)
        over = threading.Event()
        timer = threading.Timer(given.seconds, over.set)
        timer.start()
        while not over.wait(0.2):
            most = max(most, cluster.ask_router(_spilled, STOPPED))
        sent += sender.result(120)
        most = max(most, cluster.ask_router(_spilled, STOPPED))
        cluster.workers[STOPPED].signal(signal.SIGCONT)
        sent += sender.run(send, given.rate, 2.0, 2, seconds=120)
        sent += sender.run(send, 100, 0.1, 3, seconds=120)
        found = {slot: cluster.workers[slot].run(report, seconds=60) for slot in (*RECEIVERS, STOPPED)}
    slow = found[STOPPED]
    for slot in RECEIVERS:
        one = found[slot]
        wrong += one["wrong"]
        if one["missed"]:
            wrong.append(f"worker {slot}, which was not stopped, missed {one['missed']}")
        if one["late"][1] > max(2 * one["late"][0], FLOOR_NS):
            wrong.append(f"worker {slot}: 99 % within {one['late'][0]} ns before, {one['late'][1]} ns meanwhile")
    wrong += slow["wrong"]
    if slow["got"] + slow["missed"] != slow["last"]:
        wrong.append(f"got {slow['got']}, told of {slow['missed']}, of {slow['last']}")
    if not slow["missed"] and given.seconds >= 20:
        wrong.append("the bound was never reached")
    if most > SPILL_HARD:
        wrong.append(f"{most} bytes were kept")
    for what in wrong[:20]:
        print(f"WRONG {what}")
    before, meanwhile = (max(found[slot]["late"][part] for slot in RECEIVERS) / 1000 for part in (0, 1))
    print(
        f"FIGURES {sent:,} messages; others' p99 {before:.0f} us before, {meanwhile:.0f} us meanwhile; at most "
        f"{most:,} of {SPILL_HARD:,} bytes kept; the stopped one got {slow['got']:,} and was told of "
        f"{slow['missed']:,} missed, {slow['last']:,} in all"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
