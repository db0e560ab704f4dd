"""A small fabric for tests: a router and workers as real processes, each worker running a function of the test's.

What the supervisor does in a server is done here by hand, so that tests can do it wrong on purpose.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any, Callable

from channels.core import native
from channels.settings import Settings, make

DEADLINE = 30.0


class Remote:
    """A process of the test's: send it a function, get its result."""

    def __init__(self, pid: int, link: socket.socket, slot: int, generation: int) -> None:
        self.pid = pid
        self.link = link
        self.slot = slot
        self.generation = generation

    def start(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Begin to run it there, in a greenlet of its own."""
        _put(self.link, (function, args, options))

    def result(self, seconds: float = DEADLINE) -> Any:
        """The next result in order; raises what it raised there."""
        value = _get(self.link, seconds)
        if isinstance(value, BaseException):
            raise value
        return value

    def run(self, function: Callable[..., Any], *args: Any, seconds: float = DEADLINE, **options: Any) -> Any:
        self.start(function, *args, **options)
        return self.result(seconds)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_dead(self) -> int:
        return os.waitpid(self.pid, 0)[1]


def _put(link: socket.socket, value: Any) -> None:
    data = pickle.dumps(value)
    link.sendall(struct.pack("<Q", len(data)) + data)


def _read(link: socket.socket, size: int, deadline: float) -> bytes:
    parts = b""
    while len(parts) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([link], [], [], left)[0]:
            raise TimeoutError("the process of the test did not answer")
        part = link.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError("the process of the test has died")
        parts += part
    return parts


def _get(link: socket.socket, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    (size,) = struct.unpack("<Q", _read(link, 8, deadline))
    return pickle.loads(_read(link, size, deadline))


class Cluster:
    """Segment, router, workers; these monkey-patched by gevent or not."""

    def __init__(self, workers: int = 0, monkey: bool = False, **settings: Any) -> None:
        self.monkey = monkey
        self.settings: Settings = make([{"workers": max(workers, 1), "spin": 20e-6, **settings}])
        given = self.settings
        slots = settings.get("max_workers", 0) or max(given.slots, workers + 2)
        self.segment = native.Segment.create(
            slots,
            given.ring_size,
            given.ring_size,
            given.direct_ring_size,
            given.channels_max,
            os.urandom(16),
            time.time_ns() // 1000,
        )
        self.eventfds = [native.make_eventfd() for _ in range(slots)]
        self.segment.enter("supervisor")
        self.workers: dict[int, Remote] = {}
        self.generations = dict.fromkeys(range(slots), 0)
        self.router: Remote | None = None
        self.start_router()
        for _ in range(workers):
            self.add()

    # ---- processes ----

    def _fork(self, slot: int, generation: int, main: Callable[[socket.socket], None]) -> Remote:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                ours.close()
                for other in [*self.workers.values(), *([self.router] if self.router else [])]:
                    other.link.close()
                main(theirs)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        theirs.close()
        return Remote(pid, ours, slot, generation)

    def start_router(self) -> Remote:
        self.router = self._fork(0, 1, self._router_main)
        assert self.router.result() == "up"
        return self.router

    def _router_main(self, link: socket.socket) -> None:
        import gevent
        from gevent.socket import wait_read

        from channels.master.routing import Routing

        self.segment.enter("router")
        quarantined: list[tuple[int, int, str]] = []
        routing = Routing(self.segment, self.eventfds, self.settings, lambda *facts: quarantined.append(facts))
        routing.router.heartbeat()
        greenlet = gevent.spawn(routing.run)
        _put(link, "up")
        while True:
            wait_read(link.fileno())
            try:
                function, args, options = _get(link, 1.0)
            except EOFError:
                os._exit(0)
            try:
                _put(link, function(routing, quarantined, *args, **options))
            except Exception as error:
                _put(link, error)
            assert not greenlet.dead

    def add(self, slot: int | None = None) -> Remote:
        """A new worker, in the first free slot or in this one; attached and ready when it returns."""
        worker = self.begin(slot)
        assert worker.result() == "ready"
        return worker

    def begin(self, slot: int | None = None) -> Remote:
        if slot is None:
            slot = next(number for number in range(1, self.segment.slots) if number not in self.workers)
        generation = self.generations[slot] + 1
        assert generation % 2
        self.generations[slot] = generation
        # The pid is not known before the fork: the child waits until it stands in the table.
        ready, go = os.pipe()
        self.segment.set_slot(slot, generation, 0)

        def main(link: socket.socket) -> None:
            os.close(go)
            os.read(ready, 1)
            os.close(ready)
            self._worker_main(link, slot, generation)

        worker = self._fork(slot, generation, main)
        self.segment.set_slot(slot, generation, worker.pid)
        os.close(ready)
        os.close(go)
        self.workers[slot] = worker
        return worker

    def _worker_main(self, link: socket.socket, slot: int, generation: int) -> None:
        import gevent
        from gevent.socket import wait_read

        if self.monkey:
            from gevent import monkey

            gc.collect()  # patching looks at every object, and trips over a proxy of one that is gone
            monkey.patch_all()
        from channels.worker import client

        mine = client.attach(self.segment, self.eventfds, slot, generation, self.settings)
        mine.endpoint.set_ready(True)
        _put(link, "ready")

        def serve(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
            try:
                value = function(*args, **options)
            except BaseException as error:
                value = error
            try:
                pickle.loads(pickle.dumps(value))
            except Exception as error:
                value = RuntimeError(f"not to be sent: {value!r}: {error!r}")
            _put(link, value)

        while True:
            wait_read(link.fileno())
            try:
                function, args, options = _get(link, 1.0)
            except EOFError:
                os._exit(0)
            gevent.spawn(serve, function, args, options)

    # ---- death ----

    def kill(self, slot: int) -> None:
        """SIGKILL, and everything that a supervisor does then but the successor."""
        self.workers[slot].signal(signal.SIGKILL)
        self.bury(slot)

    def bury(self, slot: int) -> None:
        worker = self.workers.pop(slot)
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        self.segment.set_slot(slot, worker.generation + 1, 0)
        self.generations[slot] = worker.generation + 1
        self.ask_router(_bury, slot, worker.generation)
        worker.wait_dead()
        worker.link.close()

    def ask_router(self, function: Callable[..., Any], *args: Any) -> Any:
        assert self.router is not None
        return self.router.run(function, *args)

    def kill_router(self) -> None:
        """SIGKILL, and a new one."""
        assert self.router is not None
        self.router.signal(signal.SIGKILL)
        self.router.wait_dead()
        self.router.link.close()
        self.router = None
        self.start_router()

    def members(self, name: str) -> list[int]:
        """Slots that the router knows to listen to a channel."""
        return self.ask_router(_members, name.encode())

    def last(self, name: str) -> int:
        """The last number that the router has given in this channel; 0 when there is no such channel."""
        return self.ask_router(_last, name.encode())

    def quarantined(self) -> list[tuple[int, int, str]]:
        return self.ask_router(_quarantined)

    def close(self) -> None:
        for remote in [*self.workers.values(), *([self.router] if self.router else [])]:
            try:
                os.kill(remote.pid, signal.SIGKILL)
                os.kill(remote.pid, signal.SIGCONT)
                remote.wait_dead()
            except (ProcessLookupError, ChildProcessError):
                pass
            remote.link.close()
        self.workers.clear()
        for fd in self.eventfds:
            os.close(fd)
        os.close(self.segment.fd)
        self.segment.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bury(routing: Any, quarantined: list[Any], slot: int, generation: int) -> None:
    routing.bury(slot, generation)


def _members(routing: Any, quarantined: list[Any], name: bytes) -> list[int]:
    return next((routing.router.members(row) for other, row in routing.names.all() if other == name), [])


def _last(routing: Any, quarantined: list[Any], name: bytes) -> int:
    return next((routing.router.row(row)[1] for other, row in routing.names.all() if other == name), 0)


def _quarantined(routing: Any, quarantined: list[Any]) -> list[Any]:
    return quarantined


def wait_until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Poll until it is true; its value.  Fails the test when it never is."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.005)
