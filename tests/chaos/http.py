"""Clients without manners, by the thousand, against a real server: it keeps answering others, and comes back.

    python -m tests.chaos.http [--seed N] [--quick] [--only fuzz,burst]

Prints the figures; the exit status is 1 when something was wrong.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import time
from collections import Counter
from typing import Any, Callable, TypeVar

from channels.worker.http.config import HttpConfig
from channels.worker.http.head import BadRequest, HeadParser
from tests.chaos import http_cases
from tests.chaos.crowd import GET, PATIENCE, Bystander, Crowd, aborts, descriptors, many_descriptors, resident
from tests.server import Server

APP = "tests.chaos.http_app:app"
SHORT = ("--header-timeout", "2", "--body-timeout", "2", "--write-timeout", "2", "--keepalive", "4")
LOST = "Traceback"


class Run:
    """The parts; what was wrong, and the figures."""

    def __init__(self, seed: int, scale: float) -> None:
        self.seed = seed
        self.scale = scale
        self.wrong: list[str] = []

    def count(self, full: int) -> int:
        return max(int(full * self.scale), 20)

    def check(self, true: bool, words: str) -> None:
        if not true:
            self.wrong.append(words)

    def settled(self, server: Server, crowd: Crowd, descriptors_before: int, what: str) -> None:
        """Everything that the clients cost is given back, and the log knows no accident."""
        back = crowd.until(lambda: descriptors([*server.workers.values()]) <= descriptors_before)
        left = descriptors([*server.workers.values()]) - descriptors_before
        self.check(back, f"{what}: {left} descriptors are left")
        self.check(LOST not in server.log, f"{what}: the log says\n{server.log[-3000:]}")
        self.check(len(server.workers) == server.count and "died" not in server.log, f"{what}: a worker died")

    def quiet_descriptors(self, server: Server) -> int:
        """Those that stay, once every worker has served somebody."""
        with Crowd(server.address) as crowd:
            crowd.join(8 * server.count, GET)
            self.check(crowd.until(lambda: crowd.answered == len(crowd.clients)), "the first clients were not served")
        lowest = descriptors([*server.workers.values()])
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            lowest = min(lowest, descriptors([*server.workers.values()]))
            time.sleep(0.05)
        return lowest

    def others(self, bystander: Bystander, what: str) -> str:
        self.check(not bystander.failures, f"{what}: somebody else was not answered: {bystander.failures[:3]}")
        self.check(bystander.answers > 0, f"{what}: nobody else was answered")
        return f"others had {bystander.answers} answers, the slowest in {bystander.slowest * 1e3:.0f} ms"

    def resets(self, crowd: Crowd, aborted: int, number: int) -> str:
        """The kernel alone reset new connections of a burst, and hardly any; `aborted`: during it."""
        self.check(not (crowd.resets and aborted), f"burst: {crowd.resets} were reset, {aborted} by a process")
        self.check(crowd.resets <= number // 1000, f"burst: {crowd.resets} of {number} were reset")
        return f"{crowd.resets} after a reset by the kernel"

    # ---- the parts ----

    def judge(self) -> str:
        """The parser and the judge alone: whatever comes, a head or a refusal, and nothing odd in environ."""
        parser = HeadParser(HttpConfig())
        chance = random.Random(f"{self.seed}/judge")
        found: Counter[str] = Counter()
        for _ in range(self.count(200_000)):
            raw = http_cases.request(chance, True).partition(b"\r\n\r\n")[0]
            environ: dict[str, Any] = {}
            try:
                parser.parse(raw + b"\r\n\r\n", environ)
            except BadRequest as error:
                found[str(error.status)] += 1
                continue
            found["good"] += 1
            for name, value in environ.items():
                odd = any(character in value for character in "\r\n\0")
                self.check(not odd or name == "PATH_INFO", f"judge: {name} is {value!r} after {raw!r}")
        return f"{sum(found.values()):,} heads: " + ", ".join(
            f"{count:,} {what}" for what, count in found.most_common()
        )

    def fuzz(self) -> str:
        """Connections of harmed requests: what was served is what h11 finds, too; others are served all the while."""
        found: Counter[str] = Counter()
        number = self.count(25_000)
        with Server(APP, workers=2) as server, Bystander(server.address) as bystander:
            for i in range(number):
                raw = http_cases.case(random.Random(f"{self.seed}/{i}"))
                try:
                    how, served = http_cases.compare(raw, say(server.address, [raw]))
                except (http_cases.BadAnswer, ValueError) as error:
                    self.check(False, f"fuzz: case {self.seed}/{i}: {raw!r}: {error}")
                    continue
                found[how] += 1
                found["requests served"] += served
            self.check(LOST not in server.log, f"fuzz: the log says\n{server.log[-3000:]}")
            said = self.others(bystander, "fuzz")
        return (
            f"{number:,} connections: " + ", ".join(f"{what} {count:,}" for what, count in found.items()) + f"; {said}"
        )

    def split(self) -> str:
        """Split in two at every place (of a short run, every eighth), bytes mean what they mean in one piece."""
        pieces = resets = 0
        step = 1 if self.scale >= 0.1 else 8
        with Server(APP, workers=1) as server:
            for i in range(self.count(60)):
                chance = random.Random(f"{self.seed}/split/{i}")
                raw = b"".join(http_cases.request(chance, i % 3 == 0) for _ in range(2))[:400]
                whole = served(server.address, [raw])
                for at in range(chance.randint(1, step), len(raw), step):
                    pieces += 1
                    parts = served(server.address, [raw[:at], raw[at:]])
                    if not any(parts) and (b"lose\r\n" in raw or b"HTTP/1.0" in raw):
                        resets += 1  # who says more behind the last request may lose the answer
                        continue
                    self.check(parts == whole, f"split: {raw!r} at {at}: {parts}, in one piece {whole}")
        return f"{pieces:,} connections, {resets} of them reset"

    def slow_heads(self) -> str:
        """Thousands who begin a head and drip: each is ended in time."""
        with Server(APP, *SHORT, "--backlog", "4096", workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            with Bystander(server.address) as bystander:
                crowd.join(self.count(3000), b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
                begun = time.monotonic()
                for _ in range(6):
                    crowd.run(0.5)
                    crowd.say(b"x")
                self.check(crowd.until(lambda: crowd.closed == len(crowd.clients)), "slow heads: some were not ended")
                took = time.monotonic() - begun
                said = self.others(bystander, "slow heads")
            refused = sum(client.received.startswith(b"HTTP/1.1 408") for client in crowd.clients)
            self.check(refused == len(crowd.clients), f"slow heads: {refused} of {len(crowd.clients)} were told 408")
            self.settled(server, crowd, before, "slow heads")
            return f"{len(crowd.clients):,} ended in {took:.1f} s, {refused:,} told 408; {said}"

    def slow_bodies(self) -> str:
        """Thousands whose body never comes."""
        with Server(APP, *SHORT, workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            with Bystander(server.address) as bystander:
                crowd.join(self.count(2000), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
                self.check(crowd.until(lambda: crowd.closed == len(crowd.clients)), "slow bodies: some were not ended")
                said = self.others(bystander, "slow bodies")
            refused = sum(client.received.startswith(b"HTTP/1.1 408") for client in crowd.clients)
            self.check(refused == len(crowd.clients), f"slow bodies: {refused} of {len(crowd.clients)} were told 408")
            self.settled(server, crowd, before, "slow bodies")
            return f"{len(crowd.clients):,} ended, told 408; {said}"

    def slow_readers(self) -> str:
        """Thousands who ask for 16 MiB and read nothing: memory is bounded, each is ended in time."""
        seconds = 6 if self.scale >= 0.1 else 2
        options = (*SHORT, "--write-timeout", str(seconds))
        with Server(APP, *options, workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            memory = resident([*server.workers.values()])
            number = self.count(2000)
            with Bystander(server.address) as bystander:
                crowd.join(number, GET.replace(b"/ ", b"/big "), deaf=True)
                here = crowd.until(lambda: descriptors([*server.workers.values()]) >= before + number)
                self.check(here, "slow readers: not all of them came in")
                crowd.run(0.5)
                grown = resident([*server.workers.values()]) - memory
                crowd.run(seconds)
                said = self.others(bystander, "slow readers")
                self.settled(server, crowd, before + 2, "slow readers")  # the bystander's
            self.check(grown < number * 32 * 1024 + (32 << 20), f"slow readers: {grown >> 20} MiB more")
            return f"{number:,} ended, {grown / number / 1024:.1f} KiB each while they were there; {said}"

    def no_descriptors(self) -> str:
        """More clients than a worker has descriptors: those who are in are served, and the rest when there is room."""
        limited = ("prlimit", "--nofile=200:200")
        with Server(APP, workers=1, prefix=limited) as server, Crowd(server.address) as crowd:
            with Bystander(server.address) as bystander:
                crowd.join(1000, GET)
                self.check(
                    crowd.until(lambda: "cannot accept" in server.log), "no descriptors: it never came to its limit"
                )
                crowd.run(1.0)
                inside = crowd.answered
                said = self.others(bystander, "no descriptors")
            crowd.close()
            warnings = server.log.count("cannot accept")
            crowd.join(100, GET)
            self.check(crowd.until(lambda: crowd.answered == 100), "no descriptors: it did not recover")
            self.check(LOST not in server.log, f"no descriptors: the log says\n{server.log[-3000:]}")
        return f"{inside} of 1,000 inside, {warnings} warnings, then 100 of 100 served; {said}"

    def burst(self) -> str:
        """Ten thousand connections at once, each with a request."""
        with Server(APP, "--backlog", "16384", workers=2) as server, Crowd(server.address, again=True) as crowd:
            before = self.quiet_descriptors(server)
            number, aborted = self.count(10_000), aborts()
            with Bystander(server.address) as bystander:
                begun = time.monotonic()
                crowd.join(number, GET)
                self.check(
                    crowd.until(lambda: crowd.answered == number), f"burst: {crowd.answered} of {number} were answered"
                )
                took = time.monotonic() - begun
                said = self.others(bystander, "burst")
            reset = self.resets(crowd, aborts() - aborted, number)
            crowd.close()
            self.settled(server, crowd, before, "burst")
        return f"{number:,} answered in {took:.1f} s, {reset}; {said}"

    def vanishing(self) -> str:
        """Clients that go without FIN, or with a reset, while they idle, ask, send and take a stream."""
        kinds = (
            b"",
            b"GET / HTT",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
            GET.replace(b"/ ", b"/stream "),
        )
        with Server(APP, *SHORT, workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            silent = True
            with Bystander(server.address) as bystander:
                for leave in ("vanish", "reset"):
                    for kind in kinds:
                        crowd.join(self.count(300), kind)
                    crowd.run(1.0)
                    silent = getattr(crowd, leave)() in (True, None) and silent
                said = self.others(bystander, "vanishing")
            self.settled(server, crowd, before, "vanishing")
        how = "without FIN and with a reset" if silent else "with a reset (leaving without FIN needs CAP_NET_ADMIN)"
        return f"{2 * len(kinds) * self.count(300):,} gone {how}, nothing left of them; {said}"

    def hundred_thousand(self) -> str:
        """A day's worth of connections: no descriptor and no memory stays behind."""
        with Server(APP, workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            number, done = self.count(100_000), 0
            ways = (GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), b"nonsense\r\n\r\n", b"")
            memory, begun = 0, time.monotonic()
            while done < number:
                for i, way in enumerate(ways):
                    crowd.join(50, way)
                    done += 50
                    if i == 2:
                        self.check(crowd.until(lambda: crowd.closed >= 100), "connections: some are not closed")
                self.check(crowd.until(lambda: crowd.answered >= 100), "connections: some are not answered")
                crowd.close() if done % 400 else crowd.reset()
                if not memory and done >= number // 5:
                    memory = resident([*server.workers.values()])
            took = time.monotonic() - begun
            self.settled(server, crowd, before, "connections")
            grown = resident([*server.workers.values()]) - memory
            self.check(grown < 8 << 20, f"connections: {grown >> 10} KiB more memory")
        return f"{done:,} in {took:.0f} s, no descriptor left, {grown / 1024:+,.0f} KiB since the first fifth"


R = TypeVar("R", bound=Run)
PARTS: dict[str, Callable[[Run], str]] = {
    "judge": Run.judge,
    "fuzz": Run.fuzz,
    "split": Run.split,
    "slow-heads": Run.slow_heads,
    "slow-bodies": Run.slow_bodies,
    "slow-readers": Run.slow_readers,
    "descriptors": Run.no_descriptors,
    "burst": Run.burst,
    "vanishing": Run.vanishing,
    "connections": Run.hundred_thousand,
}


def say(address: tuple[str, int], pieces: list[bytes]) -> bytes:
    """The pieces, each a send of its own, and no more; what comes back until the server closes."""
    with socket.create_connection(address, timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parts = []
        try:
            for piece in pieces:
                client.sendall(piece)
                if piece is not pieces[-1]:
                    time.sleep(0.0005)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                parts.append(part)
        except OSError:  # reset: it said more than it had announced
            pass
        return b"".join(parts)


def served(address: tuple[str, int], pieces: list[bytes]) -> tuple[list[http_cases.Seen], bool]:
    """What the application saw, and whether something was refused."""
    found = http_cases.answers(say(address, pieces))
    return http_cases.seen(found), any(status != 200 for status, _, _ in found)


def main() -> int:
    return started(__doc__, Run, PARTS)


def started(about: str | None, make: Callable[[int, float], R], parts: dict[str, Callable[[R], str]]) -> int:
    """As the command line says: the seed, how much of everything, which parts; the exit status."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", default=",".join(parts), help=f"of {', '.join(parts)}")
    given = parser.parse_args()
    many_descriptors()
    run = make(given.seed, 0.1 if given.quick else 1.0)
    print(f"seed {given.seed}", flush=True)
    return tell(run, {name: parts[name] for name in given.only.split(",")})


def tell(run: R, parts: dict[str, Callable[[R], str]]) -> int:
    """Go through these parts; the exit status."""
    begun = time.monotonic()
    figures = []
    for name, part in parts.items():
        said = part(run)
        print(f"{name}: {said}", flush=True)
        figures.append(f"{name} {said.partition(';')[0]}")
    for words in run.wrong[:20]:
        print(f"WRONG {words}")
    print(f"{time.monotonic() - begun:.0f} s")
    print(f"FIGURES {'; '.join(figures)}; {len(run.wrong)} wrong")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
