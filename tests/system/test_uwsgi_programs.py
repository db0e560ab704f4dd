"""Programs and libraries written for uWSGI run unmodified: uWSGI's own examples among them, fetched when needed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.server import Server

UWSGI = "2.0.31"
PROGRAMS = "tests.system.programs"


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def connect(server: Server, path: str = "/foobar/") -> Any:
    url = server.url.replace("http", "ws") + path
    return contextlib.closing(websocket.create_connection(url, timeout=20))


@pytest.fixture(scope="session")
def distribution() -> Path:
    """uWSGI's source distribution, from the index, kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "channels-tests")
    found = cache / f"uwsgi-{UWSGI}"
    if not found.exists():
        cache.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        ended = subprocess.run(
            [*pip, "--no-build-isolation", "-d", str(cache), f"uwsgi=={UWSGI}"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        archives = [path for path in cache.glob("*.tar.gz") if path.name.lower() == f"uwsgi-{UWSGI}.tar.gz"]
        if not archives:
            pytest.skip(f"the index has no uwsgi=={UWSGI} for us: {ended.stderr.strip().splitlines()[-1:]}")
        wanted = ("uwsgidecorators.py", "tests/")
        with tarfile.open(archives[0]) as archive:
            for member in archive.getmembers():
                inside = member.name.partition("/")[2]
                if member.isfile() and inside.startswith(wanted):
                    target = found / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = archive.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())
    return found


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    for line in server.stdout:
        if b"Ready to accept connections" in line:
            break
    drain = threading.Thread(target=server.stdout.read, daemon=True)
    drain.start()
    yield port
    server.kill()
    server.wait()


# ---- uWSGI's own examples ----


def test_the_echo_of_uwsgis_distribution(distribution: Path, tmp_path: Path) -> None:
    shutil.copy(distribution / "tests/websockets_echo.py", tmp_path)
    with Server("websockets_echo:application", directory=tmp_path) as server:
        with connect(server) as client:
            for text in ("ciao", "", "x" * 100_000):
                client.send(text)
                assert client.recv().endswith(f"] {text.encode()!r}")
        server.wait_log("websockets...")
        assert "Traceback" not in server.log


@needs("redis")
@pytest.mark.parametrize(
    ("program", "more"),
    [("websockets_chat", {"REDIS_TEXT": "1"}), ("websockets_chat_async", {})],
    ids=["gevent.select", "wait_fd_read, suspend and ready_fd"],
)
def test_the_chats_of_uwsgis_distribution(
    distribution: Path, redis_port: int, program: str, more: dict[str, str], tmp_path: Path
) -> None:
    shutil.copy(distribution / f"tests/{program}.py", tmp_path)
    environment = {
        "PROGRAM": program,
        "REDIS_PORT": str(redis_port),
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
        **more,
    }
    with Server(f"{PROGRAMS}.redirected:application", environment=environment) as server:
        with connect(server) as one, connect(server) as two:
            server.wait_log("websockets...", count=2)
            _until_subscribed(redis_port)
            for number in range(20):
                (one if number % 2 else two).send(f"message {number}")
                for client in (one, two):
                    assert f"message {number}" in client.recv()
        assert "Traceback" not in server.log


def _until_subscribed(port: int) -> None:
    """And have read that they are: a message read together with the word of it would not be looked for."""
    import redis

    client = redis.Redis(port=port)
    while client.pubsub_numsub("foobar")[0][1] < 2:
        pass
    while _unread_from(port):
        time.sleep(0.01)
    client.close()


def _unread_from(port: int) -> bool:
    """Whether bytes wait in a connection to this port, proc_pid_net(5)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(line[2].split(":")[1], 16) == port and int(line[4].split(":")[1], 16) for line in lines)


# ---- programs in uWSGI's manner ----


def test_a_chat_that_waits_for_its_socket_and_its_channel(tmp_path: Path) -> None:
    with Server(f"{PROGRAMS}.channel_chat:application", workers=3) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(6)]
        assert all(client.recv().startswith("worker ") for client in clients)
        for number in range(30):
            clients[number % 6].send(f"message {number}")
            assert {client.recv() for client in clients} == {f"message {number}"}
        clients[0].send_binary(b"several")
        clients[0].sock.close()
        assert {client.recv() for client in clients[1:]} == {"several"}
        clients[1].send("still here")
        assert {client.recv() for client in clients[1:]} == {"still here"}


def test_a_chat_whose_greenlets_name_their_request() -> None:
    with Server(f"{PROGRAMS}.greenlet_chat:application", workers=1) as server:
        with connect(server) as one, connect(server) as two:
            server.wait(lambda: server.get("/count") == b"2")
            one.send("hello")
            assert one.recv() == two.recv() == "hello"
        server.wait(lambda: server.get("/count") == b"0")


# ---- libraries ----


def test_uwsgidecorators(distribution: Path, tmp_path: Path) -> None:
    shutil.copy(distribution / "uwsgidecorators.py", tmp_path)
    watched = tmp_path / "watched"
    environment = {
        "WATCHED": str(watched),
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
    }
    application = f"{PROGRAMS}.decorated:application"
    with Server(application, "--uwsgi-mules", "1", workers=2, environment=environment) as server:
        server.wait_log("forked in worker 1")
        server.wait_log("only the second in worker 2")
        server.wait_log(r"^forked in worker 0 mule 1")
        server.get("/signal/17")
        server.wait_log("signal 17 in worker 1")
        server.wait_log("signal 17 in worker 2")
        server.get("/signal/30")
        server.wait_log("signal 30 in worker 2")
        assert server.get("/rpc") == b"hello you"
        assert server.get("/quick") == b"quick"
        server.get("/mule")
        server.wait_log("mulefunc 7 dwarfs in worker 0 mule 1")
        server.get("/thread")
        server.wait_log("thread in worker")
        calls = [threading.Thread(target=server.get, args=(f"/lock/{number}",)) for number in range(4)]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        server.wait_log("^(enter|leave) ", count=8)  # an answer may come before the line that tells of it
        inside = [line.split()[:2] for line in server.lines if line.startswith(("enter", "leave"))]
        assert all(
            enter == ["enter", leave[1]] and leave[0] == "leave" for enter, leave in zip(inside[::2], inside[1::2])
        )
        server.wait_log(r"^timer \d+", count=2)
        server.wait_log(r"^rbtimer \d+", count=2)
        server.wait_log(r"^cron \d+")
        watched.write_text("changed")
        server.wait_log(r"^filemon \d+")
        assert "Traceback" not in server.log


@needs("cachelib")
def test_cachelibs_uwsgicache() -> None:
    with Server(f"{PROGRAMS}.cached:application", workers=3) as server:
        assert server.get("/get?key=a") == b"None"
        assert server.get("/set?key=a&value=one") == b"True"
        for _ in range(6):
            assert server.get("/get?key=a") == b"'one'"
        assert server.get("/add?key=a&value=two") == b"False"
        assert server.get("/has?key=a") == b"True" and server.get("/has?key=b") == b"False"
        assert server.get("/inc?key=count") == b"1" and server.get("/inc?key=count") == b"2"
        assert server.get("/delete?key=a") == b"True" and server.get("/get?key=a") == b"None"
        assert server.get("/clear") == b"True" and server.get("/get?key=count") == b"None"


@needs("apscheduler")
def test_apscheduler_runs_jobs() -> None:
    with Server(f"{PROGRAMS}.scheduled:application", workers=1) as server:
        server.wait(lambda: int(server.get("/")) >= 3)
        assert "Traceback" not in server.log


@needs("socketio")
def test_socketio_with_its_driver_for_uwsgi() -> None:
    import socketio

    with Server(f"{PROGRAMS}.sockets:application", workers=3) as server:
        clients = [socketio.Client(reconnection=False) for _ in range(6)]
        got: list[list[Any]] = [[] for _ in clients]
        try:
            workers = set()
            for client, box in zip(clients, got):
                client.on("reversed", box.append)
                client.on("shouted", box.append)
                client.connect(server.url, transports=["websocket"], wait_timeout=20)
                doubled, worker = client.call("double", 21, timeout=20)
                assert doubled == 42
                workers.add(worker)
            assert len(workers) > 1, "they must sit in several workers for the broadcast to mean anything"
            data = bytes(range(256)) * 100
            clients[0].emit("reverse", data)
            server.wait(lambda: got[0] == [data[::-1]])
            clients[1].emit("shout", "to all")
            server.wait(lambda: all(box[-1:] == ["to all"] for box in got))
        finally:
            for client in clients:
                client.disconnect()
        assert "Traceback" not in server.log
