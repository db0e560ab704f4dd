"""WebSockets of clients that do everything wrong, and everything right in the oddest way, against a live server.

    python -m tests.chaos.websocket [--seed N] [--quick]

Conversations: messages whole and in fragments, control frames in between, any length, cut into TCP segments anywhere,
some of it sent before the handshake is answered; then nothing, a goodbye, or a breach of RFC 6455 with anything behind
it.  Each whole message must come back, each ping be answered with what it carried, each end have the code that it
deserves, and nothing come behind it.  Noise: bytes that follow no rule.  After each, a client of the same worker that
does nothing wrong must be served.  The exit status is 1 when something was wrong; hypothesis prints the shortest case.
"""

from __future__ import annotations

import argparse
import collections
import random
import socket
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.server import Server

MAX_SIZE = 3000  # bytes of a message
HOPELESS = MAX_SIZE + 126  # bytes of one that is refused as soon as its size is said, before a byte of it
DEADLINE = 20.0
WINDOW_BITS = 12  # of compression
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
COMPRESSED = 4  # of the reserved bits: RFC 7692, 7.2.3.1
NATIVE, UWSGI, DEFLATE, JOINED = "/echo", "/uwsgi", "/deflate", "/joined"
OPENING = (
    "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)
OFFER = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, mask: bytes | None = b"\1\2\3\4", reserved: int = 0
) -> bytes:
    """RFC 6455, 5.2; whatever is wrong with it."""
    head = bytes((fin << 7 | reserved << 4 | opcode,))
    masked = 0 if mask is None else 0x80
    if len(payload) < 126:
        head += bytes((masked | len(payload),))
    elif len(payload) < 1 << 16:
        head += struct.pack("!BH", masked | 126, len(payload))
    else:
        head += struct.pack("!BQ", masked | 127, len(payload))
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


@dataclass
class Conversation:
    """What a client says, and what it must hear."""

    parts: list[bytes] = field(default_factory=list)  # frames, one after the other
    messages: list[tuple[int, bytes]] = field(default_factory=list)  # that come back
    pings: list[bytes] = field(default_factory=list)  # that are answered
    kind: str = "open"  # how it ends
    codes: frozenset[int] = frozenset()  # with which the server may end it; none: it must not
    cuts: list[int] = field(default_factory=list)  # places between two segments, each in 1/1000
    early: bool = False  # the first segment leaves together with the handshake

    def segments(self) -> list[bytes]:
        data = b"".join(self.parts)
        places = sorted({0, len(data), *(len(data) * cut // 1000 for cut in self.cuts)})
        return [data[start:end] for start, end in zip(places, places[1:])]


masks = st.binary(min_size=4, max_size=4)
payloads = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([0, 1, 125, 126, 127, 128, 1000, MAX_SIZE]).map(lambda size: random.Random(size).randbytes(size)),
)
texts = st.one_of(st.text(max_size=40), st.sampled_from(["", "ä" * 700, "\U0001f40c" * 500, "\0", "\ufeff"]))
controls = st.binary(max_size=125)
good_codes = st.one_of(st.sampled_from([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011]), st.integers(3000, 4999))
bad_codes = st.one_of(
    st.sampled_from([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]), st.integers(1016, 2999)
)
BROKEN_TEXT = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xc0\xaf"]


@st.composite
def conversations(draw: Any, kind: str, deflate: bool) -> Conversation:
    """Of frames that keep to the rules until the end, which is of this kind; some compressed if they may be."""
    made = Conversation(kind=kind, cuts=draw(st.lists(st.integers(0, 1000), max_size=12)), early=draw(st.booleans()))
    squeezer = zlib.compressobj(wbits=-WINDOW_BITS)

    def say(opcode: int, payload: bytes, **options: Any) -> None:
        made.parts.append(frame(opcode, payload, mask=draw(masks), **options))

    def control() -> None:
        payload = draw(controls)
        opcode = draw(st.sampled_from([PING, PONG]))
        if opcode == PING:
            made.pings.append(payload)
        say(opcode, payload)

    def message(whole: bytes, opcode: int) -> None:
        reserved = 0
        if deflate and len(whole) < MAX_SIZE // 2 and draw(st.booleans()):
            whole = (squeezer.compress(whole) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]
            reserved = COMPRESSED
        places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)])]
        for number, piece in enumerate(pieces):
            fin = number == len(pieces) - 1
            say(CONT if number else opcode, piece, fin=fin, reserved=0 if number else reserved)
            if number < len(pieces) - 1 and draw(st.booleans()):
                control()

    for _ in range(draw(st.integers(0, 6))):
        what = draw(st.sampled_from(["text", "binary", "control"]))
        if what == "control":
            control()
            continue
        opcode, whole = (TEXT, draw(texts).encode()) if what == "text" else (BINARY, draw(payloads))
        message(whole, opcode)
        made.messages.append((opcode, whole))

    before = len(made.parts)
    made.codes = frozenset(ENDS[kind](draw, say, made))
    if made.kind not in ("open", "goodbye") and len(made.parts) > before:
        made.parts.append(draw(st.binary(max_size=30)))  # nobody may care
        if made.kind == "text that is no UTF-8" and made.parts[-1]:
            made.codes |= {1002, 1009}  # frames are looked at before texts are: either code is deserved
    return made


def _goodbye(draw: Any, say: Any, made: Conversation) -> set[int]:
    if draw(st.booleans()):
        say(CLOSE, b"")
        return {1000, 1005}
    code = draw(good_codes)
    say(CLOSE, struct.pack("!H", code) + draw(st.text(max_size=30)).encode())
    return {code}


def _bad_close(draw: Any, say: Any, made: Conversation) -> set[int]:
    reason = draw(st.one_of(st.text(max_size=10).map(str.encode), st.sampled_from(BROKEN_TEXT)))
    what = draw(st.sampled_from(["one byte", "code", "reason"]))
    if what == "one byte":
        say(CLOSE, b"\3")
    elif what == "code":
        say(CLOSE, struct.pack("!H", draw(bad_codes)) + reason)
    else:
        say(CLOSE, struct.pack("!H", 1000) + draw(st.sampled_from(BROKEN_TEXT)))
    return {1002, 1007}


def _broken_text(draw: Any, say: Any, made: Conversation) -> set[int]:
    broken = draw(st.sampled_from(BROKEN_TEXT))
    place = draw(st.integers(0, len(broken)))
    say(TEXT, broken[:place], fin=False)
    say(CONT, broken[place:])
    return {1007}


def _reserved_bits(draw: Any, say: Any, made: Conversation) -> set[int]:
    opcodes = [TEXT, BINARY, PING, PONG, CLOSE]
    say(draw(st.sampled_from(opcodes)), b"", reserved=draw(st.integers(1, 3)))  # not the one of compression
    return {1002}


def _reserved_opcode(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(draw(st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])), draw(controls))
    return {1002}


def _control_in_pieces(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(draw(st.sampled_from([PING, PONG, CLOSE])), b"", fin=False)
    return {1002}


def _long_control(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(draw(st.sampled_from([PING, PONG, CLOSE])), b"x" * draw(st.integers(126, 400)))
    return {1002}


def _not_masked(draw: Any, say: Any, made: Conversation) -> set[int]:
    made.parts.append(frame(draw(st.sampled_from([TEXT, BINARY, PING, CLOSE])), b"", mask=None))
    return {1002}


def _no_beginning(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(CONT, draw(controls), fin=draw(st.booleans()))
    return {1002}


def _second_beginning(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(draw(st.sampled_from([TEXT, BINARY])), b"a", fin=False)
    say(draw(st.sampled_from([TEXT, BINARY])), b"b", fin=draw(st.booleans()))
    return {1002}


def _too_long(draw: Any, say: Any, made: Conversation) -> set[int]:
    size = draw(st.sampled_from([MAX_SIZE + 1, HOPELESS, 65535, 65536, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]))
    if size < HOPELESS:
        say(BINARY, b"x" * size)
    elif size < 65536:
        made.parts.append(struct.pack("!BBH", 0x82, 0xFE, size) + b"mask")
    else:
        made.parts.append(struct.pack("!BBQ", 0x82, 0xFF, size) + b"mask")
    return {1009} if size < 1 << 63 else {1002, 1009}


def _too_long_in_pieces(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(BINARY, b"x" * (MAX_SIZE - 5), fin=False)
    say(CONT, b"x" * draw(st.integers(6, 100)), fin=draw(st.booleans()))
    return {1009}


def _bomb(draw: Any, say: Any, made: Conversation) -> set[int]:
    squeezer = zlib.compressobj(9, wbits=-WINDOW_BITS)
    zeros = squeezer.compress(bytes(1 << 20)) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    say(BINARY, zeros[:-4], reserved=COMPRESSED)
    return {1009}


def _not_compressed(draw: Any, say: Any, made: Conversation) -> set[int]:
    say(draw(st.sampled_from([TEXT, BINARY])), b"\xff" * draw(st.integers(1, 50)), reserved=COMPRESSED)
    return {1002, 1007}


ENDS: dict[str, Any] = {
    "open": lambda draw, say, made: (),
    "goodbye": _goodbye,
    "a close that is none": _bad_close,
    "text that is no UTF-8": _broken_text,
    "reserved bits": _reserved_bits,
    "reserved opcode": _reserved_opcode,
    "control in pieces": _control_in_pieces,
    "long control": _long_control,
    "not masked": _not_masked,
    "no beginning": _no_beginning,
    "second beginning": _second_beginning,
    "too long": _too_long,
    "too long in pieces": _too_long_in_pieces,
}
DEFLATED = {"bomb": _bomb, "not compressed": _not_compressed}
ENDS |= DEFLATED


class Client:
    """A connection, its handshake, and the frames that come."""

    def __init__(self, address: tuple[str, int], path: str, early: bytes = b"") -> None:
        self.sock = socket.create_connection(address, timeout=DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall((OPENING % (path, OFFER if path == DEFLATE else "")).encode() + early)
        self._inflate = zlib.decompressobj(-15)
        self._data = b""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def say(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough; what it has to say is still read

    def hear(self) -> tuple[int, bytes] | None:
        """The next frame, which must be whole; None: the end."""
        try:
            while True:
                size, start = self._size()
                if size >= 0 and len(self._data) >= start + size:
                    break
                self._more()
        except EOFError:
            assert not self._data, f"half a frame: {self._data[:40]!r}"
            return None
        first = self._data[0]
        payload = self._data[start : start + size]
        self._data = self._data[start + size :]
        assert first & 0x80 and not first & 0x30, f"{first:#x}: a server's frames are whole"
        if first & 0x40:
            payload = self._inflate.decompress(payload + b"\0\0\xff\xff")
        return first & 0x0F, payload

    def _size(self) -> tuple[int, int]:
        """(bytes of the payload, -1: not known yet; where it begins)."""
        data = self._data
        if len(data) < 2:
            return -1, 0
        assert not data[1] & 0x80, "a server's frames are not masked"
        if data[1] < 126:
            return data[1], 2
        if data[1] == 126:
            return (struct.unpack("!H", data[2:4])[0], 4) if len(data) >= 4 else (-1, 0)
        return (struct.unpack("!Q", data[2:10])[0], 10) if len(data) >= 10 else (-1, 0)

    def _more(self) -> None:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self._data += data

    def end(self) -> None:
        """Say that nothing more comes; the server must end it too."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        while self.hear() is not None:
            pass

    def close(self) -> None:
        self.sock.close()


class Run:
    """A server, a client that does nothing wrong, and what was said to them."""

    def __init__(self) -> None:
        options = ("--websocket-max-size", str(MAX_SIZE), "--stream-heartbeat", "0")
        self.server = Server("tests.chaos.websocket_app:application", *options, workers=1)
        self.workers = self.server.workers
        self.looks = 0
        self.witnesses = self._witnesses()
        self.counts: collections.Counter[str] = collections.Counter()

    def _witnesses(self) -> list[Client]:
        return [Client(self.server.address, path) for path in (NATIVE, UWSGI)]

    def close(self) -> None:
        for client in self.witnesses:
            client.close()
        self.server.stop()

    def converse(self, path: str, talk: Conversation) -> None:
        """Say everything, and hear what must be heard."""
        segments = talk.segments()
        early = segments.pop(0) if talk.early and segments else b""
        client = Client(self.server.address, path, early)
        messages = [(BINARY if path == UWSGI else opcode, payload) for opcode, payload in talk.messages]
        heard: list[tuple[int, bytes]] = []
        pongs: list[bytes] = []
        try:
            for segment in segments:
                client.say(segment)
            while talk.codes or len(heard) < len(messages) or len(pongs) < len(talk.pings):
                got = client.hear()
                assert got is not None, f"it ended; {len(heard)} messages and {len(pongs)} pongs had come"
                opcode, payload = got
                if opcode == PONG:
                    pongs.append(payload)
                elif opcode == CLOSE:
                    self._closed(talk, payload)
                    break
                else:
                    heard.append(got)
            assert heard == messages[: len(heard)], "what comes back is what was sent, in order"
            assert pongs == talk.pings[: len(pongs)], "each ping is answered with what it carried"
            if not talk.codes:
                client.say(frame(CLOSE, struct.pack("!H", 1000)))
                got = client.hear()
                assert got is not None and got[0] == CLOSE and got[1][:2] == struct.pack("!H", 1000), got
            assert client.hear() is None, "nothing comes behind the end"
        finally:
            client.close()
        self.counts["conversations"] += 1
        self.counts["frames"] += len(talk.parts)
        self.counts[talk.kind] += 1
        self.look()

    def _closed(self, talk: Conversation, payload: bytes) -> None:
        assert talk.codes, f"it was ended with {payload!r} for nothing"
        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
        assert code in talk.codes, f"ended with {code}, {payload[2:]!r}; {talk.kind!r} deserves {set(talk.codes)}"
        payload[2:].decode()

    def noise(self, path: str, data: list[bytes]) -> None:
        """Bytes that follow no rule: whatever it does with them, it ends when they do."""
        client = Client(self.server.address, path)
        try:
            for part in data:
                client.say(part)
            client.end()
        finally:
            client.close()
        self.counts["noise"] += 1
        self.look()

    def look(self) -> None:
        """Those who do nothing wrong are served, by the same worker."""
        self.looks += 1
        try:
            for client in self.witnesses:
                client.say(frame(BINARY, b"%d" % self.looks))
                heard = client.hear()
                assert heard == (BINARY, b"%d" % self.looks), f"{heard}; the server said:\n{self.server.log[-3000:]}"
        except BaseException:
            for client in self.witnesses:  # others, so that what is told is the next case's own
                client.close()
            self.witnesses = self._witnesses()
            raise

    def end(self) -> None:
        assert self.server.workers == self.workers, "no worker has died"
        assert "Traceback" not in self.server.log, self.server.log[-5000:]


def anything() -> st.SearchStrategy[list[bytes]]:
    """Bytes, some of which look like frames."""
    looks = st.builds(
        lambda first, second, rest: bytes((first, second)) + rest,
        st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0xC1, 0xC2, 0x41, 0x88, 0x89, 0x8A, 0xC8]),
        st.sampled_from([0x80, 0x81, 0x85, 0xFD, 0xFE, 0xFF]),
        st.binary(max_size=30),
    )
    return st.lists(st.one_of(looks, st.binary(max_size=200)), max_size=8)


def _examples(told: Any, say: Any, path: str, settings: hypothesis.settings, seed: int) -> None:
    @hypothesis.seed(seed)
    @settings
    @given(told)
    def test(what: Any) -> None:
        say(path, what)

    test()


def run(seed: int, each: int) -> collections.Counter[str]:
    """So many conversations of each kind in each way; what was said, counted.  Raises AssertionError."""
    made = Run()
    settings = hypothesis.settings(
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        for path in (NATIVE, JOINED, UWSGI, DEFLATE):
            for kind in ENDS:
                if path == DEFLATE or kind not in DEFLATED:
                    told = conversations(kind, path == DEFLATE)
                    _examples(told, made.converse, path, hypothesis.settings(settings, max_examples=each), seed)
            _examples(anything(), made.noise, path, hypothesis.settings(settings, max_examples=5 * each), seed)
        made.end()
    finally:
        made.close()
    return made.counts


def main() -> int:
    parser = argparse.ArgumentParser(description="WebSockets of clients that do everything wrong.")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    given_ = parser.parse_args()
    print(f"seed {given_.seed}", flush=True)
    share = 1 if given_.quick else 10
    began = time.monotonic()
    counts = run(given_.seed, 10 * share)
    for what, count in counts.most_common():
        print(f"{count:>8,} {what}")
    talks, noises, frames = (counts[what] for what in ("conversations", "noise", "frames"))
    seconds = time.monotonic() - began
    print(
        f"FIGURES {talks:,} conversations of {frames:,} frames, {noises:,} of noise; nothing wrong in {seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
