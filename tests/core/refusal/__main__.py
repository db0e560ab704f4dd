"""A worker that is refused memory while it takes messages: for LD_PRELOAD=refuse.so PYTHONMALLOC=malloc.

Every allocation of one turn, Python's own among them, is refused once, and every one from it on: whoever subscribed
gets the messages in order or is told what it missed, and a stream ends rather than go on in the middle of a frame.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import socket
import time
from typing import Any, Callable

import gevent

import channels
from channels import Message, alerts
from channels.core import native
from channels.errors import CallTimeout, RemoteError
from channels.worker.streams import current
from tests.cluster import Cluster, wait_until

SENT = 40
BODY = b"%d " + b"x" * 3000
LAST = b"the last"
ENOUGH = 1 << 40
WINDOW = ("asked", "from", "until")
NAME = ("refused",)
LARGE = b"in three fragments" * 2000
ASKED = (b"short", LARGE)
asking: list[Any] = []


class Reader:
    """A client of a stream: everything that came, until its connection ended."""

    def __init__(self, streams: Any, kind: int, room: int = 0) -> None:
        self.sock, server = socket.socketpair()
        high = fcntl.fcntl(server.detach(), fcntl.F_DUPFD_CLOEXEC, 300)  # a number that is no small integer of Python's
        self.server = socket.socket(fileno=high)
        self.sock.setblocking(False)
        self.server.setblocking(False)
        if room:
            self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        self.kind, self.data, self.ended, self.told = kind, b"", False, ""
        self.is_quick = not room
        self.stream = streams.open(self.server.fileno(), kind, self)
        streams.join(self.stream, "refused")

    def stream_event(self, stream: native.Stream, what: str) -> None:
        if what not in ("gap", "room"):
            self.told = what
            self.server.close()

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                part = self.sock.recv(1 << 16)
                self.data += part
                self.ended = not part

    def has(self, last: bytes) -> bool:
        self.read()
        return self.ended or last in self.data

    def events(self) -> tuple[list[tuple[bytes, int]], bytes]:
        """(a message's body, 0) or (b"", how many are told as missed) in order; and what is left of a frame cut off."""
        found, data = [], self.data
        while data:
            if self.kind == native.SSE:
                text, end, rest = data.partition(b"\n\n")
                if not end:
                    break
                body = re.search(rb"^data: (.*)$", text, re.MULTILINE)
                assert body is not None, f"not an event: {text[:200]!r}"
                gap, payload, data = b"event: gap" in text, body.group(1), rest
            else:
                size, at = data[1], 2
                if size == 126:
                    size, at = int.from_bytes(data[2:4], "big"), 4
                assert data[0] in (0x81, 0x82), f"not a frame: {data[:40]!r}"
                if len(data) < at + size:
                    break
                payload, data = data[at : at + size], data[at + size :]
                gap = payload.startswith(b'{"event":"gap"')
            found.append((b"", json.loads(payload)["missed"]) if gap else (payload, 0))
        return found, data


def settle(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        gevent.sleep(0.001)


def check_stream(reader: Reader, turn: str) -> None:
    """In order, each once; what is missing is told, or the connection has ended."""
    events, cut = reader.events()
    assert reader.ended or not cut, f"{turn}: the last frame is cut off"
    expected = told = missing = 0
    for body, missed in events:
        told += missed
        if body and body != LAST:
            number = int(body.split()[0])
            assert number >= expected, f"{turn}: message {number} after {expected - 1}"
            missing += number - expected
            expected = number + 1
    missing += SENT - expected
    assert reader.ended or missing <= told, f"{turn}: {missing} are missing, {told} are told"
    assert told == missing or not reader.is_quick, f"{turn}: {missing} are missing, {told} are told"
    assert reader.ended == (reader.told == "gone"), f"{turn}: its owner was told {reader.told!r}"


def number_of(message: Message) -> int:
    return int(message.id.rpartition("-")[2])


def check_messages(taken: list[Message], errors: int, turn: str) -> None:
    """Every message, or a gap that tells it, or the error that came instead of it; the last is `LAST`."""
    assert taken[-1].data == LAST, f"{turn}: {taken[-1]!r} came last"
    last, untold = number_of(taken[-1]) - SENT - 1, 0
    for message in taken:
        assert number_of(message) > last, f"{turn}: {message!r} after number {last}"
        untold += number_of(message) - last - 1 - message.missed
        last = number_of(message)
    assert 0 <= untold <= errors, f"{turn}: {untold} are missing untold, {errors} errors were raised"


def take_turn(at: int, number: int, sent: int, routed: int, other: int) -> tuple[int, int]:
    """In a worker: one turn with refusals.  Allocations that were asked for, and streams that ended."""
    turn = f"{number} refused from the {at}-th"
    asked, first, until = (ctypes.c_long.in_dll(ctypes.CDLL(None), f"refuse_{name}") for name in WINDOW)
    streams = current()
    endpoint = streams._client.endpoint
    readers = [Reader(streams, kind, room) for kind in (native.SSE, native.WS_TEXT) for room in (0, 0, 4608)]
    taken: list[Message] = []
    errors = 0
    with contextlib.ExitStack() as stack:
        busy, waiting, late = (stack.enter_context(channels.subscribe(*names)) for names in (NAME, NAME, ()))
        by_prefix = stack.enter_context(channels.subscribe(prefixes=["unmet "]))
        waiter = gevent.spawn(waiting.get, 10)
        joiner = gevent.spawn(late.join, "joined meanwhile")
        caller = gevent.spawn(alerts.call, other, "echo", b"an answer", timeout=20)
        large = gevent.spawn(outcome_of, other, LARGE)
        gevent.sleep(0)
        for i in range(SENT):
            channels.channel_send("refused", BODY % i)
        channels.channel_send(f"unmet {other}", b"for the prefix")
        os.write(sent, b"s")
        os.read(routed, 1)  # all of it stands in the ring, and the hub had no turn
        asked.value, until.value, first.value = 0, at + number, at
        try:
            endpoint.drain(1 << 20)
        except MemoryError:
            pass
        try:
            streams._native.ready()
        except MemoryError:
            pass
        try:
            while (message := busy.get_nowait()) is not None:
                taken.append(message)
        except MemoryError:
            errors += 1
        first.value = 0

        assert caller.get(timeout=10) == b"an answer", f"{turn}: the answer of a call is lost"
        outcome = large.get()
        assert outcome == LARGE or "memory" in str(outcome), f"{turn}: of a call with a large answer: {outcome!r}"
        channels.channel_send(f"unmet {other}", LAST)
        met = [by_prefix.get(10)]
        while met[-1] is not None and met[-1].data != LAST:
            met.append(by_prefix.get(10))
        told = sum(1 + message.missed for message in met if message is not None)
        assert told == 2, f"{turn}: of a channel met by its prefix, to which two were sent: {met!r}"
        joiner.join(10)
        assert joiner.successful(), f"{turn}: joining meanwhile: {joiner!r}"
        channels.channel_send("joined meanwhile", b"heard")
        heard = late.get(10)
        assert heard is not None and heard.missed == 0, f"{turn}: what was joined meanwhile: {heard!r}"
        channels.channel_send("refused", LAST)
        assert waiter.get(timeout=10) is not None, f"{turn}: who waited was not woken"
        while not taken or taken[-1].data != LAST:
            message = busy.get(10)
            assert message is not None, f"{turn}: {LAST!r} did not come"
            taken.append(message)
        check_messages(taken, errors, turn)
    settle(lambda: all([reader.has(LAST) for reader in readers]), f"{turn}: a stream has neither ended nor {LAST!r}")
    settle(lambda: all(not reader.ended or reader.told == "gone" for reader in readers), f"{turn}: an end was not told")
    for reader in readers:
        check_stream(reader, turn)
        if not reader.ended:
            reader.sock.close()
        assert not (reader.ended and reader.is_quick), f"{turn}: a stream has ended that had taken everything"
    settle(lambda: len(streams) == 0, f"{turn}: a stream is left")
    return asked.value, sum(reader.ended for reader in readers)


def answer() -> None:
    alerts.receive("echo", lambda data: data)


def keep() -> None:
    """In another worker: the channels stay, so that numbers go on from turn to turn; and it answers."""
    answer()
    for _ in channels.subscribe("refused", "joined meanwhile", f"unmet {os.getpid()}"):
        pass


def outcome_of(pid: int, data: bytes) -> bytes | Exception | None:
    try:
        return alerts.call(pid, "echo", data, timeout=10)
    except (RemoteError, CallTimeout) as error:
        return error


def let_it_answer(pid: int) -> None:
    """And ask, too: its calls stand in the ring as well."""
    asking.extend(gevent.spawn(outcome_of, pid, data) for data in ASKED)
    gevent.sleep(0.002)


def check_asked() -> None:
    for caller, data in zip(asking, ASKED):
        outcome = caller.get()
        assert outcome == data or (data == LARGE and "memory" in str(outcome)), f"of a call to it: {outcome!r}"
    asking.clear()


def main() -> None:
    sent, say_sent = os.pipe()
    routed, say_routed = os.pipe()
    turns = ended = last = 0
    with Cluster(workers=2) as cluster:
        answering = cluster.workers[2]
        answering.start(keep)
        wait_until(lambda: cluster.members("refused"))
        cluster.workers[1].run(answer)

        def run(at: int, number: int) -> int:
            nonlocal turns, ended, last
            cluster.workers[1].start(take_turn, at, number, say_sent, routed, cluster.workers[2].pid)
            os.read(sent, 1)
            last += SENT
            wait_until(lambda: cluster.last("refused") == last)
            answering.run(let_it_answer, cluster.workers[1].pid)
            os.write(say_routed, b"r")
            asked, gone = cluster.workers[1].result()
            answering.run(check_asked)
            last += 1
            turns += 1
            ended += gone
            return asked

        run(ENOUGH, 1)
        most = run(ENOUGH, 1)
        assert ended == 0, "streams end without any refusal"
        for number in (1, ENOUGH):
            for at in range(1, most + 1):
                run(at, number)
    print(f"{turns} turns of {most} allocations, {ended} streams ended")


if __name__ == "__main__":
    main()
