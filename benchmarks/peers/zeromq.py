"""ZeroMQ publish/subscribe through a proxy process (XSUB, XPUB), over Unix sockets."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import Callable

import zmq

from benchmarks import actors
from benchmarks.peers import Peer


class ZeroMQ(Peer):
    name = "ZeroMQ"
    does = "pyzmq, PUB and SUB through `zmq.proxy` in a process of its own, high-water marks off, two frames a message"

    def open(self, channels: dict[str, int]) -> None:
        self._directory = tempfile.mkdtemp()
        self._up, self._down = (f"ipc://{self._directory}/{end}" for end in ("up", "down"))
        self._proxy = actors.Child(self._serve)

    def _serve(self) -> None:
        context = zmq.Context()
        ends = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
        for end, address in zip(ends, (self._up, self._down)):
            end.setsockopt(zmq.SNDHWM, 0)
            end.setsockopt(zmq.RCVHWM, 0)
            end.bind(address)
        zmq.proxy(*ends)

    def sender(self, channel: str) -> Callable[[list[bytes]], None]:
        socket = zmq.Context.instance().socket(zmq.PUB)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(self._up)
        time.sleep(0.3)  # a PUB drops what it sends before its subscriptions have come; nothing tells when
        topic = channel.encode()

        def send(bodies: list[bytes]) -> None:
            for body in bodies:
                socket.send(topic, zmq.SNDMORE)
                socket.send(body)

        return send

    def taker(self, channel: str, subscriber: int) -> Callable[[int], list[bytes]]:
        socket = zmq.Context.instance().socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.connect(self._down)
        socket.subscribe(channel)
        time.sleep(0.1)
        receive = socket.recv_multipart
        return lambda number: [receive()[1] for _ in range(number)]

    def close(self) -> None:
        self._proxy.end()
        shutil.rmtree(self._directory, ignore_errors=True)
