"""What a worker that was taken over can do to the others, and another user to the server, in a real server."""

from __future__ import annotations

import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from channels import identity
from channels.core import native
from tests.children import in_child
from tests.server import Server

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


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


def key_place() -> int:
    """Where in the segment's header the key of the names' hash stands."""
    key = b"where is this key"[:16]
    segment = native.Segment.create(4, 65536, 65536, 4096, 64, key, 1)
    found = os.pread(segment.fd, 4096, 0).index(key)
    os.close(segment.fd)
    segment.close()
    return found


def key_of(server: Server) -> bytes:
    """Of a running master, read by its own user."""
    (own,) = [
        path for path in Path(f"/proc/{server.pid}/fd").iterdir() if os.readlink(path).startswith("/memfd:channels (")
    ]
    with own.open("rb") as segment:
        return segment.read(4096)[key_place() :][:16]


def test_names_are_hashed_by_another_key_in_every_master() -> None:
    app = "tests.system.hostile_app:application"
    with Server(app, workers=1) as one, Server(app, workers=1) as two:
        keys = [key_of(one), key_of(two)]
    assert [len(key) for key in keys] == [16, 16]
    halves = {key[at : at + 8] for key in keys for at in (0, 8)}
    assert len(halves) == 4 and bytes(8) not in halves


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, as those under which servers put their sockets."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


def ask_as_nobody(path: Path) -> str:
    def ask() -> str:
        identity.drop_privileges("nobody", "")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            try:
                client.connect(str(path))
            except PermissionError:
                return "refused"
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(12).decode()

    return str(in_child(ask))


@as_root
@pytest.mark.parametrize(
    ("options", "directory", "expected"),
    [([], 0o755, "HTTP/1.1 200"), (["--umask", "117"], 0o755, "refused"), ([], 0o700, "refused")],
)
def test_others_may_use_a_unix_socket_unless_umask_or_its_directory_forbid_it(
    place: Path, options: list[str], directory: int, expected: str
) -> None:
    path = place / "app.sock"
    with Server("tests.system.hostile_app:application", *options, bind=f"unix:{path}", workers=1):
        os.chmod(place, directory)
        assert ask_as_nobody(path) == expected
