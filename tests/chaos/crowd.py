"""Thousands of clients from one thread, each with as few manners as wanted; and one who must be served meanwhile."""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENCE = 60.0  # seconds until something that must come counts as missing
TCP_REPAIR = 19
SEGMENT = 536  # bytes; by it the other side's kernel chooses what it keeps for a connection: MiB on loopback, else
_RESET = struct.pack("ii", 1, 0)


class Client:
    """One of them."""

    __slots__ = ("closed", "deaf", "received", "said", "sock", "to_say")

    def __init__(self, sock: socket.socket, to_say: bytes, deaf: bool) -> None:
        self.sock = sock
        self.said = self.to_say = to_say
        self.deaf = deaf  # does not read
        self.received = b""  # the first bytes of it
        self.closed = False  # by the server


class Crowd:
    """Clients of one address; a context manager that closes them.

    Linux may reset a connection that it has just made, before the server has seen it: when the queue of those to be
    accepted has overflowed, a segment that comes while the request becomes a connection finds neither. With `again`
    a client whom that may have happened to connects anew, as a browser does, and `resets` counts it; `aborts` tells
    whether a process did it.
    """

    def __init__(self, address: tuple[str, int], again: bool = False) -> None:
        self._address = address
        self._again = again
        self._selector = selectors.DefaultSelector()
        self.clients: list[Client] = []
        self.resets = 0

    def join(self, count: int, to_say: bytes = b"", deaf: bool = False) -> None:
        """So many more connect, without waiting, and say this as soon as they can."""
        for _ in range(count):
            client = Client(self._connecting(deaf), to_say, deaf)
            self._selector.register(client.sock, selectors.EVENT_WRITE, client)
            self.clients.append(client)

    def _connecting(self, deaf: bool) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        if deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        error = sock.connect_ex(self._address)
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(error, f"cannot connect: {errno.errorcode.get(error)}")
        return sock

    def _turn(self, seconds: float) -> None:
        for key, events in self._selector.select(seconds):
            client: Client = key.data
            if events & selectors.EVENT_WRITE:
                try:
                    if client.to_say:
                        client.to_say = client.to_say[client.sock.send(client.to_say) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._ended(client, error)
                    continue
                if not client.to_say:
                    if client.deaf:
                        self._selector.unregister(client.sock)
                    else:
                        self._selector.modify(client.sock, selectors.EVENT_READ, client)
            elif events & selectors.EVENT_READ:
                try:
                    data = client.sock.recv(65536)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._ended(client, error)
                    continue
                if data:
                    client.received = (client.received + data)[:4096]
                else:
                    self._ended(client)

    def _ended(self, client: Client, error: OSError | None = None) -> None:
        self._selector.unregister(client.sock)
        client.sock.close()
        if self._again and isinstance(error, ConnectionResetError) and not client.received:
            self.resets += 1
            client.sock, client.to_say = self._connecting(client.deaf), client.said
            self._selector.register(client.sock, selectors.EVENT_WRITE, client)
        else:
            client.closed = True

    def run(self, seconds: float) -> None:
        """Let them talk and listen for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._turn(min(left, 0.1))

    def until(self, condition: Any) -> bool:
        """Until it is true; False when it did not come true in time."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.run(0.02)  # it may look at thousands
        return True

    def say(self, data: bytes) -> int:
        """Each who is still connected says so much more; how many did."""
        count = 0
        for client in self.clients:
            if not client.closed:
                try:
                    client.sock.send(data)
                    count += 1
                except OSError:
                    pass
        return count

    def listen_again(self) -> None:
        """The deaf begin to read."""
        for client in self.clients:
            if client.deaf and not client.closed:
                client.deaf = False
                self._selector.register(client.sock, selectors.EVENT_READ, client)

    @property
    def answered(self) -> int:
        return sum(client.received.startswith(b"HTTP/1.1 200") for client in self.clients)

    @property
    def begun(self) -> int:
        """Who has got a head and something behind it; of the deaf, in the kernel."""
        count = 0
        for client in self.clients:
            if client.deaf and not client.received and not client.to_say:
                try:
                    data = client.sock.recv(4096, socket.MSG_PEEK)
                except OSError:
                    continue
                head = data.find(b"\r\n\r\n")
                client.received = data if 0 <= head < len(data) - 4 else b""
            head = client.received.find(b"\r\n\r\n")
            count += 0 <= head < len(client.received) - 4
        return count

    def having(self, words: bytes) -> int:
        """Who has got this, soon after it came in."""
        return sum(words in client.received for client in self.clients)

    @property
    def closed(self) -> int:
        return sum(client.closed for client in self.clients)

    def close(self) -> None:
        """Politely."""
        self._leave(lambda sock: None)

    def reset(self) -> None:
        """Each connection ends with a reset."""
        self._leave(lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET))

    def vanish(self) -> bool:
        """Without a word, as if the cable were cut and the host then restarted; False: not allowed here, so reset."""
        allowed = True

        def silently(sock: socket.socket) -> None:
            nonlocal allowed
            try:
                sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # close() sends nothing then
            except OSError:
                allowed = False
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

        self._leave(silently)
        return allowed

    def _leave(self, how: Any) -> None:
        for client in self.clients:
            if not client.closed:
                try:
                    how(client.sock)
                except OSError:
                    pass
                client.sock.close()
        self.clients.clear()
        self._selector.close()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bystander:
    """Somebody with a connection of long standing who asks all the time, in a thread; must never be turned away."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._stop = threading.Event()
        self.answers = 0
        self.slowest = 0.0  # seconds
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        client = socket.create_connection(self._address, timeout=PATIENCE)
        while not self._stop.wait(0.01):
            begun = time.monotonic()
            try:
                client.sendall(GET)
                answer = client.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise ConnectionError(f"answered {answer[:60]!r}")
                self.answers += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)
            except OSError as error:
                self.failures.append(repr(error))
                client.close()
                client = socket.create_connection(self._address, timeout=PATIENCE)
        client.close()

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


def aborts() -> int:
    """Connections of this machine that were reset because a process closed one, or had no memory or no time for it."""
    names, values = (
        line.split()[1:] for line in Path("/proc/net/netstat").read_text().splitlines() if line.startswith("TcpExt:")
    )
    return sum(int(value) for name, value in zip(names, values) if name.startswith("TCPAbort"))


def descriptors(pids: Iterator[int] | list[int]) -> int:
    """Open ones of all these processes."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def resident(pids: Iterator[int] | list[int]) -> int:
    """Bytes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total += int(fields[1]) * resource.getpagesize()
    return total


def many_descriptors() -> int:
    """As many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
