"""Chosen system calls fail at their n-th time: in a running server, in one that starts; and limits of the kernel's.

    python -m tests.chaos.nth [--most 3] [--seconds 60] [--seed N]

strace makes one call of one process fail, of those in RUNNING and STARTING, for n = 1, 2, ... `--most`, or until it is
not called so often; `--seconds` are for each kind of process that runs, in the order that the seed chooses.  A running
server must answer on every worker and pass messages again in time, whoever was replaced; one that starts must serve, or
end with one clear error.  Nothing hangs, nothing is left behind.  Calls that were never made are told; a kind of
process in which none failed is wrong: nothing was tried then.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from channels import alerts, channel_send, control, subscribe
from tests.chaos.watch import Living, held
from tests.server import Server

AGAIN = 15.0  # seconds in which a running server is itself again
START = 30.0  # seconds in which a start has ended, one way or the other
WORKERS = 2
RUNNING: dict[str, dict[str, tuple[str, ...]]] = {
    "worker": {
        "epoll_wait": ("EINTR",),
        "read": ("EAGAIN",),
        "write": ("EAGAIN",),
        "accept4": ("EMFILE", "ENOBUFS", "ECONNABORTED"),
        "recvfrom": ("ENOMEM",),
        "sendto": ("ENOBUFS",),
        "sendmsg": ("ENOBUFS",),
        "epoll_ctl": ("ENOMEM",),
        "eventfd2": ("EMFILE",),
        "mmap": ("ENOMEM",),
        "brk": ("ENOMEM",),
        "fcntl": ("EINVAL",),
        "setsockopt": ("EINVAL",),
    },
    "router": {
        "epoll_wait": ("EINTR",),
        "read": ("EAGAIN",),
        "write": ("EAGAIN",),
        "accept4": ("EMFILE", "ENOBUFS"),
        "recvfrom": ("ENOMEM",),
        "sendto": ("ENOBUFS",),
        "epoll_ctl": ("ENOMEM",),
        "mmap": ("ENOMEM",),
        "brk": ("ENOMEM",),
    },
    "supervisor": {
        "clone": ("EAGAIN",),
        "pidfd_open": ("EMFILE",),
        "socketpair": ("EMFILE",),
        "pipe2": ("EMFILE",),
        "eventfd2": ("EMFILE",),
        "poll": ("EINTR",),
        "pselect6": ("EINTR",),
        "epoll_wait": ("EINTR",),
        "waitid": ("EINTR",),
        "read": ("EAGAIN",),
        "recvmsg": ("EAGAIN",),
        "sendto": ("EAGAIN",),
        "sendmsg": ("ENOBUFS",),
        "mmap": ("ENOMEM",),
        "brk": ("ENOMEM",),
    },
}
STARTING: dict[str, tuple[str, ...]] = {
    "memfd_create": ("ENOMEM",),
    "ftruncate": ("EFBIG",),
    "fallocate": ("ENOSPC",),
    "eventfd2": ("EMFILE",),
    "clone": ("EAGAIN",),
    "pidfd_open": ("EMFILE",),
    "socketpair": ("EMFILE",),
    "bind": ("EADDRINUSE",),
    "listen": ("EADDRINUSE",),
    "epoll_create1": ("EMFILE",),
    "madvise": ("EINVAL",),
    "mprotect": ("ENOMEM",),
}
LIMITS = (
    "--fsize=1048576",
    "--nofile=12",
    "--nofile=24",
    "--nofile=48",
    "--as=125829120",
    "--as=262144000",
)  # prlimit(1)
GROUPS = (("30M", False), ("512M", True))  # control groups: memory, and whether a server can live in it
MODULE = "tests.chaos.impatient"


# ---- the application: everything at once, and an answer that says whether it worked ----


def _sum(data: bytes) -> bytes:
    return b"%d" % sum(map(int, data.split()))


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """/: messages and an alert go round; the process that did it."""
    alerts.receive("sum", _sum)
    with subscribe("round") as mine:
        for number in range(20):
            channel_send("round", b"%d" % number)
        channel_send("round", bytes(200_000))
        got = []
        while len(got) < 21:
            message = mine.get(timeout=5)
            if message is None:
                break
            if message.data.isdigit() or len(message.data) == 200_000:
                got.append(message)
    good = len(got) >= 21 and alerts.call(os.getpid(), "sum", b"1 2", timeout=5) == b"3"
    start_response("200 OK" if good else "500 Lost", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]


# ---- a running server ----


class Running:
    """One server whose processes are hit again and again."""

    def __init__(self) -> None:
        self.server = Server("tests.chaos.nth:app", "--timeout", "20", workers=WORKERS, module=MODULE)
        self.living = Living(self.server)
        self.hits: collections.Counter[str] = collections.Counter()
        self.never: list[str] = []  # calls that were not made, or not in time
        self.wrong: list[str] = []
        self.again()
        self.before = self.held()

    def router(self) -> int:
        with control.Conversation(self.server.control, {"do": "stats"}) as conversation:
            return int(conversation.answer()["pid"])

    def held(self) -> dict[str, dict[str, int]]:
        return {"supervisor": held(self.server.pid), "router": held(self.router())}

    def pid(self, target: str) -> int:
        self.living.look()
        if target == "supervisor":
            return self.server.pid
        return self.router() if target == "router" else self.living.workers[min(self.living.workers)]

    def ask(self, seconds: float, at_once: int = 1) -> set[int]:
        """Who answered.  One after the other may all be taken by the same worker; several at once are not."""
        command = ["curl", "-sf", "-m", str(seconds), self.server.url + "/"]
        asked = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(at_once)]
        answers = [each.communicate()[0] for each in asked]
        return {int(text) for text, each in zip(answers, asked) if each.returncode == 0 and text.isdigit()}

    def again(self) -> bool:
        """Whether it is itself again in time: every worker answers, the router too."""
        deadline = time.monotonic() + AGAIN
        seen: set[int] = set()
        while time.monotonic() < deadline:
            if self.server.process.poll() is not None:
                return False
            self.living.look()
            seen |= self.ask(3, at_once=4)
            if len(self.living.workers) >= WORKERS and set(self.living.workers.values()) <= seen:
                try:
                    self.router()
                    return True
                except (OSError, control.NoMaster, control.Refused):
                    pass
            time.sleep(0.01)
        return False

    def hit(self, target: str, call: str, error: str, number: int) -> bool:
        """False when the call was not made so often."""
        pid = self.pid(target)
        with tempfile.TemporaryDirectory() as place:
            out = Path(place, "trace")
            inject = f"inject={call}:error={error}:when={number}"
            tracer = subprocess.Popen(
                ["strace", "-qq", "-e", f"trace={call}", "-e", inject, "-p", str(pid), "-o", str(out)],
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and tracer.poll() is None and not _is_traced(pid):
                time.sleep(0.002)
            for _ in range(3):
                self.ask(3)
            if target == "supervisor":
                self.living.look()
                victim = self.living.workers.get(max(self.living.workers))
                if victim:
                    os.kill(victim, signal.SIGKILL)
                    self.server.wait(lambda: (self.living.look(), victim not in self.living.workers.values())[1])
            else:
                try:
                    self.router()
                except (OSError, control.NoMaster, control.Refused):
                    pass
            good = self.again()
            tracer.terminate()
            tracer.wait(10)
            injected = "(INJECTED)" in out.read_text() if out.exists() else False
        self.hits[target] += injected
        if not good:
            self.wrong.append(f"{target}: {call} {error} the {number}. time: it is not itself again")
            print(f"WRONG {self.wrong[-1]}\n" + "\n".join(self.server.lines[-15:]), flush=True)
            self.replace()
        return injected

    def replace(self) -> None:
        self.server.stop(signal.SIGKILL)
        self.server = Server("tests.chaos.nth:app", "--timeout", "20", workers=WORKERS, module=MODULE)
        self.living = Living(self.server)
        self.again()
        self.before = self.held()

    def run(self, most: int, seconds: float, chance: random.Random) -> None:
        for target, calls in RUNNING.items():
            began = time.monotonic()
            tries = [(call, error) for call, names in calls.items() for error in names]
            for call, error in chance.sample(tries, len(tries)):
                if time.monotonic() - began > seconds:
                    self.never.append(f"{target}: {call} {error}, out of time")
                    continue
                for number in range(1, most + 1):
                    if not self.hit(target, call, error, number):
                        if number == 1:
                            self.never.append(f"{target}: {call} {error}")
                        break
            took = time.monotonic() - began
            print(f"{target}: {self.hits[target]} calls failed, of {len(tries)} kinds, {took:.0f} s", flush=True)
            if not self.hits[target]:
                self.wrong.append(f"{target}: no call failed: nothing was tried")
        deadline = time.monotonic() + AGAIN  # the last of the dead may still be buried
        while self.held()["supervisor"]["fds"] > self.before["supervisor"]["fds"] and time.monotonic() < deadline:
            time.sleep(0.1)
        for who, now in self.held().items():
            if now["fds"] > self.before[who]["fds"] + 1:
                self.wrong.append(f"{who}: descriptors {self.before[who]['fds']} -> {now['fds']}")


def _is_traced(pid: int) -> bool:
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


# ---- a server that starts ----


def start(prefix: list[str]) -> tuple[str, list[str]]:
    """("serves" | "status N" | "hangs", what it said)."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", MODULE, "tests.chaos.nth:app", "--bind", "127.0.0.1:0", "--workers", "2"]
        child = subprocess.Popen(
            [*prefix, *command, "--control-socket", f"{place}/control"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        os.set_blocking(child.stdout.fileno(), False)  # type: ignore[union-attr]
        said, outcome = b"", "hangs"
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            said += child.stdout.read() or b""  # type: ignore[union-attr]
            if child.poll() is not None:
                outcome = f"status {child.returncode}"
                break
            if said.count(b" ready\n") >= 2:
                outcome = "serves"
                break
            time.sleep(0.01)
        _signal(child.pid, signal.SIGINT)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            outcome += ", and does not end"
        said += child.stdout.read() or b""  # type: ignore[union-attr]
        _signal(child.pid, signal.SIGKILL)
        child.wait()
    return outcome, said.decode(errors="replace").splitlines()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def judge(what: str, outcome: str, lines: list[str], wrong: list[str]) -> None:
    good = outcome == "serves" or (outcome.startswith("status ") and outcome.split()[1].isdigit() and lines)
    if (
        good
        and outcome != "serves"
        and not any(word in line for line in lines for word in ("ERROR", "Error", "channels:", "cannot"))
    ):
        good = False
    print(f"{what}: {outcome}{'' if outcome == 'serves' else '; ' + ' / '.join(lines[-1:])}", flush=True)
    if not good:
        wrong.append(f"{what}: {outcome}; {lines[-5:]}")


def starts(most: int, wrong: list[str], never: list[str]) -> tuple[int, int]:
    """Starts with a call that failed, and under a limit."""
    failed = count = 0
    for call, names in STARTING.items():
        for error in names:
            for number in range(1, most + 1):
                with tempfile.TemporaryDirectory() as place:
                    out = Path(place, "trace")
                    inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
                    outcome, lines = start(["strace", "-f", "-qq", "--seccomp-bpf", *inject, "-o", str(out)])
                    if not out.exists() or "(INJECTED)" not in out.read_text():
                        if number == 1:
                            never.append(f"start: {call} {error}")
                        break
                failed += 1
                judge(f"start, {call} {error} the {number}. time", outcome, lines, wrong)
    if not failed:
        wrong.append("start: no call failed: nothing was tried")
    for limit in LIMITS:
        outcome, lines = start(["prlimit", limit])
        judge(f"start, {limit}", outcome, lines, wrong)
        count += 1
    for memory, enough in GROUPS:
        with control_group(memory) as enter:
            if not enter:
                print("no control groups may be made here: not tried", flush=True)
                break
            outcome, lines = start(enter)
        judge(f"start, {memory} of memory in its control group", outcome, lines, wrong)
        if enough != (outcome == "serves"):
            wrong.append(f"start, {memory} of memory in its control group: {outcome}")
        count += 1
    return failed, count


@contextlib.contextmanager
def control_group(memory: str) -> Iterator[list[str]]:
    """A command that runs another one in a group of its own with so much memory, cgroups v1 or v2; empty: not here."""
    v1 = Path("/sys/fs/cgroup/memory")
    place = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"channels-chaos-{os.getpid()}"
    try:
        place.mkdir()
        (place / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(memory)
    except OSError:
        yield []
        return
    try:
        yield ["sh", "-c", f'echo $$ >{place}/cgroup.procs && exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + AGAIN
        while (place / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        place.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    parser.add_argument("--only", choices=["running", "starting"])
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    if shutil.which("strace") is None or shutil.which("curl") is None:
        print("strace and curl are needed")
        return 1
    socket.setdefaulttimeout(5.0)  # of conversations with a router that was hit
    wrong: list[str] = []
    never: list[str] = []
    figures = []
    if given.only != "starting":
        running = Running()
        try:
            running.run(given.most, given.seconds, random.Random(given.seed))
        finally:
            running.server.stop()
        wrong += running.wrong
        never += running.never
        hits = ", ".join(f"{count} in the {who}" for who, count in running.hits.items())
        figures.append(f"calls that failed while it ran: {hits}")
    if given.only != "running":
        failed, limited = starts(given.most, wrong, never)
        figures.append(f"{failed} starts with a call that failed, {limited} under a limit")
    if never:
        print(f"never made, so not tried: {'; '.join(never)}")
        figures.append(f"{len(never)} kinds of call never made")
    for what in wrong:
        print(f"WRONG {what}")
    print(f"FIGURES {'; '.join(figures)}; {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
