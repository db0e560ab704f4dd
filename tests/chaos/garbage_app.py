"""What runs in the workers of tests/chaos/garbage.py: two talk and check what they hear, others spoil shared memory.

A spoiler finds what of the segment it can write to, and a thread of its own writes there, between the worker's own
sends, until somebody ends it.  What must not happen is written to the worker's report, a line starting with VIOLATION;
so are digests of what was heard, and whose first words.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import re
import zlib
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qsl

import gevent
from gevent import monkey

import channels
from channels import alerts

REPORTS = Path(os.environ["CHAOS_REPORTS"])
CHECKING = (1, 2)  # the slots that talk and check; what they say to each other must come whole and in order
RANGE = 20  # numbers that share a digest
PAUSE = 0.002  # seconds between two messages of a worker
LARGE_EVERY, LARGE_BYTES = 25, 40_000
PAGE = 4096  # the worker's own cursors lie in the first
SPRAYS = 150  # in the way that was asked for; then the first page, which nobody overlooks
FOUND = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .w\S+ .*/memfd:channels \(")
SAID = re.compile(rb"(\d+)\.(\d+):(\d+):(\0*)#(\d+)", re.S)

_thread = monkey.get_original("_thread", "start_new_thread")
_sleep = monkey.get_original("time", "sleep")

facts: dict[str, Any] = {"heard": {}, "sent": 0, "alerts": {}, "alerts_sent": 0, "strange": 0, "noise": 0}


# ---- garbage ----


def a_word(chance: random.Random, size: int) -> tuple[int, bytes]:
    return chance.randrange(0, PAGE, 8), chance.randbytes(8)


def a_small_number(chance: random.Random, size: int) -> tuple[int, bytes]:
    return chance.randrange(0, PAGE, 8), chance.randrange(0, 1 << 18, 16).to_bytes(8, "little")


def a_byte(chance: random.Random, size: int) -> tuple[int, bytes]:
    return chance.randrange(PAGE), chance.randbytes(1)


def the_first_page(chance: random.Random, size: int) -> tuple[int, bytes]:
    return 0, chance.randbytes(PAGE)


def nothing_but_ones(chance: random.Random, size: int) -> tuple[int, bytes]:
    return 0, b"\xff" * PAGE


def nothing_but_zeros(chance: random.Random, size: int) -> tuple[int, bytes]:
    return 0, bytes(PAGE)


def the_rings(chance: random.Random, size: int) -> tuple[int, bytes]:
    return PAGE, chance.randbytes(min(size - PAGE, 1 << 19))


def a_piece_of_a_ring(chance: random.Random, size: int) -> tuple[int, bytes]:
    length = chance.randrange(1, 1 << chance.randrange(1, 16))
    return chance.randrange(PAGE, size - length), chance.randbytes(length)


def all_of_it(chance: random.Random, size: int) -> tuple[int, bytes]:
    return 0, chance.randbytes(size)


Way = Callable[[random.Random, int], "tuple[int, bytes]"]
WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        a_word,
        a_small_number,
        a_byte,
        the_first_page,
        nothing_but_ones,
        nothing_but_zeros,
        the_rings,
        a_piece_of_a_ring,
        all_of_it,
    )
}


def own_region() -> tuple[int, int]:
    """Address and bytes of what this worker can write to."""
    with open("/proc/self/maps") as maps:
        ((first, last),) = (found.groups() for line in maps if (found := FOUND.match(line)))
    return int(first, 16), int(last, 16) - int(first, 16)


def spoil(chance: random.Random, way: Way) -> None:
    """For ever.  A thread beside the hub's; the lock of the interpreter is free while bytes are copied."""
    first, size = own_region()
    while True:
        for _ in range(SPRAYS):
            at, data = way(chance, size)
            ctypes.memmove(first + at, data, len(data))
            _sleep(0.0003)
        way = the_first_page


def on_spoil(data: bytes) -> None:
    way, seed = data.split()
    _thread(spoil, (random.Random(int(seed)), WAYS[way.decode()]))


# ---- talk ----


class Worker:
    def __init__(self) -> None:
        self.pid, self.slot = os.getpid(), channels.worker_id()
        self.checks = self.slot in CHECKING
        self.report = os.open(REPORTS / f"{self.slot}-{self.pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._alerted: dict[int, int] = {}

    def write(self, line: str) -> None:
        os.write(self.report, line.encode() + b"\n")  # one call: whole, or not at all

    def say(self, count: int) -> bytes:
        """Something whose receiver sees that it is whole."""
        body = b"%d.%d:%d:" % (self.slot, self.pid, count) + bytes(0 if count % LARGE_EVERY else LARGE_BYTES)
        return body + b"#%d" % zlib.crc32(body)

    def hear(self) -> None:
        """One order, no hole, nothing twice; the numbers of each that checks one after the other."""
        before, complete, digest = 0, False, hashlib.sha256()
        last: dict[int, int] = {}
        with channels.subscribe("talk", maxlen=1 << 20, max_bytes=1 << 30) as mine:
            (REPORTS / f"joined-{self.slot}").touch()
            for message in mine:
                number, who = int(message.id.split("-")[1]), understand(message.data)
                if message.missed or (before and number != before + 1):
                    self.write(f"VIOLATION after {before} came {number}, missed={message.missed}")
                if who is None or who[0] not in CHECKING:
                    facts["strange"] += 1  # somebody else's who may send here, too: of those two nothing is missing
                else:
                    slot, _, count = who
                    if slot in last and count != last[slot] + 1:
                        self.write(f"VIOLATION of {slot} came {count} after {last[slot]}")
                    last[slot] = facts["heard"][slot] = count
                before = number
                if number % RANGE == 0:
                    complete, digest = True, hashlib.sha256()
                digest.update(b"%d " % number + message.data)
                if complete and number % RANGE == RANGE - 1:
                    self.write(f"RANGE {number // RANGE} {digest.hexdigest()}")

    def hear_noise(self) -> None:
        known: set[int] = set()
        with channels.subscribe("noise") as mine:
            for message in mine:
                facts["noise"] += 1
                who = understand(message.data)
                if who is not None and who[1] not in known:
                    known.add(who[1])
                    self.write(f"HEARD {who[1]}")

    def talk(self) -> None:
        """To everybody; those that check also to each other, by alerts."""
        other = CHECKING[1 - CHECKING.index(self.slot)] if self.checks else 0
        count = 0
        while not all((REPORTS / f"joined-{slot}").exists() for slot in CHECKING):
            gevent.sleep(PAUSE)  # what is large passes by whoever joins meanwhile
        while not (REPORTS / "stop").exists():
            for _ in range(20):
                count += 1
                channels.channel_send("talk" if self.checks else "noise", self.say(count))
                if self.checks:
                    facts["sent"] = count
                    self.alert(other, count)
                self.bother(count)
                gevent.sleep(PAUSE)

    def alert(self, other: int, count: int) -> None:
        try:
            alerts.send(None, "count", self.say(count), worker=other)
            facts["alerts_sent"] += 1
        except channels.WorkerGone:
            if facts["alerts_sent"]:
                self.write(f"VIOLATION worker {other} is gone")

    def bother(self, count: int) -> None:
        """Those that are spoilt, or spoil: so that every ring has something in it."""
        for info in channels.workers():
            if info.id != self.slot and (info.id in CHECKING) != self.checks:
                try:
                    alerts.send(None, "noise", self.say(count), worker=info.id, timeout=0)
                except channels.ChannelsError:
                    pass

    def on_count(self, data: bytes) -> None:
        who = understand(data)
        if who is None or who[0] not in CHECKING:
            facts["strange"] += 1
            return
        slot, _, count = who
        if slot in self._alerted and count != self._alerted[slot] + 1:
            self.write(f"VIOLATION alert {count} of {slot} came after {self._alerted[slot]}")
        self._alerted[slot] = count
        facts["alerts"][slot] = facts["alerts"].get(slot, 0) + 1

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if self.checks:
                self.write(f"VIOLATION {work.__name__}: {type(error).__name__}: {error}")
            raise


def understand(data: bytes) -> tuple[int, int, int] | None:
    """Slot, process and count of whoever said it; None when it is not what anybody says."""
    found = SAID.fullmatch(data)
    if found is None or zlib.crc32(data[: data.rindex(b"#")]) != int(found[5]):
        return None
    return int(found[1]), int(found[2]), int(found[3])


worker = Worker()
alerts.receive(
    {
        "count": worker.on_count,
        "noise": lambda data: None,
        "spoil": on_spoil,
        "facts": lambda data: json.dumps(facts).encode(),
    }
)
for work in (worker.hear, worker.hear_noise, worker.talk):
    gevent.spawn(worker.guarded, work)


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What those that check have to say; or /spoil?slot=&way=&seed=."""
    given = dict(parse_qsl(environ.get("QUERY_STRING", "")))
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["PATH_INFO"] == "/spoil":
        alerts.send(None, "spoil", f"{given['way']} {given['seed']}".encode(), worker=int(given["slot"]))
        return [b"{}"]
    found = {slot: alerts.call(None, "facts", b"", worker=slot, timeout=10) or b"" for slot in CHECKING}
    return [json.dumps({slot: json.loads(answer) for slot, answer in found.items()}).encode()]
