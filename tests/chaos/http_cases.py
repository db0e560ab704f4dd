"""Requests, good and harmed, from a seeded chance; what an independent parser (h11) makes of them; answers taken apart.

Pure, but for the sockets that are handed in.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import h11

Seen = tuple[str, str, int, str]  # method, target, length and digest of the body

METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
TARGETS = (b"/", b"/a", b"/a/b?c=d", b"/%41%00", b"http://h/x", b"/..//", b"/a;b", b"*")
FIELDS = (
    b"Accept: */*", b"Cookie: a=b", b"X-Empty:", b"X-Long: " + b"v" * 300, b"Connection: keep-alive",
    b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket", b"Expect: 100-continue",
    b"Host: b", b"X_Under: 1", b"Content-Type: a/b", b"X-Obs: \xe4\xf6", b"TE: trailers",
    b"Transfer-Encoding: identity", b"Content-Length: 3", b"Transfer-Encoding: chunked",
)  # fmt: skip
LENGTHS = b"+%d|-%d|0x%d|%d | %d|\t%d|0%d|%d,%d|%d, %d|%d\x0b|%d.0|%d;|9%d".split(b"|")
CODINGS = (
    b"Chunked", b"xchunked", b"chunked, identity", b"identity, chunked", b"identity", b"chunked\x0b", b"\x0bchunked",
    b"gzip", b"gzip, chunked", b"chunked,", b",chunked", b"chunked;q=1", b'"chunked"', b"chunked chunked",
)  # fmt: skip
SIZES = (
    b"%x;ext=1", b"%x ", b" %x", b"0x%x", b"+%x", b"-%x", b"%x;a;b=\"c\"", b"0000%x", b"ffffffffffffffff%x", b"%x\n",
    b"%xg", b"%x;\x00", b"%x;a=\"\n\"",
)  # fmt: skip
BYTES = (b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\x0b", b"\x7f", b"\xff", b",", b";", b"\r\n\r\n")
INNER = b"GET /inner HTTP/1.1\r\nHost: inner\r\n\r\n"


def body_of(chance: random.Random) -> bytes:
    """Often one that looks like the next request."""
    return chance.choice([b"", b"abc", INNER, bytes(chance.randrange(256) for _ in range(chance.randrange(80)))])


def chunks(chance: random.Random, body: bytes, harm: bool) -> bytes:
    """The body in chunks, perhaps with a trailer."""
    out = b""
    while body:
        size = chance.randint(1, len(body))
        line = chance.choice(SIZES) % size if harm and chance.random() < 0.4 else b"%x" % size
        end = chance.choice(BYTES) if harm and chance.random() < 0.1 else b"\r\n"
        out += line + b"\r\n" + body[:size] + end
        body = body[size:]
    out += b"0\r\n"
    if chance.random() < 0.2:
        out += chance.choice(
            [b"X-Trailer: 1\r\n", b"Content-Length: 5\r\n", b"bad trailer\r\n" if harm else b"Y: 2\r\n"]
        )
    return out + b"\r\n"


def request(chance: random.Random, harm: bool) -> bytes:
    """One, whole; with `harm` perhaps harmed where servers have been fooled."""
    body = body_of(chance)
    method, target = chance.choice(METHODS), chance.choice(TARGETS[:7])
    lines = [b"%s %s HTTP/1.%d" % (method, target, 0 if chance.random() < 0.1 else 1), b"Host: a"]
    fields = FIELDS if harm else FIELDS[:5]
    lines += chance.sample(fields, chance.randrange(3))
    if body and lines[0].endswith(b"1.1") and chance.random() < 0.5:
        coding = chance.choice(CODINGS) if harm and chance.random() < 0.4 else b"chunked"
        lines.append(b"Transfer-Encoding: " + coding)
        body = chunks(chance, body, harm)
    elif body:
        length = b"%d"
        if harm and chance.random() < 0.4:
            length = chance.choice(LENGTHS)
        lines.append(b"Content-Length: " + length.replace(b"%d", b"%d" % len(body)))
    if harm:
        _harm_lines(chance, lines)
    raw = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return _harm_bytes(chance, raw) if harm and chance.random() < 0.4 else raw


def _harm_lines(chance: random.Random, lines: list[bytes]) -> None:
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(lines))
        how = chance.randrange(8)
        if how == 0:
            lines.insert(at, lines[at])
        elif how == 1:
            lines[at] = lines[at].replace(b":", chance.choice([b" :", b"\t:", b"", b"::", b":\r\n ", b"\0:"]), 1)
        elif how == 2:
            lines[at] += chance.choice(BYTES)
        elif how == 3:
            lines[at] = chance.choice(BYTES) + lines[at]
        elif how == 4:
            del lines[at]
            lines += [] if lines else [b"GET / HTTP/1.1"]
        elif how == 5:
            lines[at] = lines[at].swapcase()
        elif how == 6:
            lines[0] = lines[0].replace(b"1.1", chance.choice([b"1.0", b"2.0", b"0.9", b"1.2", b"1.10", b"1,1", b""]))
        else:
            lines.append(chance.choice(FIELDS))


def _harm_bytes(chance: random.Random, raw: bytes) -> bytes:
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(raw) + 1)
        how = chance.randrange(5)
        if how == 0:
            raw = raw[:at] + chance.choice(BYTES) + raw[at:]
        elif how == 1:
            raw = raw[:at] + raw[at + chance.randint(1, 4) :]
        elif how == 2:
            raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        elif how == 3:
            raw = raw.replace(b"\r\n", chance.choice([b"\n", b"\r", b"\r\r\n"]), chance.randint(1, 2))
        else:
            raw = raw[:at]
    return raw


def case(chance: random.Random) -> bytes:
    """What a client says on one connection."""
    if chance.random() < 0.05:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 200)))
    return b"".join(request(chance, chance.random() < 0.7) for _ in range(chance.randint(1, 3)))


# ---- what comes back ----


class BadAnswer(Exception):
    """The server said what HTTP does not allow, or contradicts itself."""


def answers(raw: bytes) -> list[tuple[int, bytes, bool]]:
    """(status, body, whether the connection ends) of each answer but 1xx.  Raises BadAnswer."""
    found: list[tuple[int, bytes, bool]] = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        if not end or not line.startswith(b"HTTP/1.1 "):
            raise BadAnswer(f"not an answer: {raw[:200]!r}")
        status = int(line[9:12])
        if status < 200:
            raw = rest
            continue
        named = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        if b"content-length" not in named or b"date" not in named:
            raise BadAnswer(f"an answer without length or date: {head!r}")
        size = int(named[b"content-length"])
        if len(rest) < size:
            raise BadAnswer(f"an answer that is not whole: {raw[:200]!r}")
        if found and found[-1][2]:
            raise BadAnswer(f"an answer behind the one that ends the connection: {raw[:200]!r}")
        found.append((status, rest[:size], named.get(b"connection", b"").lower() == b"close"))
        raw = rest[size:]
    return found


def seen(found: list[tuple[int, bytes, bool]]) -> list[Seen]:
    """What the application says it saw; answers that are no refusals and not its own are an error."""
    told: list[Seen] = []
    for status, body, _ in found:
        if status == 200:
            method, target, length, digest, _ = json.loads(body)
            told.append((method, target, length, digest))
        elif status not in (400, 408, 413, 414, 417, 431, 501, 505):
            raise BadAnswer(f"status {status}: {body[:200]!r}")
    return told


def judged(raw: bytes) -> tuple[list[Seen], str]:
    """The whole requests that h11 finds, and how it ended: "end", "closed", "HTTP/1.0" (not kept), or its refusal."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    if raw:
        connection.receive_data(b"")
    found: list[Seen] = []
    asked: Any = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return found, str(error)
        if isinstance(event, h11.Request):
            asked, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            method, target = asked.method.decode("latin-1"), asked.target.decode("latin-1")
            found.append((method, target, len(body), hashlib.sha1(body).hexdigest()))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return found, "HTTP/1.0" if asked.http_version == b"1.0" else "closed"
            connection.start_next_cycle()
        elif event is h11.PAUSED:
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
        else:
            return found, "end"


# Where h11 stops and a server may go on: RFC 9112 lets it skip empty lines before a request (section 2.2), and keep a
# connection of HTTP/1.0 that asks for it (appendix C.2.2).
MAY_GO_ON = ("HTTP/1.0", "no request line received")


def compare(raw: bytes, answered: bytes) -> tuple[str, int]:
    """("agreed" or "stricter", requests served).  Raises BadAnswer where the server took requests for others."""
    ours = seen(answers(answered))
    theirs, why = judged(raw)
    both = min(len(ours), len(theirs))
    if ours[:both] != theirs[:both]:
        raise BadAnswer(f"served {ours}, h11 finds {theirs}")
    if len(ours) > both and why not in MAY_GO_ON:
        raise BadAnswer(f"served {ours[both:]}, which h11 does not: {why}")
    return ("stricter" if len(ours) < len(theirs) else "agreed"), len(ours)
