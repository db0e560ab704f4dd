"""The standard library: multiprocessing's Pipe, SimpleQueue and Queue, one for each subscriber."""

from __future__ import annotations

import multiprocessing
import threading
import time
from itertools import cycle
from typing import Any, Callable

from benchmarks import actors
from benchmarks.peers import Peer


class _PerSubscriber(Peer):
    """A queue for each subscriber of each channel; a publisher puts each message into every one."""

    def make(self) -> Any:
        raise NotImplementedError

    def open(self, channels: dict[str, int]) -> None:
        self.queues = {name: [self.make() for _ in range(number)] for name, number in channels.items()}

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        puts = [queue.put for queue in self.queues[channel]]

        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                for put in puts:
                    put(body)

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        get = self.queues[channel][subscriber].get
        return lambda number: [get() for _ in range(number)]

    def close(self) -> None:
        for queues in self.queues.values():
            for queue in queues:
                queue.close()


class SimpleQueue(_PerSubscriber):
    name = "SimpleQueue"
    does = "`multiprocessing.SimpleQueue`: pickle, a pipe and two locks; one queue for each subscriber"

    def make(self) -> Any:
        return multiprocessing.SimpleQueue()

    def ping_pong(self, workers: int, bodies: list[bytes]) -> PingPong:
        """A queue to each of the others, one for all answers."""
        return PingPong(self, workers, bodies)


class PingPong:
    """One process puts into the queues of the others, a thread of it takes their answers from one queue."""

    def __init__(self, peer: SimpleQueue, workers: int, bodies: list[bytes]) -> None:
        self.peer, self.workers, self.bodies = peer, workers, bodies
        self.channels = {"ping": workers, "pong": 1}

    def lead(self, line: actors.Line, phases: list[int]) -> float:
        """Seconds that the last phase took."""
        puts = [queue.put for queue in self.peer.queues["ping"]]
        get = self.peer.queues["pong"][0].get
        due = [cycle(self.bodies).__next__ for _ in range(self.workers + 1)]
        took, sent = 0.0, 0

        def gather(number: int) -> None:
            for _ in range(number):
                worker, data = get()
                if data != due[worker]():
                    raise AssertionError(actors.BROKEN)

        for rounds in phases:
            line.wait(0, self.peer.wait_read)
            gatherer = threading.Thread(target=gather, args=(rounds * self.workers,))
            begun = time.monotonic()
            gatherer.start()
            for _ in range(rounds):
                body = self.bodies[sent % len(self.bodies)]
                for put in puts:
                    put(body)
                sent += 1
            gatherer.join()
            took = time.monotonic() - begun
        return took

    def answer(self, line: actors.Line, worker: int, phases: list[int]) -> None:
        get, put = self.peer.queues["ping"][worker - 1].get, self.peer.queues["pong"][0].put
        due = cycle(self.bodies).__next__
        for rounds in phases:
            line.wait(worker, self.peer.wait_read)
            for _ in range(rounds):
                data = get()
                if data != due():
                    raise AssertionError(actors.BROKEN)
                put((worker, data))


class Queue(_PerSubscriber):
    name = "Queue"
    does = "`multiprocessing.Queue`: the same, filled by a thread of the publisher's"

    def make(self) -> Any:
        return multiprocessing.Queue()

    def close(self) -> None:
        for queues in self.queues.values():
            for queue in queues:
                queue.cancel_join_thread()
        super().close()


class Pipe(_PerSubscriber):
    name = "Pipe"
    does = "`multiprocessing.Pipe(duplex=False)`: `send_bytes` and `recv_bytes`, no lock, so one publisher only"

    def make(self) -> Any:
        return multiprocessing.Pipe(duplex=False)

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        puts = [end.send_bytes for _, end in self.queues[channel]]

        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                for put in puts:
                    put(body)

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        get = self.queues[channel][subscriber][0].recv_bytes
        return lambda number: [get() for _ in range(number)]

    def close(self) -> None:
        for queues in self.queues.values():
            for pair in queues:
                pair[0].close()
                pair[1].close()
