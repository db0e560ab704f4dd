"""Processes of one run: they start together, hold a window, check what they get, and say when they were done.

The same for every peer: one loop that publishes, one that subscribes.  A peer brings two functions only, `send(bodies)`
and `take(number) -> bodies`.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import struct
import time
import traceback
from typing import Any, Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else numpy starts threads that compete with what is measured
import numpy

DEADLINE = 60.0  # seconds after which a run has failed
BROKEN = "lost, doubled, out of order or damaged"
MANY = 4096  # small bodies that are checked at once
NOISE = 1 << 20  # bytes of noise before it repeats itself
Wait = Callable[[int], None]


def wait_blocking(fd: int) -> None:
    """Until a descriptor is readable, as a process without an event loop does."""
    select.select([fd], [], [])


class Line:
    """Where the actors of a run wait for each other, as often as they like."""

    def __init__(self, actors: int) -> None:
        self.actors = actors
        self._here = os.pipe()
        self._go = [os.pipe() for _ in range(actors)]

    def wait(self, actor: int, wait_read: Wait) -> None:
        """In an actor: until all are here."""
        os.write(self._here[1], b".")
        wait_read(self._go[actor][0])
        os.read(self._go[actor][0], 1)

    def release(self) -> None:
        """In the benchmark: when all are here, let them go."""
        left, deadline = self.actors, time.monotonic() + DEADLINE
        while left:
            if not select.select([self._here[0]], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"{left} of {self.actors} actors never came to the start")
            left -= len(os.read(self._here[0], left))
        for _, end in self._go:
            os.write(end, b".")

    def close(self) -> None:
        for pair in [self._here, *self._go]:
            os.close(pair[0])
            os.close(pair[1])


class Window:
    """Messages in flight at most, from each publisher to each subscriber: none is lost for want of room.

    A byte in a pipe gives back a quarter of the window.
    """

    def __init__(self, messages: int, publishers: int, subscribers: int) -> None:
        self.quarter = max(messages // 4, 1)
        self._pipes = [[os.pipe() for _ in range(subscribers)] for _ in range(publishers)]
        for pair in self._each():
            os.set_blocking(pair[0], False)
        self._left = [4 * self.quarter] * subscribers

    def _each(self) -> list[tuple[int, int]]:
        return [pair for row in self._pipes for pair in row]

    def claim(self, publisher: int, messages: int, wait_read: Wait) -> None:
        """In a publisher: wait until every subscriber lets so many more come."""
        for subscriber, (end, _) in enumerate(self._pipes[publisher]):
            while self._left[subscriber] < messages:
                try:
                    self._left[subscriber] += self.quarter * len(os.read(end, 4096))
                except BlockingIOError:
                    wait_read(end)
            self._left[subscriber] -= messages

    def refill(self) -> None:
        """In a publisher that has claimed the whole window: nothing is in flight."""
        self._left = [4 * self.quarter] * len(self._left)

    def grant(self, publisher: int, subscriber: int, quarters: int) -> None:
        """In a subscriber: so many quarters of this publisher's were taken."""
        if quarters:
            os.write(self._pipes[publisher][subscriber][1], b"." * quarters)

    def close(self) -> None:
        for pair in self._each():
            os.close(pair[0])
            os.close(pair[1])


def make_bodies(publisher: int, size: int, number: int) -> list[bytes]:
    """Bodies that differ: the publisher, a number, and noise up to `size` bytes."""
    noise = random.Random(publisher)
    head = struct.Struct("<BI")
    left = size - head.size
    repeats = left // NOISE + 1
    return [head.pack(publisher, i) + (noise.randbytes(min(left, NOISE)) * repeats)[:left] for i in range(number)]


class Expectation:
    """Every body of every publisher in its order, checked as it comes."""

    def __init__(self, publishers: int, size: int, quarter: int) -> None:
        self.size, self.cycle = size, 4 * quarter
        self.bodies = [make_bodies(publisher, size, self.cycle) for publisher in range(publishers)]
        self.seen = [0] * publishers  # of each publisher, up to now
        self._checked = [0] * publishers
        self._unchecked: list[bytes] = []
        self._small = publishers > 1 and size <= 1024
        if self._small:
            self._joined = [b"".join(bodies * (MANY // self.cycle + 2)) for bodies in self.bodies]

    def check(self, got: list[bytes]) -> None:
        """Count them; raises AssertionError for the first that is not the one that is due, now or soon."""
        if len(self.bodies) == 1:
            start = self.seen[0] % self.cycle
            assert got == self.bodies[0][start : start + len(got)], BROKEN
            self.seen[0] += len(got)
        elif self._small:
            joined = b"".join(got)
            assert len(joined) == len(got) * self.size, BROKEN
            owners = joined[:: self.size]
            for publisher in range(len(self.seen)):
                self.seen[publisher] += owners.count(publisher)
            self._unchecked.append(joined)
            if len(self._unchecked) * len(got) >= MANY // 2:
                self.finish()
        else:
            for body in got:
                publisher = body[0]
                assert body == self.bodies[publisher][self.seen[publisher] % self.cycle], BROKEN
                self.seen[publisher] += 1

    def finish(self) -> None:
        """Check what was only counted so far: small bodies of many publishers, a few thousand at a time."""
        if not self._unchecked:
            return
        joined = b"".join(self._unchecked)
        self._unchecked.clear()
        order = numpy.frombuffer(joined, dtype=numpy.uint8)[:: self.size].argsort(kind="stable")
        by_publisher = numpy.frombuffer(joined, dtype=f"V{self.size}").take(order).tobytes()
        at = 0
        for publisher, expected in enumerate(self._joined):
            end = at + (self.seen[publisher] - self._checked[publisher]) * self.size
            start = self._checked[publisher] % self.cycle * self.size
            assert by_publisher[at:end] == expected[start : start + end - at], BROKEN
            self._checked[publisher] = self.seen[publisher]
            at = end
        assert at == len(joined), BROKEN


class Plan:
    """One run of a fan-out: who, how much, and where they wait for each other."""

    def __init__(self, publishers: int, subscribers: int, size: int, window: int, messages: int, warm: int) -> None:
        self.publishers, self.subscribers, self.size = publishers, subscribers, size
        self.window = Window(window, publishers, subscribers)
        quarter = self.window.quarter
        self.messages = max(messages // quarter, 1) * quarter  # of each publisher
        self.warm = max(warm // quarter, 1) * quarter
        self.line = Line(publishers + subscribers)

    def publish(self, index: int, send: Callable[[list[bytes]], None], wait_read: Wait) -> float:
        """The publisher's part; when it began, in seconds of the monotonic clock."""
        quarter = self.window.quarter
        bodies = make_bodies(index, self.size, 4 * quarter)
        chunks = [bodies[i * quarter : (i + 1) * quarter] for i in range(4)]
        self.line.wait(index, wait_read)
        turn = 0
        begun = 0.0
        for warming in (True, False):
            begun = time.monotonic()
            for _ in range((self.warm if warming else self.messages) // quarter):
                self.window.claim(index, quarter, wait_read)
                send(chunks[turn % 4])
                turn += 1
            self.window.claim(index, 4 * quarter, wait_read)  # everyone has everything
            self.window.refill()
            if warming:
                self.line.wait(index, wait_read)
        return begun

    def subscribe(self, index: int, take: Callable[[int], list[bytes]], wait_read: Wait) -> float:
        """The subscriber's part; when it had everything."""
        quarter = self.window.quarter
        expectation = Expectation(self.publishers, self.size, quarter)
        self.line.wait(self.publishers + index, wait_read)
        granted = [0] * self.publishers
        for warming in (True, False):
            for _ in range((self.warm if warming else self.messages) * self.publishers // quarter):
                expectation.check(take(quarter))
                for publisher, seen in enumerate(expectation.seen):
                    due = seen // quarter
                    self.window.grant(publisher, index, due - granted[publisher])
                    granted[publisher] = due
            expectation.finish()
            if warming:
                self.line.wait(self.publishers + index, wait_read)
        return time.monotonic()

    def close(self) -> None:
        self.window.close()
        self.line.close()


# ---- plain processes, for everyone who brings no workers of its own ----


class Child:
    """A forked process that runs one function."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._link, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                try:
                    value = function()
                except BaseException as error:
                    traceback.print_exc()
                    value = RuntimeError(f"{type(error).__name__}: {error}")
                with open(end, "wb") as pipe:
                    pickle.dump(value, pipe)
            finally:
                os._exit(0)
        os.close(end)

    def result(self) -> Any:
        if not select.select([self._link], [], [], DEADLINE)[0]:
            raise TimeoutError("an actor never ended")
        with open(self._link, "rb") as pipe:
            value = pickle.load(pipe)
        self._link = -1
        os.waitpid(self.pid, 0)
        self.pid = 0
        if isinstance(value, BaseException):
            raise value
        return value

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._link)
            self.pid = 0


def play(functions: list[Callable[[], Any]], lines: list[Line]) -> list[Any]:
    """Each function in a process of its own; what they return, in order.  `lines` are released one after the other."""
    children = [Child(function) for function in functions]
    try:
        for line in lines:
            line.release()
        return [child.result() for child in children]
    finally:
        for child in children:
            child.end()
