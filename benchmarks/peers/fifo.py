"""faster-fifo: a queue in shared memory under a mutex of all its processes."""

from __future__ import annotations

from queue import Full
from typing import Any, Callable

import faster_fifo
import faster_fifo_reduction  # noqa: F401  it registers how its queues are pickled

from benchmarks.peers.multiprocess import _PerSubscriber

BYTES = 64 << 20


def _same(body: bytes) -> bytes:
    return body


class FasterFifo(_PerSubscriber):
    name = "faster-fifo"
    does = "`faster_fifo.Queue` without pickle, `put` for each message, `get_many`; one queue for each subscriber"

    def make(self) -> Any:
        return faster_fifo.Queue(max_size_bytes=BYTES, loads=bytes, dumps=_same)

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        puts = [queue.put for queue in self.queues[channel]]

        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                for put in puts:
                    while True:
                        try:
                            put(body, timeout=60.0)
                            break
                        except Full:
                            continue

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        get_many = self.queues[channel][subscriber].get_many
        waiting: list[bytes] = []

        def take(number: int) -> list[bytes]:
            while len(waiting) < number:
                waiting.extend(get_many(timeout=60.0, max_messages_to_get=number))
            taken = waiting[:number]
            del waiting[:number]
            return taken

        return take
