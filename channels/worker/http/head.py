"""The head of a request: bytes -> environ and how its body is framed, or a refusal.

llhttp judges the syntax (RFC 9112); what it leaves to the server is judged here.  Pure.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from channels.worker.http.config import HttpConfig

CHUNKED = -1
LEARNED_MAX = 1024  # names and hosts that are remembered
_TOKEN = re.compile(rb"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]*\Z")
_ABSOLUTE = re.compile(r"https?://([^/?#]+)([^#]*)\Z", re.IGNORECASE)
# RFC 3986, section 3.2.2: a name, an IPv4 address or an IPv6 address in brackets, and a port.
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?\Z")
_ONCE = frozenset(["HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_AUTHORIZATION"])


class BadRequest(Exception):
    """A request that is not served: the status to answer with, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Head:
    """A request that was found good, but for its body."""

    __slots__ = ("environ", "expects", "http11", "keep_alive", "length", "raw", "upgrade")

    def __init__(self, raw: bytes, environ: dict[str, Any], http11: bool) -> None:
        self.raw = raw
        self.environ = environ
        self.http11 = http11
        self.keep_alive = http11
        self.length = 0  # of the body; CHUNKED: not known before
        self.expects = False  # 100-continue
        self.upgrade = False


class HeadParser:
    """Judges whole heads, one after the other, of any connection."""

    def __init__(self, config: HttpConfig) -> None:
        self._line_max = config.limit_request_line
        self._fields_max = config.limit_request_fields
        self._field_max = config.limit_request_field_size
        self._body_max = config.limit_request_body
        self._plain_max = min(self._line_max, self._field_max)
        self._parser = HttpRequestParser(self)
        self._used = False  # a parser that has seen a body, a close or an upgrade takes no further head
        self._keys: dict[str, str] = {}
        self._hosts: set[str] = {""}

    def parse(self, raw: bytes, environ: dict[str, Any]) -> Head:
        """Fill `environ` from a head.  Raises BadRequest.

        Args:
            raw: From the request line to the empty line, and nothing behind.
            environ: What is known of server and connection; becomes the request's.
        """
        if raw[0] in b"\r\n":  # llhttp skips them, and the first line would be another one here than there
            raise BadRequest(400, "an empty line that is none")
        if self._used:
            self._feed_new(raw)
        else:
            self._used = True
            try:
                self._parser.feed_data(raw)
            except HttpParserUpgrade:
                pass
            except HttpParserError:  # perhaps for what it remembers of another request: only a new one's verdict counts
                self._feed_new(raw)

        lines = raw.decode("latin-1").split("\r\n")
        if len(raw) > self._plain_max:
            self._check_sizes(lines)
        if len(lines) - 3 > self._fields_max:
            raise BadRequest(431, "too many header fields")
        http11 = self._request_line(lines[0], environ)
        self._fields(lines, environ)
        head = Head(raw, environ, http11)
        self._judge(head, environ)
        self._used = head.length != 0 or not head.keep_alive or head.upgrade
        return head

    def _feed_new(self, raw: bytes) -> None:
        """Let a parser judge the syntax that has seen nothing before."""
        self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except HttpParserUpgrade:
            pass
        except HttpParserInvalidMethodError:
            known = _TOKEN.match(raw.split(b" ", 1)[0])
            raise BadRequest(501 if known else 400, "method") from None
        except HttpParserError as error:
            raise BadRequest(400, str(error)) from None

    def _check_sizes(self, lines: list[str]) -> None:
        if len(lines[0]) > self._line_max:
            raise BadRequest(414, "request line too long")
        if max(map(len, lines[1:])) > self._field_max:
            raise BadRequest(431, "header field too large")

    def _request_line(self, line: str, environ: dict[str, Any]) -> bool:
        try:
            method, target, version = line.split(" ")
        except ValueError:
            raise BadRequest(400, "request line") from None
        http11 = version == "HTTP/1.1"
        if not http11 and version != "HTTP/1.0":
            raise BadRequest(505 if version.startswith("HTTP/") else 400, "version")
        environ["REQUEST_METHOD"] = method
        environ["SERVER_PROTOCOL"] = version
        environ["RAW_URI"] = environ["REQUEST_URI"] = target
        if target[0] != "/":
            target = self._other_form(method, target, environ)
        path, _, environ["QUERY_STRING"] = target.partition("?")
        if "#" in target:
            raise BadRequest(400, "fragment in the target")
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        return http11

    def _other_form(self, method: str, target: str, environ: dict[str, Any]) -> str:
        """RFC 9112, section 3.2: absolute-form is to be understood, asterisk-form belongs to OPTIONS."""
        if target == "*" and method == "OPTIONS":
            return ""
        found = _ABSOLUTE.match(target)
        if found is None or method == "CONNECT":
            raise BadRequest(400, "target")
        if not _HOST.match(found[1]):
            raise BadRequest(400, "authority of the target")
        environ["channels.authority"] = found[1]
        return found[2] if found[2].startswith("/") else "/" + found[2]

    def _fields(self, lines: list[str], environ: dict[str, Any]) -> None:
        keys = self._keys
        for i in range(1, len(lines) - 2):
            name, _, value = lines[i].partition(":")
            key = keys.get(name)
            if key is None:
                key = self._learn(name)
            if not key:
                continue
            value = value.strip(" \t")
            if key not in environ:
                environ[key] = value
            elif key in _ONCE:
                raise BadRequest(400, f"{name} more than once")
            else:
                environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value

    def _learn(self, name: str) -> str:
        """The key in environ; "" for a name that could be taken for another: X_Forwarded_For."""
        key = name.upper().replace("-", "_")
        if "_" in name:
            key = ""
        elif key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = "HTTP_" + key
        if len(self._keys) < LEARNED_MAX and len(name) < 64:
            self._keys[name] = key
        return key

    def _judge(self, head: Head, environ: dict[str, Any]) -> None:
        get = environ.get
        host = get("HTTP_HOST")
        if host is None:
            if head.http11:
                raise BadRequest(400, "no Host")
        elif host not in self._hosts:
            if not _HOST.match(host):
                raise BadRequest(400, "Host")
            if len(self._hosts) < LEARNED_MAX and len(host) < 64:
                self._hosts.add(host)
        authority = environ.pop("channels.authority", None)
        if authority is not None:
            environ["HTTP_HOST"] = authority
        length = get("CONTENT_LENGTH")
        coding = get("HTTP_TRANSFER_ENCODING")
        if length is not None or coding is not None:
            self._frame(head, length, coding)
        connection = get("HTTP_CONNECTION")
        if connection is not None:
            words = [word.strip() for word in connection.lower().split(",")]
            if "close" in words:
                head.keep_alive = False
            elif "keep-alive" in words:
                head.keep_alive = True
            head.upgrade = head.http11 and "upgrade" in words and "HTTP_UPGRADE" in environ
        expect = get("HTTP_EXPECT")
        if expect is not None and head.http11:
            if expect.lower() != "100-continue":
                raise BadRequest(417, "Expect")
            head.expects = head.length != 0

    def _frame(self, head: Head, length: str | None, coding: str | None) -> None:
        if coding is not None:
            if length is not None or not head.http11:
                raise BadRequest(400, "Transfer-Encoding here")
            if coding.lower() != "chunked":
                raise BadRequest(501 if coding else 400, "Transfer-Encoding")
            head.length = CHUNKED
            return
        assert length is not None
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            raise BadRequest(400, "Content-Length")
        head.length = int(length)
        if self._body_max and head.length > self._body_max:
            raise BadRequest(413, "body too large")
