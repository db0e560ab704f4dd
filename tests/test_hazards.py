"""docs/hazards.md is complete and true; and the tests that hazards need and no other place has."""

from __future__ import annotations

import os
import re
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import channels
from channels.core import native
from channels.settings import DIRECT_BYTES, KIB, SLOTS_MAX, direct_ring_size
from channels.worker import client as fabric
from tests.chaos.__main__ import PARTS
from tests.cluster import Cluster, wait_until
from tests.server import Server
from tests.worker import kept

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hazards.md"
HAZARDS = 54
ROW = re.compile(r"^\| (H\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.M)
PROVEN = re.compile(r"(tests/[\w/]+\.(?:py|c))::(\w+)")
PART = re.compile(r"\b(T\d+|kills)\b")
DATES = {  # who may read the wall clock, and for what
    "channels/master/estate.py": "the segment's own number",
    "channels/stats.py": "when a snapshot was taken",
    "channels/testing.py": "the segment's own number",
    "channels/web/uwsgi/clock.py": "crons",
    "channels/web/uwsgi/state.py": "uwsgi.started_on",
    "channels/web/uwsgi/waiting.py": "uwsgi.micros()",
}


def missing(text: str) -> Iterator[str]:
    """Tests, models and parts of `make chaos` that a page names and that do not exist."""
    for file, name in PROVEN.findall(text):
        path = ROOT / file
        if not path.exists() or not re.search(rf"^(?:    )?(?:def {name}\b|TEST\({name}\))", path.read_text(), re.M):
            yield f"{file}::{name}"
    parts = {name for part in PARTS for name in part.name.split(", ")}
    yield from (name for name in PART.findall(text) if name not in parts)
    yield from (name for name in re.findall(r"docs/[\w/]+\.pml", text) if not (ROOT / name).exists())


# ---- the page ----


def test_every_hazard_stands_there_once() -> None:
    assert [number for number, *_ in ROW.findall(PAGE.read_text())] == [f"H{n}" for n in range(1, HAZARDS + 1)]


def test_every_hazard_is_shown_by_something_that_exists() -> None:
    for number, _, _, shown in ROW.findall(PAGE.read_text()):
        assert PROVEN.search(shown) or ".pml" in shown, number
        assert list(missing(shown)) == [], number


@pytest.mark.parametrize("wrong", ["tests/test_hazards.py::test_of_nothing", "T99", "docs/protocol/none.pml"])
def test_a_test_that_does_not_exist_is_noticed(wrong: str) -> None:
    assert list(missing(wrong)) == [wrong]


# ---- processes ----


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """What a program sees that the application runs and that closes nothing itself."""
    listing = subprocess.run(["ls", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE, check=True).stdout
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [listing]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("tests.test_hazards:app", workers=1) as running:
        yield running


def loops(pid: int) -> int:
    place = Path(f"/proc/{pid}/fd")
    return sum(os.readlink(place / fd) == "anon_inode:[eventpoll]" for fd in os.listdir(place))


def test_the_supervisor_has_no_loop_whose_greenlets_a_child_could_run(server: Server) -> None:
    (worker,) = server.workers.values()
    assert loops(server.pid) == 0
    assert loops(worker) > 0


def test_the_supervisor_has_one_thread(server: Server) -> None:
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1


def test_a_program_run_by_the_application_inherits_nothing(server: Server) -> None:
    assert server.get("/").split() == [b"0", b"1", b"2", b"3"]  # the last is the directory that it lists


# ---- the segment ----


@pytest.fixture
def segment() -> Iterator[native.Segment]:
    made = native.Segment.create(4, 64 * KIB, 64 * KIB, 4 * KIB, 64, bytes(16), 1)
    yield made
    os.close(made.fd)
    made.close()


def test_the_segment_has_no_name_in_any_directory(segment: native.Segment) -> None:
    assert os.readlink(f"/proc/self/fd/{segment.fd}") == "/memfd:channels (deleted)"


def test_the_segment_is_left_out_of_core_dumps(segment: native.Segment) -> None:
    found = re.findall(r"/memfd:channels.*?^VmFlags: ([\w ]+)$", Path("/proc/self/smaps").read_text(), re.M | re.S)
    assert found
    assert all("dd" in flags.split() for flags in found)


@pytest.mark.parametrize("slots", range(3, SLOTS_MAX + 1))
def test_direct_rings_take_128_mib_at_most_or_the_least_they_can(slots: int) -> None:
    size = direct_ring_size(slots)
    assert slots * slots * size <= DIRECT_BYTES or size == 4 * KIB


# ---- time ----


def test_the_wall_clock_is_read_where_a_date_is_wanted_and_nowhere_else() -> None:
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "channels").rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\b|\bdatetime\b|CLOCK_REALTIME|from time import", path.read_text())
    }
    assert readers == set(DATES)


# ---- the fabric ----


def lose_a_call(here: Path) -> None:
    """In a worker: something comes while its hub does not turn, and the call for it is taken away."""
    mine = fabric.current()
    fd = mine.eventfds[mine.endpoint.slot]
    native.eventfd_clear(fd)  # of before
    here.touch()
    wait_until(mine.endpoint.something)
    select.select([fd], [], [], 1.0)  # nothing comes if the call of before was for this sleep too
    native.eventfd_clear(fd)


def is_awaited(key: str) -> bool:
    return kept.subscriptions[key].waiter is not None


def late() -> int:
    mine = fabric.current()
    return mine.segment.worker_counters(mine.endpoint.slot)["late_wakeups"]


def test_a_call_that_was_lost_is_noticed_within_a_tick_and_counted(tmp_path: Path) -> None:
    with Cluster(2) as cluster:
        one, two = cluster.workers.values()
        one.run(kept.open_subscription, "s", "room")
        one.start(kept.bodies, "s", 1)
        wait_until(lambda: one.run(is_awaited, "s"))
        one.start(lose_a_call, tmp_path / "here")
        wait_until((tmp_path / "here").exists)
        two.run(kept.send, "room", b"x")
        assert one.result() is None
        assert one.result() == [b"x"]
        assert one.run(late) == 1


def lose_the_routers_call(routing: Any, quarantined: list[Any], here: Path) -> None:
    """In the router: the same."""
    fd = routing._eventfd
    native.eventfd_clear(fd)
    here.touch()
    wait_until(lambda: routing.router.look(0))
    select.select([fd], [], [], 1.0)
    native.eventfd_clear(fd)


def test_a_call_to_the_router_that_was_lost_is_noticed_within_a_beat(tmp_path: Path) -> None:
    with Cluster(1) as cluster:
        (one,) = cluster.workers.values()
        one.run(kept.open_subscription, "s", "room")
        assert cluster.router is not None
        cluster.router.start(lose_the_routers_call, tmp_path / "here")
        wait_until((tmp_path / "here").exists)
        one.run(kept.send, "room", b"x")
        cluster.router.result()
        assert one.run(kept.bodies, "s", 1) == [b"x"]


flooded = [0]


def flood() -> None:
    """In a worker, until it is killed."""

    def work() -> None:
        while True:
            channels.channel_send("flood", bytes(500), timeout=None)
            flooded[0] += 1
            if flooded[0] % 1000 == 0:
                gevent.sleep(0)

    gevent.spawn(work)


def flooded_so_far() -> int:
    return flooded[0]


def test_a_flood_of_one_worker_leaves_the_others_their_turn() -> None:
    with Cluster(3) as cluster:
        one, two, three = cluster.workers.values()
        three.run(kept.open_subscription, "flood", "flood", maxlen=10)
        three.run(kept.open_subscription, "s", "room")
        one.run(flood)
        for number in range(20):
            before = one.run(flooded_so_far)
            two.run(kept.send, "room", b"%d" % number)
            assert three.run(kept.bodies, "s", 1) == [b"%d" % number]
            wait_until(lambda before=before: one.run(flooded_so_far) > before)
