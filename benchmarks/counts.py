"""What can be counted rather than timed: instructions of one operation, its time alone, wake-ups of an idle server."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import gevent

ROOT = Path(__file__).parent.parent
CORE = ROOT / "channels" / "core"
BATCHES = 20_000  # of 16 records
CALLS = 2000  # channel_send in one burst: fewer than a ring holds
IDLE = 10.0  # seconds
PORT = 20210


def _instructions(program: str, batches: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, str(batches)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stderr
    found = re.search(r"Collected\s*:\s*(\d+)", text)
    assert found is not None, text
    return int(found.group(1))


def record() -> float | None:
    """Instructions for a record put, taken and notified once in 16, in the C core; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/instructions"
        sources = [str(ROOT / "benchmarks" / "instructions.c"), str(CORE / "ring.c"), str(CORE / "notify.c")]
        subprocess.run(["cc", "-std=gnu11", "-O2", f"-I{CORE}", "-o", program, *sources], check=True, timeout=120)
        once, twice = (_instructions(program, batches) for batches in (BATCHES, 2 * BATCHES))
        return (twice - once) / (16 * BATCHES)


def calls(repeats: int) -> dict[str, tuple[float, float, float]]:
    """Seconds of one call each, for 10 bytes: (median, least, most) of bursts.

    "send": channel_send.  "take": a message that waits in the subscription.  "drain": one that still lies in the ring,
    so that iterating first brings it into the subscription.
    """
    from benchmarks.peers.fabric import Fabric

    def measure() -> list[tuple[float, float, float]]:
        from channels import channel_send, subscribe

        body, found = b"0123456789", []
        with subscribe("calls", maxlen=2 * CALLS) as subscription:
            for _ in range(repeats):
                begun = time.perf_counter()
                for _ in range(CALLS):
                    channel_send("calls", body)
                sent = time.perf_counter()
                deadline = sent + 10
                while subscription.pending < CALLS and time.perf_counter() < deadline:
                    gevent.sleep(0.001)  # the hub brings them here
                taking = time.perf_counter()
                for _ in islice(subscription, CALLS):
                    pass
                taken = time.perf_counter()
                for _ in range(CALLS):
                    channel_send("calls", body)
                time.sleep(0.02)  # blocks the loop on purpose: routed, and not yet drained
                draining = time.perf_counter()
                for _ in islice(subscription, CALLS):
                    pass
                end = time.perf_counter()
                assert subscription.pending == 0
                found.append(((sent - begun) / CALLS, (taken - taking) / CALLS, (end - draining) / CALLS))
        return found

    found = Fabric().play([measure], [])[0]
    return {
        name: (statistics.median(values), min(values), max(values))
        for name, values in zip(("send", "take", "drain"), zip(*found))
    }


def _switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.M).group(1))  # type: ignore[union-attr]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def idle(seconds: float = IDLE) -> dict[str, float]:
    """Wake-ups a second of each process of a server with two workers that nobody talks to."""
    command = [sys.executable, "-m", "channels", "benchmarks.counts:application"]
    command += ["--bind", f"127.0.0.1:{PORT}", "--workers", "2"]
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as directory:
        command += ["--control-socket", f"{directory}/control"]
        server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while len(_children(server.pid)) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(3.0)  # what belongs to the start is over
            processes = {"supervisor": server.pid}
            for number, pid in enumerate(sorted(_children(server.pid))):
                processes["router" if number == 0 else f"worker {number}"] = pid
            before = {name: _switches(pid) for name, pid in processes.items()}
            time.sleep(seconds)
            return {name: (_switches(pid) - before[name]) / seconds for name, pid in processes.items()}
        finally:
            server.terminate()
            server.wait(timeout=30)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """For the idle server."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"idle\n"]
