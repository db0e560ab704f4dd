"""One worker with very many streams, and one whose client does not read."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import least_disturbed
from benchmarks.servers import Reader, ours

APP = "benchmarks.webapps.ours:app"
MANY, MESSAGES = 5000, 20  # streams; messages to all of them
WITHIN_MS, EACH_BYTES = 60.0, 10 * 1024
OTHERS, SERVERS, PAIRS = 100, 3, 4  # clients that read; pairs of servers; rounds of each pair
SIZE, GAP = 8192, 0.005  # bytes; seconds between two messages
BEHIND, COUNT = 900, 200  # messages: more than the kernel holds for one client; of a round
BUFFER, MARGIN = 256 * 1024, 64 * 1024  # bytes: stream_buffer; what else a stopped client may cost
HIGHER = 1.25  # p99 that counts as unchanged, in times of the one without

Rows = list[tuple[str, str, str, bool]]


def worker_of(master: subprocess.Popen[bytes]) -> int:
    """The process id of its only worker: the child with the most memory of its own."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text().split()
    return max(map(int, children), key=memory)


def memory(pid: int) -> int:
    """Bytes that only this process has."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(found) for found in re.findall(r"^Private_\w+: +(\d+) kB", text, re.M))


def many(reader: Path, shares: list[float]) -> tuple[Rows, list[str]]:
    """5,000 streams of one worker."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with ours(APP, 1) as (port, master):
        worker = worker_of(master)
        with Reader(reader, port, "/events", 50) as few:
            few.round(5, 0.01)
        before = memory(worker)
        with Reader(reader, port, "/events", MANY) as clients:
            after = memory(worker)
            took = []
            for _ in range(MESSAGES):
                clients.calm()
                share, found = least_disturbed(lambda: clients.round(1))
                took.append(found.most)
                shares.append(share)
    each = (after - before) / MANY
    median = statistics.median(took)
    print(f"{MANY:,} streams: {each:,.0f} bytes each; one message to all: {median:.1f} ms (most {max(took):.1f})")
    rows = [
        (
            f"one message to {MANY:,} streams of one worker",
            f"{median:.1f} ms",
            f"{WITHIN_MS:g} ms",
            median <= WITHIN_MS,
        ),
        ("memory of each of them", f"{each / 1024:.1f} KiB", f"{EACH_BYTES / 1024:g} KiB", each <= EACH_BYTES),
    ]
    text = (
        f"One worker with {MANY:,} streams: from publish until the last of them has the message, median of {MESSAGES} "
        f"messages {median:.1f} ms ({min(took):.1f} to {max(took):.1f}); {each:,.0f} bytes of the worker's own memory "
        "for each stream, the kernel's buffers not counted."
    )
    return rows, [text]


@contextlib.contextmanager
def client_that_stops(port: int) -> Iterator[None]:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(100)
        yield
        sock.settimeout(10)
        seen = b""
        while b"event: gap" not in seen:  # it was behind, and is told so
            seen = seen[-20:] + sock.recv(1 << 16)


def stopped(reader: Path, shares: list[float]) -> tuple[Rows, list[str]]:
    """A client that stops reading: what it costs its worker, and the others.  Two servers in turn, it is in one."""
    without: list[float] = []
    beside: list[float] = []
    grown = []
    for _ in range(SERVERS):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(ours(APP, 1)) for _ in range(2)]
            clients = [stack.enter_context(Reader(reader, port, "/events", OTHERS)) for port, _ in servers]
            for each in clients:
                each.round(BEHIND, GAP / 2, SIZE)  # what is measured is not the heap's first growth
                each.calm()
            port, master = servers[1]
            worker = worker_of(master)
            before = memory(worker)
            stack.enter_context(client_that_stops(port))
            clients[1].round(BEHIND, GAP, SIZE)
            clients[1].calm()
            grown.append(memory(worker) - before)
            for _ in range(PAIRS):
                for each, figures in zip(clients, (without, beside)):
                    share, found = least_disturbed(lambda each=each: each.round(COUNT, GAP, SIZE))  # type: ignore[misc]
                    each.calm()
                    figures.append(found.p99)
                    shares.append(share)
                print(
                    f"p99 without {without[-1]:.2f} ms, beside {beside[-1]:.2f} ms; grown {grown[-1] / 1024:,.0f} KiB"
                )
    most, ratio = max(grown), statistics.median(beside) / statistics.median(without)
    allowed = BUFFER + MARGIN
    sent = BEHIND * SIZE / 1e6
    rows = [
        (
            f"memory for a client that reads nothing of {sent:.0f} MB",
            f"{most / 1024:,.0f} KiB",
            f"{allowed // 1024} KiB: stream_buffer + 64",
            most <= allowed,
        ),
        ("the other clients' p99 beside it", f"{ratio:.2f} x", f"unchanged: {HIGHER:g} x", ratio <= HIGHER),
    ]
    text = (
        f"A client that stops reading, beside {OTHERS} that read, in one worker, {1 / GAP:.0f} messages of {SIZE:,} "
        f"bytes a second: the others' p99 is {statistics.median(beside):.2f} ms with it and "
        f"{statistics.median(without):.2f} without (medians of {len(beside)} rounds each, in turn); the worker's own "
        f"memory grew by at most {most / 1024:,.0f} KiB (median {statistics.median(grown) / 1024:,.0f}) while "
        f"{sent:.1f} MB were sent to it. It is told of its gap when it reads again."
    )
    return rows, [text]
