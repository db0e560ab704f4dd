"""System calls per message when there is much to do, and wake-ups when there is nothing.

    python -m tests.chaos.calls [--messages 1000000] [--load 5] [--idle 10] [--seed N]

strace counts the calls of router and receivers while a sender never pauses, for `--load` seconds at least: at most 0.05
for each record and receiver, the sender's own among them.  Then two workers talk for as long, one thing at a time, by
channels and by alerts, with pauses that the seed chooses: whoever is not woken there is woken by nobody else.  Then a
server of two workers is left alone: at most 2 wake-ups a second of any process.  No wake-up came late in any, of a
worker or of the router.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent

from channels import alerts, channel_send, control, subscribe
from channels.worker import client as fabric
from tests.chaos.watch import Living
from tests.cluster import Cluster, wait_until
from tests.server import Server

RECEIVERS = (2, 3)
PER_RECORD = 0.05
PER_SECOND = 2.0
LOOKS = 2.0  # seconds in which each process has looked whether it has missed a call
LOST = "a call to the router was lost"
BODY = b"0123456789"
counted = [0]
lost: list[str] = []


def send(count: int) -> None:
    """In a worker."""
    for _ in range(count):
        channel_send("busy", BODY, timeout=None)


def listen() -> None:
    """In a worker: count what comes from now on."""
    ready = gevent.event.Event()

    def work() -> None:
        with subscribe("busy", maxlen=1 << 22) as mine:
            ready.set()
            while True:
                mine.wait(None)
                counted[0] += len(mine.drain())

    gevent.spawn(work)
    ready.wait()


def received() -> int:
    """Messages that came, and those that were told as missed: nobody waits for a receiver."""
    return counted[0] + counters()["missed"]


def counters() -> dict[str, int]:
    mine = fabric.current()
    return mine.segment.worker_counters(mine.endpoint.slot)


def answer() -> None:
    """In a worker: to every question, until the end."""
    ready = gevent.event.Event()

    def work() -> None:
        with subscribe("question") as mine:
            ready.set()
            while True:
                channel_send("answer", mine.get().data)

    alerts.receive("question", lambda data: data)
    gevent.spawn(work)
    ready.wait()


def talk(pid: int, seconds: float, seed: int) -> int:
    """In a worker: how many questions were answered in this time, one after the other."""
    chance, asked, end = random.Random(seed), 0, time.monotonic() + seconds
    with subscribe("answer") as mine:
        while time.monotonic() < end:
            gevent.sleep(chance.uniform(0, 0.0003))
            asked += 1
            if chance.random() < 0.5:
                assert alerts.call(pid, "question", b"%d" % asked, timeout=30) == b"%d" % asked
            else:
                channel_send("question", b"%d" % asked)
                assert mine.get(timeout=30).data == b"%d" % asked
    return asked


def collect_lost(_routing: object, _quarantined: object) -> None:
    """In the router, whose log tells of calls that it missed."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if LOST in record.getMessage():
                lost.append(record.getMessage())

    logging.getLogger("channels").addHandler(Collector())


def count_lost(_routing: object, _quarantined: object) -> int:
    return len(lost)


def count_late(cluster: Cluster, what: str, wrong: list[str]) -> int:
    """Calls that did not come, of workers and router, after each has looked."""
    time.sleep(LOOKS)
    late = sum(worker.run(counters)["late_wakeups"] for worker in cluster.workers.values())
    to_router = cluster.ask_router(count_lost)
    if late or to_router:
        wrong.append(f"{late} late wake-ups of workers and {to_router} of the router, {what}")
    return late + to_router


class Strace:
    """Counts the system calls of processes that run."""

    def __init__(self, pids: list[int], place: str) -> None:
        self._out = Path(place, "calls")
        self._child = subprocess.Popen(
            ["strace", "-c", "-f", "-o", str(self._out), *[word for pid in pids for word in ("-p", str(pid))]],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._child.stderr is not None
        for _ in pids:
            line = self._child.stderr.readline()
            assert "attached" in line, line

    def total(self) -> int:
        self._child.terminate()
        self._child.wait(30)
        text = self._out.read_text()
        found = re.search(r"^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)(?:\s+\d+)?\s+total$", text, re.M)
        print(text)
        assert found is not None, text
        return int(found[1])


def saturated(messages: int, seconds: float, wrong: list[str]) -> str:
    with Cluster(3) as cluster, tempfile.TemporaryDirectory() as place:
        for slot in RECEIVERS:
            cluster.workers[slot].run(listen)
        cluster.workers[1].run(send, 1000)
        assert cluster.router is not None
        cluster.ask_router(collect_lost)
        watch = Strace([cluster.router.pid, *(worker.pid for worker in cluster.workers.values())], place)
        began, sent = time.monotonic(), 0
        while sent == 0 or time.monotonic() - began < seconds:
            cluster.workers[1].run(send, messages, seconds=300)
            sent += messages
        for slot in RECEIVERS:
            wait_until(lambda slot=slot: cluster.workers[slot].run(received) == sent + 1000, 120)
        calls, took = watch.total(), time.monotonic() - began
        late = count_late(cluster, "under load", wrong)
    each = calls / sent / len(RECEIVERS)
    if each > PER_RECORD:
        wrong.append(f"{each:.3f} system calls for each record and receiver")
    return f"{sent:,} messages to {len(RECEIVERS)} in {took:.1f} s: {each:.4f} calls for each and receiver, {late} late"


def talking(seconds: float, seed: int, wrong: list[str]) -> str:
    with Cluster(2) as cluster:
        cluster.ask_router(collect_lost)
        cluster.workers[2].run(answer)
        asked = cluster.workers[1].run(talk, cluster.workers[2].pid, seconds, seed, seconds=seconds + 60)
        late = count_late(cluster, "in talking", wrong)
    if asked < 10 * seconds:
        wrong.append(f"only {asked} questions in {seconds:.0f} s")
    return f"{asked:,} questions and answers in {seconds:.0f} s, {late} late"


def switches(pid: int) -> int:
    """How often a process has gone to sleep and come back."""
    return sum(
        int(re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", status.read_text(), re.M)[0])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
    )


def idle(seconds: float, wrong: list[str]) -> str:
    with Server("tests.chaos.calls:app", workers=2) as server:
        with control.Conversation(server.control, {"do": "stats"}) as conversation:
            router = int(conversation.answer()["pid"])
        living = Living(server)
        pids = {"supervisor": server.pid, "router": router, **{f"worker {s}": p for s, p in living.workers.items()}}
        time.sleep(2)  # what starting left to do is done
        before = {who: switches(pid) for who, pid in pids.items()}
        time.sleep(seconds)
        rates = {who: (switches(pid) - before[who]) / seconds for who, pid in pids.items()}
        with control.Conversation(server.control, {"do": "stats"}) as conversation:
            found = conversation.answer()
        to_router = sum(LOST in line for line in server.lines)
    late = sum(each["counters"].get("late_wakeups", 0) for each in found["workers"])
    wrong += [f"{who} woke {rate:.1f} times a second" for who, rate in rates.items() if rate > PER_SECOND]
    if late or to_router:
        wrong.append(f"{late} late wake-ups of workers and {to_router} of the router, idle")
    return "idle, wake-ups a second: " + ", ".join(f"{who} {rate:.1f}" for who, rate in rates.items())


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--load", type=float, default=5)
    parser.add_argument("--idle", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    if shutil.which("strace") is None:
        print("strace is not installed")
        return 1
    wrong: list[str] = []
    figures = [
        saturated(given.messages, given.load, wrong),
        talking(given.load, given.seed, wrong),
        idle(given.idle, wrong),
    ]
    for what in wrong:
        print(f"WRONG {what}")
    print("FIGURES " + "; ".join(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
