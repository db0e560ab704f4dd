"""The application's side of a WebSocket, over a socket pair: waiting, bounds, and errors that say what to do."""

from __future__ import annotations

import collections
import gc
import socket
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

import channels
from channels.errors import WebSocketClosed
from channels.web import websocket
from channels.web.connection import WebSocket
from channels.web.pulse import pulse


class Peer:
    """A client by the same library's other side, read by hand."""

    def __init__(self, **options: Any) -> None:
        self.mine, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs = theirs
        self.mine.setblocking(False)
        self.protocol = ClientProtocol(parse_uri("ws://example.org/"), max_size=None)
        request = self.protocol.connect()
        self.protocol.send_request(request)
        self.protocol.data_to_send()
        environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.raw_items()}
        environ.update({"REQUEST_METHOD": "GET", "channels.upgrade": lambda: (theirs, b"")})
        accepted = websocket.accept(environ, **options)
        assert isinstance(accepted, WebSocket)
        self.ws = accepted
        self.pump()

    def say(self, text: str) -> None:
        self.protocol.send_text(text.encode())
        self.pump()

    def pump(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.mine.sendall(data)
            else:
                self.mine.shutdown(socket.SHUT_WR)
        try:
            while data := self.mine.recv(1 << 16):
                self.protocol.receive_data(data)
            self.protocol.receive_eof()
        except (BlockingIOError, EOFError):
            pass

    def events(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < count:
            self.pump()
            found += [
                bytes(event.data)
                for event in self.protocol.events_received()
                if getattr(event, "opcode", None) in (Opcode.TEXT, Opcode.BINARY)
            ]
            gevent.sleep(0.001)
        return found

    def close(self) -> None:
        self.mine.close()
        self.ws.finish()
        self.theirs.close()


@pytest.fixture
def peer(fabric: object) -> Iterator[Peer]:
    made = Peer()
    with gevent.Timeout(30):
        yield made
    made.close()


def test_a_send_to_a_client_that_does_not_read_waits_and_gives_up_when_told_to(peer: Peer) -> None:
    sent = 0
    with pytest.raises(TimeoutError, match="nothing was sent"):
        while True:
            peer.ws.send("x" * 10_000, timeout=0.05)
            sent += 1
    assert peer.ws.pending <= 256 * 1024 + 10_010 + 10_000, "memory is bounded"
    assert peer.events(sent) == [b"x" * 10_000] * sent
    peer.ws.send("room again", timeout=10)
    assert peer.events(1) == [b"room again"]


def test_a_send_that_waits_goes_on_when_the_client_reads(peer: Peer) -> None:
    sender = gevent.spawn(lambda: [peer.ws.send("x" * 50_000) for _ in range(40)])
    gevent.sleep(0.05)
    assert not sender.dead
    assert peer.events(40) == [b"x" * 50_000] * 40
    sender.get(timeout=10)


def test_a_send_that_waits_ends_with_the_connection(peer: Peer) -> None:
    sender = gevent.spawn(lambda: [peer.ws.send("x" * 50_000) for _ in range(40)])
    gevent.sleep(0.05)
    peer.mine.close()
    with pytest.raises(WebSocketClosed) as caught:
        sender.get(timeout=10)
    assert caught.value.code == 1006


def stand_still(peer: Peer) -> gevent.Greenlet:
    """Neither side reads any more, and somebody waits to send."""
    with pytest.raises(TimeoutError):
        while True:
            peer.ws.send("x" * 10_000, timeout=0.05)
    peer.protocol.send_text(b"one more, to somebody who has to wait")
    for data in peer.protocol.data_to_send():
        peer.mine.sendall(data)
    assert peer.ws.receive(timeout=10)
    sender = gevent.spawn(peer.ws.send, "y" * 1000)
    gevent.sleep(0.01)
    assert not peer.ws._transport.reading
    return sender


@pytest.mark.parametrize("joined", [False, True])
def test_a_client_that_vanishes_while_neither_side_reads_is_noticed(peer: Peer, joined: bool) -> None:
    if joined:
        peer.ws.join("a")
    sender = stand_still(peer)
    peer.mine.close()
    with pytest.raises(WebSocketClosed):
        peer.ws.receive(timeout=10)
    sender.join(10)
    assert sender.dead


def test_only_one_greenlet_receives(peer: Peer) -> None:
    first = gevent.spawn(peer.ws.receive)
    gevent.sleep(0)
    with pytest.raises(RuntimeError, match="another greenlet"):
        peer.ws.receive()
    peer.say("for the first")
    assert first.get(timeout=10) == "for the first"


def test_a_receiver_that_is_killed_or_timed_out_loses_no_message(peer: Peer) -> None:
    got: list[Any] = []
    for number in range(200):
        waiting = gevent.spawn(lambda: got.append(peer.ws.receive()))
        gevent.sleep(0)
        peer.say(str(number))
        if number % 2:
            gevent.sleep(0)
        waiting.kill()
    while len(got) < 200:
        got.append(peer.ws.receive(timeout=10))
    assert got == [str(number) for number in range(200)]


def test_what_came_before_the_end_is_received_and_then_the_end_is_told(peer: Peer) -> None:
    peer.say("one")
    peer.say("two")
    peer.protocol.send_close(4000, "bye")
    peer.pump()
    assert list(peer.ws) == ["one", "two"]
    with pytest.raises(WebSocketClosed) as caught:
        peer.ws.receive()
    assert (caught.value.code, caught.value.reason) == (4000, "bye")
    assert (peer.ws.close_code, peer.ws.close_reason, peer.ws.closed) == (4000, "bye", True)
    with pytest.raises(WebSocketClosed):
        peer.ws.send("too late")
    peer.ws.close(1000)  # without effect
    assert peer.ws.close_code == 4000


def test_messages_beyond_the_queue_stay_in_the_kernel(peer: Peer) -> None:
    for number in range(100):
        peer.say(str(number))
    while len(peer.ws._queue) < 32:
        gevent.sleep(0.001)
    assert not peer.ws._transport.reading
    assert [peer.ws.receive(timeout=10) for _ in range(100)] == [str(number) for number in range(100)]


def fill(peer: Peer) -> int:
    """Messages of 64 KB, fewer than a queue holds, until the other side reads no more; how many."""
    sent = 0
    while peer.ws._transport.reading:
        peer.say("x" * 65536)
        sent += 1
        gevent.sleep(0.001)
    assert len(peer.ws._queue) < peer.ws._queue_max
    return sent


def test_a_client_whose_messages_the_application_has_not_taken_yet_is_not_taken_for_gone(peer: Peer) -> None:
    sent = fill(peer)
    for _ in range(3):
        peer.ws.beat()
    gevent.sleep(0.01)
    assert not peer.ws.closed
    assert [peer.ws.receive(timeout=10) for _ in range(sent)] == ["x" * 65536] * sent


def test_a_client_that_is_read_and_answers_no_ping_is_taken_for_gone(peer: Peer) -> None:
    fill(peer)
    while peer.ws.receive(timeout=0.01):
        pass
    peer.ws.beat()
    assert not peer.ws.closed
    peer.ws.beat()
    gevent.sleep(0.01)
    assert peer.ws.close_code == 1006


def test_leaving_ends_the_forwarding(peer: Peer) -> None:
    peer.ws.join("a", "b")
    channels.publish("a", "one")
    assert peer.events(1) == [b"one"]
    peer.ws.leave("a")
    channels.publish("a", "unheard")
    channels.publish("b", "two")
    assert peer.events(1) == [b"two"]


def test_a_bad_channel_name_is_the_callers_error_and_harms_nothing(peer: Peer) -> None:
    with pytest.raises(channels.BadChannelName):
        peer.ws.join("")
    peer.ws.send("alive")
    assert peer.events(1) == [b"alive"]


@pytest.mark.parametrize("code", [999, 1005, 1006, 5000])
def test_a_close_code_that_may_not_be_sent_is_refused(peer: Peer, code: int) -> None:
    with pytest.raises(ValueError, match="close code"):
        peer.ws.close(code)
    assert not peer.ws.closed


def test_a_reason_that_does_not_fit_is_refused(peer: Peer) -> None:
    with pytest.raises(ValueError, match="too long"):
        peer.ws.close(1000, "x" * 124)
    peer.ws.send("alive")
    assert peer.events(1) == [b"alive"]


@pytest.mark.parametrize("compression", [False, True])
def test_a_message_of_just_the_allowed_size_is_taken_with_a_ping_in_its_middle_and_no_larger_one(
    fabric: object, compression: bool
) -> None:
    peer = Peer(max_size=3000, compression=compression)
    for size in (3000, 3001):
        peer.protocol.send_text(b"x" * 2999, fin=False)
        peer.protocol.send_continuation(b"x", fin=False)
        peer.protocol.send_ping(b"p" * 125)
        peer.protocol.send_continuation(b"x" * (size - 3000), fin=True)
        peer.pump()
        if size == 3000:
            assert peer.ws.receive(timeout=10) == "x" * 3000
    with pytest.raises(WebSocketClosed) as caught:
        peer.ws.receive(timeout=10)
    assert caught.value.code == 1009
    peer.close()


def test_a_finished_one_leaves_nothing_behind(fabric: object) -> None:
    made = Peer()
    made.ws.join("a")
    reference = weakref.ref(made.ws)
    made.close()
    while channels.channel_send("a", b"x"):
        gevent.sleep(0.001)
    assert pulse()._timer is None
    del made
    gevent.sleep(0.01)
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["empty", "a byte each"])
def test_a_message_in_many_fragments_takes_no_more_than_its_bytes(piece: bytes) -> None:
    peer, count = Peer(), 1000
    peer.protocol.send_text(b"begun", fin=False)
    for number in range(count):
        peer.protocol.send_continuation(piece, fin=False)
        peer.pump()
        if number % 20 == 0:
            gevent.sleep(0.001)
    peer.protocol.send_ping(b"all of it?")
    peer.pump()
    while not any(getattr(event, "opcode", None) is Opcode.PONG for event in peer.protocol.events_received()):
        gevent.sleep(0.001)
        peer.pump()
    held = [value for value in vars(peer.ws).values() if isinstance(value, (list, dict, set, collections.deque))]
    assert max(map(len, held)) < 10
    peer.protocol.send_continuation(b"ended", fin=True)
    peer.pump()
    assert peer.ws.receive(timeout=30) == "begun" + (piece * count).decode() + "ended"
    peer.close()
