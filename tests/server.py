"""A real server for tests: `channels MODULE:APP` as a process of its own, its log read as it comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 30.0  # seconds that no condition takes on a working machine
LISTENING = re.compile(r"pid=(\d+) listening on (\S+?)(?:,|$)")
READY = re.compile(r"worker=(\d+) gen=(\d+) pid=(\d+) ready")
DIED = re.compile(r"worker=(\d+) gen=(\d+) pid=(\d+) died")


class Server:
    """Started, and every worker ready, when the constructor returns; a context manager that stops it.

    Args:
        app: MODULE:APP, imported from the repository's root or from `directory`.
        options: More of the command line.
        workers: How many; 0: as its other settings say.
        bind: Where to listen; by default a free port, see `url`.
        directory: Where it runs.
        environment: Added to this process's.
        module: What `python -m` runs.
        wait: False: do not wait until it is ready, as for one that cannot start.
        prefix: A command that runs the server, as `unshare --pid` does.
        pass_fds: Descriptors that it inherits.
    """

    def __init__(
        self,
        app: str,
        *options: str,
        workers: int = 3,
        bind: str = "127.0.0.1:0",
        directory: str | Path | None = None,
        environment: dict[str, str] | None = None,
        module: str = "channels",
        wait: bool = True,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.count = workers
        self.lines: list[str] = []
        self._runtime = tempfile.TemporaryDirectory(prefix="channels-test-")
        self.control = Path(self._runtime.name, "control.sock")
        command = [
            *prefix,
            sys.executable,
            "-m",
            module,
            app,
            "--bind",
            bind,
            *(["--workers", str(workers)] if workers else []),
        ]
        self.process = subprocess.Popen(
            [*command, "--control-socket", str(self.control), *options],
            cwd=directory or ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            try:
                self.wait_log(LISTENING)
                self.wait_ready(workers)
            except BaseException:
                self.stop(signal.SIGKILL)
                raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    @property
    def log(self) -> str:
        """What it has written so far, stdout and stderr."""
        return "\n".join(list(self.lines))

    # ---- what the log tells ----

    @property
    def url(self) -> str:
        """Of its first listener, without a slash at the end."""
        found = LISTENING.search(self.log)
        assert found is not None, self.log
        return found[2].rstrip("/")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("//")[2].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def workers(self) -> dict[int, int]:
        """{slot: process id} of those that are ready and have not died."""
        found: dict[int, int] = {}
        for line in list(self.lines):
            if ready := READY.search(line):
                found[int(ready[1])] = int(ready[3])
            elif (died := DIED.search(line)) and found.get(int(died[1])) == int(died[3]):
                del found[int(died[1])]
        return found

    def wait(self, condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
        """Until it is true; its value.  With the log in the error when it never is."""
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"it never came true; the server said:\n{self.log}")
            time.sleep(0.01)

    def wait_log(self, pattern: str | re.Pattern[str], count: int = 1, seconds: float = DEADLINE) -> re.Match[str]:
        """The `count`-th line that matches."""

        def look() -> list[re.Match[str]]:
            found = [match for line in list(self.lines) if (match := re.search(pattern, line))]
            if len(found) < count and self.process.poll() is not None:
                self._reader.join(5)
                if not any(re.search(pattern, line) for line in self.lines):
                    raise AssertionError(f"it ended with status {self.process.returncode}; it said:\n{self.log}")
            return found[count - 1 :]

        return self.wait(look, seconds)[0]

    def wait_ready(self, count: int | None = None, without: set[int] | None = None) -> dict[int, int]:
        """Until so many workers are ready, none of these process ids among them."""
        wanted = self.count if count is None else count

        def look() -> dict[int, int] | None:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended with status {self.process.returncode}; it said:\n{self.log}")
            found = self.workers
            return found if len(found) >= wanted and not (without or set()) & set(found.values()) else None

        return self.wait(look)

    # ---- talking to it ----

    def get(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        """The body of an answer; POST when there is data.  Raises urllib.error.HTTPError."""
        with urlopen(Request(self.url + path, data, headers or {}), timeout=DEADLINE) as answer:
            return bytes(answer.read())

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    # ---- the end ----

    def wait_exit(self, seconds: float = DEADLINE) -> int:
        """Its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop it however it stands; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                pass
        try:  # whatever it has left behind
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        status = self.process.wait(DEADLINE)
        self._reader.join(5)
        self._runtime.cleanup()
        return status

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
