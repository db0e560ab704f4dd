"""SIGUSR2: a new master takes over, and whatever goes wrong on the way, the old one serves on."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.server import Server
from tests.system.clients import InBackground, Load, Numbers, Stream, get, in_flight, is_gone

APP = "tests.system.app:app"

# A settings file that makes a new master die or hang where the file `fault` says.
FAULTS = """
import os, signal, time
fault = "CHANNELS_UPGRADE" in os.environ and os.path.exists("fault") and open("fault").read().strip()
_how, _, _where = (fault or "").partition(" ")
del fault

def _strike():
    if _how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if _how == "hang":
        time.sleep(1000)

if _how:
    if _where == "settings":
        raise RuntimeError("these settings cannot be read")
    if _where == "start":
        _strike()
    from channels.master import upgrade
    _say = upgrade.Peer.say
    def _faulty(self, word, facts=(), fds=()):
        if word == _where:
            _strike()
        _say(self, word, facts, fds)
        if _where == "after " + word:
            _strike()
    upgrade.Peer.say = _faulty
boot_timeout = 3 if os.path.exists("impatient") else 30
"""


def masters(server: Server) -> list[int]:
    return [int(pid) for pid in re.findall(r"channels: pid=(\d+) listening", server.log)]


def stream_of(server: Server, workers: set[int]) -> Stream | None:
    """A stream that one of these serves, and none that is about to end."""
    stream = Stream(server, "/stream?channel=talk")
    return stream if stream.pid in workers else stream.close()


def heard(lines: list[str]) -> tuple[int, int]:
    """The first and the last number of a stream, in which none is missing or twice and each worker's stand in order.

    Two workers' that were sent one after the other may be heard the other way round, at its ends, too.
    """
    said = [(int(number), pid) for number, _, pid in (line.partition("@") for line in lines)]
    for sender in {pid for _, pid in said}:
        own = [number for number, pid in said if pid == sender]
        assert own == sorted(own)
    numbers = sorted(number for number, _ in said)
    inner = numbers[2:-2]
    assert len(set(numbers)) == len(numbers) and inner == list(range(inner[0], inner[-1] + 1))
    return inner[0], inner[-1]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "channels.conf.py").write_text(FAULTS)
    (tmp_path / "version").write_text("one")
    return tmp_path


def test_an_upgrade_serves_the_new_code_and_loses_no_request_and_no_message(place: Path) -> None:
    pidfile = place / "pid"
    with Server(APP, "--pid", str(pidfile), workers=2, directory=place) as server:
        old, address = server.pid, server.address
        stream = InBackground(Stream(server, "/stream?channel=talk").rest)
        slow = in_flight(server, "/slow?s=1")
        with Load(address, "/version") as load, Numbers(server, "talk") as numbers:
            (place / "version").write_text("two")
            before = server.wait(lambda: numbers.sent)
            server.send_signal(signal.SIGUSR2)
            server.wait(lambda: b"two" in load.bodies)
            assert server.process.wait(30) == 0
            server.wait(lambda: not pidfile.with_name("pid.oldbin").exists())
        new = int(pidfile.read_text())
        assert load.failures == numbers.failures == [] and slow.result()[0] == 200
        first, last = heard(stream.result())
        assert first == 2 and before - 3 <= last < numbers.sent
        assert masters(server) == [old, new] and old != new
        assert get(address, "/version")[1] == b"two"
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))
        assert not pidfile.exists() and not server.control.exists()


def test_old_and_new_workers_talk_on_the_same_channels_meanwhile(place: Path) -> None:
    """Whoever hears a new worker's stream before the old one's ends has missed nothing, and heard nothing twice."""
    with Server(APP, "--drain-spread", "2", workers=1, directory=place) as server, Numbers(server, "talk") as numbers:
        old, early = server.pid, set(server.workers.values())
        streams = [InBackground(Stream(server, "/stream?channel=talk").rest) for _ in range(4)]
        from_old = in_flight(server, f"/send?channel=talk&data=from-old&when={place / 'both'}")
        began = numbers.sent
        server.wait(lambda: numbers.sent > began + 20)
        numbers.answers.clear()
        server.send_signal(signal.SIGUSR2)
        server.wait(lambda: len(masters(server)) == 2)
        server.wait(lambda: len(re.findall(r"worker=\d+ gen=\d+ pid=\d+ ready", server.log)) == 2)
        late = server.wait(lambda: stream_of(server, set(server.workers.values()) - early))
        stream = InBackground(lambda: list(iter(late.line, "end")))
        (place / "both").touch()
        assert from_old.result() == (200, b"2")
        old_lines = [each.result() for each in streams]
        server.wait(lambda: is_gone(old))
        over = numbers.sent
        server.wait(lambda: numbers.sent > over + 20)
        server.get("/send?channel=talk&data=end")
        new_lines = stream.result()
        assert numbers.failures == [] and numbers.answers == {b"1", b"2"}
        assert new_lines.count("from-old") == 1 and any("from-old" in lines for lines in old_lines)
        old_ends = [heard([line for line in lines if line != "from-old"]) for lines in old_lines]
        new_first, new_last = heard([line for line in new_lines if line != "from-old"])
        assert new_first < max(last for _, last in old_ends) and new_last > over + 10
        os.kill(masters(server)[1], signal.SIGTERM)
        server.wait(lambda: is_gone(masters(server)[1]))


@pytest.mark.parametrize(
    "fault",
    [
        "die settings",
        "die start",
        "die hello",
        "die prepared",
        "die taken",
        "die after taken",
        "die stable",
        "hang start",
        "hang hello",
        "hang prepared",
        "hang taken",
        "hang after taken",
        "import -",
    ],
)
def test_a_new_master_that_fails_at_any_step_leaves_the_old_one_serving(place: Path, fault: str) -> None:
    pidfile = place / "pid"
    if fault.startswith("hang"):
        (place / "impatient").touch()
    with Server(APP, "--pid", str(pidfile), workers=1, directory=place) as server:
        old, workers = server.pid, set(server.workers.values())
        (place / "fault").write_text(fault)
        if fault.startswith("import"):
            (place / "version").write_text("broken")
        with Load(server.address, "/pid", threads=1) as load:
            server.send_signal(signal.SIGUSR2)
            server.wait_log(r"upgrade failed|the new master did not")
            server.wait(lambda: pidfile.exists() and int(pidfile.read_text()) == old)
            server.wait(lambda: all(is_gone(pid) for pid in masters(server) if pid != old))
            # Channels work as well as before: there is one router, and it is this one's.
            stream = server.wait(lambda: stream_of(server, workers))
            server.wait(lambda: server.get("/send?channel=talk&data=x") == b"1")
            assert stream.line() == "x"
        assert load.failures == []
        assert server.process.poll() is None
        assert workers <= set(server.workers.values())
        assert not pidfile.with_name("pid.oldbin").exists()
        stream.close()
        # And nothing is left that stands in the way of one that succeeds.
        (place / "fault").unlink()
        (place / "version").write_text("two")
        server.send_signal(signal.SIGUSR2)
        server.wait(lambda: get(server.address, "/version")[1] == b"two")
        assert server.process.wait(30) == 0
        new = int(pidfile.read_text())
        assert new != old
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))


def test_an_old_master_that_is_killed_in_the_middle_is_succeeded(place: Path) -> None:
    """Its workers drain as at any death of a supervisor; the new one's serve."""
    (place / "version").write_text("slow")
    pidfile = place / "pid"
    with Server(APP, "--pid", str(pidfile), workers=1, directory=place) as server:
        old = server.pid
        with Load(server.address, "/version", threads=1) as load:
            server.send_signal(signal.SIGUSR2)
            server.wait_log("the new master routes")
            os.kill(old, signal.SIGKILL)
            server.process.wait(30)
            server.wait(lambda: pidfile.exists() and int(pidfile.read_text()) == masters(server)[-1])
            new = int(pidfile.read_text())
            count = len(load.bodies)
            server.wait(lambda: len(load.bodies) > count + 20)
        assert new != old
        assert [failure for failure in load.failures if "Refused" not in failure] == []
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))


def test_a_pidfile_that_cannot_be_written_refuses_the_upgrade(place: Path) -> None:
    config = place / "channels.conf.py"
    config.write_text("pidfile = 'pid'\n")
    with Server(APP, workers=1, directory=place) as server:
        old, workers = server.pid, server.workers
        config.write_text("pidfile = 'none/pid'\n")
        server.send_signal(signal.SIGUSR2)
        server.wait_log("upgrade failed: the new master died")
        server.wait_log("none/pid': cannot be written: No such file or directory")
        server.wait((place / "pid").exists)
        assert int((place / "pid").read_text()) == old and server.workers == workers
        assert server.get("/pid").decode() in map(str, workers.values())
        assert "Traceback" not in server.log


def test_a_pidfile_that_cannot_be_written_when_the_new_master_serves_is_told_and_it_serves_on(place: Path) -> None:
    config = place / "channels.conf.py"
    with Server(APP, workers=1, directory=place) as server:
        (place / "run").mkdir()
        config.write_text("import os\npidfile = 'run/pid'\ndef when_ready(server): os.rmdir('run')\n")
        server.send_signal(signal.SIGUSR2)
        server.wait_log("the old master has ended")
        assert server.process.wait(30) == 0
        assert "run/pid': cannot be written: No such file or directory" in server.log
        assert get(server.address, "/")[0] == 200
        new = masters(server)[-1]
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))


def test_another_layout_gets_a_segment_of_its_own_and_serves(place: Path) -> None:
    with Server(APP, workers=1, directory=place) as server:
        old = server.pid
        (place / "channels.conf.py").write_text("channels_max = 1024\n")
        with Load(server.address, "/version", threads=1) as load:
            server.send_signal(signal.SIGUSR2)
            server.wait(lambda: is_gone(old))
            new = masters(server)[-1]
        assert load.failures == [] and new != old
        assert get(server.address, "/send?channel=x&data=y") == (200, b"0")
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))


OTHER_HASH = """
import json, os
from channels.core import native
if "CHANNELS_UPGRADE" in os.environ:
    _segment = json.loads(os.environ["CHANNELS_UPGRADE"])["segment"]
    if int.from_bytes(os.pread(_segment, 8, 16), "little") != native.layout_id:
        raise RuntimeError("the layout's hash does not stand there")
    os.pwrite(_segment, b"no hash!", 16)
"""


def test_a_layout_of_the_same_size_with_another_hash_is_not_mapped(place: Path) -> None:
    """The new master finds the segment as one that was made by a version with other structs."""
    with Server(APP, "--drain-spread", "0.1", workers=1, directory=place) as server:
        old = server.pid
        stream = Stream(server, "/stream?channel=x")
        (place / "channels.conf.py").write_text(OTHER_HASH)
        with Load(server.address, "/version", threads=1) as load:
            server.send_signal(signal.SIGUSR2)
            server.wait_log("upgrade: this segment was made by a version with another layout")
            server.wait(lambda: is_gone(old))
            new = masters(server)[-1]
        assert load.failures == [] and new != old and stream.rest() == []
        assert get(server.address, "/send?channel=x&data=y") == (200, b"0")
        os.kill(new, signal.SIGTERM)
        server.wait(lambda: is_gone(new))


def test_a_reload_during_an_upgrade_is_refused_in_one_line(place: Path) -> None:
    (place / "version").write_text("slow")
    with Server(APP, workers=1, directory=place) as server:
        old = server.pid
        server.send_signal(signal.SIGUSR2)
        server.wait_log("upgrade: executing the new binary")
        server.send_signal(signal.SIGHUP)
        server.wait_log("an upgrade is under way")
        server.wait(lambda: is_gone(old))
        os.kill(masters(server)[-1], signal.SIGTERM)
        server.wait(lambda: is_gone(masters(server)[-1]))
