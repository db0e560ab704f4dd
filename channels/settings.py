"""Sizes, limits and periods with their units and defaults, validated once.

Pure: reads no file and no environment; `cli` and `master` hand in what they found.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from channels.errors import BadSetting

KIB = 1024
MIB = 1024 * KIB
DIRECT_BYTES = 128 * MIB
SLOTS_MAX = 256  # as in core/layout.h
WORKERS_MAX = 120  # with successors for all of them, and the router, there are slots enough


def _between(low: float, high: float) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if low <= value <= high else f"must be between {low:,} and {high:,}"

    return check


def _ring(value: Any) -> str | None:
    return (
        None if 4096 <= value <= 1 << 30 and value & (value - 1) == 0 else "must be a power of two from 4096 to 2**30"
    )


def _ring_or_none(value: Any) -> str | None:
    return None if value == 0 else _ring(value)


def _one_of(*choices: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if value in choices else f"must be one of {', '.join(choices)}"

    return check


def _environment(value: Any) -> str | None:
    bad = [entry for entry in value if "=" not in entry or entry.startswith("=")]
    return f"{bad[0]!r} is not NAME=VALUE" if bad else None


def direct_ring_size(slots: int) -> int:
    """A power of two from 4 to 64 KiB, so that all such rings together take 128 MiB at most, if 4 KiB are not too much.

    A ring should hold several messages of 10 KiB, or both ends stop and go for each of them.
    """
    size = 64 * KIB
    while size > 4 * KIB and slots * slots * size > DIRECT_BYTES:
        size //= 2
    return size


def _bind(value: Any) -> str | None:
    return None if value else "must not be empty: where to listen?"


def cache_sizes(text: str) -> tuple[str, int, int]:
    """ "NAME:ITEMS:BLOCKSIZE" -> its parts; ValueError."""
    name, items, blocksize = text.split(":")
    if not name or "/" in name:
        raise ValueError(name)
    return name, int(items), int(blocksize)


def _caches(value: Any) -> str | None:
    try:
        sizes = [cache_sizes(text) for text in value]
    except ValueError:
        return "must be NAME:ITEMS:BLOCKSIZE"
    if len({name for name, _, _ in sizes}) < len(sizes):
        return "names a cache twice"
    good = all(1 <= items <= 1 << 24 and 8 <= size <= 1 << 30 and items * size <= 1 << 40 for _, items, size in sizes)
    return None if good else "must have 1 to 2**24 items of 8 to 2**30 bytes, 2**40 bytes in all"


def _areas(value: Any) -> str | None:
    return None if all(text.isdigit() and 1 <= int(text) <= 1 << 40 for text in value) else "must be numbers of bytes"


def _farms(value: Any) -> str | None:
    for text in value:
        name, *mules = text.split(":")
        if not name or "/" in name or not mules or not all(mule.isdigit() and int(mule) for mule in mules):
            return "must be NAME:MULE:MULE..., mules by number from 1"
    return None


def setting(
    default: Any, doc: str, unit: str = "", check: Callable[[Any], str | None] | None = None, flags: str = ""
) -> Any:
    """A field of Settings: what it means, its unit, what it may be, its other names on the command line."""
    metadata = {"doc": doc, "unit": unit, "check": check, "flags": tuple(flags.split())}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that can be set.  One instance per master; workers inherit it by the fork."""

    app: str = setting("", "the WSGI application: MODULE:NAME, or MODULE:CALL(...) for a factory", flags="--wsgi-app")
    bind: list[str] = setting(
        ["127.0.0.1:8000"], "where to listen: HOST:PORT, [IPV6]:PORT or unix:PATH", check=_bind, flags="-b"
    )
    backlog: int = setting(
        2048, "connections that the kernel queues, at most net.core.somaxconn", "connections", _between(1, 1 << 16)
    )
    workers: int = setting(1, "worker processes", check=_between(1, WORKERS_MAX), flags="-w")
    max_workers: int = setting(
        0, "workers at most, so that TTIN has room; 0: twice `workers`", check=_between(0, WORKERS_MAX)
    )
    worker_class: str = setting("", "ignored: every worker runs gevent", flags="-k")
    preload_app: bool = setting(False, "import the application once, before the workers are forked", flags="--preload")
    reload: bool = setting(False, "for development: reload when a source file changes")
    chdir: str = setting("", "directory to change to before the application is imported")
    raw_env: list[str] = setting([], "variables for the application: NAME=VALUE", check=_environment, flags="-e --env")
    no_monkey: bool = setting(False, "do not monkey-patch the standard library for gevent")
    daemon: bool = setting(False, "run in the background", flags="-D")
    pidfile: str = setting("", "file for the master's process id", flags="-p --pid")
    user: str = setting("", "user that the workers run as", flags="-u")
    group: str = setting("", "group that the workers run as", flags="-g")
    umask: int = setting(
        0, "file mode bits that Unix sockets do not get", "octal on the command line", _between(0, 0o777), "-m"
    )
    control: str = setting(
        "",
        "path of the control socket; by default beside the pidfile or in the run-time directory",
        flags="--control-socket",
    )

    max_requests: int = setting(
        0, "requests after which a worker is replaced; 0: never", "requests", _between(0, 1 << 40)
    )
    max_requests_jitter: int = setting(0, "up to so many more, at random", "requests", _between(0, 1 << 40))
    max_age: float = setting(0.0, "age at which a worker is replaced; 0: never", "seconds", _between(0, 1 << 40))
    max_age_jitter: float = setting(0.0, "up to so much more, at random", "seconds", _between(0, 1 << 40))

    channels_max: int = setting(65536, "channels that may exist at once", check=_between(16, 1 << 26))
    ring_size: int = setting(256 * KIB, "ring between a worker and the router, each way", "bytes", _ring)
    alert_ring_size: int = setting(
        0, "ring from each worker to each other; 0: 64 KiB, less where there are many", "bytes", _ring_or_none
    )
    message_max: int = setting(64 * MIB, "largest message or alert", "bytes", _between(1, (1 << 32) - 1))
    assembly_max: int = setting(
        256 * MIB, "large bodies that a worker may be receiving at once", "bytes", _between(1, 1 << 40)
    )
    spill_soft: int = setting(
        8 * MIB,
        "what the router keeps for a worker that is behind, for `spill_soft_time`",
        "bytes",
        _between(0, 1 << 40),
    )
    spill_soft_time: float = setting(10.0, "how long that may be exceeded", "seconds", _between(0, 86400))
    spill_hard: int = setting(
        32 * MIB, "what it keeps at most; then the newest is dropped", "bytes", _between(0, 1 << 40)
    )
    send_timeout: float = setting(5.0, "how long a send waits for room by default", "seconds", _between(0, 86400))
    join_timeout: float = setting(30.0, "how long a join waits for the router", "seconds", _between(0.01, 86400))
    stall_timeout: float = setting(
        1.0, "a worker that takes nothing of a large message for so long misses it", "seconds", _between(0.01, 86400)
    )
    queue_length: int = setting(1000, "messages that a subscription holds by default", "messages", _between(1, 1 << 30))
    queue_bytes: int = setting(64 * MIB, "bytes that a subscription holds by default", "bytes", _between(1, 1 << 40))
    accept: str = setting(
        "load",
        "who takes a connection: the worker with the fewest, any that is quick, whom the router chooses, or whom the "
        "kernel chooses, each worker having a socket of its own",
        check=_one_of("load", "race", "dispatch", "reuseport"),
    )
    sticky: str = setting(
        "",
        "the part of a request that decides which worker serves it: path:N (the Nth part), query:NAME, header:NAME, "
        "cookie:NAME, or MODULE:FUNCTION of environ",
    )
    sticky_timeout: float = setting(
        10.0, "how long such a request waits for its worker; then 503", "seconds", _between(0, 86400)
    )
    worker_connections: int = setting(
        10_000, "connections that a worker holds at most", "connections", _between(1, 1 << 20)
    )
    keepalive: float = setting(
        15.0, "a connection without a request is closed after so long; 0: at once", "seconds", _between(0, 86400)
    )
    header_timeout: float = setting(
        10.0, "how long a client may take for the head of a request", "seconds", _between(0.1, 86400), "--read-timeout"
    )
    body_timeout: float = setting(
        30.0, "how long it may send nothing of a body that is waited for", "seconds", _between(0.1, 86400)
    )
    write_timeout: float = setting(60.0, "how long it may take nothing of an answer", "seconds", _between(0.1, 86400))
    request_timeout: float = setting(
        0.0,
        "a request that takes longer is ended, with 504 if it has said nothing; 0: never",
        "seconds",
        _between(0, 86400),
    )
    limit_request_line: int = setting(8190, "longest request line", "bytes", _between(64, 1 << 16))
    limit_request_fields: int = setting(100, "header fields of a request", check=_between(1, 10_000))
    limit_request_field_size: int = setting(8190, "longest header field", "bytes", _between(64, 1 << 16))
    limit_request_body: int = setting(
        1024 * MIB, "largest body of a request; 0: no limit", "bytes", _between(0, 1 << 50)
    )
    server_header: str = setting("channels", "the field Server of answers; empty: none")
    accesslog: str = setting("", "file for a line per request; -: stdout, empty: none", flags="--access-logfile")
    access_log_format: str = setting(
        '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"',
        "its lines, in gunicorn's atoms; or json",
        flags="--access-logformat",
    )
    forwarded_allow_ips: list[str] = setting(
        ["127.0.0.1", "::1"], "peers whose X-Forwarded-For and X-Forwarded-Proto are believed; *: all, unix: by socket"
    )
    proxy_protocol: bool = setting(False, "every connection begins with a PROXY header")
    proxy_allow_ips: list[str] = setting(["127.0.0.1", "::1"], "peers that may send it")
    certfile: str = setting("", "certificate for TLS")
    keyfile: str = setting("", "its key, if it is not in the same file")
    ca_certs: str = setting("", "certificates that must have signed those of the clients")
    ciphers: str = setting("", "ciphers for TLS 1.2, as OpenSSL names them")
    sni: list[str] = setting([], "certificates for other names: NAME=CERTFILE:KEYFILE", check=_environment)

    stream_buffer: int = setting(
        256 * KIB, "what waits for a client of a stream that is behind", "bytes", _between(1024, 1 << 40)
    )
    stream_overflow: str = setting(
        "gap", "then it is told what it misses, or its stream ends", check=_one_of("gap", "close")
    )
    stream_heartbeat: float = setting(
        15.0, "a quiet stream gets a sign of life so often; 0: never", "seconds", _between(0, 86400)
    )
    alert_queue_length: int = setting(16384, "alerts that wait for one handler", "alerts", _between(1, 1 << 30))
    alert_queue_bytes: int = setting(128 * MIB, "bytes that wait for one handler", "bytes", _between(1, 1 << 40))
    alert_hops_max: int = setting(
        16, "handlers that send alerts whose handlers send alerts ...; 0: no limit", "alerts", _between(0, 254)
    )
    spin: float = setting(
        20e-6, "how long to look for more before going to sleep; 0 saves power", "seconds", _between(0, 0.001)
    )

    stream_retry: float = setting(
        2.0, "how long an EventSource waits before it connects again", "seconds", _between(0, 86400)
    )
    websocket_max_size: int = setting(1 * MIB, "largest message from a WebSocket", "bytes", _between(1, 1 << 31))
    websocket_queue: int = setting(
        32,
        "messages from a WebSocket that wait for the application; then its socket is not read",
        "messages",
        _between(1, 1 << 20),
    )

    timeout: float = setting(
        30.0, "a worker whose loop does not turn for so long is killed; 0: never", "seconds", _between(0, 86400), "-t"
    )
    graceful_timeout: float = setting(30.0, "how long a worker may take to finish", "seconds", _between(0, 86400))
    drain_spread: float = setting(
        2.0, "a draining worker ends its streams one by one over so long", "seconds", _between(0, 86400)
    )
    boot_timeout: float = setting(60.0, "how long a worker may take to start", "seconds", _between(0.1, 86400))

    no_uwsgi: bool = setting(False, "`import uwsgi` finds nothing")
    uwsgi_opt: list[str] = setting([], "what the application finds in uwsgi.opt: NAME=VALUE, or NAME")
    uwsgi_cache: list[str] = setting(
        ["default:1024:65536"], "caches that the workers share: NAME:ITEMS:BLOCKSIZE, the last in bytes", check=_caches
    )
    uwsgi_queue: int = setting(256, "slots of the queue that the workers share; 0: none", check=_between(0, 1 << 24))
    uwsgi_queue_blocksize: int = setting(8192, "largest message in it", "bytes", _between(8, 1 << 30))
    uwsgi_sharedarea: list[str] = setting(["65536"], "areas that the workers share, each so many bytes", check=_areas)
    uwsgi_mules: int = setting(
        0, "mules: greenlets that take messages, each in one of the workers", check=_between(0, 250)
    )
    uwsgi_farms: list[str] = setting([], "groups of mules: NAME:MULE:MULE...", check=_farms)

    errorlog: str = setting("-", "file for errors and events; -: stderr", flags="--error-logfile --log-file")
    loglevel: str = setting(
        "info",
        "what goes there",
        check=_one_of("debug", "info", "warning", "error", "critical"),
        flags="--log-level",
    )

    @property
    def most_workers(self) -> int:
        """What TTIN can reach."""
        return self.max_workers or min(2 * self.workers, WORKERS_MAX)

    @property
    def direct_ring_size(self) -> int:
        """Bytes of the ring from each worker to each other, of which there are as many as slots, squared."""
        return self.alert_ring_size or direct_ring_size(self.slots)

    @property
    def slots(self) -> int:
        """Slots of the segment: the router's, the workers', and as many again for reloads."""
        return 1 + self.most_workers + max(self.workers, 2)


def _parse(field: dataclasses.Field[Any], value: Any) -> Any:
    """A value from a file, the environment or the command line, as the field's type."""
    kind = str(field.type)
    try:
        return _PARSERS[kind.partition("[")[0]](field, value)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise BadSetting(field.name, value, f"must be {_KINDS[kind.partition('[')[0]]}") from None


def _parse_list(field: dataclasses.Field[Any], value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise TypeError
    return [_text(part).strip() for part in parts if part != ""]


def _parse_bool(field: dataclasses.Field[Any], value: Any) -> bool:
    if isinstance(value, str):
        return _TRUTHS[value.strip().lower()]
    if not isinstance(value, bool):
        raise TypeError
    return value


def _parse_int(field: dataclasses.Field[Any], value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    return int(value, 8) if field.name == "umask" and isinstance(value, str) else int(value)


def _parse_float(field: dataclasses.Field[Any], value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _parse_str(field: dataclasses.Field[Any], value: Any) -> str:
    if field.name in ("user", "group") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # its number
    text = _text(value)
    return text.lower() if field.name == "loglevel" else text


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_TRUTHS[""] = False
_PARSERS: dict[str, Callable[[dataclasses.Field[Any], Any], Any]] = {
    "list": _parse_list,
    "bool": _parse_bool,
    "int": _parse_int,
    "float": _parse_float,
    "str": _parse_str,
}
_KINDS = {
    "list": "a list of text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text without NUL",
}
FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Settings)}


def make(layers: Sequence[Mapping[str, Any]]) -> Settings:
    """Settings from layers, the later ones winning.  Raises BadSetting."""
    values: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            field = FIELDS.get(name)
            if field is None:
                close = difflib.get_close_matches(name, FIELDS, 1)
                hint = f"did you mean {close[0]}?" if close else "see `channels --help`"
                raise BadSetting(name, value, f"there is no such setting; {hint}")
            parsed = _parse(field, value)
            check = field.metadata.get("check")
            problem = check(parsed) if check is not None else None
            if problem is not None:
                raise BadSetting(name, value, problem)
            values[name] = parsed
    settings = Settings(**values)
    if settings.max_workers and settings.max_workers < settings.workers:
        raise BadSetting("max_workers", settings.max_workers, f"must be at least workers={settings.workers}")
    if settings.spill_soft > settings.spill_hard:
        raise BadSetting("spill_soft", settings.spill_soft, f"must not be more than spill_hard={settings.spill_hard}")
    for text in settings.uwsgi_farms:
        if any(int(mule) > settings.uwsgi_mules for mule in text.split(":")[1:]):
            raise BadSetting("uwsgi_farms", text, f"names a mule beyond uwsgi_mules={settings.uwsgi_mules}")
    return settings


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """CHANNELS_WORKERS=4 is workers=4; others are left alone."""
    return {
        name: environment[f"CHANNELS_{name.upper()}"] for name in FIELDS if f"CHANNELS_{name.upper()}" in environment
    }


# What is sized or opened once: a reload cannot change it, an upgrade can.
FIXED = (
    "channels_max", "ring_size", "alert_ring_size", "max_workers", "bind", "backlog", "accept", "pidfile", "daemon",
    "user", "group", "preload_app", "no_uwsgi", "uwsgi_cache", "uwsgi_queue", "uwsgi_queue_blocksize",
    "uwsgi_sharedarea", "uwsgi_mules", "uwsgi_farms",
)  # fmt: skip
