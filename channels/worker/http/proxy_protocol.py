"""The PROXY protocol, versions 1 and 2: who the client of a proxy is, said before the first byte of HTTP.

After HAProxy's specification "The PROXY protocol, versions 1 & 2".  Pure.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Optional

from channels.worker.http.head import BadRequest

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LINE_MAX = 107
ADDRESSES_MAX = 4096  # of version 2, extensions included
_HEADER = 16

Client = Optional["tuple[str, str]"]


def parse(data: bytes) -> tuple[bytes, Client] | None:
    """(what is behind the header, (address, port) or None for the proxy itself); None: not all of it is here.

    Raises BadRequest.
    """
    if data.startswith(SIGNATURE[: len(data)]) and len(data) < len(SIGNATURE):
        return None
    if data.startswith(SIGNATURE):
        return _version2(data)
    if not data.startswith(b"PROXY "[: len(data)]):
        raise BadRequest(400, "no PROXY header")
    end = data.find(b"\r\n", 0, LINE_MAX)
    if end < 0:
        if len(data) >= LINE_MAX:
            raise BadRequest(400, "PROXY header too long")
        return None
    return data[end + 2 :], _version1(data[:end])


def _version1(line: bytes) -> Client:
    try:
        words = line.decode("ascii").split(" ")
        if words[1] == "UNKNOWN":
            return None
        _, family, source, destination, source_port, destination_port = words
        kind = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[family]
        kind(destination)
        if not _port(source_port) or not _port(destination_port) or b"%" in line:  # behind a %, anything may stand
            raise ValueError
        return str(kind(source)), source_port
    except (ValueError, KeyError, IndexError):
        raise BadRequest(400, "PROXY header") from None


def _port(text: str) -> bool:
    return text.isdigit() and (text == "0" or text[0] != "0") and int(text) <= 65535


def _version2(data: bytes) -> tuple[bytes, Client] | None:
    if len(data) < _HEADER:
        return None
    version, family, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    if version >> 4 != 2 or version & 15 > 1 or length > ADDRESSES_MAX:
        raise BadRequest(400, "PROXY header")
    if len(data) < _HEADER + length:
        return None
    addresses, rest = data[_HEADER : _HEADER + length], data[_HEADER + length :]
    if version & 15 == 0:  # LOCAL: the proxy speaks for itself
        return rest, None
    if family == 0x11 and length >= 12:
        return rest, (str(ipaddress.IPv4Address(addresses[:4])), str(*struct.unpack_from("!H", addresses, 8)))
    if family == 0x21 and length >= 36:
        return rest, (str(ipaddress.IPv6Address(addresses[:16])), str(*struct.unpack_from("!H", addresses, 32)))
    if family in (0x11, 0x21):
        raise BadRequest(400, "PROXY header")
    return rest, None
