"""Greenlets killed in the middle, forks, signal handlers, blocked hubs: what applications do to a worker.

    python -m tests.chaos.greenlets [--share 1.0] [--seed N]

Each scene runs in a fabric of its own; what was sent must come once and in order, and nothing must stand still.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from typing import Any, Callable

import gevent
from gevent import monkey
from gevent.event import Event

from channels import alerts, channel_send, errors
from tests.chaos import forking
from tests.cluster import Cluster
from tests.worker import kept

RING = 64 << 10  # bytes, of senders that wait for room: so small that few find it
BODY = 4000
HUGE = {"maxlen": 1 << 22, "max_bytes": 1 << 31}
state: dict[str, Any] = {}


def open_own(name: str) -> None:
    """In a worker: a subscription that outlives the greenlets which wait on it."""
    kept.open_subscription("s", name, **HUGE)


def counted(numbers: list[int], count: int) -> str | None:
    return None if numbers == list(range(count)) else f"{len(numbers)} of {count}, or not in order"


def send_all(name: str, count: int, pause_every: int = 20) -> None:
    for number in range(count):
        channel_send(name, b"%d" % number, timeout=None)
        if number % pause_every == 0:
            gevent.sleep(0)


# ---- receivers that are killed, or run out of time ----


def take_and_be_killed(kills: int, count: int, seed: int) -> dict[str, Any]:
    chance = random.Random(seed)
    sub = kept.subscriptions["s"]
    got: list[int] = []

    def take() -> None:
        while True:
            message = sub.get()
            got.append(int(message.data))

    def take_in_time() -> None:
        with gevent.Timeout(chance.uniform(0, 0.0005), False):
            take()

    ended = 0
    while len(got) < count or ended < kills:
        if chance.random() < 0.5:
            greenlet = gevent.spawn(take)
            gevent.sleep(chance.choice([0, 0, 0.0002]))
            greenlet.kill()
        else:
            gevent.spawn(take_in_time).join()
        ended += 1
        if ended > 20 * kills:
            break
    return {"got": got, "ended": ended}


def receivers(share: float, seed: int) -> tuple[str, str | None]:
    kills, count = int(10_000 * share), int(20_000 * share)
    with Cluster(2) as cluster:
        cluster.workers[1].run(open_own, "room")
        cluster.workers[1].start(take_and_be_killed, kills, count, seed)
        cluster.workers[2].run(send_all, "room", count, seconds=120)
        found = cluster.workers[1].result(120)
    return f"{found['ended']:,} receivers killed or out of time, {count:,} messages", counted(found["got"], count)


# ---- senders that are killed while they wait for room ----


def fill() -> int:
    """In a worker whose router stands still: how many it takes until the ring is full."""
    number = 0
    while True:
        try:
            channel_send("room", b"%d:" % number + bytes(BODY), timeout=0)
        except errors.RingFull:
            return number
        number += 1


def send_and_be_killed(first: int, count: int, seed: int) -> list[int]:
    """In a worker whose router stands still most of the time; the numbers of which the send returned."""
    chance = random.Random(seed)
    body = bytes(BODY)
    sent: list[int] = []

    def work(mine: int) -> None:
        try:
            channel_send("room", b"%d:" % mine + body, timeout=chance.uniform(0, 0.01))
        except errors.RingFull:
            return
        sent.append(mine)

    def work_in_time(mine: int) -> None:
        with gevent.Timeout(chance.uniform(0, 0.01), False):
            channel_send("room", b"%d:" % mine + body, timeout=30)
            sent.append(mine)

    greenlets = []
    for number in range(first, first + count):
        greenlets.append(gevent.spawn(chance.choice([work, work_in_time]), number))
        gevent.sleep(chance.choice([0, 0, 0, 0.0005]))
        if chance.random() < 0.5:
            greenlets[-chance.randint(1, min(10, len(greenlets)))].kill()
    gevent.joinall(greenlets)
    return sent


def senders(share: float, seed: int) -> tuple[str, str | None]:
    chance, count, over = random.Random(seed), max(int(2000 * share), 300), threading.Event()
    with Cluster(2, ring_size=RING) as cluster:
        cluster.workers[1].run(open_own, "room")
        cluster.workers[1].run(kept.flush)
        router = cluster.router
        assert router is not None
        router.signal(signal.SIGSTOP)
        full = cluster.workers[2].run(fill)
        cluster.workers[2].start(send_and_be_killed, full, count, seed)

        def go_and_stop() -> None:
            while not over.wait(chance.uniform(0, 0.02)):
                router.signal(signal.SIGCONT)
                over.wait(chance.uniform(0, 0.001))
                router.signal(signal.SIGSTOP)
            router.signal(signal.SIGCONT)

        thread = threading.Thread(target=go_and_stop)
        thread.start()
        try:
            sent = [*range(full), *cluster.workers[2].result(120)]
        finally:
            over.set()
            thread.join()
        cluster.workers[2].run(kept.flush)
        cluster.workers[1].run(kept.flush)
        got = [int(body.partition(b":")[0]) for body in cluster.workers[1].run(kept.waiting, "s")]
    wrong = None if got == sent else f"sent {len(sent)}, got {len(got)}: {sorted(set(got) ^ set(sent))[:10]}"
    after = len(sent) - full
    if not 0 < after < count:
        wrong = wrong or f"{after} of {count} found room: there was no race for it"
    return f"{count:,} senders killed or out of time, {after:,} sent when {full} had filled the ring", wrong


# ---- processes of the application's own, under load ----


def fork_often(rounds: int) -> list[int]:
    """In a worker: statuses of children of every kind."""
    found = []
    for _ in range(rounds):
        found += [way("room") for way in forking.WAYS]
        found.append(forking.by_multiprocessing("room", "spawn"))
    state["over"] = True
    return found


def send_until_over() -> int:
    number = 0
    while not state.get("over"):
        channel_send("room", b"%d" % number, timeout=None)
        number += 1
        gevent.sleep(0.0005)
    return number


def forks(share: float, seed: int) -> tuple[str, str | None]:
    rounds = max(1, int(20 * share))
    with Cluster(2, monkey=True) as cluster:
        cluster.workers[2].run(open_own, "room")
        cluster.workers[1].start(send_until_over)
        cluster.workers[1].start(fork_often, rounds)
        results = [cluster.workers[1].result(120), cluster.workers[1].result(120)]
        statuses = next(result for result in results if isinstance(result, list))
        count = next(result for result in results if isinstance(result, int))
        got = [int(body) for body in cluster.workers[2].run(kept.bodies, "s", count)]
        quarantined = cluster.quarantined()
    wrong = counted(got, count)
    if any(statuses) or quarantined:
        wrong = f"children ended with {statuses}, quarantined: {quarantined}"
    return f"{len(statuses)} processes forked and spawned under {count:,} messages", wrong


# ---- signal handlers ----


def send_from_handlers(count: int) -> int:
    """In a worker: a handler sends, in whatever the loop and the sender are doing."""
    number, inside = [0], [False]
    over = Event()

    def handler(*_: object) -> None:
        if inside[0]:  # the next signal came while this one was answered
            return
        inside[0] = True
        if number[0] < count:
            channel_send("room", b"h%d" % number[0])
            number[0] += 1
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)
            state["over"] = True
        inside[0] = False

    monkey.get_original("signal", "signal")(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    sent = 0
    while not state.get("over"):
        channel_send("room", b"g%d" % sent)
        sent += 1
        over.wait(0.0001)
    return sent


def handlers(share: float, seed: int) -> tuple[str, str | None]:
    count = int(5000 * share)
    with Cluster(2) as cluster:
        cluster.workers[1].run(open_own, "room")
        others = cluster.workers[2].run(send_from_handlers, count, seconds=120)
        got = cluster.workers[1].run(kept.bodies, "s", count + others)
    wrong = counted([int(body[1:]) for body in got if body[:1] == b"h"], count)
    wrong = wrong or counted([int(body[1:]) for body in got if body[:1] == b"g"], others)
    return f"{count:,} sent by a signal handler, {others:,} beside it", wrong


# ---- hubs that do not turn ----


def block(seconds: float) -> None:
    """In a worker: no greenlet runs."""
    monkey.get_original("time", "sleep")(seconds)


def blocked(share: float, seed: int) -> tuple[str, str | None]:
    count, seconds = int(30_000 * share), 3.0 * min(1.0, share * 4)
    with Cluster(3) as cluster:
        for slot in (1, 2):
            cluster.workers[slot].run(open_own, "room")
        cluster.workers[1].start(block, seconds)
        cluster.workers[3].start(send_all, "room", count)
        wrong = counted([int(body) for body in cluster.workers[2].run(kept.bodies, "s", count, seconds=60)], count)
        cluster.workers[3].result(60)
        cluster.workers[1].result(60)
        got = [int(body) for body in cluster.workers[1].run(kept.bodies, "s", count, seconds=60)]
    return f"a hub blocked for {seconds:.1f} s under {count:,} messages", wrong or counted(got, count)


# ---- both directions full ----


def flood(pid: int, count: int) -> list[int]:
    """In a worker: to the other, who does the same; what came here, when all has."""
    got: list[int] = []
    alerts.receive("flood", lambda data: got.append(int(data.partition(b":")[0])))
    gevent.sleep(0.2)  # the other has its handler too
    for number in range(count):
        alerts.send(pid, "flood", b"%d:" % number + bytes(2000), timeout=60)
    deadline = time.monotonic() + 60
    while len(got) < count and time.monotonic() < deadline:
        gevent.sleep(0.01)
    return got


def both_ways(share: float, seed: int) -> tuple[str, str | None]:
    count = int(50_000 * share)
    with Cluster(2, alert_queue_length=1 << 20, alert_queue_bytes=1 << 33) as cluster:
        one, other = cluster.workers[1], cluster.workers[2]
        one.start(flood, other.pid, count)
        other.start(flood, one.pid, count)
        wrong = counted(one.result(120), count) or counted(other.result(120), count)
    return f"{count:,} alerts of 2 KB each way at once", wrong


def ping(pid: int, rounds: int) -> int:
    """In a worker: handlers that answer with alerts, call upon call."""
    return sum(len(alerts.call(pid, "pong", b"x" * (number % 100), timeout=30)) for number in range(rounds))


def answer() -> None:
    alerts.receive("pong", lambda data: data + b"!")


def ping_pong(share: float, seed: int) -> tuple[str, str | None]:
    rounds = int(20_000 * share)
    with Cluster(2) as cluster:
        one, other = cluster.workers[1], cluster.workers[2]
        one.run(answer)
        other.run(answer)
        one.start(ping, other.pid, rounds)
        other.start(ping, one.pid, rounds)
        wanted = sum(number % 100 + 1 for number in range(rounds))
        found = [one.result(120), other.result(120)]
    return f"{rounds:,} calls each way at once", None if found == [wanted] * 2 else f"answers of {found} bytes"


SCENES: tuple[Callable[[float, int], tuple[str, str | None]], ...] = (
    receivers,
    senders,
    forks,
    handlers,
    blocked,
    both_ways,
    ping_pong,
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    failed = 0
    for scene in SCENES:
        began = time.monotonic()
        figure, wrong = scene(given.share, given.seed)
        failed += wrong is not None
        print(f"FIGURES {figure}", flush=True)
        print(f"{scene.__name__}: {time.monotonic() - began:.1f} s{f', WRONG {wrong}' if wrong else ''}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
