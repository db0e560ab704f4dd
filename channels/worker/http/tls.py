"""TLS over a non-blocking socket: looks like such a socket, waits for nothing.

Runs in: worker.
"""

from __future__ import annotations

import _socket
import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any

import gevent

from channels.errors import BadSetting, ClientGone
from channels.worker.http.config import HttpConfig

if TYPE_CHECKING:
    from channels.worker.http.connection import Connection

RECORD = 16 * 1024 + 512


def context(config: HttpConfig) -> ssl.SSLContext | None:
    """From the certificates in the settings; None without any.  Raises BadSetting."""
    if not config.certfile:
        return None
    made = _load("certfile", config.certfile, config.keyfile)
    if config.ca_certs:
        try:
            made.load_verify_locations(config.ca_certs)
        except (OSError, ssl.SSLError) as error:
            raise BadSetting("ca_certs", config.ca_certs, f"cannot be used: {error}") from None
        made.verify_mode = ssl.CERT_REQUIRED
    if config.ciphers:
        try:
            made.set_ciphers(config.ciphers)
        except ssl.SSLError:
            raise BadSetting("ciphers", config.ciphers, "names no cipher that OpenSSL has") from None
    named = {name.lower(): _load("sni", *files) for name, files in config.sni.items()}
    if named:

        def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
            found = named.get((name or "").lower()) or named.get("*." + (name or "").lower().partition(".")[2])
            if found is not None:
                connection.context = found

        made.sni_callback = choose
    return made


def _load(setting: str, certificate: str, key: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(setting, certificate, f"cannot be used as a certificate and its key: {error}") from None
    return made


class TlsWire:
    """recv, send and shutdown of a non-blocking socket: BlockingIOError where it would wait, OSError at its end."""

    def __init__(self, sock: _socket.socket, context: ssl.SSLContext | None, data: bytes = b"") -> None:
        assert context is not None
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._unsent = b""  # encrypted
        self._owed = 0  # bytes of plain text in it that send() has not reported yet
        self._over = False  # the client says no more
        if data:
            self._in.write(data)

    def recv(self, size: int) -> bytes:
        """What there is now, decrypted; may be more than `size`, by what one read of the socket holds."""
        data = self._decrypt(size)
        if data or self._over:
            return data
        raw = self._sock.recv(RECORD)
        if raw:
            self._in.write(raw)
        else:
            self._in.write_eof()
        data = self._decrypt(size)
        if not data and not self._over:
            raise BlockingIOError
        return data

    def _decrypt(self, size: int) -> bytes:
        """The handshake too."""
        parts = []
        try:
            while not self._over:
                part = self._tls.read(size)
                parts.append(part)
                self._over = not part
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._over = True
        finally:
            self._push()
        return b"".join(parts)

    def _push(self) -> bool:
        """Send what is encrypted; whether all of it is out."""
        if self._out.pending:
            self._unsent += self._out.read()
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return False
        return True

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes are out.  Who gets fewer, or BlockingIOError, comes again with the rest of the same bytes."""
        if not self._push():
            raise BlockingIOError
        if self._owed:
            owed, self._owed = self._owed, 0
            return owed
        sent = 0
        while sent < len(data):
            count = self._tls.write(data[sent : sent + RECORD])
            if not self._push():
                self._owed = count
                break
            sent += count
        if not sent and data:
            raise BlockingIOError
        return sent

    def shutdown(self, how: int) -> None:
        try:
            self._tls.unwrap()
        except (ssl.SSLError, OSError):
            pass  # the client need not say goodbye
        self._push()
        self._sock.shutdown(how)


class TlsSocket:
    """What the application gets that takes a TLS connection over: the part of a socket that protocols use.

    With a timeout of 0 it never waits: BlockingIOError, as of any socket; whoever watches the descriptor asks
    pending() first.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timeout: float | None = None

    def fileno(self) -> int:
        return self._connection.fileno()

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def setsockopt(self, *args: Any) -> None:
        self._connection.sock.setsockopt(*args)

    def getpeername(self) -> Any:
        return self._connection.sock.getpeername()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        connection = self._connection
        if not connection.buffer and self._timeout == 0.0:
            connection.buffer += connection.wire.recv(size)
        elif not connection.buffer:
            with gevent.Timeout(self._timeout, socket.timeout("timed out")):
                connection.more(forever=True)
        data, connection.buffer = connection.buffer[:size], connection.buffer[size:]
        return data

    def sendall(self, data: bytes) -> None:
        try:
            with gevent.Timeout(self._timeout, socket.timeout("timed out")):
                self._connection.send(bytes(data))
        except ClientGone:
            raise BrokenPipeError(errno.EPIPE, "the client has gone") from None

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes are out.  Without waiting: who gets fewer comes again with the rest of the same bytes."""
        if self._timeout == 0.0:
            return int(self._connection.wire.send(data))
        self.sendall(bytes(data))
        return len(data)

    def pending(self) -> int:
        """Bytes that were deciphered already: the descriptor will not tell of them."""
        return len(self._connection.buffer)

    def shutdown(self, how: int) -> None:
        self._connection.wire.shutdown(how)

    def close(self) -> None:
        """The connection closes it when the application returns."""
