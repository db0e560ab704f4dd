"""What a worker that was taken over can do to the others, in a real server."""

from __future__ import annotations

import re
import signal

from tests.server import Server


def test_a_worker_has_no_descriptor_of_the_segment() -> None:
    with Server("tests.system.hostile_app:application", workers=2) as server:
        names = server.get("/descriptors").decode().split("\n")
        assert any(name.startswith("socket:") for name in names)
        assert not [name for name in names if name.startswith("/memfd:channels (")]


def test_a_worker_that_floods_supervisor_and_inboxes_holds_nobody_up() -> None:
    with Server("tests.system.hostile_app:application", "--graceful-timeout", "2", workers=3) as server:
        server.get("/flood")
        for _ in range(50):  # all three answer
            assert server.get("/").isdigit()
        before = set(server.workers.values())
        server.send_signal(signal.SIGHUP)
        server.wait_log(r"reloaded: batch 2")
        server.wait_ready(3, without=before)
        for _ in range(10):
            assert server.get("/").isdigit()
        assert len(re.findall(r"reloading", server.log)) == 1  # nobody's word but ours
        assert not [line for line in server.lines if line.startswith("2026 [1]")]
        assert server.stop(signal.SIGTERM) == 0
