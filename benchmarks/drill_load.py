"""The drill's clients: each kind does one thing again and again, and notes how it ended."""

from __future__ import annotations

import dataclasses
import http.client
import threading
import time
from collections import Counter
from typing import Callable

UPLOAD = b"x" * 65536
UPLOAD_PARTS = 16
TIMEOUT = 30.0


@dataclasses.dataclass
class Outcome:
    """Of one kind of client."""

    ok: int = 0
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    successes: list[float] = dataclasses.field(default_factory=list)  # monotonic seconds

    @property
    def failures(self) -> int:
        return sum(self.failed.values())


class Load:
    """Short, slow, uploading and streaming clients; stop() ends them when what they do is done."""

    def __init__(
        self, address: tuple[str, int], short: int = 4, slow: int = 4, upload: int = 2, stream: int = 8
    ) -> None:
        self.address = address
        self.outcomes = {name: Outcome() for name in ("short", "slow", "upload", "stream")}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        kinds: list[tuple[str, Callable[[], None], int]] = [
            ("short", self._short, short),
            ("slow", self._slow, slow),
            ("upload", self._upload, upload),
            ("stream", self._stream, stream),
        ]
        self._threads = [
            threading.Thread(target=self._again, args=(name, call), daemon=True)
            for name, call, count in kinds
            for _ in range(count)
        ]
        self.open_streams: set[http.client.HTTPResponse] = set()
        for thread in self._threads:
            thread.start()

    def _again(self, name: str, call: Callable[[], None]) -> None:
        outcome = self.outcomes[name]
        while not self._stop.is_set():
            try:
                call()
            except (OSError, http.client.HTTPException, AssertionError) as error:
                if self._stop.is_set() and name == "stream":
                    return  # closed by ourselves
                with self._lock:
                    outcome.failed[type(error).__name__] += 1
                time.sleep(0.02)
            else:
                with self._lock:
                    outcome.ok += 1
                    outcome.successes.append(time.monotonic())

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=TIMEOUT)

    def _get(self, path: str) -> None:
        connection = self._connect()
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        finally:
            connection.close()

    def _short(self) -> None:
        self._get("/short")
        time.sleep(0.005)

    def _slow(self) -> None:
        self._get("/slow")

    def _upload(self) -> None:
        connection = self._connect()
        try:
            connection.putrequest("POST", "/upload")
            connection.putheader("Content-Length", str(len(UPLOAD) * UPLOAD_PARTS))
            connection.putheader("Connection", "close")
            connection.endheaders()
            for _ in range(UPLOAD_PARTS):
                connection.send(UPLOAD)
                time.sleep(0.05)
            response = connection.getresponse()
            assert response.status == 200 and int(response.read()) == len(UPLOAD) * UPLOAD_PARTS
        finally:
            connection.close()

    def _stream(self) -> None:
        """Until it ends: a success when the end is clean, that is when the last chunk came."""
        connection = self._connect()
        try:
            connection.request("GET", "/stream")
            response = connection.getresponse()
            assert response.status == 200
            with self._lock:
                self.open_streams.add(response)
            try:
                while response.read1(65536):  # readline() would take a cut for an end
                    pass
            finally:
                with self._lock:
                    self.open_streams.discard(response)
        finally:
            connection.close()

    def stop(self) -> None:
        """Requests end by themselves; streams are left alone: whoever stops the server sees to their end."""
        self._stop.set()
        deadline = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.01))


def longest_pause(outcome: Outcome, begin: float, end: float) -> float:
    """Seconds without a success between two moments."""
    times = sorted([begin, end, *(moment for moment in outcome.successes if begin <= moment <= end)])
    return max(after - before for before, after in zip(times, times[1:]))
