"""Responses that are handed over to a stream: nothing is lost on the way, or they are as they were."""

from __future__ import annotations

import gevent
import pytest

from channels.core import native
from tests.cluster import Cluster
from tests.worker.test_streams import Peer, fresh, send, settle


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=2) as made:
        yield made


def _taken_over():
    from channels import subscribe
    from channels.worker.streams import StreamStart

    streams = fresh()
    peer = Peer(streams, native.SSE)
    streams.forget(peer.stream)
    subscription = subscribe("taken", "takenover:", "takenover:*")  # a name that is a prefix, too
    send("taken", b"1", b"2")
    settle(lambda: subscription.pending == 2)
    send("takenover:x", b"3")  # on its way
    reasons = []
    streams.take_over(StreamStart.make(b"", subscription), peer.server.fileno(), False, reasons.append)
    subscription.close()
    send("taken", b"4")
    send("takenover:y", b"5")
    data = peer.read(until=b"data: 5\n\n")
    assert [line for line in data.splitlines() if line.startswith(b"data")] == [b"data: %d" % i for i in range(1, 6)]
    peer.sock.close()
    settle(lambda: reasons == ["gone"])


def test_a_subscription_handed_over_goes_on_where_it_was(cluster):
    cluster.workers[1].run(_taken_over)


def _not_taken_over():
    from channels import subscribe
    from channels.errors import RouterUnavailable
    from channels.worker.streams import StreamStart

    def fails(*_):
        raise RouterUnavailable("of the test", 1.0)

    streams = fresh()
    peer = Peer(streams, native.SSE)
    streams.forget(peer.stream)
    streams._move = fails
    ends = []
    with pytest.raises(RouterUnavailable):
        streams.take_over(StreamStart.make(b"", subscribe("taken")), peer.server.fileno(), False, ends.append)
    gevent.sleep(0.01)
    assert ends == []
    assert len(streams) == 0


def test_a_response_that_could_not_be_taken_over_is_its_owner_s_again(cluster):
    cluster.workers[1].run(_not_taken_over)
