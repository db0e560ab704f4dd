"""Clients that see what a browser would: whole answers, streams, resets."""

from __future__ import annotations

import http.client
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable

from tests.server import DEADLINE, Server


class InBackground:
    """A call in a thread; its result, or what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(DEADLINE)
        assert self.done, "it did not end"
        if self._error is not None:
            raise self._error
        return self._value


class Stream:
    """A response that goes on: its lines as they come."""

    def __init__(self, server: Server, path: str) -> None:
        self._connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self.pid = int(self.line())

    def line(self) -> str:
        """The next line; "" at a clean end.  Raises when the connection breaks."""
        return self._response.readline().decode().rstrip("\n")

    def rest(self) -> list[str]:
        """Until the clean end."""
        return self._response.read().decode().splitlines()

    def close(self) -> None:
        self._connection.close()


def get(address: tuple[str, int], path: str, timeout: float = DEADLINE) -> tuple[int, bytes]:
    """One request on a connection of its own: (status, body)."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Load:
    """Short requests one after the other from several threads, until it is stopped; what failed."""

    def __init__(self, address: tuple[str, int], path: str = "/pid", threads: int = 3) -> None:
        self.address = address
        self.path = path
        self.failures: list[str] = []
        self.bodies: list[bytes] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status, body = get(self.address, self.path)
                if status == 200:
                    self.bodies.append(body)
                else:
                    self.failures.append(f"status {status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Numbers:
    """0@PID, 1@PID ... of the worker that sent it, each when the one before was answered, until it is stopped."""

    def __init__(self, server: Server, channel: str) -> None:
        self.sent = 0  # how many were answered
        self.answers: set[bytes] = set()  # how many workers listened
        self.failures: list[str] = []
        self._where = server.address, f"/send?channel={channel}&signed=1&data="
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        address, path = self._where
        while not self._stop.is_set() and not self.failures:
            try:
                status, body = get(address, f"{path}{self.sent}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                return
            if status != 200:
                self.failures.append(f"status {status}")
            self.answers.add(body)
            self.sent += 1

    def __enter__(self) -> Numbers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)


def is_free(address: tuple[str, int]) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        probe.settimeout(DEADLINE)
        return probe.connect_ex(address) != 0


def is_gone(pid: int) -> bool:
    """Whether that process has ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def in_flight(server: Server, path: str) -> InBackground:
    """A request that runs in the application before this returns."""
    with tempfile.TemporaryDirectory() as directory:
        mark = Path(directory, "mark")
        request = InBackground(lambda: get(server.address, f"{path}&mark={mark}"))
        server.wait(mark.exists)
    return request


def router_pid(server: Server) -> int:
    """The supervisor's child that is no worker."""
    found = children(server.pid) - set(server.workers.values())
    assert len(found) == 1, found
    return found.pop()


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
