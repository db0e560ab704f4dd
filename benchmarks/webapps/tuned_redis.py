"""Redis by hand: one subscription for each worker, frames built once, a queue per client, what waits joined."""

from __future__ import annotations

import os
from collections.abc import Iterator

import gevent
import redis
from flask import Response
from gevent.queue import SimpleQueue

from benchmarks.webapps import create

connection = redis.Redis.from_url(os.environ["BENCHMARK_REDIS"])
app = create(lambda text: connection.publish("all", text))
clients: set[SimpleQueue] = set()


def listen() -> None:
    subscription = connection.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("all")
    for message in subscription.listen():
        frame = b"data: " + message["data"] + b"\n\n"
        for queue in clients:
            queue.put(frame)


gevent.spawn(listen)


@app.get("/events")
def events() -> Response:
    def stream() -> Iterator[bytes]:
        queue: SimpleQueue = SimpleQueue()
        clients.add(queue)
        try:
            yield b"retry: 2000\n"
            while True:
                parts = [queue.get()]
                while not queue.empty():
                    parts.append(queue.get_nowait())
                yield b"".join(parts)
        finally:
            clients.discard(queue)

    return Response(stream(), mimetype="text/event-stream")
