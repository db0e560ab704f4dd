"""A format of the access log -> a function that writes one line: gunicorn's atoms, or JSON.

Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, Callable

from channels.errors import BadSetting

Entry = Any  # channels.worker.http.accesslog.Entry
Getter = Callable[[Entry], str]

_ATOM = re.compile(r"%(?:\(([a-zA-Z]|\{[^}]+\}[ioe])\)s|(%)|(.?))")
_UNSAFE = re.compile(r'[^ !#-\[\]-~\xa1-\xac\xae-\U0010ffff]|[\\"]')
_NAMES = {
    "h": "remote", "l": "logname", "u": "user", "t": "time", "r": "request", "m": "method", "U": "path", "q": "query",
    "H": "protocol", "s": "status", "B": "bytes", "b": "bytes", "f": "referer", "a": "agent", "T": "seconds",
    "M": "milliseconds", "D": "microseconds", "L": "duration", "p": "pid",
}  # fmt: skip
_JSON = "htmUqHsBfaDp"


def escape(text: str) -> str:
    """Nothing that ends a line, closes a quote or moves a terminal's cursor."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return _UNSAFE.sub(lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def _user(entry: Entry) -> str:
    kind, _, value = entry.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if kind.lower() != "basic":
        return "-"
    try:
        return escape(base64.b64decode(value.strip()).partition(b":")[0].decode("utf-8", "replace")) or "-"
    except (binascii.Error, ValueError):
        return "-"


def _request(entry: Entry) -> str:
    get = entry.environ.get
    return escape(f"{get('REQUEST_METHOD', '-')} {get('RAW_URI', '-')} {get('SERVER_PROTOCOL', '-')}")


def _environ(name: str, absent: str = "-") -> Getter:
    return lambda entry: escape(str(entry.environ.get(name, absent)))


_ATOMS: dict[str, Getter] = {
    "h": lambda entry: escape(entry.environ.get("REMOTE_ADDR") or "-"),
    "l": lambda entry: "-",
    "u": _user,
    "t": lambda entry: entry.time,
    "r": _request,
    "m": _environ("REQUEST_METHOD"),
    "U": _environ("PATH_INFO"),
    "q": _environ("QUERY_STRING", ""),
    "H": _environ("SERVER_PROTOCOL"),
    "s": lambda entry: str(entry.status),
    "B": lambda entry: str(entry.bytes),
    "b": lambda entry: str(entry.bytes) if entry.bytes else "-",
    "f": _environ("HTTP_REFERER"),
    "a": _environ("HTTP_USER_AGENT"),
    "T": lambda entry: str(int(entry.seconds)),
    "M": lambda entry: str(int(entry.seconds * 1e3)),
    "D": lambda entry: str(int(entry.seconds * 1e6)),
    "L": lambda entry: f"{entry.seconds:.6f}",
    "p": lambda entry: f"<{entry.pid}>",
}


def _named(text: str) -> Getter:
    """{name}i of the request's headers, {name}o of the answer's, {name}e of environ."""
    name, kind = text[1:-2], text[-1]
    if kind == "e":
        return _environ(name)
    if kind == "i":
        key = name.upper().replace("-", "_")
        return _environ(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key)
    wanted = name.lower()

    def answered(entry: Entry) -> str:
        for line in entry.fields.decode("latin-1").split("\r\n"):
            found, _, value = line.partition(": ")
            if found.lower() == wanted:
                return escape(value)
        return "-"

    return answered


def compile_format(text: str) -> Getter:
    """Raises BadSetting for what is no atom."""
    if text == "json":
        return _json
    parts: list[str] = []
    getters: list[Getter] = []
    position = 0
    literal = ""
    for found in _ATOM.finditer(text):
        literal += text[position : found.start()]
        position = found.end()
        atom = found[1]
        if found[2]:
            literal += "%"
            continue
        if atom is None or (atom not in _ATOMS and not atom.startswith("{")):
            raise BadSetting("access_log_format", text, f"has no meaning at {found[0]!r}; see gunicorn's list of atoms")
        parts.append(literal)
        literal = ""
        getters.append(_named(atom) if atom.startswith("{") else _ATOMS[atom])
    literal += text[position:]
    pattern = "%s".join(part.replace("%", "%%") for part in [*parts, literal]) + "\n"
    return lambda entry: pattern % tuple([get(entry) for get in getters])


def _json(entry: Entry) -> str:
    found: dict[str, Any] = {_NAMES[atom]: _ATOMS[atom](entry) for atom in _JSON if atom not in "sBD"}
    found["status"], found["bytes"], found["microseconds"] = entry.status, entry.bytes, int(entry.seconds * 1e6)
    found["path"], found["query"] = entry.environ.get("PATH_INFO", ""), entry.environ.get("QUERY_STRING", "")
    return json.dumps(found, separators=(",", ":")) + "\n"
