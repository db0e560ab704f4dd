"""TLS with certificates made for the test."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from channels.errors import BadSetting
from tests.worker.http.running import Running, echo, everything, hello, read_answer, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl for certificates")


def certificate(directory: Path, name: str) -> tuple[str, str]:
    made, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(
        [*command, *names, "-keyout", str(key), "-out", str(made)],
        check=True,
        capture_output=True,
    )
    return str(made), str(key)


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> dict[str, tuple[str, str]]:
    directory = tmp_path_factory.mktemp("tls")
    return {name: certificate(directory, name) for name in ("main.test", "other.test")}


def connect(server: Running, files: dict[str, tuple[str, str]], name: str = "main.test") -> ssl.SSLSocket:
    context = ssl.create_default_context()
    for made, _ in files.values():
        context.load_verify_locations(made)
    return context.wrap_socket(server.connect(), server_hostname=name)


def options(files: dict[str, tuple[str, str]], **more: Any) -> dict[str, Any]:
    return {"certfile": files["main.test"][0], "keyfile": files["main.test"][1], **more}


def test_requests_one_after_the_other(files: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [f"{environ['wsgi.url_scheme']} {environ['HTTPS']}".encode()]

    with Running(application, **options(files)) as server, connect(server, files) as client:
        for _ in range(3):
            client.sendall(GET)
            assert read_answer(client).body == b"https on"


def test_large_bodies_both_ways(files: Any) -> None:
    body = bytes(range(256)) * 20_000
    with Running(echo, **options(files)) as server, connect(server, files) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert read_answer(client).body == body


def test_the_certificate_is_that_of_the_name_asked_for(files: Any) -> None:
    with Running(hello, **options(files, sni={"other.test": files["other.test"]})) as server:
        for name in files:
            with connect(server, files, name) as client:
                client.sendall(GET)
                assert read_answer(client).status == 200


def test_a_client_without_a_certificate_is_refused_where_one_is_wanted(files: Any) -> None:
    with Running(hello, **options(files, ca_certs=files["other.test"][0])) as server:
        with pytest.raises((ssl.SSLError, ConnectionError)), connect(server, files) as client:
            client.sendall(GET)
            client.recv(1)
            raise ConnectionError("closed without an answer")
        wait_until(lambda: server.server.stats.connections == 0)
        assert server.server.stats.requests == 0


def test_plain_http_to_a_tls_port_serves_nothing(files: Any) -> None:
    with Running(hello, **options(files)) as server, server.connect() as client:
        client.sendall(GET)
        assert b"hello" not in everything(client)
        wait_until(lambda: server.server.stats.connections == 0)


def test_a_handshake_that_does_not_end_is_given_up(files: Any) -> None:
    with Running(hello, **options(files, header_timeout=0.3)) as server, server.connect() as client:
        client.sendall(b"\x16\x03\x01\x02\x00")
        assert everything(client) == b""


def test_an_upgrade_over_tls(files: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        sock, early = environ["channels.upgrade"]()
        sock.settimeout(None)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + early)
        while data := sock.recv(100):
            sock.sendall(data.upper())
        return []

    with Running(application, **options(files)) as server, connect(server, files) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        client.sendall(b"abc")
        assert client.recv(100) == b"ABC"


def test_a_client_that_says_goodbye_is_forgotten(files: Any) -> None:
    with Running(hello, **options(files)) as server:
        client = connect(server, files)
        client.sendall(GET)
        read_answer(client)
        client.shutdown(socket.SHUT_RDWR)
        client.close()
        wait_until(lambda: server.server.stats.connections == 0)


def test_files_that_are_no_certificates_are_clear_errors(tmp_path: Path, files: Any) -> None:
    with pytest.raises(BadSetting, match="certificate"), Running(hello, certfile=str(tmp_path / "none")):
        pass
    with pytest.raises(BadSetting, match="cipher"), Running(hello, **options(files, ciphers="NO-SUCH")):
        pass
