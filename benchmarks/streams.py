"""One message to very many clients of one worker: native streams against greenlets and Redis.

    python -m benchmarks.streams [--clients 1000] [--repeat 5] [--only NAME] [--write]

Every way serves the same connections (accepted sockets, no HTTP around them) and writes the same WebSocket frames; the
same process publishes, the same process reads and counts every byte.  A round is over when every client has every
message.  Ways take turns within a repetition; medians of the repetitions.

native      one subscription of the worker, written by core to all sockets
greenlets   a subscription and a greenlet for each client, `sendall`
redis       one Redis subscription for the worker, frames built once and sent to each client at once; a client that
            cannot take it gets a greenlet
joined      one Redis subscription for the worker, frames built once, a queue and a greenlet for each client, everything
            that waits for a client joined into one `sendall`: quick in bursts, if it may be late by a turn of the loop
redis-each  a Redis subscription and a greenlet for each client
"""

from __future__ import annotations

import argparse
import os
import platform
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.machine import ROOT, free_port, processor

PAGE = ROOT / "docs" / "benchmarks" / "streams.md"
WAYS = ("native", "greenlets", "redis", "joined", "redis-each")
BODY = b"m" * 64
FRAME = b"\x82\x40" + BODY
CHANNEL = "all"


def frame(body: bytes) -> bytes:
    """RFC 6455, section 5.2, for bodies below 126 bytes."""
    return b"\x82%c%b" % (len(body), body)


# ---- servers: each returns when it serves `clients` connections of `listener` ----


def accept(fd: int, clients: int) -> list[Any]:
    from gevent.socket import socket as gevent_socket

    listener = socket.socket(fileno=os.dup(fd))
    listener.setblocking(True)
    accepted = []
    for _ in range(clients):
        sock = gevent_socket(fileno=listener.accept()[0].detach())
        sock.setblocking(False)
        sock.settimeout(None)
        if listener.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        accepted.append(sock)
    return accepted


kept: list[Any] = []
publishers: dict[int, Any] = {}


def serve_native(fd: int, clients: int) -> None:
    from channels.core import native
    from channels.worker import client
    from channels.worker.streams import Streams

    class Owner:
        def stream_event(self, stream: Any, what: str) -> None:
            pass

        stream_drain = stream_event

    streams = Streams(client.current())
    kept.append(streams)
    for sock in accept(fd, clients):
        kept.append(sock)
        streams.join(streams.open(sock.fileno(), native.WS_BINARY, Owner()), CHANNEL)


def serve_greenlets(fd: int, clients: int) -> None:
    import gevent

    from channels import subscribe

    def forward(sock: Any, ready: Any) -> None:
        with subscribe(CHANNEL, maxlen=100_000) as subscription:
            ready.set()
            for message in subscription:
                sock.sendall(frame(message.data))

    from gevent.event import Event

    for sock in accept(fd, clients):
        ready = Event()
        kept.append(gevent.spawn(forward, sock, ready))
        ready.wait()


def each_message(port: int, ready: Any) -> Iterator[bytes]:
    """The bodies of a Redis subscription, framed."""
    import redis

    pubsub = redis.Redis(port=port).pubsub()
    pubsub.subscribe(CHANNEL)
    for message in pubsub.listen():
        if message["type"] == "subscribe":
            ready.set()
        else:
            yield frame(message["data"])


def serve_redis(fd: int, clients: int, port: int) -> None:
    import gevent
    from gevent.event import Event

    late: dict[int, bytes] = {}
    socks = accept(fd, clients)
    sends = [sock._sock.send for sock in socks]

    def forward(number: int) -> None:
        while late[number]:
            waiting, late[number] = late[number], b""
            socks[number].sendall(waiting)
        del late[number]

    def fan() -> None:
        for data in each_message(port, subscribed):
            for number, send in enumerate(sends):
                if number in late:
                    late[number] += data
                    continue
                try:
                    sent = send(data)
                except BlockingIOError:
                    sent = 0
                if sent < len(data):
                    late[number] = data[sent:]
                    gevent.spawn(forward, number)

    subscribed = Event()
    kept.append(gevent.spawn(fan))
    subscribed.wait()


def serve_joined(fd: int, clients: int, port: int) -> None:
    import gevent
    from gevent.event import Event

    boxes: list[tuple[list[bytes], Event]] = []

    def forward(sock: Any, box: list[bytes], event: Event) -> None:
        while True:
            event.wait()
            event.clear()
            waiting = b"".join(box)
            box.clear()
            sock.sendall(waiting)

    def fan() -> None:
        for data in each_message(port, subscribed):
            for box, event in boxes:
                box.append(data)
                event.set()

    subscribed = Event()
    for sock in accept(fd, clients):
        boxes.append(([], Event()))
        kept.append(gevent.spawn(forward, sock, *boxes[-1]))
    kept.append(gevent.spawn(fan))
    subscribed.wait()


def serve_redis_each(fd: int, clients: int, port: int) -> None:
    import gevent
    from gevent.event import Event

    def forward(sock: Any, ready: Event) -> None:
        for data in each_message(port, ready):
            sock.sendall(data)

    for sock in accept(fd, clients):
        ready = Event()
        kept.append(gevent.spawn(forward, sock, ready))
        ready.wait()


# ---- the other two ----


def publish(burst: int, redis_port: int | None) -> None:
    if redis_port is None:
        from channels import channel_send

        for _ in range(burst):
            if not channel_send(CHANNEL, BODY):
                raise RuntimeError("nobody listens")
        return
    import redis

    if redis_port not in publishers:
        publishers[redis_port] = redis.Redis(port=redis_port)
    pipe = publishers[redis_port].pipeline(transaction=False)
    for _ in range(burst):
        pipe.publish(CHANNEL, BODY)
    pipe.execute()


class Readers:
    """A process with every client's end; says when all have got so many bytes more."""

    def __init__(self, address: Any, clients: int) -> None:
        self.ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.ours.close()
            try:
                self._run(address, clients, theirs)
            finally:
                os._exit(0)
        theirs.close()

    def _run(self, address: Any, clients: int, link: socket.socket) -> None:
        poll = select.epoll()
        socks = {}
        for _ in range(clients):
            sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
            sock.connect(address)
            sock.setblocking(False)
            socks[sock.fileno()] = sock.recv_into
            kept.append(sock)
            poll.register(sock, select.EPOLLIN)
        buffer = bytearray(1 << 18)
        link.send(b"connected")
        while True:
            order = link.recv(64)
            if not order:
                return
            left = int(order)
            link.send(b"go")
            while left:
                for fd, _ in poll.poll():
                    left -= socks[fd](buffer)
            link.send(b"done")

    def measure(self, total: int, send: Any) -> float:
        """Seconds from the first send until `total` bytes are here."""
        self.ours.send(b"%d" % total)
        self.ours.recv(2)
        began = time.perf_counter()
        send()
        if self.ours.recv(4) != b"done":
            raise RuntimeError("the readers have died")
        return time.perf_counter() - began

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.ours.close()


def forked_server(fd: int, clients: int, way: str, port: int) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            from gevent import monkey

            monkey.patch_all()
            import gevent

            {"redis": serve_redis, "joined": serve_joined, "redis-each": serve_redis_each}[way](fd, clients, port)
            theirs.send(b"up")
            gevent.sleep(3600)
        except BaseException as error:
            print(way, repr(error), file=sys.stderr)
        finally:
            os._exit(0)
    theirs.close()
    return pid, ours


class Trial:
    """One way of serving, up and running, measured a round at a time."""

    def __init__(self, way: str, clients: int, unix: bool, redis_port: int, folder: str) -> None:
        from tests.cluster import Cluster

        self.way, self.clients = way, clients
        if unix:
            path = os.path.join(folder, f"{way}.sock")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            address: Any = path
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            address = listener.getsockname()
        listener.listen(4096)
        self.server: int | None = None
        self.cluster: Any = None
        self.readers = Readers(address, clients)
        self.redis_port: int | None = None
        if way in ("native", "greenlets"):
            self.cluster = Cluster(workers=2)
            serve = serve_native if way == "native" else serve_greenlets
            self.cluster.workers[1].run(serve, listener.fileno(), clients, seconds=120)
        else:
            self.redis_port = redis_port
            self.server, link = forked_server(listener.fileno(), clients, way, redis_port)
            if link.recv(2) != b"up":
                raise RuntimeError(f"{way} did not start")
        listener.close()
        self.readers.ours.recv(9)

    def round(self, burst: int) -> float:
        """Deliveries per second."""

        def send() -> None:
            if self.cluster is not None:
                self.cluster.workers[2].run(publish, burst, None)
            else:
                publish(burst, self.redis_port)

        seconds = self.readers.measure(burst * self.clients * len(FRAME), send)
        return burst * self.clients / seconds

    def close(self) -> None:
        self.readers.close()
        if self.cluster is not None:
            self.cluster.close()
        if self.server is not None:
            os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)


CASES = (  # name, clients, messages in a burst, over Unix sockets, ways
    ("one message to all, TCP", None, 1, False, ("native", "greenlets", "redis", "joined")),
    ("burst of 50, 200 clients, TCP", 200, 50, False, WAYS),
    ("one message to all, Unix sockets", None, 1, True, ("native", "greenlets", "redis", "joined")),
)


MUST = {  # how many times which way
    CASES[0][0]: {"greenlets": 1.7},
    CASES[1][0]: {"redis": 4, "redis-each": 15},
    CASES[2][0]: {"greenlets": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/streams.md")
    given = parser.parse_args()
    began = time.monotonic()
    lines, required = [], []
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        redis_server = shutil.which("redis-server")
        server = redis_server and subprocess.Popen(
            [redis_server, "--port", str(port), "--save", "", "--client-output-buffer-limit", "pubsub", "0", "0", "0"],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        try:
            for name, clients, burst, unix, wanted in CASES:
                if given.only not in name:
                    continue
                ways = [way for way in wanted if redis_server or way in ("native", "greenlets")]
                rates: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(given.repeat):
                    for way in ways:
                        trial = Trial(way, clients or given.clients, unix, port, folder)
                        for turn in range(given.rounds + 2):
                            rate = trial.round(burst)
                            if turn >= 2:
                                rates[way].append(rate)
                        trial.close()
                        if unix:
                            os.unlink(os.path.join(folder, f"{way}.sock"))
                medians = {way: statistics.median(values) for way, values in rates.items()}
                cells = [f"{medians[way] / 1000:,.0f} k/s" if way in medians else "" for way in WAYS]
                lines.append("| " + " | ".join([name, *cells]) + " |")
                print(lines[-1], flush=True)
                for peer, times in MUST[name].items():
                    if peer in medians:
                        ratio = medians["native"] / medians[peer]
                        verdict = "reached" if ratio >= times else "**missed**"
                        required.append(f"| {name} | {ratio:.1f} x {peer} | {times:g} x | {verdict} |")
                        print(required[-1], flush=True)
        finally:
            if server:
                server.terminate()
                server.wait()
    text = page(lines, required, time.monotonic() - began)
    print("\n" + text)
    if given.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(text)


def page(lines: list[str], required: list[str], seconds: float) -> str:
    head = [
        "# One message to very many clients of one worker",
        "",
        f"Written by `make bench-streams` on {processor()}, {os.cpu_count()} processors (server, publisher and readers "
        f"together), Linux {platform.release()}, Python {platform.python_version()}, in {seconds / 60:.0f} minutes: "
        "deliveries a second. Ways take turns; medians. Only ratios mean something on another machine.",
        "",
        "| work | native is | required | |",
        "|---|---|---|---|",
        *required,
        "",
        "| work | " + " | ".join(WAYS) + " |",
        "|---" * (len(WAYS) + 1) + "|",
        *lines,
        "",
        "Each way serves the same accepted sockets, with no HTTP around them, and writes the same frames:",
        "",
        "- **native**: one subscription of the worker, written by the core to all sockets.",
        "- **greenlets**: a subscription and a greenlet for each client, `sendall`.",
        "- **redis**: one Redis subscription for the worker, frames built once and sent to each client at once.",
        "- **joined**: the same with a queue and a greenlet for each client: what waits leaves in one `sendall`.",
        "- **redis-each**: a Redis subscription and a greenlet for each client.",
    ]
    return "\n".join([*head, ""])


if __name__ == "__main__":
    main()
