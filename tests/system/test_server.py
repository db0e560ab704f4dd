"""The command `channels MODULE:APP` as an operator sees it: starting, stopping, signals."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.server import ROOT, Server
from tests.system.clients import Stream, children, get, in_flight, is_free, is_gone, router_pid

APP = "tests.system.app:app"


def run(*arguments: str, directory: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "channels", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---- starting ----


def test_it_serves_and_says_so() -> None:
    with Server(APP, workers=2) as server:
        assert server.get("/pid").decode() in map(str, server.workers.values())
        assert re.search(rf"channels: pid={server.pid} listening on http://127.0.0.1:\d+, 2 workers", server.log)
        assert server.stop() == 0


def test_several_addresses_and_a_unix_socket_are_listened_to_at_once(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with Server(APP, "--bind", f"unix:{path}", workers=1) as server:
        assert server.get("/") == b"ok"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while part := client.recv(4096):
                data += part
        assert data.startswith(b"HTTP/1.") and data.endswith(b"ok")
        server.stop()
    assert not path.exists()


def test_an_application_that_cannot_be_imported_ends_the_start_with_status_4_and_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("broken")
    done = run(APP, "--bind", "127.0.0.1:0", "--workers", "2", directory=tmp_path)
    assert done.returncode == 4
    assert "RuntimeError: this version cannot be imported" in done.stderr
    assert "the application could not be imported; giving up" in done.stderr


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("no_such_module:app", "No module named 'no_such_module'"),
        ("tests.system.app:nothing", "tests.system.app has no 'nothing'"),
        ("tests.system.app:HERE", "not a WSGI application"),
        ("tests.system.app:app(1 +)", "neither a name nor a call"),
    ],
)
def test_an_application_that_is_not_there_says_what_is_wrong(app: str, says: str) -> None:
    done = run(app, "--bind", "127.0.0.1:0")
    assert done.returncode == 4 and says in done.stderr


def test_a_worker_that_cannot_start_ends_the_start_with_status_3(tmp_path: Path) -> None:
    (tmp_path / "channels.conf.py").write_text("def post_fork(worker):\n    raise RuntimeError('no way')\n")
    done = run(APP, "--bind", "127.0.0.1:0", directory=tmp_path)
    assert done.returncode == 3
    assert "RuntimeError: no way" in done.stderr and "it could not start; giving up" in done.stderr


def test_an_address_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run(APP, "--bind", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Address already in use" in done.stderr and str(port) in done.stderr


def test_too_few_descriptors_are_one_clear_line_before_anything_is_started() -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 40; exec {sys.executable} -m channels {APP} --bind 127.0.0.1:0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "file descriptors are needed, the limit is 40; raise it" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_little_room_for_the_segment_is_one_clear_line() -> None:
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 1024; exec {sys.executable} -m channels {APP} --bind 127.0.0.1:0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "lower `channels_max`" in done.stderr and "Traceback" not in done.stderr


# ---- stopping ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_graceful_stop_finishes_what_runs_and_frees_the_port(number: signal.Signals) -> None:
    with Server(APP, workers=2) as server:
        slow = in_flight(server, "/slow?s=1")
        address, workers = server.address, list(server.workers.values())
        server.send_signal(number)
        assert slow.result()[0] == 200
        assert server.wait_exit() == 0
        assert is_free(address) and all(map(is_gone, workers))


def test_a_stop_of_the_whole_group_answers_what_the_kernel_has_queued() -> None:
    with Server(APP, workers=1) as server:
        in_flight(server, "/block?s=1")
        clients = [socket.create_connection(server.address, timeout=30) for _ in range(60)]
        for client in clients:
            client.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
        os.kill(server.pid, signal.SIGSTOP)  # it is the slower one
        server.send_signal(signal.SIGTERM)
        (worker,) = server.workers.values()
        os.kill(worker, signal.SIGTERM)
        assert clients[0].recv(15) == b"HTTP/1.1 200 OK"
        os.kill(server.pid, signal.SIGCONT)
        assert {client.recv(15) for client in clients[1:]} == {b"HTTP/1.1 200 OK"}
        for client in clients:
            client.close()


def test_a_graceful_stop_ends_streams_cleanly() -> None:
    with Server(APP, workers=2) as server:
        streams = [Stream(server, "/stream") for _ in range(6)]
        server.get("/send?channel=news&data=last")
        server.send_signal(signal.SIGTERM)
        assert [stream.rest() for stream in streams] == [["last"]] * 6
        assert server.wait_exit() == 0


def test_a_request_that_does_not_end_is_cut_off_after_graceful_timeout() -> None:
    with Server(APP, "--graceful-timeout", "1", workers=1) as server:
        slow = in_flight(server, "/slow?s=60")
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        with pytest.raises((OSError, http.client.HTTPException)):
            slow.result()


def test_an_interrupt_stops_at_once() -> None:
    with Server(APP, workers=2) as server:
        in_flight(server, "/slow?s=60")
        server.send_signal(signal.SIGINT)
        assert server.wait_exit() == 0
        assert "stopping at once" in server.log


def test_a_second_stop_does_not_wait_for_what_runs() -> None:
    with Server(APP, workers=1) as server:
        in_flight(server, "/slow?s=60")
        server.send_signal(signal.SIGTERM)
        server.wait_log("requests and streams may finish")
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_stopping_while_workers_start_does_not_wait_for_them(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("slow")
    with Server(APP, workers=2, directory=tmp_path, wait=False) as server:
        server.wait_log("listening on")
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert "Traceback" not in server.log


# ---- the number of workers ----


def test_ttin_and_ttou_change_the_number_of_workers_between_one_and_max_workers() -> None:
    with Server(APP, "--max-workers", "3", workers=2) as server:
        server.send_signal(signal.SIGTTIN)
        server.wait_ready(3)
        server.send_signal(signal.SIGTTIN)
        server.wait_log("there are 3 workers already; raise the setting max_workers")
        for left in (2, 1):
            server.send_signal(signal.SIGTTOU)
            server.wait(lambda left=left: len(server.workers) == left)
        server.send_signal(signal.SIGTTOU)
        assert server.get("/") == b"ok"
        assert len(server.workers) == 1


def test_winch_drains_the_workers_and_a_reload_brings_them_back() -> None:
    with Server(APP, workers=2) as server:
        slow = in_flight(server, "/slow?s=1")
        server.send_signal(signal.SIGWINCH)
        assert slow.result()[0] == 200
        server.wait(lambda: not server.workers)
        assert server.process.poll() is None
        server.send_signal(signal.SIGHUP)
        server.wait_ready(2)
        assert server.get("/") == b"ok"


# ---- logs ----


def test_usr1_goes_on_in_a_new_log_file_in_every_process(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    with Server(APP, "--error-logfile", str(log), "--pid", str(tmp_path / "pid"), workers=2, wait=False) as server:
        server.wait(lambda: log.exists() and log.read_text().count(" ready") == 2)
        log.rename(tmp_path / "error.log.1")
        server.send_signal(signal.SIGUSR1)
        server.wait(log.exists)
        server.wait(lambda: all(writes_to(pid, log) for pid in [server.pid, *children(server.pid)]))
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert "stopping" in log.read_text() and "stopping" not in (tmp_path / "error.log.1").read_text()


def writes_to(pid: int, path: Path) -> bool:
    open_files = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            open_files.add(os.readlink(fd))
        except OSError:
            continue
    return str(path) in open_files and str(path) + ".1" not in open_files


# ---- in the background ----


def test_a_daemon_leaves_the_terminal_writes_its_pid_and_removes_it_at_the_end(tmp_path: Path) -> None:
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    server = Server(APP, "--daemon", "--pid", str(pidfile), "--error-logfile", str(log), workers=1, wait=False)
    assert server.wait_exit() == 0
    server.wait(lambda: log.exists() and " ready" in log.read_text())
    pid = int(pidfile.read_text())
    try:
        assert os.getsid(pid) != os.getsid(0)
        port = re.search(r"127\.0\.0\.1:(\d+)", log.read_text())
        assert port is not None and get(("127.0.0.1", int(port[1])), "/")[1] == b"ok"
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    finally:
        os.kill(pid, signal.SIGTERM)
    server.wait(lambda: is_gone(pid))
    assert not pidfile.exists()
    server.stop()


def test_a_daemon_without_a_log_file_is_refused() -> None:
    done = run(APP, "--daemon")
    assert done.returncode == 2 and "--error-logfile" in done.stderr


def test_a_second_master_with_the_same_pidfile_is_refused(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with Server(APP, "--pid", str(pidfile), workers=1) as server:
        done = run(APP, "--pid", str(pidfile), "--bind", "127.0.0.1:0")
        assert done.returncode == 2 and f"process {server.pid} is running already" in done.stderr
        assert int(pidfile.read_text()) == server.pid


def test_a_pidfile_that_a_killed_master_left_is_taken_over(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{2**22 + 1}\n")
    with Server(APP, "--pid", str(pidfile), workers=1) as server:
        assert int(pidfile.read_text()) == server.pid


# ---- user, directory, environment ----


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def for_everyone() -> list[str]:
    """A command that runs another where everyone may read this interpreter, wherever it is installed."""
    place = next((path for path in reversed(Path(os.__file__).parents) if not path.stat().st_mode & 0o001), None)
    if place is None:
        return []
    inner = place / Path(os.__file__).relative_to(place).parts[0]
    script = (
        f"mount --bind {inner} /mnt && mount -t tmpfs -o mode=755 none {place} && mkdir {inner} && "
        f'mount --bind /mnt {inner} && exec "$@"'
    )
    return ["unshare", "--mount", "bash", "-c", script, "--"]


@as_root
def test_workers_and_router_drop_privileges_and_the_master_keeps_them() -> None:
    with Server(APP, "--user", "nobody", "--group", "nogroup", workers=1, prefix=for_everyone()) as server:
        uid, gid, *groups = map(int, server.get("/ids").split())
        assert uid == 65534 and gid == 65534 and 0 not in groups
        assert re.search(r"^Uid:\s+65534\s+65534", Path(f"/proc/{router_pid(server)}/status").read_text(), re.MULTILINE)
        assert re.search(r"^Uid:\s+0\s+0", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
        assert server.control.exists() and "no control socket" not in server.log


@as_root
def test_without_a_user_the_group_alone_is_changed() -> None:
    with Server(APP, "--group", "nogroup", workers=1) as server:
        uid, gid, *groups = map(int, server.get("/ids").split())
        assert (uid, gid) == (0, 65534) and 0 not in groups


@as_root
def test_the_log_files_belong_to_the_user_of_the_workers_who_can_reopen_them() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        log = Path(directory, "error.log")
        options = ("--user", "nobody", "--error-logfile", str(log))
        with Server(APP, *options, workers=1, wait=False, prefix=for_everyone()) as server:
            server.wait(lambda: log.exists() and " ready" in log.read_text())
            assert log.stat().st_uid == 65534
            log.rename(f"{log}.1")
            server.send_signal(signal.SIGUSR1)
            server.wait(lambda: all(writes_to(pid, log) for pid in [server.pid, *children(server.pid)]))
            assert log.stat().st_uid == 65534


def test_chdir_and_variables_are_the_applications(tmp_path: Path) -> None:
    with Server(APP, "--chdir", str(tmp_path), "--env", "COLOUR=blue=green", workers=1) as server:
        assert server.get("/cwd").decode() == str(tmp_path)
        assert server.get("/env?name=COLOUR") == b"blue=green"
