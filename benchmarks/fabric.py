"""The fabric's figures, beside those of others: `python -m benchmarks.fabric [--quick] [--only WORDS]`.

Every case runs all its peers in turn, again and again, in the same minutes on the same machine; what is compared is the
median of the repeats.  A repeat, whoever's, during which other programs kept the processors busy is run again while
there is time.  Writes docs/benchmarks/fabric.md and fabric.svg when everything was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

from benchmarks import counts, report
from benchmarks.machine import Load
from benchmarks.peers import Peer
from benchmarks.peers.fabric import Fabric
from benchmarks.peers.fifo import FasterFifo
from benchmarks.peers.multiprocess import Pipe, Queue, SimpleQueue
from benchmarks.peers.redis_pubsub import Redis, RedisPipelined
from benchmarks.peers.zeromq import ZeroMQ
from benchmarks.workloads import AlertRoundTrip, FanOut, PingPong, RoundTrip

REPEATS = 5
SECONDS = 0.25  # that one repeat takes, about
QUICK_SECONDS = 0.1
MIB = 1 << 20
DISTURBED = 0.15  # processors that others may keep busy during a repeat
TRIES = 3  # of a disturbed repeat; the least disturbed one counts
PATIENCE = 150.0  # seconds after which nothing is tried again: the whole is to end within ten minutes

MANY: list[type[Peer]] = [Fabric, Redis, RedisPipelined, ZeroMQ, SimpleQueue, Queue, FasterFifo]
ONE: list[type[Peer]] = [*MANY, Pipe]
WAITING: list[type[Peer]] = [Fabric, Redis, ZeroMQ, Pipe, SimpleQueue, Queue]
ALERTS: list[type[Peer]] = [Fabric, SimpleQueue, RedisPipelined]
BODIES: list[type[Peer]] = [Fabric, Redis, ZeroMQ, Pipe, SimpleQueue]
WHOLE: list[type[Peer]] = [Fabric, ZeroMQ, Pipe]


@dataclasses.dataclass
class Case:
    """A workload, who takes part in it, and what it is required to reach."""

    name: str
    work: FanOut | RoundTrip | PingPong
    peers: list[type[Peer]]
    must: tuple[type[Peer] | None, float] | None = None  # times that peer; None: the figure itself
    quick: bool = False  # part of the short run


def cases() -> list[Case]:
    """All of them, in the order of the report."""
    found = []
    for publishers, subscribers, peers in ((1, 1, ONE), (1, 4, ONE), (4, 4, MANY)):
        for size, words in ((10, "10 B"), (100, "100 B"), (10240, "10 KB")):
            must = {
                (1, 1, 10): (RedisPipelined, 40.0),
                (1, 4, 10): (RedisPipelined, 30.0),
                (1, 4, 10240): (RedisPipelined, 15.0),
                (4, 4, 10): (None, 20e6),
            }.get((publishers, subscribers, size))
            work = FanOut(publishers, subscribers, size)
            found.append(Case(f"{publishers} to {subscribers}, {words}", work, peers, must, must is not None))
    found.append(Case("round trip, 10 B", RoundTrip(), WAITING, (Redis, 0.25), True))
    found.append(Case("alert round trip, 10 B", AlertRoundTrip(), [Fabric, Pipe], (Pipe, 0.5), True))
    for workers, size, words, times in (
        (4, 10, "10 B", 30.0),
        (20, 10, "10 B", 25.0),
        (4, 10240, "10 KB", 4.0),
        (20, 10240, "10 KB", 4.0),
    ):
        work = PingPong(workers, size)
        found.append(Case(f"ping-pong, {workers} workers, {words}", work, ALERTS, (SimpleQueue, times), True))
    found.append(Case("1 to 1, 1 MB", FanOut(1, 1, MIB), BODIES))
    found.append(Case("1 to 1, 100 MB", FanOut(1, 1, 100 * MIB), WHOLE))
    return found


def measure(
    case: Case, peers: list[type[Peer]], repeats: int, seconds: float, patient_until: float
) -> tuple[dict[str, list[float]], list[float]]:
    """Figures of every peer in turn, `repeats` times, and what others took of the processors during each.

    The first round of all only finds out how much to do.
    """
    figures: dict[str, list[float]] = {peer.name: [] for peer in peers}
    disturbed = []
    amounts: dict[str, int] = {}
    for repeat in range(repeats + 1):
        for peer in peers:
            if repeat == 0:
                figure = case.work.run(peer, case.work.first)
                amounts[peer.name] = case.work.amount(figure, seconds)
                continue
            tries: list[tuple[float, float]] = []
            while not tries or (len(tries) < TRIES and min(tries)[0] > DISTURBED and time.monotonic() < patient_until):
                load = Load()
                figure = case.work.run(peer, amounts[peer.name])
                tries.append((load.foreign(), figure))
            disturbed.append(min(tries)[0])
            figures[peer.name].append(min(tries)[1])
    return figures, disturbed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.fabric")
    parser.add_argument("--quick", action="store_true", help="what has a figure to reach only, shorter")
    parser.add_argument("--only", metavar="WORDS", help="cases whose name contains this; nothing is written")
    parser.add_argument("--peer", metavar="WORDS", action="append", help="these peers only; nothing is written")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    begun = time.monotonic()
    results: list[report.Result] = []
    for case in cases():
        if (given.quick and not case.quick) or (given.only and given.only not in case.name):
            continue
        peers = case.peers
        if given.quick:
            wanted = [Fabric, *([case.must[0]] if case.must and case.must[0] else [])]
            peers = [peer for peer in peers if peer in (*wanted, RedisPipelined, Pipe)]
        if given.peer:
            peers = [peer for peer in peers if any(words in peer.name for words in given.peer)]
        seconds = QUICK_SECONDS if given.quick else SECONDS
        figures, disturbed = measure(case, peers, given.repeats, seconds, begun + PATIENCE)
        result = report.Result(case.name, case.work.unit, figures, disturbed)
        if case.must is not None:
            against = case.must[0]
            result.must = case.must[1]
            result.against = against.name if against is not None else None
        results.append(result)
        print(report.lines(result), flush=True)
    if not given.only and not given.peer:
        facts = report.Facts(record=counts.record(), calls=counts.calls(50), idle=counts.idle())
        print(report.summary(results, facts), flush=True)
        if not given.quick:
            report.write(results, facts, [*ONE], time.monotonic() - begun)
    return 0


if __name__ == "__main__":
    sys.exit(main())
