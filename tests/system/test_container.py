"""As the first process of a container, that is of a pid namespace."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.server import Server
from tests.system.clients import get

APP = "tests.system.app:app"
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]

pytestmark = pytest.mark.skipif(
    subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0,
    reason="pid namespaces are not allowed here",
)


def first(server: Server) -> int:
    """Outside, the process that is 1 inside."""
    (pid,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return int(pid)


def test_a_graceful_stop_reaches_the_server_behind_process_1() -> None:
    with Server(APP, workers=2, prefix=UNSHARE) as server:
        assert get(server.address, "/")[1] == b"ok"
        os.kill(first(server), signal.SIGTERM)
        server.wait_log("stopping: requests and streams may finish")
        assert server.wait_exit() == 0


def test_a_reload_and_an_upgrade_work_and_the_container_lives_on() -> None:
    with Server(APP, workers=1, prefix=UNSHARE) as server:
        init = first(server)
        os.kill(init, signal.SIGHUP)
        server.wait_log("reloaded")
        os.kill(init, signal.SIGUSR2)
        server.wait_log(r"channels: pid=\d+ listening", count=2)
        server.wait_log("the old master has ended")
        assert get(server.address, "/")[1] == b"ok"
        assert server.process.poll() is None
        os.kill(init, signal.SIGTERM)
        server.wait_log("stopping: requests and streams may finish")
        assert server.wait_exit() == 0


def test_signals_reach_the_new_master_though_daemons_of_the_application_are_older() -> None:
    with Server(APP, workers=1, prefix=UNSHARE) as server:
        init = first(server)
        for count in (1, 2):
            server.get("/daemon")
            os.kill(init, signal.SIGUSR2)
            server.wait_log("the old master has ended", count)
        os.kill(init, signal.SIGTERM)
        server.wait_log("stopped: status=0", 3)
        server.wait(lambda: len(Path(f"/proc/{init}/task/{init}/children").read_text().split()) == 2)  # the daemons
        os.kill(init, signal.SIGTERM)
        assert server.wait_exit() == 0


def test_orphans_of_the_application_are_reaped() -> None:
    with Server(APP, workers=1, prefix=UNSHARE) as server:
        init = first(server)
        server.get("/orphan")
        server.wait_log(r"orphan \d+")

        def zombies() -> list[str]:
            states = []
            for child in Path(f"/proc/{init}/task/{init}/children").read_text().split():
                try:
                    states.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
                except OSError:
                    continue
            return [state for state in states if state == "Z"]

        server.wait(lambda: not zombies())
        os.kill(init, signal.SIGINT)
        assert server.wait_exit() == 0


def test_a_failed_start_is_the_containers_exit_status() -> None:
    with Server("no_such_module:app", workers=1, prefix=UNSHARE, wait=False) as server:
        assert server.wait_exit() == 4
        assert re.search("No module named 'no_such_module'", server.log)


def test_a_killed_supervisor_ends_the_container_with_its_status() -> None:
    with Server(APP, workers=1, prefix=UNSHARE) as server:
        (supervisor,) = Path(f"/proc/{first(server)}/task/{first(server)}/children").read_text().split()
        os.kill(int(supervisor), signal.SIGKILL)
        assert server.wait_exit() == 128 + signal.SIGKILL
