"""Ourselves: workers and a router as real processes, without HTTP."""

from __future__ import annotations

import time
from itertools import accumulate, cycle, islice
from typing import Any, Callable

import gevent  # noqa: F401  imported once, before the workers are forked
from gevent.lock import Semaphore
from gevent.socket import wait_read

import channels.master.routing
import channels.worker.alerts
import channels.worker.subscription  # noqa: F401
from benchmarks import actors
from benchmarks.peers import Peer
from channels import alerts, channel_send, subscribe
from tests.cluster import Cluster

RING = 1 << 20
_parts: list[Callable[[], Any]] = []


def _part(index: int) -> Any:
    return _parts[index]()


class Fabric(Peer):
    name = "channels"
    has_alerts = True
    does = (
        "`channel_send` for each message, a subscription iterated, under gevent; through the router; rings of 1 MiB, "
        "where the default is 256 KiB, for the others' buffers have no bound either; rings between workers of 64 KiB, "
        "which is the default with up to 45 slots and half of it with the 64 of 21 workers"
    )
    flight = RING  # more would go through the router's memory for those who are behind
    settings: dict[str, Any] = {
        "ring_size": RING,
        "alert_ring_size": 64 << 10,
        "message_max": 256 << 20,
        "assembly_max": 1 << 30,
        "send_timeout": actors.DEADLINE,
    }

    def wait_read(self, fd: int) -> None:
        wait_read(fd)

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                channel_send(channel, body)

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        subscription = subscribe(channel, maxlen=max(self.window, 1000))

        def take(number: int) -> list[bytes]:
            return [message.data for message in islice(subscription, number)]

        return take

    def play(self, functions: list[Callable[[], Any]], lines: list[actors.Line]) -> list[Any]:
        _parts[:] = functions
        with Cluster(len(functions), **self.settings) as cluster:
            workers = list(cluster.workers.values())
            for index, worker in enumerate(workers):
                worker.start(_part, index)
            for line in lines:
                line.release()
            return [worker.result(actors.DEADLINE) for worker in workers]

    def ping_pong(self, workers: int, bodies: list[bytes]) -> PingPong:
        """One broadcasts alerts, the others answer each."""
        return PingPong(self, workers, bodies)


class PingPong:
    """`alerts.broadcast` from one worker, `alerts.reply` from the handlers of the others."""

    channels: dict[str, int] = {}

    def __init__(self, peer: Peer, workers: int, bodies: list[bytes]) -> None:
        self.peer, self.workers, self.bodies = peer, workers, bodies

    def lead(self, line: actors.Line, phases: list[int]) -> float:
        """Seconds that the last phase took."""
        answered = Semaphore(0)
        took = 0.0

        def handler() -> Callable[[bytes], None]:
            due, seen = cycle(self.bodies).__next__, 0

            def on_pong(data: bytes) -> None:
                nonlocal seen
                if data != due():
                    raise AssertionError(actors.BROKEN)
                seen += 1
                if seen in ends:
                    answered.release()

            return on_pong

        ends = set(accumulate(phases))
        for worker in range(1, self.workers + 1):
            alerts.receive(f"pong-{worker}", handler())
        bodies = cycle(self.bodies)
        for rounds in phases:
            line.wait(0, wait_read)
            begun = time.monotonic()
            for body in islice(bodies, rounds):
                alerts.broadcast("ping", body)
            for _ in range(self.workers):
                answered.acquire()
            took = time.monotonic() - begun
        return took

    def answer(self, line: actors.Line, worker: int, phases: list[int]) -> None:
        """Every ping is checked and sent back."""
        name, due, reply = f"pong-{worker}", cycle(self.bodies).__next__, alerts.reply

        def on_ping(data: bytes) -> None:
            if data != due():
                raise AssertionError(actors.BROKEN)
            reply(name, data)

        alerts.receive("ping", on_ping)
        for _ in phases:
            line.wait(worker, wait_read)
