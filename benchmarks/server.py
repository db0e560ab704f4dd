"""The server's figures beside gunicorn's gevent worker: `python -m benchmarks.server [--quick] [--only WORDS]`.

The two run in turn, again and again, in the same minutes on the same machine, both with an access log; what is compared
is the median.  Needs wrk.  Writes docs/benchmarks/server.md when everything was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from typing import Any, Callable

from benchmarks.report import DIRECTORY, OURS, processor
from benchmarks.rigs import Asker, Clients, Rig, many_descriptors

PEER = "gunicorn"
SERVERS = (OURS, PEER)
REPEATS = 5
SECONDS = 4  # that wrk runs
CONNECTIONS = 50
STREAMS = 400
BURST = 100
WORKERS = 4
MANY = 2000  # connections, or streams, whose memory is measured
WARM = 200
SHORT = 400  # short requests beside the long ones

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclasses.dataclass
class Row:
    """A line of the table."""

    what: str
    ours: str
    theirs: str
    required: str = ""
    reached: bool | None = None

    def cells(self) -> list[str]:
        verdict = "" if self.reached is None else "reached" if self.reached else "**missed**"
        return [self.what, self.ours, self.theirs, self.required, verdict]


def parse_wrk(text: str) -> tuple[float, float]:
    """(requests per second, 99th percentile in seconds) of what wrk prints.  RuntimeError if anything failed."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    tail = re.search(r"\s99%\s+([\d.]+)(us|ms|s|m)\s", text)
    if rate is None or tail is None or "Socket errors" in text or "Non-2xx" in text:
        raise RuntimeError(f"wrk says:\n{text}")
    return float(rate[1]), float(tail[1]) * _UNITS[tail[2]]


def wrk(url: str, seconds: int) -> tuple[float, float]:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--latency", url]
    return parse_wrk(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """The median, and in brackets the least and the most."""
    return f"{form(statistics.median(values))} ({form(min(values))} to {form(max(values))})"


def rate(value: float) -> str:
    return f"{value:,.0f}/s"


def milliseconds(value: float) -> str:
    return f"{value * 1e3:.1f} ms"


def kibibytes(value: float) -> str:
    return f"{value / 1024:.1f} KiB"


def throughput(app: str, title: str, must: float, repeats: int, seconds: int) -> list[Row]:
    """Requests per second and their 99th percentile, one worker."""
    rates: dict[str, list[float]] = {name: [] for name in SERVERS}
    tails: dict[str, list[float]] = {name: [] for name in SERVERS}
    rigs = {name: Rig(name, app) for name in SERVERS}
    try:
        for name in SERVERS:
            wrk(rigs[name].url, 1)
        for _ in range(repeats):
            for name in SERVERS:
                found, tail = wrk(rigs[name].url, seconds)
                rates[name].append(found)
                tails[name].append(tail)
        for name in SERVERS:
            lines = rigs[name].log.read_bytes().count(b"\n")
            if lines < sum(rates[name]) * seconds * 0.9:
                raise RuntimeError(f"{name} has logged {lines} requests only")
    finally:
        for rig in rigs.values():
            rig.close()
    times = statistics.median(rates[OURS]) / statistics.median(rates[PEER])
    ours, theirs = statistics.median(tails[OURS]), statistics.median(tails[PEER])
    return [
        Row(
            f"{title}: requests",
            f"{spread(rates[OURS], rate)}, **{times:.2f} x**",
            spread(rates[PEER], rate),
            f"{must:g} x",
            times >= must,
        ),
        Row(
            f"{title}: p99",
            spread(tails[OURS], milliseconds),
            spread(tails[PEER], milliseconds),
            "not more than the other's",
            ours <= theirs,
        ),
    ]


def unevenness(counts: list[int]) -> float:
    return max(counts) / min(counts) if min(counts) else float("inf")


def balance(at_once: int, title: str) -> list[Row]:
    """How long streams spread over the workers, and who takes those that come after one worker's have gone."""
    shown: dict[str, tuple[str, float, int]] = {}
    for name in SERVERS:
        rig = Rig(name, "mixed", WORKERS)
        clients = Clients(rig.address)
        try:
            clients.open("/stream", STREAMS, at_once)
            counts = sorted(clients.counts(rig.pids))
            fullest = max(rig.pids, key=lambda pid: len(clients.by_pid.get(pid, [])))
            clients.close(fullest)
            time.sleep(3.0)  # each server has written to them, and knows
            back = clients.open("/stream", BURST, at_once)[fullest]
            shown[name] = ("/".join(map(str, counts)), unevenness(counts), back)
        finally:
            clients.close()
            rig.close()
    even, back = shown[OURS][1], shown[OURS][2]
    return [
        Row(
            f"{STREAMS} streams on {WORKERS} workers, {title}",
            f"{shown[OURS][0]}, fullest/emptiest {even:.2f}",
            f"{shown[PEER][0]}, {shown[PEER][1]:.3g}",
            "1.1",
            even <= 1.1,
        ),
        Row(f"the fullest's closed, {BURST} new ones {title}: to it", f"{back}", f"{shown[PEER][2]}", "80", back >= 80),
    ]


def _burn_for_ever(address: tuple[str, int], keep: bool) -> None:
    client = Asker(address, keep)
    while True:
        client.ask("/burn")


def _short(address: tuple[str, int], keep: bool, count: int, pause: float, found: Any) -> None:
    times = []
    client = Asker(address, keep)
    for _ in range(count):
        time.sleep(pause)
        begun = time.perf_counter()
        client.ask("/")
        times.append(time.perf_counter() - begun)
    found.put(times)


def beside_long(keep: bool, repeats: int) -> list[Row]:
    """Short requests of two clients while two others keep 20 ms of CPU running."""
    context = multiprocessing.get_context("fork")
    tails: dict[str, list[float]] = {name: [] for name in SERVERS}
    for _ in range(repeats):
        for name in SERVERS:
            rig = Rig(name, "mixed", WORKERS)
            found = context.Queue()
            long = [context.Process(target=_burn_for_ever, args=(rig.address, keep)) for _ in range(2)]
            short = [context.Process(target=_short, args=(rig.address, keep, SHORT, 0.004, found)) for _ in range(2)]
            try:
                for process in [*long, *short]:
                    process.start()
                times = sorted(found.get(timeout=60) + found.get(timeout=60))
                tails[name].append(times[len(times) * 95 // 100])
            finally:
                for process in [*long, *short]:
                    process.kill()
                    process.join()
                rig.close()
    ours = statistics.median(tails[OURS])
    how = "connections kept" if keep else "a connection each"
    return [
        Row(
            f"short request beside 20 ms of CPU, {how}: p95",
            spread(tails[OURS], milliseconds),
            spread(tails[PEER], milliseconds),
            "10 ms",
            ours <= 0.010,
        )
    ]


def memory(path: str, title: str, servers: tuple[str, ...], must: bool = True) -> list[Row]:
    """What each of many costs the worker."""
    shown: dict[str, tuple[float, float]] = {}
    for name in servers:
        rig = Rig(name, "mixed")
        clients = Clients(rig.address)
        try:
            clients.open(path, WARM, WARM)
            before = rig.memory()
            clients.open(path, MANY, BURST)
            time.sleep(1.0)
            after = rig.memory()
            shown[name] = ((after[0] - before[0]) / MANY, (after[1] - before[1]) / MANY)
        finally:
            clients.close()
            rig.close()
    words = {name: f"RSS {kibibytes(rss)}, PSS {kibibytes(pss)}" for name, (rss, pss) in shown.items()}
    return [
        Row(
            f"memory of {title}, {MANY:,} of them: each",
            words[OURS],
            words.get(PEER, ""),
            "10 KiB" if must else "",
            max(shown[OURS]) <= 10 * 1024 if must else None,
        )
    ]


def cases(repeats: int, seconds: int) -> list[tuple[str, Callable[[], list[Row]]]]:
    """(name, what measures it), in the order of the table."""
    few = min(repeats, 3)
    return [
        ("plain", lambda: throughput("plain", "plain WSGI", 3.5, repeats, seconds)),
        ("flask", lambda: throughput("small", "Flask", 1.6, repeats, seconds)),
        ("balance", lambda: balance(1, "one by one")),
        ("balance", lambda: balance(BURST, f"{BURST} at once")),
        ("short", lambda: beside_long(True, few)),
        ("short", lambda: beside_long(False, few)),
        ("memory", lambda: memory("/", "an idle keep-alive connection", SERVERS)),
        ("memory", lambda: memory("/stream", "a stream with a greenlet of the application", SERVERS)),
        ("memory", lambda: memory("/sse", "a stream of events of ours", (OURS,))),
    ]


def table(rows: list[Row]) -> list[str]:
    """As Markdown."""
    found = ["| work | channels | gunicorn, gevent | required | |", "|---|---|---|---|---|"]
    return found + [f"| {' | '.join(row.cells())} |" for row in rows]


def write(rows: list[Row], repeats: int, seconds: float) -> None:
    """docs/benchmarks/server.md."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    text = [
        "# The server beside gunicorn's gevent worker",
        "",
        f"Written by `make bench-server` on {processor()}, {os.cpu_count()} processors, Linux {platform.release()}, "
        f"Python {platform.python_version()}, in {seconds / 60:.0f} minutes. Only ratios mean something on another "
        "machine.",
        "",
        *table(rows),
        "",
        f"- *Requests*: wrk, one thread, {CONNECTIONS} keep-alive connections, {SECONDS} s, one worker each, an "
        f"access log in a file for both; medians of {repeats} runs, in brackets the least and the most; the two "
        "servers run in turn. Every answer was a 2xx and is in the log.",
        "- *Streams*: an application's generator that yields every 500 ms. Counted by the process that serves each.",
        f"- *Short requests*: {WORKERS} workers; two clients keep 20 ms of CPU running, two ask for a short answer, "
        "each in a process of its own, on the same processors.",
        f"- *Memory*: of the worker, after {WARM} of the same kind before. What the kernel keeps is not in it. Of a "
        "stream with a greenlet about 7 KiB are CPython's and greenlet's own: a page of frames, and the stack that is "
        "put aside.",
    ]
    (DIRECTORY / "server.md").write_text("\n".join(text) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.server")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs; nothing is written")
    parser.add_argument("--only", metavar="WORDS", help="cases whose name contains this; nothing is written")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    many_descriptors()
    begun = time.monotonic()
    repeats, seconds = (3, 2) if given.quick else (given.repeats, SECONDS)
    rows: list[Row] = []
    for name, measure in cases(repeats, seconds):
        if given.only and given.only not in name:
            continue
        found = measure()
        rows += found
        for row in found:
            print(" | ".join(row.cells()), flush=True)
    if not given.only and not given.quick:
        write(rows, repeats, time.monotonic() - begun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
