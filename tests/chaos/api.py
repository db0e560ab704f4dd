"""A whole server through its public face, while everything that can be killed is: workers, router; reloads, upgrades.

    python -m tests.chaos.api [--seconds 300] [--seed N]

Four workers talk on four channels, 1 byte to 4 MiB, fork, and check every message (api_app.py).  A worker is killed
several times a second, the router every 20 s; a reload every 30 s, an upgrade every 60 s.  What must hold: one order,
nothing twice, nothing lost but in gaps that are told, and those only after a router was killed.  `make soak` is this
for hours.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

from channels import control
from tests.chaos.watch import Living, resident_kib
from tests.server import Server

WORKERS = 4
GAP_AFTER = 5.0  # seconds in which the news of a loss comes after a router's death
FULL = 300.0  # seconds of a run that has to reach these
REQUIRED = {"messages": 5_000_000, "workers killed": 1000, "routers killed": 10}
ROUTER_EVERY, RELOAD_EVERY, UPGRADE_EVERY = 20.0, 30.0, 60.0
SETTLED = 60.0
COMMON = re.compile(r"ready$|died: (signal 9|status 0)$|draining: ")  # lines that say nothing here
KEPT = Path(tempfile.gettempdir(), "channels-chaos-api")  # what is left of a run in which something was wrong
JUDGED = 600.0  # seconds of a run whose memory is judged: a shorter one has seen too few masters


def grown(kib: list[int]) -> list[str]:
    """What is wrong with the memory of supervisor and router, as it was seen in the course of a run.

    The middle value of its last quarter against that of its first: who has just been started or is being replaced while
    one looks has too little.
    """
    quarter = len(kib) // 4
    if not quarter:
        return ["the memory of supervisor and router was not looked at"]
    first, last = statistics.median(kib[:quarter]), statistics.median(kib[-quarter:])
    if last <= first * 1.1 + 4096:
        return []
    return [f"supervisor and router grew: {first:.0f} KiB in the first quarter, {last:.0f} KiB in the last"]


class Run:
    """One server, what is done to it, and what came of it."""

    def __init__(self, seconds: float, seed: int, pace: float) -> None:
        self.chance = random.Random(seed)
        self.seconds, self.pace = seconds, pace
        self.wrong: list[str] = []
        self.done: collections.Counter[str] = collections.Counter()
        self.routers_killed: list[float] = []
        self.told_to: list[tuple[float, str]] = []  # when, what the server was told to do
        self.memory: list[int] = []
        self.figures: dict[str, Any] = {}
        self.reports = tempfile.TemporaryDirectory(prefix="channels-chaos-")
        self.server = Server(
            "tests.chaos.api_app:app",
            *("--stall-timeout", "60", "--send-timeout", "120", "--timeout", "120"),
            *("--graceful-timeout", "10", "--drain-spread", "0.1", "--max-workers", "8"),
            workers=WORKERS,
            module="tests.chaos.impatient",
            environment={"CHAOS_REPORTS": self.reports.name},
        )
        self.living = Living(self.server)

    # ---- what is done ----

    def ask(self, **request: Any) -> dict[str, Any]:
        with control.Conversation(self.server.control, request) as conversation:
            return dict(conversation.answer())

    def router_pid(self) -> int:
        try:
            return int(self.ask(do="stats")["pid"])
        except (OSError, control.NoMaster, control.Refused, ValueError, KeyError):
            return 0

    def master(self) -> int:
        """The newest that lives: when an upgrade is given up, the old one goes on."""
        for pid in reversed(self.living.masters):
            if Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(f"no master lives; of {self.living.masters}:\n" + "\n".join(self.server.lines[-60:]))

    def kill_worker(self) -> None:
        ready = self.living.workers
        if len(ready) < 2:
            return
        slot = self.chance.choice(sorted(ready))
        try:
            os.kill(ready[slot], signal.SIGKILL)
        except ProcessLookupError:
            return
        self.living.forget(slot)
        self.done["workers killed"] += 1

    def kill_router(self) -> None:
        pid = self.router_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)
            self.routers_killed.append(time.time())
            self.told_to.append((time.time(), "router killed"))
            self.done["routers killed"] += 1

    def reload(self) -> None:
        os.kill(self.master(), signal.SIGHUP)
        self.told_to.append((time.time(), "reload"))
        self.done["reloads"] += 1

    def upgrade(self) -> None:
        os.kill(self.master(), signal.SIGUSR2)
        self.told_to.append((time.time(), "upgrade"))
        self.done["upgrades asked for"] += 1

    # ---- the run ----

    def run(self) -> None:
        began = time.monotonic()
        due: list[tuple[float, float, Callable[[], None]]] = [
            (began + ROUTER_EVERY / 2, ROUTER_EVERY, self.kill_router),
            (began + RELOAD_EVERY / 2, RELOAD_EVERY, self.reload),
            (began + UPGRADE_EVERY * 0.4, UPGRADE_EVERY, self.upgrade),
        ]
        next_look = began + min(30.0, self.seconds / 4)
        while (now := time.monotonic()) < began + self.seconds:
            self.living.look()
            for i, (when, every, act) in enumerate(due):
                if now >= when:
                    act()
                    due[i] = (when + every, every, act)
            if now >= next_look:
                self.memory.append(resident_kib(self.master()) + resident_kib(self.router_pid()))
                next_look += max(10.0, self.seconds / 100)
            self.kill_worker()
            time.sleep(self.chance.uniform(0, 2 * self.pace))
        self.settle()
        self.done["new masters"] = len(self.living.masters) - 1
        for line in self.server.lines:
            if "still there, wait for" in line:
                self.wrong.append(f"what an upgrade left is there a minute later: {line}")
            self.done["upgrades given up"] += "upgrade failed" in line or "going on without it" in line
        self.read_reports()
        if self.memory:
            self.figures["KiB of supervisor and router"] = f"{self.memory[0]} -> {self.memory[-1]}"
        if self.seconds >= JUDGED:
            self.wrong += grown(self.memory)

    def settle(self) -> None:
        """No more is sent or killed; everyone has heard the last."""
        Path(self.reports.name, "stop").touch()
        deadline = time.monotonic() + SETTLED
        last: dict[str, int] = {}
        places: dict[int, dict[str, int]] = {}
        while time.monotonic() < deadline:
            time.sleep(0.5)
            self.living.look()
            try:
                last = {each["name"]: each["last"] for each in self.ask(do="ls", prefix="all:")["channels"]}
            except (OSError, control.NoMaster, control.Refused):
                continue
            places = {slot: self.place(slot, pid) for slot, pid in self.living.workers.items()}
            if len(places) == WORKERS and last and all(place == last for place in places.values()):
                return
        self.wrong.append(f"the workers have not heard the last, {last}: {places}")

    def place(self, slot: int, pid: int) -> dict[str, int]:
        """How far a worker has come, by its report."""
        path = Path(self.reports.name, f"{slot}-{pid}")
        lines = re.findall(r"^AT .*", path.read_text(), re.M) if path.exists() else []
        return {name: int(number) for name, number in re.findall(r"(all:\d)=(\d+)", lines[-1])} if lines else {}

    # ---- what came of it ----

    def read_reports(self) -> None:
        ranges: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        large: dict[tuple[str, int], str] = {}  # (channel and epoch, number) -> who sent it
        sending: dict[str, str] = {}  # who sent it -> channel
        holes: list[tuple[str, str, range]] = []
        sums: collections.Counter[str] = collections.Counter()
        last: dict[str, int] = {}  # channel and epoch -> the last number that a range was complete with
        reports = [path for path in Path(self.reports.name).iterdir() if path.name != "stop"]
        for path in reports:
            place = ""
            for line in path.read_text().splitlines():
                word, _, rest = line.partition(" ")
                if word == "RANGE":
                    name, digest = rest.split()
                    ranges[name][digest] += 1
                    name, _, number = name.rpartition("-")
                    last[name] = max(last.get(name, 0), int(number) * 500)
                elif word == "LARGE":
                    name, number, by = rest.split()
                    large[name, int(number)] = by
                elif word == "SENDING":
                    name, by = rest.split()
                    sending[by] = name
                elif word == "HOLE":
                    name, first, end = rest.split()
                    holes.append((path.name, name, range(int(first), int(end))))
                elif word == "GAP":
                    self.told(path.name, rest, sums)
                elif word == "AT":
                    place = rest
                elif word != "FIRST":
                    self.wrong.append(f"worker {path.name}: {line}")
            sums.update({name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", place)[:4]})
        self.explain(holes, large, sending)
        compared = sum(1 for each in ranges.values() if sum(each.values()) > 1)
        self.wrong += [f"no one order: {name}" for name, each in ranges.items() if len(each) > 1]
        if not compared:
            self.wrong.append("nothing could be compared")
        self.figures.update(
            {
                "messages": sum(last.values()),
                "deliveries checked": sums["heard"],
                "ranges of 500 compared": compared,
                "alerts": sums["alerts"],
                "forks": sums["forks"],
                "gaps told": sums["gaps"],
                "messages in them": sums["missed"],
                "large ones under way at a join": sum(len(numbers) for _, _, numbers in holes),
                "workers that lived": len(reports),
                **self.done,
            }
        )
        for what, number in REQUIRED.items() if self.seconds >= FULL else ():
            if self.figures.get(what, 0) < number:
                self.wrong.append(f"only {self.figures.get(what, 0)} {what}, not {number}")

    def explain(
        self, holes: list[tuple[str, str, range]], large: dict[tuple[str, int], str], sending: dict[str, str]
    ) -> None:
        """A large message that was under way when somebody joined passes by him, and that is not told.

        Everyone else who got it may be dead; then it is one of those that were sent and that nobody has reported.
        """
        lost = {(name, number) for _, name, numbers in holes for number in numbers if (name, number) not in large}
        reported = set(large.values())
        for channel in set(sending.values()):
            unseen = [by for by, name in sending.items() if name == channel and by not in reported]
            mine = sorted(number for name, number in lost if name.partition("-")[0] == channel)
            if len(mine) > len(unseen):
                self.wrong.append(
                    f"{mine[:10]} of {channel} were lost in silence; large ones that nobody saw: {unseen}"
                )

    def told(self, who: str, line: str, sums: collections.Counter[str]) -> None:
        """A gap has a reason: a router that was killed with what it kept."""
        name, first, number, when = line.split()
        sums["gaps"] += 1
        sums["missed"] += int(number) - int(first)
        if not any(0 <= float(when) - killed < GAP_AFTER for killed in self.routers_killed):
            before = [f"{what} {float(when) - at:.1f} s before" for at, what in self.told_to if at < float(when)]
            self.wrong.append(
                f"worker {who} missed {first} to {int(number) - 1} of {name} at {when}, and no router had died; "
                + ", ".join(before[-3:])
            )

    def close(self) -> None:
        self.server.stop()
        self.reports.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    parser.add_argument("--pace", type=float, default=0.25, help="mean seconds between two kills of workers")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    run = Run(given.seconds, given.seed, given.pace)
    try:
        run.run()
    finally:
        print("FIGURES " + ", ".join(f"{value} {name}" for name, value in run.figures.items()), flush=True)
        for what in run.wrong[:20]:
            print(f"WRONG {what}")
        if run.wrong:
            print("\n".join(line for line in run.server.lines if not COMMON.search(line)))
            shutil.copytree(run.reports.name, KEPT, dirs_exist_ok=True)
            Path(KEPT, "log").write_text("\n".join(run.server.lines))
            print(f"every worker's report and the log are in {KEPT}")
        run.close()
    print(f"{len(run.wrong)} wrong")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
