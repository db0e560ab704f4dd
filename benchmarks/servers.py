"""Whole servers for benchmarks, and the process that is all of their clients (benchmarks/reader.c)."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.machine import ROOT, free_port

DEADLINE = 120.0  # seconds


@contextlib.contextmanager
def process(*arguments: str, port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on the port when the block begins."""
    started = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(arguments)} does not start")
            time.sleep(0.05)
        time.sleep(2)  # so that every worker has imported the application
        yield started
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(5)
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(60)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """The URL of a Redis of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [
            shutil.which("redis-server") or "redis-server",
            "--port",
            str(port),
            "--save",
            "",
            "--dir",
            directory,
        ]
        with process(*command, port=port):
            yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def ours(app: str, workers: int, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """This server: its port, and its process."""
    port = free_port()
    bind = ("--bind", f"127.0.0.1:{port}", "--workers", str(workers))
    with process(sys.executable, "-m", "channels", app, *bind, *options, port=port) as started:
        yield port, started


def publish(port: int, count: int, gap: float = 0.0, size: int = 0) -> None:
    """So many messages by one request, with pauses of `gap` seconds, each of at least `size` bytes."""
    url = f"http://127.0.0.1:{port}/burst?count={count}&gap={gap}&size={size}"
    urlopen(Request(url, b""), timeout=DEADLINE).read()


@dataclass
class Round:
    """What came of so many messages."""

    events: int
    seconds: float  # from the first publish to the last arrival
    least: float  # milliseconds from publish to arrival
    p50: float
    p99: float
    most: float


class Reader:
    """So many open streams, read and checked by a process that does nothing else."""

    def __init__(self, program: Path, port: int, path: str, clients: int) -> None:
        self.port, self.clients = port, clients
        command = [str(program), "127.0.0.1", str(port), path, str(clients)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()
        self.warm()

    def warm(self) -> None:
        """Until everyone has joined: some servers answer with the first message only."""
        self._say("any 60")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            publish(self.port, 1)
            if self._ready(0.1):
                break
        if self._answer() != "0":
            raise RuntimeError("not every client gets messages")
        self.calm()

    def calm(self) -> None:
        self._say("calm 0.3")
        self._answer()

    def round(self, count: int, gap: float = 0.0, size: int = 0) -> Round:
        """Publish so many messages; everyone must get each of them, once and in order."""
        self._say(f"round {count} {DEADLINE:g}")
        self._answer()
        publish(self.port, count, gap, size)
        events, wrong, first, last, *latencies = map(int, self._answer().split())
        if events != count * self.clients or wrong:
            raise RuntimeError(f"{events} of {count * self.clients} deliveries came, {wrong} of them wrong")
        return Round(events, (last - first) / 1e9, *(latency / 1e6 for latency in latencies))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def _ready(self, seconds: float) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the reader has ended: see above")
        return str(line)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def compile_reader(directory: str) -> Path:
    """Needs a C compiler."""
    made = Path(directory, "reader")
    subprocess.run(["cc", "-O2", "-o", str(made), str(ROOT / "benchmarks" / "reader.c")], check=True)
    return made
