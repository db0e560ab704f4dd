from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"WATCHED": str(tmp_path_factory.mktemp("watched"))}
    with Server(
        "tests.web.uwsgi.timers:application",
        "--uwsgi-mules",
        "2",
        "--uwsgi-farms",
        "pool:2",
        workers=2,
        environment=environment,
    ) as started:
        started.wait_log("mule=1 runs")
        started.wait_log("mule=2 runs")
        yield started


def ask(server: Server, expression: str) -> str:
    return server.get("/", expression.encode()).decode()


def test_a_message_reaches_the_mule_it_is_for(server: Server) -> None:
    assert ask(server, "uwsgi.mule_msg('for one', 1)") == "True"
    server.wait_log("mule 1 got b'for one'")
    assert ask(server, "uwsgi.mule_msg(b'for two', 2)") == "True"
    server.wait_log("brain 2 of True got b'for two'")


def test_a_message_for_any_mule_reaches_one(server: Server) -> None:
    assert ask(server, "uwsgi.mule_msg('for any')") == "True"
    server.wait_log("got b'for any'")
    ask(server, "uwsgi.mule_msg('afterwards', 1), uwsgi.mule_msg('afterwards', 2)")
    server.wait_log("got b'afterwards'", count=2)
    assert len(re.findall("got b'for any'", server.log)) == 1


def test_a_message_for_a_farm_reaches_one_of_its_mules(server: Server) -> None:
    assert ask(server, "uwsgi.mule_msg('by name', 'pool'), uwsgi.farm_msg('pool', 'directly')") == "(True, None)"
    server.wait_log("brain 2 of True got b'by name'")
    server.wait_log("brain 2 of True got b'directly'")


def test_signals_reach_mules(server: Server) -> None:
    ask(server, "uwsgi.signal(20)")
    server.wait_log(r"^signal 20 in \d+ mule 1")
    ask(server, "uwsgi.signal(21)")
    server.wait_log(r"^signal 21 in \d+ mule 1")
    server.wait_log(r"^signal 21 in \d+ mule 2")


@pytest.mark.parametrize(
    "expression",
    [
        "uwsgi.mule_msg('x', 3)",
        "uwsgi.mule_msg('x', -1)",
        "uwsgi.mule_msg('x', 'nofarm')",
        "uwsgi.mule_get_msg()",
        "uwsgi.farm_get_msg()",
    ],
)
def test_bad_values_are_refused(server: Server, expression: str) -> None:
    assert ask(server, expression).startswith("ValueError")


def test_outside_of_a_mule_nobody_is_one(server: Server) -> None:
    assert ask(server, "uwsgi.mule_id(), uwsgi.in_farm(), uwsgi.in_farm('pool'), uwsgi.worker_id() > 0") == (
        "(0, None, None, True)"
    )
    assert ask(server, "uwsgi.mule_msg(b'x' * 70000, 1)") == "False"


def test_a_mule_whose_worker_dies_goes_on_in_another_with_the_messages_that_waited(server: Server) -> None:
    ask(server, "uwsgi.mule_msg('where', 2)")
    pid = int(server.wait_log(r"brain 2 of True got b'where' in (\d+)")[1])
    os.kill(pid, signal.SIGSTOP)
    other = next(worker for worker in server.workers.values() if worker != pid)
    _ask_that(server, other, "uwsgi.mule_msg('waiting', 2)")
    os.kill(pid, signal.SIGKILL)
    again = int(server.wait_log(r"brain 2 of True got b'waiting' in (\d+)")[1])
    assert again != pid
    server.wait_ready(2, without={pid})


def _ask_that(server: Server, pid: int, expression: str) -> None:
    """The other worker is stopped: what it has accepted is not answered, so it is asked again."""
    found = f"[{expression}, 'done'][1]"
    assert Path(f"/proc/{pid}").exists()
    for _ in range(50):
        try:
            if _get_quickly(server, found) == "'done'":
                return
        except OSError:
            continue
    raise AssertionError("the worker that runs did not answer")


def _get_quickly(server: Server, expression: str) -> str:
    with urllib.request.urlopen(server.url + "/", expression.encode(), timeout=0.5) as answer:
        return str(answer.read().decode())
