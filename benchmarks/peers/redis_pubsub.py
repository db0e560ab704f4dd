"""Redis publish/subscribe: redis-py with its hiredis parser, a private redis-server on the loopback interface."""

from __future__ import annotations

import subprocess
import threading
import time
from itertools import cycle
from typing import Callable

import redis

from benchmarks import actors
from benchmarks.peers import Peer

PORT = 20201
BATCH = 100  # publishes that leave in one pipeline


class Redis(Peer):
    name = "Redis"
    does = "redis-py and hiredis; each `publish` waits for its answer; `PubSub.parse_response`, the fastest way to read"

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None

    def open(self, channels: dict[str, int]) -> None:
        command = ["redis-server", "--port", str(PORT), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--client-output-buffer-limit", "pubsub 0 0 0", "--daemonize", "no", "--loglevel", "warning"]
        self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._subscribers = channels
        deadline = time.monotonic() + 10
        while True:
            try:
                with redis.Redis(port=PORT) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        client = redis.Redis(port=PORT)

        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                client.publish(channel, body)

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        pubsub = redis.Redis(port=PORT).pubsub()
        pubsub.subscribe(channel)
        assert pubsub.parse_response()[0] == b"subscribe"
        parse = pubsub.parse_response
        return lambda number: [parse()[2] for _ in range(number)]

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()


class RedisPipelined(Redis):
    name = "Redis, pipelined"
    does = f"the same, {BATCH} publishes in one pipeline without a transaction"

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        client = redis.Redis(port=PORT)

        def send(bodies: list[bytes]) -> None:
            for start in range(0, len(bodies), BATCH):
                pipeline = client.pipeline(transaction=False)
                for body in bodies[start : start + BATCH]:
                    pipeline.publish(channel, body)
                pipeline.execute()

        return send

    def ping_pong(self, workers: int, bodies: list[bytes]) -> PingPong:
        """One channel to the others, one back from each."""
        return PingPong(self, workers, bodies)


class PingPong:
    """One process publishes, pipelined; a thread of it reads the answers, published one batch at a time."""

    def __init__(self, peer: Redis, workers: int, bodies: list[bytes]) -> None:
        self.peer, self.workers, self.bodies = peer, workers, bodies
        self.channels: dict[str, int] = {}

    def lead(self, line: actors.Line, phases: list[int]) -> float:
        """Seconds that the last phase took."""
        send = self.peer.sender("ping")
        pubsub = redis.Redis(port=PORT).pubsub()
        pubsub.subscribe(*(f"pong-{worker}" for worker in range(1, self.workers + 1)))
        for _ in range(self.workers):
            assert pubsub.parse_response()[0] == b"subscribe"
        due = [cycle(self.bodies).__next__ for _ in range(self.workers + 1)]
        took, sent = 0.0, 0

        def gather(number: int) -> None:
            for _ in range(number):
                _, channel, data = pubsub.parse_response()
                worker = int(channel[5:])
                if data != due[worker]():
                    raise AssertionError(actors.BROKEN)

        for rounds in phases:
            line.wait(0, self.peer.wait_read)
            gatherer = threading.Thread(target=gather, args=(rounds * self.workers,))
            begun = time.monotonic()
            gatherer.start()
            send([self.bodies[(sent + i) % len(self.bodies)] for i in range(rounds)])
            sent += rounds
            gatherer.join()
            took = time.monotonic() - begun
        return took

    def answer(self, line: actors.Line, worker: int, phases: list[int]) -> None:
        take, send = self.peer.taker("ping", worker), self.peer.sender(f"pong-{worker}")
        due = cycle(self.bodies).__next__
        for rounds in phases:
            line.wait(worker, self.peer.wait_read)
            for start in range(0, rounds, BATCH):
                batch = take(min(BATCH, rounds - start))
                for data in batch:
                    if data != due():
                        raise AssertionError(actors.BROKEN)
                send(batch)
