"""operate.py: the commands, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from channels import operate
from tests.server import ROOT, Server
from tests.system.clients import Stream

APP = "tests.system.app:app"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(APP, workers=2) as made:
        yield made


def run(server: Server, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "channels", "--control-socket", str(server.control), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls"], True),
        (["--pid", "7", "top"], True),
        (["--control-socket", "ls", "doctor"], True),
        (["module:app"], False),
        (["--bind", "ls:80"], False),
        (["--workers", "3"], False),
        ([], False),
        (["-c", "x.py", "module:app"], False),
    ],
)
def test_a_command_is_told_from_an_application(words: list[str], expected: bool) -> None:
    assert operate.is_command(words) is expected


def test_ls_lists_channels_with_their_listeners(server: Server) -> None:
    stream = Stream(server, "/stream?channel=listed")
    server.get("/send?channel=listed&data=x")
    done = run(server, "ls", "lis")
    assert done.returncode == 0
    assert re.search(rb"^listed +1  \d$", done.stdout, re.MULTILINE)
    assert b"listed" not in run(server, "ls", "other").stdout
    stream.close()


def test_send_and_tail_meet(server: Server) -> None:
    tail = subprocess.Popen(
        [sys.executable, "-m", "channels", "--control-socket", str(server.control), "tail", "t:*", "--count", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    server.wait(lambda: run(server, "send", "t:1", "hello").stdout == b"1 worker listened\n")
    assert run(server, "send", "t:2", "-", stdin=b"\xff from stdin").returncode == 0
    out, _ = tail.communicate(timeout=30)
    assert out.splitlines()[0] == b"t:1 hello" and len(out.splitlines()) == 2
    assert run(server, "send", "nobody:listens", "x").stdout == b"0 workers listened\n"


def test_on_a_terminal_tail_shows_escapes_and_does_not_send_them(server: Server) -> None:
    for terminal in (True, False):
        read, write = os.openpty() if terminal else os.pipe()
        command = [
            sys.executable,
            "-m",
            "channels",
            "--control-socket",
            str(server.control),
            "tail",
            "esc",
            "--count",
            "1",
        ]
        tail = subprocess.Popen(command, cwd=ROOT, stdout=write)
        os.close(write)
        server.wait(lambda: run(server, "send", "esc", "a\x1b[2Jb").stdout == b"1 worker listened\n")
        tail.wait(30)
        assert os.read(read, 100).strip() == (rb"esc a\x1b[2Jb" if terminal else b"esc a\x1b[2Jb")
        os.close(read)


def test_top_shows_every_worker_once(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "channels", "--control-socket", str(server.control), "top", "--once"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "2 workers" in done.stdout
    assert all(str(pid) in done.stdout for pid in server.workers.values())


def test_an_alert_without_a_handler_and_to_nobody_say_so(server: Server) -> None:
    done = run(server, "alert", "77", "hello", "x")
    assert done.returncode == operate.STATUS_FAILED
    assert b"channels: worker 77 is not there" in done.stderr and b"Traceback" not in done.stderr
    done = run(server, "alert", "1", "no-such-handler", "x", "--call", "5")
    assert done.returncode == operate.STATUS_FAILED and done.stderr.startswith(b"channels: ")


def test_the_doctor_finds_a_healthy_server(server: Server) -> None:
    done = run(server, "doctor")
    assert b"- master with 2 workers" in done.stdout and b"heartbeat" not in done.stdout


def test_bad_names_are_refused_in_words(server: Server) -> None:
    done = run(server, "send", "", "x")
    assert done.returncode == operate.STATUS_FAILED and b"channel name '' " in done.stderr


def test_without_a_master_it_says_how_to_name_one() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "channels", "--control-socket", "/no/such/socket", "ls"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert done.returncode == operate.STATUS_FAILED and "cannot talk to the master at /no/such/socket" in done.stderr


def test_the_reader_of_a_pipe_may_leave(server: Server) -> None:
    command = f"{sys.executable} -m channels --control-socket {server.control} ls | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr == b""
