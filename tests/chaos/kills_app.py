"""What runs in the workers that tests/chaos/kills.py kills: everyone talks to everyone and checks what it hears.

Whatever must not happen is written to the worker's report, a line starting with VIOLATION; so are digests of what was
heard, so that all workers can be compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import gevent

import channels
from channels import alerts
from channels.worker import client

REPORTS = Path(os.environ["CHAOS_REPORTS"])
RANGE = 50  # numbers that share a digest
PAUSE = float(os.environ.get("CHAOS_PAUSE", "0.004"))  # seconds between two messages of a worker
LARGE_EVERY, LARGE_BYTES = 150, 200_000

facts: dict[str, Any] = {"last": 0, "heard": 0, "alerts": 0, "sent": 0}


class Worker:
    def __init__(self) -> None:
        self.pid = os.getpid()
        self.slot = channels.worker_id()
        self.report = os.open(REPORTS / f"{self.slot}-{self.pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, line: str) -> None:
        os.write(self.report, line.encode() + b"\n")  # one call: whole, or not at all

    def counters(self) -> dict[str, int]:
        segment = client.current().segment
        return {name: value for name, value in segment.worker_counters(self.slot).items() if value}

    def hear(self) -> None:
        """One order, no hole, nothing twice; each sender's numbers one after the other."""
        last: dict[bytes, int] = {}
        before, complete, digest = 0, False, hashlib.sha256()
        passed_by = 0  # how many large ones were under way when it joined, whose sender has not said more yet
        with channels.subscribe("all", f"life:{self.slot}:{self.pid}", maxlen=1 << 20) as mine:
            for message in mine:
                if message.channel != "all":
                    if message.data != b"%d" % self.pid:
                        self.write(f"VIOLATION a message meant for {message.data!r}")
                    continue
                number = int(message.id.split("-")[1])
                sender, count, rest = message.data.split(b":", 2)
                if message.missed or number <= before:
                    self.write(f"VIOLATION after {before} came {number}, missed={message.missed}; {self.counters()}")
                if before and number != before + 1:  # allowed where a large one was under way when it joined
                    complete = False
                    passed_by += number - before - 1
                    self.write(f"HOLE {before + 1} {number}")
                if rest:
                    self.write(f"LARGE {number}")
                if sender in last and int(count) != last[sender] + 1:
                    skipped = range(last[sender] + 1, int(count))
                    if not 0 < len(skipped) <= passed_by or any(each % LARGE_EVERY for each in skipped):
                        self.write(f"VIOLATION of {sender!r} came {count!r} after {last[sender]}")
                    passed_by -= len(skipped)
                if len(rest) not in (0, LARGE_BYTES):
                    self.write(f"VIOLATION a body of {len(rest)} bytes")
                last[sender] = int(count)
                before = facts["last"] = number
                facts["heard"] += 1
                if number % RANGE == 0:
                    complete, digest = True, hashlib.sha256()
                digest.update(b"%d %s %s\n" % (number, sender, count))
                if complete and number % RANGE == RANGE - 1:
                    self.write(f"RANGE {number // RANGE} {digest.hexdigest()}")

    def talk(self) -> None:
        count = 0
        while not (REPORTS / "stop").exists():
            for _ in range(50):
                body = b"%d.%d:%d:" % (self.slot, self.pid, count)
                channels.channel_send("all", body + bytes(LARGE_BYTES if count % LARGE_EVERY == 0 else 0))
                facts["sent"] += 1
                count += 1
                gevent.sleep(PAUSE)

    def whisper(self) -> None:
        """To each other worker, by alert and by the channel of its own; what comes too late must come to nobody."""
        chance = random.Random(self.pid)
        while not (REPORTS / "stop").exists():
            others = [info for info in channels.workers() if info.state == "ready"]
            if others:
                other = chance.choice(others)
                data = b"%d" % other.pid
                try:
                    alerts.send(other.pid, "for you", data + b":" + bytes(chance.choice([0, 0, 0, 50_000])))
                    if chance.random() < 0.1:
                        alerts.call(other.pid, "who", b"", timeout=30)
                except (channels.WorkerGone, channels.RemoteError):
                    pass  # a worker that has just begun may have no handler yet
                channels.channel_send(f"life:{other.id}:{other.pid}", data)
            gevent.sleep(PAUSE)

    def on_alert(self, data: bytes) -> None:
        facts["alerts"] += 1
        if data.split(b":")[0] != b"%d" % self.pid:
            self.write(f"VIOLATION an alert meant for {data.split(b':')[0]!r}")

    def guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.write(f"VIOLATION {work.__name__}: {type(error).__name__}: {error}")
            raise


worker = Worker()
alerts.receive(
    {
        "for you": worker.on_alert,
        "who": lambda data: b"%d" % worker.pid,
        "facts": lambda data: json.dumps({**facts, "pid": worker.pid}).encode(),
    }
)
for work in (worker.hear, worker.talk, worker.whisper):
    gevent.spawn(worker.guarded, work)


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What every worker has to say."""
    answers = alerts.call_all("facts", b"", timeout=10)
    found = {str(slot): json.loads(answer) for slot, answer in answers.items() if isinstance(answer, bytes)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
