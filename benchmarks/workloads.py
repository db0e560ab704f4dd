"""What is measured: fan-out, round trips, alerts.  Each runs once and returns one figure.

Nothing is counted that did not arrive whole and in order; the warm-up before the clock starts is the same for all.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any, Callable

from benchmarks import actors
from benchmarks.peers import Peer

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class FanOut:
    """Publishers to subscribers of one channel; deliveries a second."""

    publishers: int
    subscribers: int
    size: int
    unit = "deliveries/s"

    def window(self, make: type[Peer]) -> int:
        """Messages in flight at most, from each publisher."""
        return max(2, min(4096, make.flight // self.size // self.publishers))

    def run(self, make: type[Peer], amount: int) -> float:
        peer = make()
        window = self.window(make)
        peer.window = self.publishers * window
        plan = actors.Plan(self.publishers, self.subscribers, self.size, window, amount, amount // 5)
        functions: list[Callable[[], Any]] = []
        for i in range(self.publishers):
            functions.append(lambda i=i: plan.publish(i, peer.sender("news"), peer.wait_read))
        for i in range(self.subscribers):
            functions.append(lambda i=i: plan.subscribe(i, peer.taker("news", i), peer.wait_read))
        try:
            peer.open({"news": self.subscribers})
            times = peer.play(functions, [plan.line, plan.line])
        finally:
            peer.close()
            plan.close()
        took = max(times[self.publishers :]) - min(times[: self.publishers])
        return plan.messages * self.publishers * self.subscribers / took

    def amount(self, rate: float, seconds: float) -> int:
        """Messages of each publisher that take so long."""
        return int(rate * seconds / self.publishers / self.subscribers)

    @property
    def first(self) -> int:
        """Messages of each publisher in the run that finds out how many it takes."""
        return max(1, min(2000, MIB // self.size))


@dataclasses.dataclass(frozen=True)
class RoundTrip:
    """A message there and one back, over two channels; the median in seconds."""

    size: int = 10
    unit = "s"
    first = 300

    def run(self, make: type[Peer], amount: int) -> float:
        peer = make()
        line = actors.Line(2)
        bodies = actors.make_bodies(0, self.size, 256)

        def ask() -> float:
            send, take = peer.sender("there"), peer.taker("back", 0)
            line.wait(0, peer.wait_read)
            times = []
            for i in range(amount + amount // 5):
                body = bodies[i % 256]
                begun = time.perf_counter()
                send([body])
                got = take(1)
                times.append(time.perf_counter() - begun)
                assert got == [body]
            line.wait(0, peer.wait_read)
            return statistics.median(times[amount // 5 :])

        def echo() -> None:
            send, take = peer.sender("back"), peer.taker("there", 0)
            line.wait(1, peer.wait_read)
            for _ in range(amount + amount // 5):
                send(take(1))
            line.wait(1, peer.wait_read)  # what it sent last may still be in its own hands

        try:
            peer.open({"there": 1, "back": 1})
            return float(peer.play([ask, echo], [line, line])[0])
        finally:
            peer.close()
            line.close()

    def amount(self, rate: float, seconds: float) -> int:
        return max(int(seconds / rate), 100)


class AlertRoundTrip(RoundTrip):
    """`alerts.call` to another worker; for peers without alerts a message there and one back; the median in seconds."""

    def run(self, make: type[Peer], amount: int) -> float:
        if not make.has_alerts:
            return super().run(make, amount)
        peer = make()
        line = actors.Line(2)
        from channels import alerts

        def ask() -> float:
            bodies = actors.make_bodies(0, self.size, 256)
            line.wait(0, peer.wait_read)
            times = []
            for i in range(amount + amount // 5):
                begun = time.perf_counter()
                got = alerts.call(None, "echo", bodies[i % 256], worker=2)
                times.append(time.perf_counter() - begun)
                assert got == bodies[i % 256]
            return statistics.median(times[amount // 5 :])

        def echo() -> None:
            alerts.receive("echo", lambda data: data)
            line.wait(1, peer.wait_read)

        try:
            return float(peer.play([ask, echo], [line])[0])
        finally:
            line.close()


@dataclasses.dataclass(frozen=True)
class PingPong:
    """One sends `rounds` pings to each of the others without waiting for a pong, each answers each; alerts a second."""

    workers: int
    size: int
    unit = "alerts/s"
    most = 50_000
    first = 200

    def run(self, make: type[Peer], amount: int) -> float:
        rounds = min(max(amount, 10), self.most)
        warm = max(rounds // 5, 1)
        peer = make()
        line = actors.Line(self.workers + 1)
        number = max(2, min(4096, MIB // self.size))
        bodies = actors.make_bodies(0, self.size, number)

        play = peer.ping_pong(self.workers, bodies)  # type: ignore[attr-defined]
        functions = [lambda: play.lead(line, [warm, rounds])]
        for i in range(1, self.workers + 1):
            functions.append(lambda i=i: play.answer(line, i, [warm, rounds]))
        try:
            peer.open(play.channels)
            took = float(peer.play(functions, [line, line])[0])
        finally:
            peer.close()
            line.close()
        return 2 * rounds * self.workers / took

    def amount(self, rate: float, seconds: float) -> int:
        return int(rate * seconds / self.workers / 2)
