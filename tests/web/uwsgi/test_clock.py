from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from channels.web.uwsgi import clock
from tests.server import Server

SUNDAY = time.strptime("2024-03-10 12:30", "%Y-%m-%d %H:%M")


def count(server: Server, number: int) -> int:
    return len(re.findall(rf"^signal {number} in ", server.log, re.MULTILINE))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((-1, -1, -1, -1, -1), True),
        ((30, 12, 10, 3, -1), True),
        ((31, -1, -1, -1, -1), False),
        ((-15, -6, -1, -1, -1), True),
        ((-7, -1, -1, -1, -1), False),
        ((-1, -1, -1, -1, 0), True),
        ((-1, -1, -1, -1, 7), True),
        ((-1, -1, -1, -1, 1), False),
        ((-1, -1, 11, -1, 0), True),  # a day of the month or a day of the week
        ((-1, -1, 11, -1, 1), False),
        ((-1, -1, -1, 4, -1), False),
    ],
)
def test_crons_match_as_in_uwsgi(fields: tuple[int, int, int, int, int], expected: bool) -> None:
    assert clock.cron_matches(SUNDAY, *fields) is expected


def test_what_all_workers_have_registered_is_wanted_once_and_twice_in_one_is_twice() -> None:
    tick, tock = ["timer", 1, 5, 0], ["timer", 2, 5, 0]
    assert len(clock.wanted([[tick, tock], [tick, tock], [tick]])) == 2
    assert len(clock.wanted([[tick, tick], [tick, tick]])) == 2


def test_a_look_sees_what_changes(tmp_path: Path) -> None:
    watched = tmp_path / "file"
    looks = [clock.look(str(watched)), clock.look(str(tmp_path))]
    watched.write_text("x")
    looks += [clock.look(str(watched)), clock.look(str(tmp_path))]
    watched.write_text("longer")
    looks += [clock.look(str(watched)), clock.look(str(tmp_path))]
    assert looks[0] is None and all(a != b for i, a in enumerate(looks) for b in looks[i + 1 :])
    assert clock.look(str(watched)) == looks[4]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server("tests.web.uwsgi.timers:application", workers=3, environment={"WATCHED": str(tmp_path / "watched")})


def test_timers_run_once_per_server_and_go_on_when_their_worker_dies(server: Server, tmp_path: Path) -> None:
    with server:
        began = time.monotonic()
        server.wait(lambda: count(server, 1) >= 5 and count(server, 3) == 1)
        most = (time.monotonic() - began) / 0.2 + 2
        assert count(server, 1) <= most, "each worker has raised it"
        server.wait(lambda: count(server, 2) == 3)
        leader = _leader(server)
        os.kill(leader, signal.SIGKILL)
        before = count(server, 1)
        server.wait(lambda: count(server, 1) >= before + 5)
        server.wait(lambda: _leader(server) != leader)
        assert count(server, 2) == 3 and count(server, 4) == 0, "what was done stays done"
        (tmp_path / "watched").write_text("x")
        server.wait(lambda: count(server, 5) == 1)


def _leader(server: Server) -> int:
    """The worker that holds the lock, as the kernel tells: proc(5), locks."""
    wanted = str(clock.LEADER + (1 << 40))
    found = [line.split()[4] for line in Path("/proc/locks").read_text().splitlines() if line.split()[-1] == wanted]
    mine = [int(pid) for pid in found if int(pid) in server.workers.values()]
    return mine[0] if mine else 0


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("uwsgi.add_timer(1, 0)", "ValueError"),
        ("uwsgi.add_timer(300, 1)", "ValueError"),
        ("uwsgi.add_timer(1, '1')", "TypeError"),
        ("uwsgi.add_rb_timer(1, 1, -1)", "ValueError"),
        ("uwsgi.add_cron(1, 60, 0, 0, 0, 0)", "ValueError"),
        ("uwsgi.add_file_monitor(1, 'x' * 255)", "ValueError"),
    ],
)
def test_bad_values_are_refused(expression: str, error: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        eval(expression, {"uwsgi": _Calls()})
    assert type(caught.value).__name__ == error


class _Calls:
    def __getattr__(self, name: str) -> object:
        return clock.CALLS[name]
