"""What runs in the workers of tests/chaos/api.py: everyone talks on all channels, in batches, and checks what it hears.

What must not happen is written to the worker's report as a line VIOLATION; so are digests of what was heard, by which
all workers are compared, gaps that were told, and how far it has come.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import time
from pathlib import Path
from typing import Any

import gevent

import channels
from channels import alerts
from tests.chaos import forking

REPORTS = Path(os.environ["CHAOS_REPORTS"])
CHANNELS = [f"all:{i}" for i in range(4)]
RANGE = 500  # numbers that share a digest
BATCH = int(os.environ.get("CHAOS_BATCH", "120"))  # messages without a pause
PAUSE = float(os.environ.get("CHAOS_PAUSE", "0.012"))  # seconds between two batches
HEAD = struct.Struct("<IQI")  # the sender's process, its count over all channels, bytes that follow
TOLD_WITHIN = 2.0  # seconds in which a channel on which something is missing has its next message, which tells
MIB = 1 << 20
FILLING = random.Random(1).randbytes(MIB) * 5


def size(chance: random.Random) -> int:
    """Small mostly; up to 4 MiB at times."""
    lot = chance.random()
    if lot < 0.99:
        return chance.randrange(1, 100)
    if lot < 0.9995:
        return chance.randrange(100, 16_000)
    return chance.choice([70_000, 300_000, MIB]) if lot < 0.9999 else chance.randrange(MIB, 4 * MIB)


class Stream:
    """One channel as this worker hears it."""

    def __init__(self, worker: Worker, name: str) -> None:
        self.worker = worker
        self.name = name
        self.epoch = ""
        self.last = 0
        self.complete = False
        self.heads: list[bytes] = []

    def hear(self, message: Any) -> None:
        epoch, _, text = message.id.partition("-")
        number = int(text)
        if number != self.last + 1 or epoch != self.epoch or message.missed:
            self.jump(epoch, number, message.missed)
        self.last = number
        if number % RANGE == 0:
            if self.complete:
                digest = hashlib.blake2b(b"".join(self.heads), digest_size=8).hexdigest()
                self.worker.write(f"RANGE {self.name}-{self.epoch}-{number // RANGE} {digest}")
            self.complete, self.heads = True, []
        self.heads.append(message.data[: HEAD.size])
        if len(message.data) > 65_000:  # may pass by whoever joins meanwhile
            sender, count, _ = HEAD.unpack_from(message.data)
            self.worker.write(f"LARGE {self.name}-{self.epoch} {number} {sender}.{count}")

    def jump(self, epoch: str, number: int, missed: int) -> None:
        """Not the next number: the first here, a gap that was told, or what was under way when it joined."""
        if epoch != self.epoch:
            if missed:
                self.worker.write(f"VIOLATION {self.name}: the first message is {number}, missed={missed}")
            self.worker.write(f"FIRST {self.name}-{epoch} {number}")
        elif number <= self.last:
            self.worker.write(f"VIOLATION {self.name}: {number} after {self.last}")
        elif missed == number - self.last - 1:
            self.worker.write(f"GAP {self.name}-{epoch} {self.last + 1} {number} {time.time()}")
            self.worker.explained(self.name)
        elif missed == 0:
            self.worker.write(f"HOLE {self.name}-{epoch} {self.last + 1} {number}")
            self.worker.explained(self.name)
        else:
            self.worker.write(f"VIOLATION {self.name}: {number} after {self.last}, missed={missed}")
        self.epoch, self.complete = epoch, False


class Worker:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.slot = channels.worker_id()
        self.report = os.open(REPORTS / f"{self.slot}-{self.pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.streams = {name: Stream(self, name) for name in CHANNELS}
        self.counts: dict[int, int] = {}  # sender -> its last count
        self.owed: list[tuple[float, str, str]] = []  # when, channel, what is missing there and must be told there
        self.heard = self.sent = self.alerted = self.forked = 0

    def write(self, line: str) -> None:
        os.write(self.report, line.encode() + b"\n")  # one call: whole, or not at all

    def explained(self, name: str) -> None:
        """Something was missed there: the next of each sender may be any later one, and who has come later is well."""
        self.counts = dict.fromkeys(self.counts, -1)
        self.owed = [each for each in self.owed if each[1] != name]

    def missing(self, sender: int, first: int, end: int) -> None:
        """A sender's next came on another channel; what is missing is told, if it is, by the next on its own."""
        for count in range(first, min(end, first + 100)):
            self.owed.append((time.monotonic(), CHANNELS[count % 4], f"of {sender} {count} never came, {end} did"))

    def dun(self) -> None:
        now = time.monotonic()
        for when, name, what in self.owed:
            if now - when > TOLD_WITHIN:
                self.write(f"VIOLATION {name}: {what}")
        self.owed = [each for each in self.owed if now - each[0] <= TOLD_WITHIN]

    # ---- hearing ----

    def hear(self) -> None:
        with channels.subscribe(maxlen=1 << 22, max_bytes=1 << 31) as mine:
            mine.join(*CHANNELS)
            early = mine.drain()  # while it joined one channel after the other it could miss a sender's message
            while early and (message := mine.get(timeout=1.0)) is not None:
                early.append(message)
                if len(early) > 10_000:
                    break
            for message in early:
                self.streams[message.channel].hear(message)
            while not mine.closed:
                try:
                    if not mine.wait(1.0):
                        self.place()
                        continue
                except channels.SubscriptionClosed:
                    break
                messages = mine.drain()
                for message in messages:
                    self.take(message)
                before, self.heard = self.heard, self.heard + len(messages)
                if before // 2000 != self.heard // 2000:
                    self.place()

    def take(self, message: Any) -> None:
        data = message.data
        self.streams[message.channel].hear(message)
        sender, count, follows = HEAD.unpack_from(data)
        last = self.counts.get(sender, -1)
        if last >= 0 and count <= last:
            self.write(f"VIOLATION of {sender} came {count} after {last}")
        elif last >= 0 and count > last + 1:
            self.missing(sender, last + 1, count)
        self.counts[sender] = count
        if len(data) != HEAD.size + follows:
            self.write(f"VIOLATION {len(data)} bytes instead of {HEAD.size + follows}")
        if data[HEAD.size :] != FILLING[count % 997 : count % 997 + follows]:
            self.write(f"VIOLATION a torn body of {sender}, {count}")

    def place(self) -> None:
        self.dun()
        last = " ".join(f"{stream.name}={stream.last}" for stream in self.streams.values())
        self.write(f"AT heard={self.heard} sent={self.sent} alerts={self.alerted} forks={self.forked} {last}")

    # ---- talking ----

    def talk(self) -> None:
        chance = random.Random(self.pid)
        while not (REPORTS / "stop").exists():
            for _ in range(20):
                for _ in range(BATCH):
                    follows, count = size(chance), self.sent
                    data = HEAD.pack(self.pid, count, follows) + FILLING[count % 997 : count % 997 + follows]
                    self.sent += 1
                    if follows > 65_000:
                        self.write(f"SENDING {CHANNELS[count % 4]} {self.pid}.{count}")
                    channels.channel_send(CHANNELS[count % 4], data)
                gevent.sleep(PAUSE)
        gevent.sleep(1.0)
        for name in CHANNELS:  # whoever began when all was said hears something too
            channels.channel_send(name, HEAD.pack(self.pid, self.sent, 0))
            self.sent += 1

    def whisper(self) -> None:
        """To another worker, by alert; what comes too late must come to nobody."""
        chance = random.Random(self.pid)
        while not (REPORTS / "stop").exists():
            others = [info for info in channels.workers() if info.state == "ready"]
            if others:
                other = chance.choice(others)
                try:
                    alerts.send(other.pid, "for you", b"%d:" % other.pid + bytes(chance.choice([0, 0, 0, 100_000])))
                    if chance.random() < 0.1:
                        alerts.call(other.pid, "who", b"", timeout=30)
                except (channels.WorkerGone, channels.RemoteError):
                    pass  # a worker that has just begun may have no handler yet
            gevent.sleep(0.02)

    def on_alert(self, data: bytes) -> None:
        self.alerted += 1
        if data.split(b":")[0] != b"%d" % self.pid:
            self.write(f"VIOLATION an alert meant for {data.split(b':')[0]!r}")

    # ---- processes of the application's own ----

    def fork(self) -> None:
        chance = random.Random(self.pid)
        while not (REPORTS / "stop").exists():
            gevent.sleep(chance.uniform(0.2, 1.5))
            way = chance.choice(forking.WAYS)
            status = way(CHANNELS[0])
            self.forked += 1
            if status != 0:
                self.write(f"VIOLATION {way.__name__} ended with {status}")

    def guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.write(f"VIOLATION {work.__name__}: {type(error).__name__}: {error}")
            raise


worker = Worker()
alerts.receive({"for you": worker.on_alert, "who": lambda data: b"%d" % worker.pid})
for work in (worker.hear, worker.talk, worker.whisper, worker.fork):
    gevent.spawn(worker.guarded, work)


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here\n"]
