"""SIGHUP: new workers with new code, while every request and every stream is served to its end."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.server import Server
from tests.system.clients import Load, Stream, get, in_flight
from tests.worker.http.running import everything

APP = "tests.system.app:app"


def test_a_reload_serves_the_new_code_and_no_request_fails(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("one")
    with Server(APP, workers=2, directory=tmp_path) as server:
        old = set(server.workers.values())
        slow = in_flight(server, "/slow?s=1")
        with Load(server.address, "/version") as load:
            version.write_text("two")
            server.send_signal(signal.SIGHUP)
            server.wait_ready(2, without=old)
            server.wait_log("reloaded")
            server.wait(lambda: b"two" in load.bodies[-3:])
        assert load.failures == []
        assert slow.result()[0] == 200
        assert int(slow.result()[1]) in old
        assert get(server.address, "/version") == (200, b"two")


def test_streams_of_old_workers_end_cleanly_at_a_reload() -> None:
    with Server(APP, "--drain-spread", "0.3", workers=2) as server:
        streams = [Stream(server, "/stream") for _ in range(4)]
        old = set(server.workers.values())
        server.send_signal(signal.SIGHUP)
        assert [stream.rest() for stream in streams] == [[]] * 4
        server.wait_ready(2, without=old)
        assert Stream(server, "/stream").pid not in old


def test_a_stream_ends_at_a_reload_though_nobody_has_read_the_body_of_its_request() -> None:
    options = "--graceful-timeout", "120", "--drain-spread", "0"
    with Server(APP, *options, workers=1) as server, socket.create_connection(server.address, timeout=30) as client:
        client.sendall(b"POST /events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        seen = b""
        while b"retry: " not in seen:
            seen += client.recv(65536)
        client.sendall(b"5\r\nhello\r\n")
        server.get("/send?channel=news&data=told")
        while b"told" not in seen:
            seen += client.recv(65536)
        server.send_signal(signal.SIGHUP)
        assert everything(client).endswith(b"0\r\n\r\n")


def test_an_import_that_fails_leaves_the_old_workers_and_one_clear_line(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("good")
    with Server(APP, workers=2, directory=tmp_path) as server:
        old = server.workers
        stream = Stream(server, "/stream")
        with Load(server.address, "/version") as load:
            version.write_text("broken")
            server.send_signal(signal.SIGHUP)
            server.wait_log("reload aborted: the application could not be imported; the old workers go on")
        assert load.failures == [] and set(load.bodies) == {b"good"}
        assert server.workers == old
        assert server.log.count("reload aborted") == 1
        server.get("/send?channel=news&data=still-here")
        assert stream.line() == "still-here"
        version.write_text("better")
        server.send_signal(signal.SIGHUP)
        server.wait_ready(2, without=set(old.values()))
        assert server.get("/version") == b"better"


def test_a_slow_import_makes_nobody_wait(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("quick")
    with Server(APP, workers=2, directory=tmp_path) as server:
        old = set(server.workers.values())
        with Load(server.address, "/version") as load:
            version.write_text("slow")
            server.send_signal(signal.SIGHUP)
            server.wait_log("reloaded")
            server.wait_ready(2, without=old)
            server.wait(lambda: b"slow" in load.bodies)
        assert load.failures == []
        assert set(load.bodies) == {b"quick", b"slow"}


def test_settings_are_read_again(tmp_path: Path) -> None:
    config = tmp_path / "channels.conf.py"
    config.write_text("workers = 1\nraw_env = ['COLOUR=blue']\n")
    with Server(APP, "--max-workers", "4", workers=0, directory=tmp_path) as server:
        assert server.get("/env?name=COLOUR") == b"blue"
        old = set(server.workers.values())
        config.write_text("workers = 3\nraw_env = ['COLOUR=green']\n")
        server.send_signal(signal.SIGHUP)
        server.wait_ready(3, without=old)
        assert server.get("/env?name=COLOUR") == b"green"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers = 'many'\n", "setting workers='many': must be a whole number"),
        ("wokers = 3\n", "there is no such setting"),
        ("workers = 1 +\n", "line 1"),
        ("raise RuntimeError('no')\n", "line 1: RuntimeError: no"),
        ("channels_max = 1000\n", "cannot change by a reload; upgrade with SIGUSR2"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit"),
        ("errorlog = 'none/log'\n", "none/log': cannot be written: No such file or directory"),
    ],
)
def test_bad_settings_refuse_the_reload_in_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    config = tmp_path / "channels.conf.py"
    config.write_text("timeout = 20\n")
    with Server(APP, workers=1, directory=tmp_path) as server:
        old = server.workers
        config.write_text(text)
        server.send_signal(signal.SIGHUP)
        server.wait_log("reload refused, the old settings stay")
        assert says in server.log and "Traceback" not in server.log
        assert server.get("/pid").decode() in map(str, old.values())
        config.write_text("timeout = 21\n")
        server.send_signal(signal.SIGHUP)
        server.wait_ready(1, without=set(old.values()))


def test_two_reloads_at_once_end_with_the_newest_code(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text("one")
    with Server(APP, workers=2, directory=tmp_path) as server:
        old = set(server.workers.values())
        version.write_text("slow")
        server.send_signal(signal.SIGHUP)
        server.wait_log("reloading: batch 2")
        version.write_text("three")
        server.send_signal(signal.SIGHUP)
        server.wait_log("reloaded: batch 3")
        server.wait_ready(2, without=old)
        assert {get(server.address, "/version")[1] for _ in range(10)} == {b"three"}


def test_hooks_are_called_in_gunicorns_places(tmp_path: Path) -> None:
    (tmp_path / "channels.conf.py").write_text(
        """
import os
def note(*words):
    with open("hooks", "a") as file:
        print(*words, file=file)
def on_starting(server): note("on_starting", server.pid == os.getpid())
def when_ready(server): note("when_ready", server.pid == os.getpid())
def pre_fork(server, worker): note("pre_fork", server.pid == os.getpid(), worker.id)
def post_fork(server, worker): note("post_fork", worker.pid == os.getpid(), worker.id)
def post_worker_init(worker): note("post_worker_init", worker.pid == os.getpid())
def worker_exit(server, worker): note("worker_exit", worker.pid == os.getpid())
def child_exit(server, worker): note("child_exit", server.pid == os.getpid(), worker.pid, worker.exit_status)
def on_reload(server): note("on_reload", server.pid == os.getpid())
def nworkers_changed(server, new, old): note("nworkers_changed", new, old)
def on_exit(server): note("on_exit", server.pid == os.getpid())
"""
    )
    hooks = tmp_path / "hooks"
    with Server(APP, "--max-workers", "3", workers=1, directory=tmp_path) as server:
        (pid,) = server.workers.values()
        server.wait(lambda: "when_ready" in hooks.read_text())
        lines = hooks.read_text().splitlines()
        assert [line.split()[0] for line in lines] == [
            "on_starting",
            "pre_fork",
            "post_fork",
            "post_worker_init",
            "when_ready",
        ]
        assert all("True" in line for line in lines)
        server.send_signal(signal.SIGTTIN)
        server.wait_log("2 workers from here on")
        server.wait_ready(2)
        assert "nworkers_changed 2 1" in hooks.read_text()
        server.send_signal(signal.SIGHUP)
        server.wait_log("reloaded")
        server.wait(lambda: f"child_exit True {pid} 0" in hooks.read_text())
        assert "on_reload True" in hooks.read_text() and "worker_exit True" in hooks.read_text()
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert hooks.read_text().splitlines()[-1] == "on_exit True"


def test_a_hook_of_the_master_that_fails_is_logged_and_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "channels.conf.py").write_text(
        "def pre_fork(server, worker):\n    raise RuntimeError('bad hook')\ndef when_ready(server):\n    1 / 0\n"
    )
    with Server(APP, workers=1, directory=tmp_path) as server:
        server.wait_log("ZeroDivisionError")
        assert "hook pre_fork failed" in server.log and "hook when_ready failed" in server.log
        assert server.get("/") == b"ok"


def test_on_starting_that_fails_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "channels.conf.py").write_text("def on_starting(server):\n    raise RuntimeError('not today')\n")
    with Server(APP, workers=1, directory=tmp_path, wait=False) as server:
        assert server.wait_exit() == 3
        assert "hook on_starting failed" in server.log and "not today" in server.log


def test_max_requests_starts_the_successor_first_and_nobody_fails() -> None:
    with Server(APP, "--max-requests", "40", "--max-requests-jitter", "5", workers=2) as server:
        old = set(server.workers.values())
        with Load(server.address) as load:
            server.wait_log(r"draining: max_requests", count=2)
            server.wait_ready(2, without=old)
        assert load.failures == []


def test_max_age_starts_the_successor_first_and_nobody_fails() -> None:
    with Server(APP, "--max-age", "1", workers=2) as server:
        old = set(server.workers.values())
        with Load(server.address, threads=1) as load:
            server.wait_log(r"draining: max_age", count=2)
            server.wait_ready(2, without=old)
        assert load.failures == []


def test_with_reload_a_changed_source_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    source = tmp_path / "changing.py"
    text = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'%s']\n"
    source.write_text(text % "one")
    with Server("changing:app", "--reload", workers=2, directory=tmp_path) as server:
        assert server.get("/") == b"one"
        server.wait_log("reload: watching")
        source.write_text(text % "two")
        server.wait_log("changing.py has changed")
        server.wait(lambda: server.get("/") == b"two")
        server.wait_log("reload: watching", count=2)
        server.wait_log("reloaded: batch 2 serves")
        source.write_text("def app(:\n")
        server.wait_log("reload aborted")
        assert server.get("/") == b"two"
        source.write_text(text % "three")
        server.wait(lambda: server.get("/") == b"three")
