from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path

import pytest

from channels.web.uwsgi import files
from tests.web.uwsgi.conftest import Asked

CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("chunk", "position", "size", "expected"),
    [
        (0, 0, 0, CONTENT),
        (100, 0, 0, CONTENT),
        (0, 1000, 0, CONTENT[1000:]),
        (0, 1000, 77, CONTENT[1000:1077]),
        (10, 255_990, 77, CONTENT[255_990:]),
    ],
)
def test_a_file_is_the_response(
    server: Asked, tmp_path: Path, chunk: int, position: int, size: int, expected: bytes
) -> None:
    path = tmp_path / "data"
    path.write_bytes(CONTENT)
    assert server.get(f"/file?{path}:{chunk}:{position}:{size}") == expected


def test_a_body_in_chunks_is_read_as_it_comes(server: Asked) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    connection.request("POST", "/chunks", iter([b"one ", b"two ", b"x" * 100_000]), encode_chunked=True)
    assert connection.getresponse().read() == b"one two " + b"x" * 100_000
    connection.close()


def test_nothing_to_read_yet_is_none_and_the_end_is_empty(server: Asked) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(server.address, timeout=20) as client:
        client.sendall(head.replace(b"/ ", b"/slowly ", 1))
        assert b"none yet" in client.recv(65536)
        client.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        seen = b""
        while b"end" not in seen:
            seen += client.recv(65536)
        assert b"abc" in seen


def test_a_file_that_is_not_there_is_an_oserror(server: Asked) -> None:
    assert server.ask("uwsgi.sendfile('/no/such/file')").startswith("FileNotFoundError")


def test_descriptors_are_written_read_and_closed() -> None:
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    assert files.send(fd, "hello") is True and theirs.recv(10) == b"hello"
    theirs.send(b"x" * 5000)
    assert files.recv(fd) == b"x" * 4096 and files.recv(fd, 10) == b"x" * 10
    theirs.close()
    while files.recv(fd):
        pass
    files.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    files.close(fd)


def test_connecting_gives_a_descriptor_or_minus_one(server: Asked) -> None:
    host, port = server.address
    fd = files.connect(f"{host}:{port}", 5)
    files.send(fd, b"GET /file HTTP/1.0\r\n\r\n")
    assert files.recv(fd, 8) == b"HTTP/1.1"
    files.close(fd)
    assert files.connect("/no/such/socket") == -1


def test_the_content_of_a_file_or_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.extract(str(tmp_path / "a")) == b"abc" and files.extract("/no/such/file") is None
