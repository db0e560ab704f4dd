from __future__ import annotations

import os

from channels.settings import make
from channels.web.uwsgi import facts
from tests.server import Server
from tests.web.uwsgi.conftest import APPLICATION, Asked


def test_workers_are_numbered_from_one_and_told_of(server: Asked) -> None:
    assert server.ask_all("uwsgi.worker_id()") == [1, 2, 3]
    assert server.ask("uwsgi.numproc, uwsgi.masterpid()") == (3, server.pid)
    told = server.ask("[dict(worker) for worker in uwsgi.workers()]")
    assert [worker["id"] for worker in told] == [1, 2, 3]
    assert {worker["pid"] for worker in told} == set(server.workers.values())
    assert all(worker["rss"] > 1 << 20 and worker["apps"] for worker in told)
    assert server.ask("uwsgi.workers()[0][b'id']") == 1


def test_versions_and_options_are_uwsgis(server: Asked) -> None:
    version, info, options = server.ask("uwsgi.version, uwsgi.version_info, uwsgi.opt")
    assert version.startswith(b"2.0.") and info[:2] == (2, 0)
    assert options["workers"] == b"3" and options["master"] is True


def test_options_can_be_added() -> None:
    settings = make([{"uwsgi_opt": ["colour=red", "colour=blue", "flag", "workers=9"]}])
    found = facts.options(settings)
    assert found["colour"] == [b"red", b"blue"] and found["flag"] is True and found["workers"] == b"9"


def test_memory_and_log_are_told(server: Asked) -> None:
    rss, vsz = server.ask("uwsgi.mem()")
    assert 1 << 20 < rss < vsz
    assert server.ask("uwsgi.logsize()") == 0, "it goes to stderr"
    assert server.ask("uwsgi.log('a line of mine')") is True
    server.wait_log("a line of mine")


def test_a_process_can_be_renamed(server: Asked) -> None:
    assert server.ask("uwsgi.setprocname('tested'), open('/proc/self/comm').read()") == (None, "tested\n")


def test_a_request_that_promised_to_be_quick_is_ended_when_it_is_not(server: Asked) -> None:
    slow = "(uwsgi.set_user_harakiri(0.05), gevent.sleep(60))"
    try:
        server.get("/", slow.encode())
    except OSError:
        pass  # however it was answered
    server.wait_log("longer than set_user_harakiri")
    assert server.ask("uwsgi.set_user_harakiri(0.05), uwsgi.set_user_harakiri(0), gevent.sleep(0.2)") == (None,) * 3


def test_a_worker_that_hangs_beyond_its_harakiri_is_replaced() -> None:
    with Server(APPLICATION, workers=1) as server:
        before = set(server.workers.values())
        try:
            server.get("/", b"(uwsgi.set_user_harakiri(0.1), [0 for _ in iter(int, 1)])")
        except OSError:
            pass  # it died
        server.wait_ready(1, without=before)


def test_reload_and_stop_go_to_the_master() -> None:
    with Server(APPLICATION, workers=2) as server:
        before = set(server.workers.values())
        assert server.get("/", b"uwsgi.reload()") == b"True"
        server.wait_ready(2, without=before)
        assert server.get("/", b"uwsgi.stop()") == b"True"
        server.wait(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0 and "atexit 1" in server.log


def test_memory_of_a_process_that_is_none_is_zero() -> None:
    assert facts.memory_of(os.getpid())[0] > 0 and facts.memory_of(1 << 30) == (0, 0)
