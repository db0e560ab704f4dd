"""PROXY headers of both versions, in any pieces; and what is none."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from channels.worker.http.head import BadRequest
from channels.worker.http.proxy_protocol import SIGNATURE, parse
from tests.worker.http.running import Running, everything, read_answer

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def v2(addresses: bytes, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


V4 = v2(bytes([1, 2, 3, 4, 5, 6, 7, 8]) + struct.pack("!HH", 1111, 80))
GOOD = {
    "version 1": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 80\r\n", ("1.2.3.4", "1111")),
    "version 1, IPv6": (b"PROXY TCP6 2001:db8::1 ::1 1111 80\r\n", ("2001:db8::1", "1111")),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "version 1, unknown with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "version 2": (V4, ("1.2.3.4", "1111")),
    "version 2, IPv6": (v2(bytes(15) + b"\1" + bytes(16) + struct.pack("!HH", 9, 80), 0x21), ("::1", "9")),
    "version 2 with extensions": (v2(V4[16:] + b"\x04\x00\x01x"), ("1.2.3.4", "1111")),
    "version 2, local": (v2(b"", 0, 0x20), None),
    "version 2, Unix": (v2(bytes(216), 0x31), None),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_client_is_who_the_header_says(case: str) -> None:
    raw, client = GOOD[case]
    assert parse(raw + GET) == (GET, client)
    for end in range(len(raw)):
        assert parse(raw[:end]) is None, "not all of it is here"


@pytest.mark.parametrize(
    "raw",
    [
        GET,
        b"PROXY\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1111 80 9\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1111 80\r\n",
        b"PROXY TCP4 ::1 5.6.7.8 1111 80\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 70000 80\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 80\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 80\r\n",
        b"PROXY TCP6 fe80::1%\n\x1b[2J ::1 1 80\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 80\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"PROXY TCP4 \xe4 5.6.7.8 1 80\r\n",
        v2(b"", 0x11),
        v2(bytes(12), 0x11, 0x31),
        v2(bytes(12), 0x11, 0x22),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 60000),
    ],
)
def test_what_is_no_header_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(raw)


def tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [f"{environ['REMOTE_ADDR']} {environ['REMOTE_PORT']}".encode()]


@pytest.mark.parametrize("size", [1, 1000])
def test_the_application_sees_the_client_and_the_connection_goes_on(size: int) -> None:
    raw = V4 + GET
    with Running(tell, proxy_protocol=True) as server, server.connect() as client:
        for start in range(0, len(raw), size):
            client.sendall(raw[start : start + size])
        assert read_answer(client).body == b"1.2.3.4 1111"
        client.sendall(GET)
        assert read_answer(client).body == b"1.2.3.4 1111"


def test_a_stranger_may_not_say_who_the_client_is() -> None:
    with Running(tell, proxy_protocol=True, proxy_allow_ips=["10.0.0.1"]) as server, server.connect() as client:
        client.sendall(V4 + GET)
        assert everything(client).startswith(b"HTTP/1.1 400 ")


def test_without_the_header_nothing_is_served() -> None:
    with Running(tell, proxy_protocol=True) as server:
        assert server.ask(GET).startswith(b"HTTP/1.1 400 ")
