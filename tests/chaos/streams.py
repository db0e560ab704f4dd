"""WebSockets and event streams by the thousand in a busy channel: some never read, some vanish, some come all at once.

    python -m tests.chaos.streams [--seed N] [--quick] [--only deaf,vanishing,burst]

Whoever reads must get every number, in order and in time; who does not may cost no more than `stream_buffer` and a
connection, and when it reads again, what it gets and what it is told to have missed are every number.  Nothing is left
of those who are gone.  Prints the figures; the exit status is 1 when something was wrong.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from channels import control
from tests.chaos import http
from tests.chaos.crowd import PATIENCE, Bystander, Crowd, aborts, resident
from tests.chaos.streams_app import CHANNEL
from tests.chaos.websocket import OPENING, PING, PONG, TEXT, frame
from tests.server import Server

APP = "tests.chaos.streams_app:app"
SOCKET = (OPENING % ("/socket", "")).encode()
EVENTS = b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
BUFFER = 16 << 10  # stream_buffer
ITSELF = 8 << 10  # bytes that a client may take beside that: its connection, its greenlet, one message under way
SLACK = 16 << 20  # bytes for what the workers need whatever the number of clients
RATE, SIZE = 1000, 1000  # messages a second, bytes of one
LAST = 100  # messages, once all are there
IN_TIME = 1.0  # seconds in which 99 % reach those who read
NUMBER = re.compile(rb"(\d+) (\d+) x")
MISSED = re.compile(rb'"missed":(\d+)')


class Listener:
    """Somebody in the channel who takes account: every number must come, or be told as missed where it is missing."""

    def __init__(self, sock: socket.socket, is_events: bool) -> None:
        sock.settimeout(PATIENCE / 2)
        self.sock = sock
        self.is_events = is_events
        self.next = -1  # the number that must come; -1: none has come
        self.got = self.missed = 0
        self.late_ns: list[int] = []
        self.wrong = ""

    def read(self, count: int) -> Listener:
        """Until the numbers below `count` are accounted for."""
        data, at, head = b"", 0, True
        try:
            while self.next < count and not self.wrong:
                more = self.sock.recv(1 << 16)
                if not more:
                    raise EOFError(f"ended where {self.next} of {count} was to come")
                data, at = data[at:] + more, 0
                if head:
                    at = data.find(b"\r\n\r\n") + 4
                    if at < 4:
                        at = 0
                        continue
                    head = False
                while (end := (self._chunk if self.is_events else self._frame)(data, at)) is not None:
                    at = end
        except (OSError, EOFError, ValueError) as error:
            self.wrong = self.wrong or f"{error!r} where {self.next} of {count} was to come"
        return self

    def _chunk(self, data: bytes, at: int) -> int | None:
        """RFC 9112, section 7.1: where the next one begins; None when this one is not whole."""
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        end = line + 2 + int(data[at:line], 16)
        if len(data) < end + 2:
            return None
        self._heard(data, line + 2, end)
        return end + 2

    def _frame(self, data: bytes, at: int) -> int | None:
        """RFC 6455, 5.2, of a server and below 64 KiB."""
        if len(data) < at + 4:
            return None
        size, start = data[at + 1], at + 2
        if size == 126:
            size, start = struct.unpack_from("!H", data, start)[0], start + 2
        if len(data) < start + size:
            return None
        if data[at] & 0x0F == PING:
            self.sock.sendall(frame(PONG, data[start : start + size]))
        self._heard(data, start, start + size)
        return start + size

    def _heard(self, data: bytes, start: int, end: int) -> None:
        if found := MISSED.search(data, start, end):
            self.missed += int(found[1])
            self.next += int(found[1]) if self.next >= 0 else 0
        elif found := NUMBER.search(data, start, end):
            number = int(found[1])
            if number != self.next and self.next >= 0:
                self.wrong = self.wrong or f"{number} where {self.next} was to come"
            self.got += 1
            self.next = number + 1
            self.late_ns.append(time.monotonic_ns() - int(found[2]))


@contextlib.contextmanager
def listening(address: tuple[str, int], count: int) -> Iterator[list[Listener]]:
    """Two of each kind who read all the while, in threads; at the end they have read everything."""
    made, threads = [], []
    for words in (SOCKET, EVENTS) * 2:
        sock = socket.create_connection(address, timeout=PATIENCE)
        sock.sendall(words)
        made.append(Listener(sock, words is EVENTS))
        threads.append(threading.Thread(target=made[-1].read, args=(count,), daemon=True))
        while sum(line.count(b"joined") + line.count(b"retry:") for line in [sock.recv(4096, socket.MSG_PEEK)]) == 0:
            time.sleep(0.01)
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for thread in threads:
            thread.join(PATIENCE)
        for each in made:
            each.sock.close()


class Pump(threading.Thread):
    """Lets a worker fill the channel."""

    def __init__(self, server: Server, first: int, count: int, rate: int, size: int) -> None:
        super().__init__(daemon=True)
        self._url = f"/pump?{first},{count},{rate},{size}"
        self._server = server
        self.start()

    def run(self) -> None:
        self._server.get(self._url)


class Run(http.Run):
    """The parts; what was wrong, and the figures."""

    def heard(self, listeners: list[Listener], count: int, what: str) -> str:
        """What those who read all the while have got."""
        for each in listeners:
            kind = "an event stream" if each.is_events else "a WebSocket"
            whole = (each.got, each.missed, each.wrong) == (count, 0, "")
            self.check(whole, f"{what}: {kind} got {each.got} of {count}, missed {each.missed}; {each.wrong}")
        late = sorted(value for each in listeners for value in each.late_ns)
        almost = late[int(len(late) * 0.99)] / 1e9 if late else 0.0
        self.check(almost < IN_TIME, f"{what}: 99 % reached those who read within {almost:.2f} s")
        return f"99 % reached those who read within {almost * 1e3:.0f} ms"

    def left(self, server: Server, what: str) -> None:
        """Nobody is in the channel any more."""

        def members() -> int:
            with control.Conversation(server.control, {"do": "ls", "prefix": CHANNEL}) as conversation:
                return sum(len(each["workers"]) for each in conversation.answer()["channels"])

        deadline = time.monotonic() + PATIENCE
        while members() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(not members(), f"{what}: {members()} workers are still in the channel")

    # ---- the parts ----

    def deaf(self) -> str:
        """Thousands who never read: what they cost is bounded; the others get everything; in the end they may read."""
        seconds = max(6 * self.scale, 2.0)
        number, count, waves = self.count(2000), int(seconds * RATE), 4
        options = ("--stream-buffer", str(BUFFER), "--stream-heartbeat", "0", "--backlog", "8192")
        with Server(APP, *options, workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            memory = most = resident([*server.workers.values()])
            with Bystander(server.address) as bystander, listening(server.address, count) as listeners:
                for wave in range(waves):  # one hears the whole of it, the others come while it is under way
                    for words in (SOCKET, EVENTS):
                        crowd.join(number // waves, words, deaf=True)
                    here = crowd.until(lambda: crowd.begun == len(crowd.clients))
                    self.check(here, f"deaf: {crowd.begun} of {len(crowd.clients)} came in")
                    if not wave:
                        pump = Pump(server, 0, count - LAST, RATE, SIZE)
                    crowd.run(seconds / waves / 2)
                while pump.is_alive():
                    most = max(most, resident([*server.workers.values()]))
                    pump.join(0.1)
                Pump(server, count - LAST, LAST, RATE, SIZE).join(PATIENCE)  # so that whoever came last has heard some
            most = max(most, resident([*server.workers.values()])) - memory
            heard = self.heard(listeners, count, "deaf")
            said = self.others(bystander, "deaf")
            bound = len(crowd.clients) * (BUFFER + ITSELF) + SLACK
            self.check(most <= bound, f"deaf: {most >> 20} MiB more, of at most {bound >> 20}")
            got, missed = self._again(crowd, count, waves)
            total = len(crowd.clients)
            crowd.close()
            self.left(server, "deaf")
            self.settled(server, crowd, before, "deaf")
        return (
            f"{total:,} in a channel of {count:,} messages, {most / total / 1024:.1f} KiB each, {heard}; {said}; "
            f"some read again: {got:,} got, {missed:,} told as missed"
        )

    def _again(self, crowd: Crowd, count: int, waves: int) -> tuple[int, int]:
        """Some of the deaf read: what they get and what they are told is everything."""
        some = random.Random(f"{self.seed}/again").sample(crowd.clients, self.count(200))
        listeners, deaf = [], 0
        for client in some:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            listeners.append(Listener(client.sock, client.received.startswith(b"HTTP/1.1 200")))
        with ThreadPoolExecutor(16) as pool:
            for each in pool.map(lambda listener: listener.read(count), listeners):
                self.check(not each.wrong, f"deaf: one that reads again: {each.wrong}")
                deaf += each.missed > 0
        self.check(deaf >= len(some) // waves, f"deaf: only {deaf} of {len(some)} missed anything: nothing was tried")
        return sum(each.got for each in listeners), sum(each.missed for each in listeners)

    def vanishing(self) -> str:
        """Clients that go without FIN, with a reset, and politely; they listen, are deaf, or have said half a frame."""
        half = SOCKET + frame(TEXT, b"hello")[:5]
        number, seconds, silent = self.count(300), max(int(10 * self.scale), 3), True
        with Server(APP, "--stream-heartbeat", "2", workers=2) as server, Crowd(server.address) as crowd:
            before = self.quiet_descriptors(server)
            with Bystander(server.address) as bystander, listening(server.address, seconds * 200) as listeners:
                pump = Pump(server, 0, seconds * 200, 200, 200)
                for leave in ("vanish", "reset", "close"):
                    for words, deaf in (
                        (SOCKET, False),
                        (EVENTS, False),
                        (SOCKET, True),
                        (EVENTS, True),
                        (half, False),
                    ):
                        crowd.join(number, words, deaf)
                    here = crowd.until(lambda: crowd.begun == len(crowd.clients))
                    self.check(here, f"vanishing: {crowd.begun} of {len(crowd.clients)} came in")
                    silent = getattr(crowd, leave)() in (True, None) and silent
                pump.join(PATIENCE)
            heard = self.heard(listeners, seconds * 200, "vanishing")
            said = self.others(bystander, "vanishing")
            self.left(server, "vanishing")
            self.settled(server, crowd, before, "vanishing")
        how = "without FIN, with a reset, politely" if silent else "with a reset, politely (no CAP_NET_ADMIN)"
        return f"{15 * number:,} gone {how}, nothing left of them; {heard}; {said}"

    def burst(self) -> str:
        """Thousands of WebSockets at once, each of which says something: each gets it back, and then what all get."""
        number, aborted = self.count(5000), aborts()
        with Server(APP, "--backlog", "16384", workers=2) as server, Crowd(server.address, again=True) as crowd:
            before = self.quiet_descriptors(server)
            with Bystander(server.address) as bystander:
                begun = time.monotonic()
                crowd.join(number, SOCKET + frame(TEXT, b"hello"))
                answered = crowd.until(lambda: crowd.having(b"\x81\x05hello") == number)
                took = time.monotonic() - begun
                self.check(answered, f"burst: {crowd.having(b'hello')} of {number} were answered")
                pump = Pump(server, 0, 1, 1, 20)
                reached = crowd.until(lambda: crowd.having(b"x" * 20) == number)
                self.check(reached, f"burst: a message came to {crowd.having(b'x' * 20)} of {number}")
                pump.join(PATIENCE)
                said = self.others(bystander, "burst")
            reset = self.resets(crowd, aborts() - aborted, number)
            crowd.close()
            self.left(server, "burst")
            self.settled(server, crowd, before, "burst")
        return f"{number:,} answered in {took:.1f} s, {reset}, and reached by a message; {said}"


PARTS: dict[str, Callable[[Run], str]] = {"deaf": Run.deaf, "vanishing": Run.vanishing, "burst": Run.burst}


def main() -> int:
    return http.started(__doc__, Run, PARTS)


if __name__ == "__main__":
    sys.exit(main())
