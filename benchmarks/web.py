"""Event streams through whole servers: from a request that publishes to 400 clients of 4 workers.

    python -m benchmarks.web [--clients 400] [--repeat 5] [--only NAME] [--write]

Two figures of each: deliveries per second while 200 messages are published one after the other as fast as a request
can, and the time from publish to arrival while 25 a second are.  One process, in C, is all the clients; ways take turns
within a repetition; medians of the repetitions.  Every client must get every message, once and in order, or the run
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import crowd
from benchmarks.machine import DISTURBED, ROOT, free_port, least_disturbed, processor
from benchmarks.servers import Reader, compile_reader, process, redis

PAGE = ROOT / "docs" / "benchmarks" / "web.md"
GUNICORN = (sys.executable, "-m", "gunicorn", "-k", "gevent")
WAYS = {  # name: what it is, application, path, against which it must be how many times better
    "ours": ("this server, Flask, `ch.sse()`", "benchmarks.webapps.ours:app", "/events"),
    "ours, own": (
        "this server, a filter for each client, so that each takes a greenlet of its own",
        "benchmarks.webapps.ours:app",
        "/own",
    ),
    "tuned": (
        "gunicorn with gevent, one Redis subscription for each worker, frames built once, a queue for each client",
        "benchmarks.webapps.tuned_redis:app",
        "/events",
    ),
    "flask-sse": ("gunicorn with gevent, Flask-SSE, Redis", "benchmarks.webapps.flask_sse_redis:app", "/events"),
    "uwsgi": ("uWSGI with gevent, Flask-SSE, Redis", "benchmarks.webapps.flask_sse_redis:app", "/events"),
}
JOINED = (
    "Of messages at once those that wait for the same client leave in one call with ours and the tuned one: that, more "
    "than the way of each message, makes the first column. In the other two each message leaves alone."
)
PEER, TIMES = "flask-sse", 5
PATIENCE = 180.0  # seconds for trying again what was disturbed
BURST, STEADY, RATE = 200, 50, 25  # messages; messages; messages a second

Figures = dict[str, list[tuple[float, float, float]]]


def uwsgi() -> str | None:
    """Its program: beside this Python, or in the path."""
    return shutil.which("uwsgi", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def command(way: str, app: str, port: int, workers: int) -> list[str]:
    address = f"127.0.0.1:{port}"
    if way == "uwsgi":
        prefix = (str(uwsgi()), "--master", "--http-socket", address, "--processes", str(workers))
        home = ("--virtualenv", sys.prefix) if sys.prefix != sys.base_prefix else ()
        rest = ("--gevent", "500", "--gevent-monkey-patch", "--disable-logging", "--listen", "128", "--need-app")
        return [*prefix, *rest, *home, "--module", app]
    server = (sys.executable, "-m", "channels") if way.startswith("ours") else GUNICORN
    return [*server, app, "--bind", address, "--workers", str(workers)]


def measure(reader: Path, port: int, path: str, count: int) -> tuple[float, float, float]:
    """(deliveries per second, p50 and p99 of latency in milliseconds)."""
    with Reader(reader, port, path, count) as clients:
        clients.round(5, 0.01)
        clients.calm()
        burst = clients.round(BURST)
        clients.calm()
        steady = clients.round(STEADY, 1 / RATE)
    time.sleep(0.5)  # until the server has seen them go
    return burst.events / burst.seconds, steady.p50, steady.p99


def run(reader: Path, ways: list[str], given: argparse.Namespace, shares: list[float]) -> Figures:
    figures: Figures = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        environment = {}
        if any(not way.startswith("ours") for way in ways):
            environment["BENCHMARK_REDIS"] = stack.enter_context(redis())
        ports: dict[str, int] = {}
        for way in ways:
            if way == "ours, own" and "ours" in ports:
                ports[way] = ports["ours"]
                continue
            ports[way] = port = free_port()
            stack.enter_context(process(*command(way, WAYS[way][1], port, given.workers), port=port, **environment))
        patient_until = time.monotonic() + PATIENCE
        for turn in range(given.repeat):
            for way in ways:
                once = functools.partial(measure, reader, ports[way], WAYS[way][2], given.clients)
                tries = 3 if time.monotonic() < patient_until else 1
                share, (speed, middle, high) = least_disturbed(once, tries)
                figures[way].append((speed, middle, high))
                shares.append(share)
                print(
                    f"{turn + 1} {way:<10} {speed:>10,.0f}/s   p50 {middle:.2f} ms   p99 {high:.2f} ms   "
                    f"others {share:.2f}",
                    flush=True,
                )
    return figures


def table(figures: Figures, given: argparse.Namespace) -> list[str]:
    """What each way did."""
    lines = [
        f"{given.clients} clients of {given.workers} workers, {given.repeat} repetitions: medians (least to most).",
        "",
        f"| way | deliveries/s, {BURST} messages at once | p50, {RATE} messages/s | p99 |",
        "|---|---|---|---|",
    ]
    for way, rows in figures.items():
        cells = []
        for index, pattern in enumerate(("{:,.0f}", "{:.2f} ms", "{:.2f} ms")):
            values = sorted(row[index] for row in rows)
            shown = [pattern.format(value) for value in (statistics.median(values), values[0], values[-1])]
            cells.append(f"{shown[0]} ({shown[1]} to {shown[2]})")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["", JOINED]
    if "uwsgi" not in figures:
        lines += ["", "uWSGI was not there (`pip install uwsgi` builds it)."]
    return lines


def required(figures: Figures) -> list[tuple[str, str, str, bool]]:
    """(what, measured, required, whether it is reached)."""
    if not {"ours", PEER} <= set(figures):
        return []

    def median(way: str, index: int) -> float:
        return statistics.median(row[index] for row in figures[way])

    speed = median("ours", 0) / median(PEER, 0)
    p99 = median(PEER, 2) / median("ours", 2)
    return [
        ("deliveries/s", f"{speed:.1f} x {PEER}", f"{TIMES} x", speed >= TIMES),
        ("p99 from publish to arrival", f"{p99:.1f} x better than {PEER}", f"{TIMES} x", p99 >= TIMES),
    ]


def main() -> None:
    options = argparse.ArgumentParser(description="Event streams through whole servers.")
    options.add_argument("--clients", type=int, default=400)
    options.add_argument("--workers", type=int, default=4)
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--only", action="append", choices=[*WAYS, "crowd", "stopped"])
    options.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = options.parse_args()
    began = time.monotonic()
    chosen = given.only or [*WAYS, "crowd", "stopped"]
    ways = [way for way in WAYS if way in chosen and (way != "uwsgi" or uwsgi())]
    with tempfile.TemporaryDirectory() as directory:
        reader = compile_reader(directory)
        shares: list[float] = []
        figures = run(reader, ways, given, shares) if ways else {}
        rows, pages = required(figures), [table(figures, given)] if figures else []
        for part in (crowd.many, crowd.stopped):
            if part.__name__ in chosen or (part is crowd.many and "crowd" in chosen):
                more, page = part(reader, shares)
                rows += more
                pages.append(page)
    text = page_of(rows, pages, shares, time.monotonic() - began)
    print("\n" + text)
    if given.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)


def page_of(rows: list[tuple[str, str, str, bool]], parts: list[list[str]], shares: list[float], seconds: float) -> str:
    lines = [
        "# Event streams through whole servers",
        "",
        f"Written by `make bench-web` on {processor()}, {os.cpu_count()} processors (servers, publisher and all "
        f"clients together), Linux {platform.release()}, Python {platform.python_version()}, in {seconds / 60:.0f} "
        "minutes. Ways take turns within a repetition. One process in C is all the clients; it checks that each gets "
        "every message, once and in order, or the run fails. Only ratios mean something on another machine.",
        "",
        "| what | measured | required | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {what} | {got} | {wanted} | {'reached' if ok else '**missed**'} |" for what, got, wanted, ok in rows]
    for part in parts:
        lines += ["", *part]
    lines += [
        "",
        f"A figure during which other programs took more than {DISTURBED} of a processor was taken again, up to three "
        f"times and while there was time; half were disturbed by less than {statistics.median(shares):.2f}, the "
        f"worst by {max(shares):.2f}.",
        "",
        "## The ways",
        "",
    ]
    lines += [f"- **{way}**: {what}." for way, (what, _, _) in WAYS.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
