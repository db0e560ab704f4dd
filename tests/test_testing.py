"""The fabric for applications' tests: it works in one process, and leaves nothing behind."""

from __future__ import annotations

import os

import pytest

import channels
from channels import alerts, testing
from channels.errors import NotAttached


def test_channels_and_alerts_work_and_end_with_the_block() -> None:
    with testing.local():
        with channels.subscribe("a", "b:*") as sub:
            assert channels.channel_send("a", b"1") == 1
            assert channels.channel_send("b:c", b"2") == 1
            assert sorted(sub.get(timeout=10).data for _ in range(2)) == [b"1", b"2"]
        alerts.receive("sum", lambda data: b"%d" % sum(map(int, data.split())))
        assert alerts.call(os.getpid(), "sum", b"1 2", timeout=10) == b"3"
        assert channels.worker_id() == 1
    with pytest.raises(NotAttached):
        channels.channel_send("a", b"1")


def test_settings_may_be_given() -> None:
    with testing.local(message_max=10), pytest.raises(channels.MessageTooBig):
        channels.channel_send("a", b"more than ten")


def test_one_at_a_time() -> None:
    with testing.local(), pytest.raises(RuntimeError, match="already"), testing.local():
        pass


def test_it_leaves_no_descriptor_behind() -> None:
    with testing.local():
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with testing.local():
            channels.channel_send("a", b"")
    assert len(os.listdir("/proc/self/fd")) == before
