"""Listening sockets: bind, hand on, close without a reset."""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
from collections.abc import Iterable, Sequence

from channels.errors import BadSetting

BACKLOG = 2048

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
# Classic BPF: a segment with SYN and without ACK is dropped, all else passes.  On TCP sockets the filter sees the TCP
# header first; its flags are byte 13 (RFC 9293, section 3.1).
_DROP_NEW = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Address:
    """Where to listen: HOST:PORT, :PORT, [IPV6]:PORT or unix:PATH."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.path: str | None = None
        self.host, self.port = "", 0
        if text.startswith("unix:"):
            self.path = text[5:]
            if not self.path or len(os.fsencode(self.path)) > 107:
                raise BadSetting("bind", text, "a path of a Unix socket has 1 to 107 bytes")
            return
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise BadSetting("bind", text, "must be HOST:PORT, [IPV6]:PORT or unix:PATH")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise BadSetting("bind", text, "write IPv6 addresses in brackets: [::1]:8000")
        self.host, self.port = host, int(port)


def open_listener(text: str, backlog: int = BACKLOG, reuse_port: bool = False, umask: int = 0) -> socket.socket:
    """A listening socket.  Raises BadSetting with what to do when the address cannot be had."""
    address = Address(text)
    try:
        if address.path is not None:
            return _open_unix(address, backlog, umask)
        return _open_tcp(address, backlog, reuse_port)
    except OSError as error:
        raise BadSetting("bind", text, f"cannot listen there: {error.strerror or error}") from None


def open_beside(listener: socket.socket, backlog: int = BACKLOG) -> socket.socket:
    """Another socket at the same address, opened with `reuse_port` as that one was.  Raises BadSetting."""
    where = listener.getsockname()
    beside = socket.socket(listener.family, listener.type, listener.proto)
    try:
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if listener.family == socket.AF_INET6:
            only = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            beside.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        beside.bind(where)
        beside.listen(backlog)
        beside.setblocking(False)
    except OSError as error:
        beside.close()
        raise BadSetting("bind", shown(listener), f"no second socket can listen there: {error.strerror}") from None
    return beside


def _open_tcp(address: Address, backlog: int, reuse_port: bool) -> socket.socket:
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    # An empty host is every address; one IPv6 socket takes both where the machine has IPv6.
    family, kind, protocol, _, where = sorted(found, key=lambda entry: entry[0] != socket.AF_INET6)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not address.host else 1)
        listener.bind(where)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _open_unix(address: Address, backlog: int, umask: int) -> socket.socket:
    path = address.path or ""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        before = os.umask(umask)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_stale(path: str) -> bool:
    """A socket file that nobody listens on, left by a server that was killed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def refuse_new(listeners: Sequence[socket.socket]) -> None:
    """From here on no connection comes in, and none that the kernel has queued is reset.

    TCP: SYNs are dropped before the socket is closed, so that the queue can be emptied; a client's SYN is repeated
    after a second and refused then.  Unix: the path is removed.
    """
    for listener in listeners:
        if listener.family == socket.AF_UNIX:
            path = listener.getsockname()
            if isinstance(path, str) and path:
                try:
                    os.unlink(path)
                except OSError:
                    pass
            continue
        code = array.array("B", b"".join(struct.pack("HBBI", *step) for step in _DROP_NEW))
        where, _ = code.buffer_info()  # stays while `code` lives
        try:
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_NEW), where))
        except OSError:
            pass  # not allowed here: closing may reset who is in the queue at that instant


def admit_new(listeners: Iterable[socket.socket]) -> None:
    """Of sockets that others have had before: what refuse_new() did to the socket, which outlived that process."""
    for listener in listeners:
        try:
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError:
            pass  # there is none


def shown(listener: socket.socket, secure: bool = False) -> str:
    """Its address as a person writes it; secure: with TLS."""
    where = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{where}"
    host, port = where[0], where[1]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def all_shown(listeners: Iterable[socket.socket], secure: bool = False) -> list[str]:
    """Each address once."""
    return list(dict.fromkeys(shown(listener, secure) for listener in listeners))
