"""Streams without greenlets: every client gets every frame once, whole and in order, or is told what it missed."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import gevent
import pytest

from channels.core import native
from tests.cluster import Cluster

TEXT, BINARY = 0x81, 0x82


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as made:
        yield made


@pytest.fixture
def alone():
    """A worker whose settings the test chooses: a function that makes it."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Cluster(workers=1, **settings)).workers[1]


class Owner:
    def __init__(self):
        self.events = []
        self.drained = 0

    def stream_event(self, stream, what):
        self.events.append(what)

    def stream_drain(self, stream):
        self.drained += 1
        stream.end(b"")


class Peer:
    """The client's end of a stream."""

    def __init__(self, streams, kind, *names, buffer=0):
        self.sock, self.server = socket.socketpair()
        self.sock.setblocking(False)
        self.server.setblocking(False)
        if buffer:
            self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.owner = Owner()
        self.stream = streams.open(self.server.fileno(), kind, self.owner)
        if names:
            streams.join(self.stream, *names)
        self.data = b""

    def read(self, size=None, until=None, seconds=10.0):
        """What has come; waits until it is so much, or ends so."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(BlockingIOError):
                while part := self.sock.recv(1 << 16):
                    self.data += part
            if (size is None or len(self.data) >= size) and (until is None or self.data.endswith(until)):
                return self.data
            assert time.monotonic() < deadline, f"only {len(self.data)} bytes came: {self.data[-200:]!r}"
            gevent.sleep(0.002)


def fresh():
    """This worker's streams, made anew for each test."""
    from channels.worker import client
    from channels.worker.streams import Streams

    return Streams(client.current())


def settle(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        gevent.sleep(0.002)


def send(channel, *bodies):
    from channels import channel_send

    return [channel_send(channel, body) for body in bodies]


def frames(data):
    """WebSocket frames as the client reads them: (first byte, payload)."""
    found = []
    while data:
        size, at = data[1], 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= at + size, "the last frame is cut"
        found.append((data[0], data[at : at + size]))
        data = data[at + size :]
    return found


# ---- what is written ----


def _every_kind():
    streams = fresh()
    peers = [Peer(streams, kind, "kinds") for kind in range(4)]
    send("kinds", "grüße\nzweite".encode(), b"\xff\x00", b"x" * 70000)
    events = "data: grüße\ndata: zweite\n\n".encode()
    sse = peers[0].read(until=b"x\n\n")
    assert sse.startswith(b"id: ")
    assert events in sse
    assert sse.count(b"id: ") == 3
    chunked = peers[1].read(until=b"x\n\n\r\n")
    whole = b""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        assert rest[int(size, 16) :][:2] == b"\r\n"
        chunked = rest[int(size, 16) + 2 :]
    assert whole == sse
    text = frames(peers[2].read(size=70000 + 10 + len("grüße\nzweite".encode()) + 2 + 4))
    assert [first for first, _ in text] == [TEXT, BINARY, TEXT]
    assert text[2][1] == b"x" * 70000
    assert [first for first, _ in frames(peers[3].read(size=70000))] == [BINARY] * 3


def test_each_kind_of_stream_gets_its_own_frames(cluster):
    cluster.workers[1].run(_every_kind)


def _lines():
    from channels import subscribe
    from channels.worker.streams import chunk

    with subscribe("lines") as subscription:
        send("lines", b"a\r\nb\rc\nd", b"", b"\n", b"end\n")
        taken = [native.frame(native.SSE, subscription.get(5)) for _ in range(4)]
        broken = b"\xe2\x82A\xf0\x9f\x98\xff\xed\xa0\x80\xc0\xaf\xf4\x90z\xe2\x82"
        send("lines", broken)
        assert native.frame(native.SSE, subscription.get(5)).endswith(
            b"data: " + broken.decode("utf-8", "replace").encode() + b"\n\n"
        )
        send("lines", b"once more")
        message = subscription.get(5)
    data = [part.partition(b"\n")[2] for part in taken]
    assert data[0] == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert data[1] == b"data: \n\n"
    assert data[2] == b"data: \ndata: \n\n"
    assert data[3] == b"data: end\ndata: \n\n"
    assert native.frame(native.SSE_CHUNKED, message) == chunk(native.frame(native.SSE, message))
    assert f"id: {message.id}\n".encode() in native.frame(native.SSE, message)
    gap = native.gap_frame(native.SSE, 3, 'a"\\b é').decode()
    assert gap.startswith("event: gap\ndata: ")
    assert json.loads(gap.split("data: ")[1]) == {"channel": 'a"\\b é', "missed": 3}
    assert json.loads(native.gap_frame(native.SSE, 1)[17:]) == {"channel": None, "missed": 1}
    with pytest.raises(ValueError):
        native.frame(4, message)


def test_every_line_break_of_a_body_begins_a_data_field(cluster):
    cluster.workers[1].run(_lines)


def _events():
    from channels import publish

    streams = fresh()
    peer = Peer(streams, native.SSE, "named")
    publish("named", {"a": 1}, event="joined")
    assert b'\nevent: joined\ndata: {"a":1}\n\n' in peer.read(until=b"\n\n")


def test_the_name_of_an_event_reaches_the_stream(cluster):
    cluster.workers[1].run(_events)


# ---- who gets what ----


def _many_groups():
    streams = fresh()
    a, b, both, prefix = (
        Peer(streams, native.WS_TEXT, *names) for names in (["g:a"], ["g:b"], ["g:a", "g:b"], ["g:a"])
    )
    streams.join(prefix.stream, prefixes=["g:"])
    assert streams.names(prefix.stream) == ["g:*", "g:a"]
    late = Peer(streams, native.WS_TEXT)
    send("g:a", b"1")
    send("g:b", b"2")
    settle(lambda: len(both.read()) == 6)
    streams.join(late.stream, "g:b")
    send("g:a", b"3")
    send("g:c", b"4")
    send("g:b", b"5")
    settle(lambda: len(prefix.read()) == 15)
    texts = [[payload for _, payload in frames(peer.read())] for peer in (a, b, both, prefix, late)]
    assert texts == [
        [b"1", b"3"],
        [b"2", b"5"],
        [b"1", b"2", b"3", b"5"],
        [b"1", b"2", b"3", b"4", b"5"],
        [b"5"],
    ]
    streams.leave(both.stream, "g:a")
    assert streams.names(both.stream) == ["g:b"]
    send("g:a", b"6")
    send("g:b", b"7")
    settle(lambda: b"7" in both.read())
    assert [payload for _, payload in frames(both.read())][4:] == [b"7"]


def test_each_stream_gets_what_it_joined_once_and_in_order(cluster):
    cluster.workers[1].run(_many_groups)


def _stars():
    streams = fresh()
    literal, both = Peer(streams, native.WS_TEXT, "star:*"), Peer(streams, native.WS_TEXT, "star:*")
    streams.join(both.stream, prefixes=["star:"])
    send("star:1", b"1")
    send("star:*", b"2")
    send("star:**", b"3")
    settle(lambda: len(both.read()) == 9)
    texts = [[payload for _, payload in frames(peer.read())] for peer in (literal, both)]
    assert texts == [[b"2"], [b"1", b"2", b"3"]]
    streams.leave(both.stream, prefixes=["star:"])
    assert streams.names(both.stream) == ["star:*"]
    send("star:1", b"4")
    send("star:*", b"5")
    settle(lambda: b"5" in both.read())
    assert [payload for _, payload in frames(both.read())][3:] == [b"5"]


def test_a_stream_s_names_are_literal_and_its_prefixes_are_its_own(cluster):
    cluster.workers[1].run(_stars)


def _moving(rounds):
    """Streams that change their groups while messages come: nothing lost, nothing twice."""
    streams = fresh()
    peers = [Peer(streams, native.WS_BINARY, "moving") for _ in range(5)]

    def change(peer, number):
        for turn in range(rounds):
            streams.join(peer.stream, f"other:{number}:{turn % 3}")
            gevent.sleep(0)
            streams.leave(peer.stream, f"other:{number}:{turn % 3}")

    greenlets = [gevent.spawn(change, peer, number) for number, peer in enumerate(peers)]
    sent = 0
    while not all(greenlet.ready() for greenlet in greenlets):
        send("moving", *(b"%08d" % (sent + i) for i in range(10)))
        sent += 10
        gevent.sleep(0)
        for peer in peers:
            peer.read()
    gevent.joinall(greenlets, raise_error=True)
    for peer in peers:
        payloads = [payload for _, payload in frames(peer.read(size=10 * sent))]
        assert payloads == [b"%08d" % i for i in range(sent)]
    return sent


def test_a_stream_that_changes_channels_under_load_loses_nothing_of_those_it_stays_in(cluster):
    assert cluster.workers[1].run(_moving, 20) > 100


# ---- who cannot take it ----


def _slow(limit):
    streams = fresh()
    slow = Peer(streams, native.SSE, "slow", buffer=4096)
    quick = Peer(streams, native.SSE, "slow")
    count, most = 2000, 0
    for number in range(count):
        send("slow", b"%06d" % number + b"." * 1000)
        if number % 50 == 0:
            gevent.sleep(0.001)
            quick.read()
            most = max(most, slow.stream.waiting)
    settle(lambda: quick.read().endswith(b"%06d" % (count - 1) + b"." * 1000 + b"\n\n"))
    assert quick.data.count(b"\ndata: ") == count
    assert most <= limit + 64 * 1024
    assert slow.owner.events == ["gap"]
    send("slow", b"the last")
    settle(lambda: b"event: gap" in slow.read())
    send("slow", b"after")
    data = slow.read(until=b"data: after\n\n")
    whole = [part for part in data.split(b"\n\n") if part]
    missed = sum(json.loads(part.split(b"data: ")[1])["missed"] for part in whole if b"event: gap" in part)
    numbers = [int(part.split(b"id: ")[1].split(b"\n")[0].split(b"-")[1]) for part in whole if b"id: " in part]
    assert numbers == sorted(numbers)
    assert len(numbers) + missed == count + 2
    assert missed == slow.stream.missed > 0
    return len(numbers), missed


def test_a_client_that_is_behind_is_told_how_many_it_missed(alone):
    limit = 100_000
    taken, missed = alone(stream_buffer=limit).run(_slow, limit)
    assert taken > 0
    assert missed > 0


def _gap_before_the_end(leave):
    """A client that missed messages is ended: the gap comes before the last bytes, and nothing behind them."""
    streams = fresh()
    slow = Peer(streams, native.WS_TEXT, "ending", buffer=4096)
    while not slow.owner.events:
        send("ending", b"." * 4000)
        gevent.sleep(0)
    close = b"\x88\x02\x03\xf4"
    if leave:
        streams.quit(slow.stream)
        slow.stream.send(close)
        slow.stream.want_room = True
    else:
        slow.stream.end(close)
    settle(lambda: slow.read() and slow.owner.events[-1] in ("room", "done"))
    *_, (first, gap), (last, _) = frames(slow.read(until=close))
    assert (first, last) == (TEXT, close[0])
    assert json.loads(gap) == {"event": "gap", "channel": "ending", "missed": slow.stream.missed}
    assert slow.stream.missed > 0


@pytest.mark.parametrize("leave", [False, True])
def test_a_gap_is_told_before_the_last_bytes_and_never_behind_them(alone, leave):
    alone(stream_buffer=100_000).run(_gap_before_the_end, leave)


def _whole_frames():
    """A stream's own frames and those of its channels never cut each other, however little the client takes."""
    streams = fresh()
    peer = Peer(streams, native.WS_BINARY, "whole", buffer=4096)
    body = bytes(range(256)) * 20
    own = b"\x82\x7e" + len(body).to_bytes(2, "big") + body
    for number in range(200):
        send("whole", b"%04d" % number + body)
        peer.stream.send(own)
        if number % 10 == 0:
            gevent.sleep(0.001)
            with contextlib.suppress(BlockingIOError):
                peer.data += peer.sock.recv(777)
    found = frames(peer.read(size=200 * (2 * len(body) + 12)))
    assert [payload[:4] for _, payload in found if payload != body] == [b"%04d" % number for number in range(200)]
    assert sum(payload == body for _, payload in found) == 200


def test_frames_from_two_sides_are_never_cut_or_mixed(alone):
    alone(stream_buffer=64 << 20).run(_whole_frames)


def _large():
    streams = fresh()
    peers = [Peer(streams, native.WS_BINARY, "large", buffer=4096) for _ in range(3)]
    body = bytes(range(256)) * 8192
    send("large", body, b"next")
    for peer in peers:
        assert [payload for _, payload in frames(peer.read(size=len(body) + 16))] == [body, b"next"]


def test_a_message_larger_than_the_buffer_reaches_a_client_that_reads(alone):
    alone(stream_buffer=4096).run(_large)


# ---- the end ----


def _gone():
    streams = fresh()
    peers = [Peer(streams, native.WS_TEXT, "gone") for _ in range(40)]
    for peer in peers[::2]:
        peer.sock.close()
    settle(lambda: all(peer.owner.events == ["gone"] for peer in peers[::2]))
    assert len(streams) == 20
    send("gone", b"still here")
    for peer in peers[1::2]:
        assert frames(peer.read(size=12)) == [(TEXT, b"still here")]
        assert peer.owner.events == []
    for peer in peers[1::2]:
        streams.forget(peer.stream)
    settle(lambda: send("gone", b"nobody") == [0])


def test_clients_that_go_are_noticed_while_nothing_is_sent_and_the_channel_is_left_with_the_last(cluster):
    cluster.workers[1].run(_gone)


def _ends():
    streams = fresh()
    peer = Peer(streams, native.SSE, "ends", buffer=4096)
    send("ends", b"x" * 100_000)
    settle(lambda: peer.stream.waiting)
    peer.stream.end(b"last")
    assert peer.owner.events == []
    send("ends", b"too late")
    data = peer.read(until=b"last")
    assert data.count(b"data: ") == 1
    settle(lambda: peer.owner.events == ["done"])
    assert peer.stream.ended


def test_a_stream_ends_behind_what_waits_for_it(cluster):
    cluster.workers[1].run(_ends)


def _drains():
    from channels import subscribe
    from channels.worker.streams import StreamStart

    streams = fresh()
    peers, ends = [], []
    for _ in range(30):
        peer = Peer(streams, native.SSE)
        streams.forget(peer.stream)
        streams.take_over(StreamStart.make(b"", subscribe("drain")), peer.server.fileno(), True, ends.append)
        peers.append(peer)
    websocket = Peer(streams, native.WS_TEXT, "drain")
    streams.drain(0.2)
    settle(lambda: len(ends) == 30 and websocket.owner.drained)
    assert set(ends) == {"done"}
    retries = set()
    for peer in peers:
        text = peer.read(until=b"0\r\n\r\n")
        retries.add(int(text.split(b"retry: ")[1].split(b"\n")[0]))
    assert len(retries) > 10
    late = Peer(streams, native.SSE)
    streams.forget(late.stream)
    streams.take_over(StreamStart.make(b"", subscribe("drain")), late.server.fileno(), True, ends.append)
    late.read(until=b"0\r\n\r\n")


def test_a_drain_ends_every_stream_cleanly_and_sends_the_clients_back_at_different_times(alone):
    alone(drain_spread=1.0).run(_drains)


def _heartbeats():
    streams = fresh()
    quiet = Peer(streams, native.SSE_CHUNKED, "quiet")
    websocket = Peer(streams, native.WS_TEXT, "quiet")
    quiet.read(until=b"3\r\n:\n\n\r\n")
    assert websocket.read() == b""


def test_a_quiet_event_stream_gets_a_sign_of_life(alone):
    alone(stream_heartbeat=0.05).run(_heartbeats)


def _stuck_heartbeats():
    streams = fresh()
    peer = Peer(streams, native.SSE, "stuck", buffer=4096)
    send("stuck", b"x" * 50_000)
    settle(lambda: peer.stream.waiting)
    before = peer.stream.waiting
    gevent.sleep(0.5)
    return peer.stream.waiting - before


def test_signs_of_life_for_a_client_that_takes_nothing_stay_within_the_bound(alone):
    assert alone(stream_heartbeat=0.005, stream_buffer=4096).run(_stuck_heartbeats) <= 4096


def _worker_gap():
    streams = fresh()
    sse = Peer(streams, native.SSE, "ring")
    websocket = Peer(streams, native.WS_TEXT, "ring")
    time.sleep(1.0)  # the hub stands still while the other worker floods the ring and the spill
    settle(lambda: b"gap" in sse.read(), seconds=20)
    settle(lambda: "gap" in websocket.owner.events)
    missed = sum(int(part.split(b"}")[0]) for part in sse.read().split(b'"missed":')[1:])
    return missed, sse.data.count(b"id: ")


def _flood(count):
    from channels import channel_send

    while not channel_send("ring", b"first"):
        gevent.sleep(0.001)
    for _ in range(count):
        channel_send("ring", b"y" * 1000, timeout=None)


def test_what_the_worker_itself_missed_is_told_to_its_streams():
    with Cluster(workers=2, spill_soft=65536, spill_soft_time=0.1, spill_hard=65536) as made:
        made.workers[1].start(_worker_gap)
        made.workers[2].run(_flood, 2000)
        missed, taken = made.workers[1].result()
        assert missed > 0
        assert taken > 0
