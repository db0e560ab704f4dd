"""Reloads, upgrades and deaths under load: `python -m benchmarks.drill [--only WORD] [--server NAME] [--write]`.

Each event happens to a server of its own while clients do short requests, slow ones (1 s), uploads (1 MiB in 0.8 s) and
hold streams.  What they saw is counted: failures, and the longest time in which no short request succeeded.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

from benchmarks.drill_load import Load, longest_pause

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "drill.md"
WORKERS = 2
GRACEFUL = 4  # seconds
BEFORE, AFTER = 1.5, 6.0  # seconds of load before and after an event
READY = 30.0


class Running:
    """A server under a load."""

    def __init__(self, kind: str, options: list[str]) -> None:
        self.kind = kind
        self.place = tempfile.TemporaryDirectory(prefix="drill-")
        self.mode = Path(self.place.name, "mode")
        self.mode.write_text("good")
        self.pidfile = Path(self.place.name, "pid")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address: tuple[str, int] = probe.getsockname()[:2]
        command = {
            "channels": [sys.executable, "-m", "channels", "--drain-spread", "1"],
            "gunicorn": [str(Path(sys.executable).with_name("gunicorn")), "-k", "gevent"],
        }[kind]
        common = ["--bind", f"127.0.0.1:{self.address[1]}", "--workers", str(WORKERS), "--pid", str(self.pidfile)]
        self.log = open(Path(self.place.name, "log"), "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, *common, "--graceful-timeout", str(GRACEFUL), *options, "benchmarks.drill_app:app"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "DRILL_MODE": str(self.mode)},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY
        while not (self.answers() and self.pidfile.exists()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{kind} did not start: {Path(self.log.name).read_text()[-2000:]}")
            time.sleep(0.05)
        time.sleep(0.5)  # so that every worker is there

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(self.address) == 0

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def workers(self) -> list[int]:
        """The master's children but our router, which serves no connection; the busiest last."""
        children = [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return sorted(children, key=self._connections)[-WORKERS:]

    @staticmethod
    def _connections(pid: int) -> int:
        found = 0
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found += os.readlink(fd).startswith("socket:")
            except OSError:
                continue
        return found

    def end(self) -> None:
        for pid in {self.process.pid, self.pid if self.pidfile.exists() else self.process.pid}:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + GRACEFUL + 3
        while self.answers() and time.monotonic() < deadline:
            time.sleep(0.05)
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        self.place.cleanup()


def reload(server: Running) -> None:
    os.kill(server.pid, signal.SIGHUP)


def slow_import(server: Running) -> None:
    server.mode.write_text("slow")
    reload(server)


def broken_import(server: Running) -> None:
    server.mode.write_text("broken")
    reload(server)


def upgrade(server: Running) -> None:
    """gunicorn's way has a second step: the operator waits for the new one and ends the old one."""
    old = server.pid
    os.kill(old, signal.SIGUSR2)
    if server.kind == "gunicorn":
        time.sleep(2.0)
        os.kill(old, signal.SIGTERM)


def kill_worker(server: Running) -> None:
    os.kill(server.workers()[-1], signal.SIGKILL)


def nothing(server: Running) -> None:
    """The options alone make it happen."""


def terminate(server: Running) -> None:
    os.kill(server.pid, signal.SIGTERM)


@dataclasses.dataclass
class Event:
    name: str
    happens: Callable[[Running], None]
    options: tuple[str, ...] = ()
    ends: bool = False  # the server is gone afterwards


EVENTS = [
    Event("HUP", reload),
    Event("USR2", upgrade),
    Event("SIGKILL of a worker", kill_worker),
    Event("max_requests", nothing, ("--max-requests", "300", "--max-requests-jitter", "50")),
    Event("HUP, import takes 2 s", slow_import),
    Event("HUP, import fails", broken_import),
    Event("TERM", terminate, ends=True),
]


@dataclasses.dataclass
class Row:
    """What the clients saw."""

    event: str
    server: str
    short: str
    pause: str
    slow: str
    uploads: str
    streams: str
    over: str


def drill(event: Event, kind: str) -> Row:
    server = Running(kind, list(event.options))
    load = Load(server.address)
    try:
        time.sleep(BEFORE)
        begin = time.monotonic()
        event.happens(server)
        if event.ends:
            # Who connects after the listener is closed is refused, and rightly: no request was sent.
            while server.process.poll() is None and time.monotonic() < begin + GRACEFUL + 10:
                time.sleep(0.02)
            end = time.monotonic()
        else:
            time.sleep(AFTER)
            end = time.monotonic()
        still_open = len(load.open_streams)
        counts = {name: (outcome.ok, dict(outcome.failed)) for name, outcome in load.outcomes.items()}
        pause = longest_pause(load.outcomes["short"], begin, end)
        load.stop()
    finally:
        load.stop()
        server.end()

    def told(name: str) -> str:
        ok, failed = counts[name]
        if event.ends:
            failed = {kind: count for kind, count in failed.items() if kind != "ConnectionRefusedError"}
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(failed.items()))
        return f"{ok:,} ok, {sum(failed.values())} failed" + (f" ({kinds})" if kinds else "")

    clean, cut = counts["stream"]
    if event.ends:
        cut = {kind: count for kind, count in cut.items() if kind != "ConnectionRefusedError"}
    return Row(
        event.name,
        kind,
        told("short"),
        "-" if event.ends else f"{pause:.2f} s",
        told("slow"),
        told("upload"),
        f"{clean} ended clean, {sum(cut.values())} cut, {still_open} open",
        f"{end - begin:.1f} s" if event.ends else "-",
    )


HEAD = ["event", "server", "short requests", "longest without a success", "slow requests", "uploads", "streams", "exit"]


def table(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(dataclasses.astuple(row)) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--only", default="", help="events whose name contains this")
    given.add_argument("--server", default="", help="channels or gunicorn")
    given.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    asked = given.parse_args()
    rows = []
    for event in EVENTS:
        for kind in ("channels", "gunicorn"):
            if asked.only in event.name and asked.server in kind:
                rows.append(drill(event, kind))
                print(" | ".join(dataclasses.astuple(rows[-1])), flush=True)
    if asked.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(f"# Reloads, upgrades and deaths under load\n\n{NOTES}\n\n{table(rows)}\n")


NOTES = f"""Made by `make drill`.  Each event happens to a server of its own, with {WORKERS} workers and a graceful
timeout of {GRACEFUL} s, while 4 clients do short requests one after the other (each on a connection of its own), 4 slow
ones (1 s), 2 upload 1 MiB slowly, and 8 hold a stream and open it again when it ends.  Counted from {BEFORE:g} s
before the event to {AFTER:g} s after it, or to the server's exit.

- A stream ended clean when its last chunk came; one that was cut ended without it.
- A SIGKILL, here of the busiest worker, takes along what that one had in hand: those requests and streams fail,
  whichever the server.
- After TERM new connections are refused; only requests on connections that were accepted count as failures.
- gunicorn runs its gevent worker; at USR2 the operator's second step, TERM to the old master, comes after 2 s."""


if __name__ == "__main__":
    main()
