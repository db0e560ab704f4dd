"""Servers under measurement, and clients that hold many connections to them."""

from __future__ import annotations

import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
STARTING = 30.0  # seconds a server may take to answer
ANSWERING = 30.0  # seconds an answer may take
HEAD = "GET {path} HTTP/1.1\r\nHost: bench\r\n{more}\r\n"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_PID = re.compile(rb"(?:^|\n)(\d+)\n")

COMMANDS = {
    "channels": "-m channels {app} --bind {bind} --workers {workers} --accesslog {log}",
    "gunicorn": "-m gunicorn {app} --bind {bind} --workers {workers} --access-logfile {log} --worker-class gevent "
    "--worker-connections 10000 --keep-alive 15 --log-level warning",
}


class Rig:
    """A server with so many workers, its access log in a file, and answering."""

    def __init__(self, name: str, app: str, workers: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="channels-bench-")
        self.log = Path(self._folder.name, "access.log")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address: tuple[str, int] = free.getsockname()
        bind = f"127.0.0.1:{self.address[1]}"
        command = COMMANDS[name].format(app=f"benchmarks.server_app:{app}", bind=bind, workers=workers, log=self.log)
        if name == "channels":
            command += f" --control-socket {self._folder.name}/control.sock"
        with open(Path(self._folder.name, "errors.log"), "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *command.split()],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self.url = f"http://{bind}/"
        self.pids: set[int] = set()
        try:
            self._wait(workers)
        except BaseException:
            self.close()
            raise

    def _wait(self, workers: int) -> None:
        """Until as many workers answer as there should be; their process ids, if the application tells them."""
        deadline = time.monotonic() + STARTING
        while True:
            try:
                self.pids.add(ask(self.address, "/"))
            except OSError:
                pass
            if len(self.pids) >= workers:
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                errors = Path(self._folder.name, "errors.log").read_text(errors="replace")
                raise RuntimeError(f"{len(self.pids)} of {workers} workers answer; the server said:\n{errors}")
            time.sleep(0.01)

    def memory(self) -> tuple[int, int]:
        """Bytes of all workers: (RSS, PSS)."""
        found = [0, 0]
        for pid in self.pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("Rss", "Pss"):
                    found[name == "Pss"] += int(value.split()[0]) * 1024
        return found[0], found[1]

    def close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._folder.cleanup()


def ask(address: tuple[str, int], path: str) -> int:
    """The process id in the answer, 0 if there is none."""
    with socket.create_connection(address, timeout=ANSWERING) as client:
        client.sendall(HEAD.format(path=path, more="Connection: close\r\n").encode())
        data = b""
        while part := client.recv(65536):
            data += part
    found = _PID.search(data.partition(b"\r\n\r\n")[2])
    return int(found[1]) if found else 0


class Asker:
    """A client that asks again and again, over one connection or with one for each request."""

    def __init__(self, address: tuple[str, int], keep: bool) -> None:
        self._address = address
        self._keep = keep
        self._client: socket.socket | None = None

    def ask(self, path: str) -> None:
        """And wait for the answer; over a new connection where the server has closed the last one."""
        while True:
            if not self._keep:
                ask(self._address, path)
                return
            if self._client is None:
                self._client = socket.create_connection(self._address, timeout=ANSWERING)
            try:
                self._client.sendall(HEAD.format(path=path, more="").encode())
                if _whole_answer(self._client):
                    return
            except (ConnectionResetError, BrokenPipeError):
                pass
            self._client.close()
            self._client = None


def _whole_answer(client: socket.socket) -> bool:
    """Read one; False: the connection ended instead."""
    data = b""
    while True:
        part = client.recv(65536)
        if not part:
            return False
        data += part
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = _LENGTH.search(head)
            if length is None:
                raise RuntimeError(f"an answer without a length: {head!r}")
            if len(body) >= int(length[1]):
                return True


class Clients:
    """Connections that ask once and stay open; by the process that serves each."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.by_pid: dict[int, list[socket.socket]] = {}

    def open(self, path: str, count: int, at_once: int = 1) -> Counter[int]:
        """So many more, `at_once` together; how many of them each process got, 0: those that do not tell."""
        found: Counter[int] = Counter()
        while count:
            burst = min(at_once, count)
            count -= burst
            found += self._burst(path, burst)
        return found

    def _burst(self, path: str, count: int) -> Counter[int]:
        request = HEAD.format(path=path, more="").encode()
        found: Counter[int] = Counter()
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(self.address)
                selector.register(client, selectors.EVENT_WRITE, b"")
            left = count
            while left:
                ready = selector.select(ANSWERING)
                if not ready:
                    raise RuntimeError(f"{left} of {count} clients have no answer")
                for key, events in ready:
                    client = key.fileobj  # type: ignore[assignment]
                    if events & selectors.EVENT_WRITE:
                        client.send(request)
                        selector.modify(client, selectors.EVENT_READ, b"")
                        continue
                    data = key.data + client.recv(65536)
                    body = data.partition(b"\r\n\r\n")[2]
                    if not body:
                        if not data:
                            raise RuntimeError("a connection was closed instead of answered")
                        selector.modify(client, selectors.EVENT_READ, data)
                        continue
                    pid = _PID.search(body)
                    number = int(pid[1]) if pid else 0
                    found[number] += 1
                    self.by_pid.setdefault(number, []).append(client)
                    selector.unregister(client)
                    left -= 1
        return found

    def counts(self, pids: set[int]) -> list[int]:
        """Open connections of each of these processes."""
        return [len(self.by_pid.get(pid, [])) for pid in pids]

    def close(self, pid: int | None = None) -> None:
        """Those of one process, or all."""
        for one in [pid] if pid is not None else list(self.by_pid):
            for client in self.by_pid.pop(one, []):
                client.close()


def many_descriptors() -> None:
    """As many as this process may have, for itself and its children."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
