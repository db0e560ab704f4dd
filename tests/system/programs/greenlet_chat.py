"""A chat within one worker: greenlets send and receive for a request that they name."""

import gevent
import uwsgi  # type: ignore[import-not-found]
from gevent.queue import Queue

clients = set()


class Client:
    def __init__(self):  # type: ignore[no-untyped-def]
        self.queue = Queue()
        self.context = None

    def receive(self):  # type: ignore[no-untyped-def]
        while True:
            data = uwsgi.websocket_recv(request_context=self.context)
            for client in clients:
                client.queue.put(data)

    def send(self):  # type: ignore[no-untyped-def]
        while True:
            uwsgi.websocket_send(self.queue.get(), request_context=self.context)

    def run(self):  # type: ignore[no-untyped-def]
        uwsgi.websocket_handshake()
        self.context = uwsgi.request_context()
        clients.add(self)
        jobs = [gevent.spawn(self.receive), gevent.spawn(self.send)]
        gevent.wait(jobs, count=1)
        gevent.killall(jobs)
        clients.remove(self)


def application(env, start_response):  # type: ignore[no-untyped-def]
    if env["PATH_INFO"] == "/count":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(len(clients)).encode()]
    Client().run()
    return b""
