"""System calls per message when there is much to do, and wake-ups when there is nothing.

    python -m tests.chaos.calls [--messages 1000000] [--idle 10] [--seed N]

strace counts the calls of router and receivers while a sender never pauses: at most 0.05 for each record and receiver,
the sender's own among them.  Then a server of two workers is left alone: at most 2 wake-ups a second of any process.
No wake-up came late in either.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent

from channels import channel_send, control, subscribe
from channels.worker import client as fabric
from tests.chaos.watch import Living
from tests.cluster import Cluster, wait_until
from tests.server import Server

RECEIVERS = (2, 3)
PER_RECORD = 0.05
PER_SECOND = 2.0
BODY = b"0123456789"
counted = [0]


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
    return counted[0]


def counters() -> dict[str, int]:
    mine = fabric.current()
    return mine.segment.worker_counters(mine.endpoint.slot)


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


def saturated(messages: int, wrong: list[str]) -> str:
    with Cluster(3) as cluster, tempfile.TemporaryDirectory() as place:
        for slot in RECEIVERS:
            cluster.workers[slot].run(listen)
        cluster.workers[1].run(send, 1000)
        assert cluster.router is not None
        watch = Strace([cluster.router.pid, *(worker.pid for worker in cluster.workers.values())], place)
        began = time.monotonic()
        cluster.workers[1].run(send, messages, seconds=300)
        for slot in RECEIVERS:
            wait_until(lambda slot=slot: cluster.workers[slot].run(received) == messages + 1000, 120)
        calls, took = watch.total(), time.monotonic() - began
        late = sum(cluster.workers[slot].run(counters)["late_wakeups"] for slot in cluster.workers)
    each = calls / messages / len(RECEIVERS)
    if each > PER_RECORD:
        wrong.append(f"{each:.3f} system calls for each record and receiver")
    if late:
        wrong.append(f"{late} late wake-ups")
    figure = f"{messages:,} messages to {len(RECEIVERS)} in {took:.0f} s: {each:.4f} calls for each and receiver"
    return f"{figure}, {late} late"


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
    late = sum(each["counters"].get("late_wakeups", 0) for each in found["workers"])
    wrong += [f"{who} woke {rate:.1f} times a second" for who, rate in rates.items() if rate > PER_SECOND]
    if late:
        wrong.append(f"{late} late wake-ups")
    return "idle, wake-ups a second: " + ", ".join(f"{who} {rate:.1f}" for who, rate in rates.items())


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--idle", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="nothing is chosen here")
    given = parser.parse_args()
    if shutil.which("strace") is None:
        print("strace is not installed")
        return 1
    wrong: list[str] = []
    figures = [saturated(given.messages, wrong), idle(given.idle, wrong)]
    for what in wrong:
        print(f"WRONG {what}")
    print("FIGURES " + "; ".join(figures))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
