"""Whoever is killed, the rest goes on."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from tests.server import Server
from tests.system.babbling import NONSENSE
from tests.system.clients import Load, Stream, children, get, in_flight, is_free, is_gone, router_pid

APP = "tests.system.app:app"


def test_a_killed_supervisor_leaves_workers_that_finish_and_go_and_a_free_port() -> None:
    with Server(APP, workers=2) as server:
        slow = in_flight(server, "/slow?s=1.5")
        stream = Stream(server, "/stream")
        workers, router, address = list(server.workers.values()), router_pid(server), server.address
        server.send_signal(signal.SIGKILL)
        server.wait_exit()
        assert slow.result()[0] == 200
        assert stream.rest() == []
        server.wait(lambda: all(map(is_gone, [*workers, router])))
        assert is_free(address)


def test_a_killed_supervisor_whose_workers_hang_keeps_the_port_no_longer_than_graceful_timeout() -> None:
    with Server(APP, "--graceful-timeout", "1", workers=1) as server:
        in_flight(server, "/slow?s=60")
        workers, address = list(server.workers.values()), server.address
        server.send_signal(signal.SIGKILL)
        server.wait_exit()
        server.wait(lambda: all(map(is_gone, workers)))
        assert is_free(address)


def test_a_killed_router_is_replaced_and_streams_and_requests_go_on() -> None:
    with Server(APP, workers=2) as server:
        streams = [Stream(server, "/stream") for _ in range(4)]
        workers = server.workers
        with Load(server.address) as load:
            for round_ in range(3):
                router = router_pid(server)
                os.kill(router, signal.SIGKILL)
                server.wait_log("router died", count=round_ + 1)
                assert int(server.get(f"/send?channel=news&data={round_}")) == len({stream.pid for stream in streams})
                assert [stream.line() for stream in streams] == [str(round_)] * 4
                server.wait(lambda router=router: is_gone(router))
        assert load.failures == [] and server.workers == workers


def test_a_router_that_says_nonsense_is_not_believed_and_goes_on_routing() -> None:
    with Server(APP, workers=2, module="tests.system.babbling") as server:
        stream = Stream(server, "/stream")
        server.wait_log("the router says nonsense", count=len(NONSENSE))
        victim = next(pid for pid in server.workers.values() if pid != stream.pid)
        os.kill(victim, signal.SIGKILL)
        server.wait(lambda: is_gone(victim) and len(server.workers) == 2)
        assert int(server.get("/send?channel=news&data=still")) == 1 and stream.line() == "still"


def test_a_killed_worker_is_replaced_and_others_streams_go_on() -> None:
    with Server(APP, workers=2) as server:
        streams = [Stream(server, "/stream") for _ in range(8)]
        victim = streams[0].pid
        server.wait(lambda: len(server.workers) == 2)
        os.kill(victim, signal.SIGKILL)
        server.wait_log(f"pid={victim} died: signal 9")
        server.wait_ready(2, without={victim})
        others = [stream for stream in streams if stream.pid != victim]
        assert server.get("/send?channel=news&data=x") == str(len({stream.pid for stream in others})).encode()
        assert [stream.line() for stream in others] == ["x"] * len(others)


def test_a_loop_that_does_not_turn_is_killed_after_its_stacks_are_logged() -> None:
    with Server(APP, "--timeout", "1", workers=2) as server:
        stream_pids = set(server.workers.values())
        blocked = in_flight(server, "/block?s=60")
        found = server.wait_log(r"worker=\d+ gen=\d+ pid=(\d+) harakiri: its loop has not turned for")
        server.wait_log(rf"pid={found[1]} died: signal 9")
        assert "in app" in server.log and "app.py" in server.log  # the request's own frame
        assert re.search(r"[Gg]reenlet", server.log)
        server.wait_ready(2, without={int(found[1])})
        assert int(found[1]) in stream_pids
        assert get(server.address, "/")[1] == b"ok"
        server.wait(lambda: blocked.done)


def test_a_stopped_worker_is_killed_too() -> None:
    with Server(APP, "--timeout", "1", workers=2) as server:
        victim = next(iter(server.workers.values()))
        os.kill(victim, signal.SIGSTOP)
        server.wait_log(rf"pid={victim} died: signal 9")
        server.wait_ready(2, without={victim})


def test_a_worker_that_exits_by_itself_is_replaced_with_its_status_in_the_log() -> None:
    with Server(APP, workers=1) as server:
        (victim,) = server.workers.values()
        try:
            server.get("/exit?status=7")
        except OSError:
            pass  # it does not answer
        server.wait_log(rf"pid={victim} died: status 7")
        server.wait_ready(1, without={victim})


def test_workers_that_die_young_are_not_forked_in_a_loop(tmp_path: Path) -> None:
    config = tmp_path / "channels.conf.py"
    with Server(APP, workers=1, directory=tmp_path) as server:
        forks = []
        for _ in range(3):
            (victim,) = server.workers.values()
            os.kill(victim, signal.SIGKILL)
            server.wait_ready(1, without={victim})
            forks.append(time.monotonic())
        assert forks[2] - forks[1] > forks[1] - forks[0] > 0.4
    assert not config.exists()


def test_descriptors_and_zombies_do_not_pile_up_over_many_deaths_and_reloads() -> None:
    with Server(APP, workers=2) as server:

        def churn() -> None:
            old = set(server.workers.values())
            os.kill(min(old), signal.SIGKILL)
            server.wait_ready(2, without={min(old)})
            old = set(server.workers.values())
            server.send_signal(signal.SIGHUP)
            server.wait_ready(2, without=old)

        def open_fds(pid: int) -> int:
            return len(os.listdir(f"/proc/{pid}/fd"))

        router = router_pid(server)
        churn()
        server.wait(lambda: len(server.workers) == 2)
        before = open_fds(server.pid), open_fds(router)
        for _ in range(3):
            churn()
        server.wait(lambda: (open_fds(server.pid), open_fds(router)) <= before)
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children(server.pid)]
        assert "Z" not in states
