"""SIGKILL for random workers, and now and then for the router, of a real server under load.

    python -m tests.chaos.kills --kills 1000 --router-kills 20 --seed 1

What must hold: survivors lose nothing and agree on the order; nothing reaches the successor of whom it was meant for;
no subscription of the dead remains; descriptors and memory of supervisor, router and the worker that is never killed
come back to where they were.  Prints the figures; the exit status is 1 when something was wrong.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from channels import control
from tests.chaos.watch import held
from tests.server import Server

WORKERS = 6
SPARED = 1  # the slot that is never killed
WARM_UP = 30  # kills before memory is measured: allocators have their size then
MEMORY_GROWTH = 0.10  # of what it was, and the floor below
MEMORY_FLOOR_KIB = 3072
QUIET = 0.3  # seconds between two looks at whether everything has arrived


class Run:
    """One server, its victims, and what came of it."""

    def __init__(self, kills: int, router_kills: int, seed: int, pause: float) -> None:
        self.chance = random.Random(seed)
        self.kills, self.router_kills = kills, router_kills
        self.wrong: list[str] = []
        self.figures: dict[str, Any] = {"seed": seed, "kills": kills, "router_kills": router_kills}
        self.reports = tempfile.TemporaryDirectory(prefix="channels-chaos-")
        self.server = Server(
            "tests.chaos.kills_app:app",
            "--stall-timeout",
            "30",
            "--send-timeout",
            "60",
            "--timeout",
            "60",
            workers=WORKERS,
            module="tests.chaos.impatient",
            environment={"CHAOS_REPORTS": self.reports.name, "CHAOS_PAUSE": str(pause)},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        with control.Conversation(self.server.control, request) as conversation:
            return dict(conversation.answer())

    def router_pid(self) -> int:
        def look() -> int | None:
            try:
                return int(self.ask(do="stats")["pid"])
            except (OSError, control.NoMaster, control.Refused, ValueError, KeyError):
                return None

        return int(self.server.wait(look))

    def kill_worker(self) -> None:
        """Whoever is ready; most of them may be on their way at once."""
        ready = self.server.wait_ready(WORKERS // 2)
        slot = self.chance.choice([slot for slot in ready if slot != SPARED])
        os.kill(ready[slot], signal.SIGKILL)
        self.server.wait(lambda: self.server.workers.get(slot) != ready[slot])

    def kill_router(self) -> None:
        pid = self.router_pid()
        os.kill(pid, signal.SIGKILL)
        self.server.wait(lambda: self.router_pid() != pid)

    def measure(self) -> dict[str, dict[str, int]]:
        self.server.wait_ready(WORKERS)
        self.server.wait(self.is_quiet)
        return {
            "supervisor": held(self.server.pid),
            "router": held(self.router_pid()),
            "survivor": held(self.server.workers[SPARED]),
        }

    def is_quiet(self) -> bool:
        """Nothing is waiting for anybody: everybody has heard what the router has numbered."""
        try:
            spilled = self.ask(do="stats")["router"].get("spilled_bytes", {})
        except (OSError, control.NoMaster, control.Refused):
            return False
        return not any(spilled.values())

    def run(self) -> None:
        began = time.monotonic()
        router_at = {self.kills * (n + 1) // (self.router_kills + 1) for n in range(self.router_kills)}
        warm = min(WARM_UP, self.kills // 4)
        before: dict[str, dict[str, int]] = {}
        spared = self.server.workers[SPARED]
        for number in range(self.kills):
            if number == warm:
                before = self.measure()
            self.kill_worker()
            if number in router_at:
                self.kill_router()
            time.sleep(self.chance.uniform(0, 0.05))
        after = self.measure()
        self.figures["seconds"] = round(time.monotonic() - began, 1)
        self.expect(self.server.workers.get(SPARED) == spared, "the worker that nobody killed died")
        self.compare(before, after)
        self.settle()
        self.check_subscriptions()
        self.read_reports()

    def expect(self, good: bool, otherwise: str) -> None:
        if not good:
            self.wrong.append(otherwise)

    def compare(self, before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> None:
        for who, was in before.items():
            now = after[who]
            self.figures[who] = {key: f"{was[key]} -> {now[key]}" for key in was}
            self.expect(now["fds"] <= was["fds"] + 1, f"{who}: descriptors {was['fds']} -> {now['fds']}")
            self.expect(now["maps"] <= was["maps"] + 8, f"{who}: mappings {was['maps']} -> {now['maps']}")
            room = max(MEMORY_FLOOR_KIB, was["own_kib"] * MEMORY_GROWTH)
            self.expect(now["own_kib"] <= was["own_kib"] + room, f"{who}: KiB {was['own_kib']} -> {now['own_kib']}")

    def settle(self) -> None:
        """No more is sent; everyone has heard the last."""
        Path(self.reports.name, "stop").touch()
        seen: list[Any] = []

        def same() -> bool:
            time.sleep(QUIET)
            facts = json.loads(self.server.get("/"))
            seen.append({slot: each["last"] for slot, each in facts.items()})
            self.figures["heard by the survivor"] = facts.get(str(SPARED), {}).get("heard")
            return len(facts) == WORKERS and len(set(seen[-1].values())) == 1 and seen[-1:] == seen[-2:-1]

        try:
            self.server.wait(same, 60)
        except AssertionError:
            self.wrong.append(f"the workers do not agree on the last message: {seen[-1:]}")

    def check_subscriptions(self) -> None:
        living = {f"life:{slot}:{pid}" for slot, pid in self.server.workers.items()}

        def look() -> set[str]:
            listed = self.ask(do="ls", prefix="life:")["channels"]
            return {channel["name"] for channel in listed if channel["workers"]}

        try:
            self.server.wait(lambda: look() == living, 20)
        except AssertionError:
            self.wrong.append(f"subscriptions: {sorted(look())}; workers: {sorted(living)}")
        (everyone,) = (each for each in self.ask(do="ls", prefix="all")["channels"] if each["name"] == "all")
        self.figures["messages"] = everyone["last"]
        self.expect(set(everyone["workers"]) == set(self.server.workers), f"listening: {everyone['workers']}")

    def read_reports(self) -> None:
        digests: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        large: set[int] = set()
        holes: dict[str, set[int]] = collections.defaultdict(set)
        reports = [path for path in Path(self.reports.name).iterdir() if path.name != "stop"]
        for path in reports:
            for line in path.read_text().splitlines():
                word, *rest = line.split()
                if word == "RANGE":
                    digests[rest[0]][rest[1]] += 1
                elif word == "LARGE":
                    large.add(int(rest[0]))
                elif word == "HOLE":
                    holes[path.name].update(range(int(rest[0]), int(rest[1])))
                else:
                    self.wrong.append(f"worker {path.name}: {line}")
        self.figures["large messages"] = len(large)
        self.figures["large messages under way when somebody joined"] = sum(map(len, holes.values()))
        for who, numbers in holes.items():
            self.expect(numbers <= large, f"worker {who} lost {sorted(numbers - large)[:10]}")
        self.figures["workers"] = len(reports)
        self.figures["ranges compared"] = sum(1 for each in digests.values() if sum(each.values()) > 1)
        self.expect(self.figures["ranges compared"] > 0, "nothing could be compared")
        self.expect(len(reports) >= WORKERS + self.kills, f"only {len(reports)} workers lived")
        for number, each in digests.items():
            self.expect(len(each) == 1, f"the workers do not agree on the order of range {number}")

    def close(self) -> None:
        self.server.stop()
        self.reports.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--router-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    parser.add_argument("--pause", type=float, default=0.004, help="seconds between two messages of a worker")
    given = parser.parse_args()
    run = Run(given.kills, given.router_kills, given.seed, given.pause)
    try:
        run.run()
    finally:
        for name, value in run.figures.items():
            print(f"{name}: {value}", flush=True)
        for what in run.wrong[:20]:
            print(f"WRONG {what}")
        run.close()
    killed = f"{run.figures['kills']} workers and {run.figures['router_kills']} routers killed"
    print(f"FIGURES {killed}, {run.figures.get('messages')} messages, {len(run.wrong)} wrong")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
