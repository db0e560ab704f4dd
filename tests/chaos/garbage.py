"""Workers of a real server write garbage into the shared memory that they can write to.

    python -m tests.chaos.garbage --times 200 --seed 1

Each time one of two workers spoils its region, in one of nine ways, while it goes on sending (garbage_app.py); soon
each of them begins with a region that another has spoilt.  What must hold: the router says that it is quarantined, and
of nobody else; it is killed, its successor is heard; two others lose nothing of each other's, small, large or alerts,
and agree on the order; router and supervisor live.  Prints the figures; the exit status is 1 when something was wrong.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from channels import control
from tests.server import READY, Server

CHECKING = (1, 2)
WORKERS = 4
WAYS = (
    *("a_word", "a_small_number", "a_byte", "the_first_page", "nothing_but_ones", "nothing_but_zeros"),
    *("the_rings", "a_piece_of_a_ring", "all_of_it"),
)
QUARANTINED = re.compile(r"worker=(\d+) gen=(\d+) quarantined: (.+)")


class Run:
    """One server, who spoils what in it, and what came of it."""

    def __init__(self, times: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.times = times
        self.wrong: list[str] = []
        self.reasons: collections.Counter[str] = collections.Counter()
        self.figures: dict[str, Any] = {}
        self.reports = tempfile.TemporaryDirectory(prefix="channels-chaos-")
        self.server = Server(
            "tests.chaos.garbage_app:app",
            *("--ring-size", "65536", "--max-workers", "4", "--stall-timeout", "30", "--send-timeout", "60"),
            *("--timeout", "60"),
            workers=WORKERS,
            module="tests.chaos.impatient",
            environment={"CHAOS_REPORTS": self.reports.name},
        )

    def router_pid(self) -> int:
        with control.Conversation(self.server.control, {"do": "stats"}) as conversation:
            return int(conversation.answer()["pid"])

    def run(self) -> None:
        self.server.wait(self.all_are_heard)
        router, checking = self.router_pid(), {slot: self.server.workers[slot] for slot in CHECKING}
        ways: list[str] = []
        spoilt = []
        for number in range(self.times):
            ways = ways or self.chance.sample(WAYS, len(WAYS))
            slot = self.chance.choice(sorted(self.server.workers.keys() - set(CHECKING)))
            spoilt.append(self.spoil(slot, ways.pop()))
            self.expect(self.router_pid() == router, f"another router after {number + 1}")
        self.settle()
        self.expect(self.server.process.poll() is None, "the supervisor has ended")
        self.expect("router died" not in self.server.log, "the router died")
        now = {slot: self.server.workers.get(slot) for slot in CHECKING}
        self.expect(now == checking, f"those that check were {checking} and are {now}")
        found = [tuple(map(int, each.groups()[:2])) for each in map(QUARANTINED.search, self.server.lines) if each]
        self.expect(found == spoilt, f"quarantined were {found}, garbage was written by {spoilt}")
        self.figures["again"] = sum(generation > 1 for _, generation in spoilt)
        self.read_reports()

    def spoil(self, slot: int, way: str) -> tuple[int, int]:
        """Slot and generation of who did it; its successor is heard when this returns."""
        (generation, pid) = next(
            (int(found[2]), int(found[3]))
            for found in map(READY.search, reversed(self.server.lines))
            if found and int(found[1]) == slot
        )
        try:
            self.server.get(f"/spoil?slot={slot}&way={way}&seed={self.chance.randrange(1 << 30)}")
        except OSError:
            pass  # the one that is told may be the one that answers
        try:
            line = self.server.wait_log(rf"worker={slot} gen={generation} quarantined: (.+)")
            self.reasons[line[1]] += 1
            self.server.wait_log(rf"worker={slot} gen={generation} pid={pid} died: signal 9")
            self.server.wait(self.all_are_heard)
        except AssertionError:
            raise AssertionError(f"{way} in slot {slot}, generation {generation}:\n{self.server.log}") from None
        return slot, generation

    def all_are_heard(self) -> bool:
        """Whether there are as many workers as there should be, and both that check have heard the others."""
        workers = self.server.workers
        reports = [self.report(slot) for slot in CHECKING]
        others = [pid for slot, pid in workers.items() if slot not in CHECKING]
        return len(workers) == WORKERS and all(f"HEARD {pid}\n" in text for pid in others for text in reports)

    def report(self, slot: int) -> str:
        pid = self.server.workers.get(slot)
        path = Path(self.reports.name, f"{slot}-{pid}")
        return path.read_text() if path.exists() else ""

    def expect(self, good: bool, otherwise: str) -> None:
        if not good:
            self.wrong.append(otherwise)

    def settle(self) -> None:
        """No more is sent; both have heard the last of each other and of themselves."""
        Path(self.reports.name, "stop").touch()
        seen: list[Any] = []

        def everything() -> bool:
            seen[:] = [json.loads(self.server.get("/"))]
            said = {slot: seen[0][slot]["sent"] for slot in seen[0]}
            heard = all(each["heard"] == said for each in seen[0].values())
            one, two = (seen[0][str(slot)] for slot in CHECKING)
            alerted = one["alerts"] == {"2": two["alerts_sent"]} and two["alerts"] == {"1": one["alerts_sent"]}
            return heard and alerted and min(said.values()) > 0

        try:
            self.server.wait(everything)
        except AssertionError:
            self.wrong.append(f"something was lost: {seen}")
        for name, key in (("messages", "sent"), ("alerts", "alerts_sent"), ("strange", "strange")):
            self.figures[name] = sum(each[key] for each in seen[0].values())

    def read_reports(self) -> None:
        digests: dict[str, set[str]] = collections.defaultdict(set)
        compared = 0
        for slot in CHECKING:
            for line in self.report(slot).splitlines():
                word, *rest = line.split()
                if word == "RANGE":
                    compared += rest[0] in digests
                    digests[rest[0]].add(rest[1])
                elif word != "HEARD":
                    self.wrong.append(f"worker {slot}: {line}")
        self.figures["compared"] = compared
        self.expect(compared > 0, "nothing could be compared")
        for number, each in digests.items():
            self.expect(len(each) == 1, f"the two do not agree on range {number}")

    def close(self) -> None:
        self.server.stop()
        self.reports.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFF)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    run = Run(given.times, given.seed)
    try:
        run.run()
    finally:
        for what in run.wrong[:20]:
            print(f"WRONG {what}")
        run.close()
    reasons = ", ".join(f"{count} {reason}" for reason, count in run.reasons.most_common())
    print(
        f"FIGURES {sum(run.reasons.values())} times garbage, {run.figures['again']} in a slot"
        f" that was spoilt before, each quarantined ({reasons}); between two others"
        f" {run.figures['messages']:,} messages and {run.figures['alerts']:,} alerts, {run.figures['compared']} ranges"
        f" of both compared, {run.figures['strange']} of the spoilers' among them; {len(run.wrong)} wrong"
    )
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
