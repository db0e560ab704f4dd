"""What the HTTP server can be told: limits, timeouts, TLS, peers it believes.  Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

KIB = 1024
GIB = 1024 * KIB * KIB


@dataclasses.dataclass(frozen=True)
class HttpConfig:
    """Sizes in bytes, times in seconds."""

    limit_request_line: int = 8190
    limit_request_fields: int = 100
    limit_request_field_size: int = 8190
    limit_request_head: int = 64 * KIB
    limit_request_body: int = GIB  # 0: none
    header_timeout: float = 10.0  # from the first byte (or the connection) to the end of the head
    keepalive: float = 15.0  # between requests; 0: every connection is closed after its answer
    body_timeout: float = 30.0  # in which not a byte of a body that is read has come
    write_timeout: float = 60.0  # in which a client has taken not a byte
    linger_timeout: float = 2.0  # how long a client may still talk after we have closed
    request_timeout: float = 0.0  # of the application; 0: none
    worker_connections: int = 10_000
    multiprocess: bool = False
    server_header: str = "channels"
    accesslog: str = ""  # a path, "-" for standard output, "" for none
    access_log_format: str = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'  # or "json"
    access_log_buffer: float = 0.25  # how long lines may wait for each other
    forwarded_allow_ips: Sequence[str] = ("127.0.0.1", "::1")  # whose X-Forwarded-For and -Proto are believed
    proxy_protocol: bool = False
    proxy_allow_ips: Sequence[str] = ("127.0.0.1", "::1")  # who may, and must, send a PROXY header
    certfile: str = ""
    keyfile: str = ""
    ca_certs: str = ""  # clients must show a certificate signed by one of these
    ciphers: str = ""
    sni: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)  # name -> (certificate, key)
