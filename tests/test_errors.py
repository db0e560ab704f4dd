"""errors.py: each knows its facts, has a builtin beside the root, and says what to do."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle

import pytest

from channels import errors

EXAMPLES = [
    errors.NotAttached("channel_send"),
    errors.ForkedProcess("channel_send"),
    errors.BadChannelName("", "is empty"),
    errors.BadAlertName("x" * 300),
    errors.MessageTooBig(10, 5),
    errors.RingFull("the router", 5.0),
    errors.ChannelTableFull(16),
    errors.RouterUnavailable("a join", 1.0),
    errors.WorkerGone(7),
    errors.CallTimeout(7, "sum", 1.0),
    errors.RemoteError(7, "sum", "ZeroDivisionError"),
    errors.AlertLoop(17),
    errors.SubscriptionClosed(),
    errors.StreamEnded(),
    errors.ClientGone(),
    errors.Draining(),
    errors.Restarting(),
    errors.WebSocketClosed(1001, "going away"),
    errors.BadSetting("workers", 0, "must be more"),
    errors.SegmentError("the segment is too large"),
    errors.CommonsDamaged("the cache"),
]
CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, errors.ChannelsError)]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_it_says_a_sentence_and_survives_a_copy_and_a_pickle(error: errors.ChannelsError) -> None:
    assert 10 < len(str(error)) < 300 and "object at 0x" not in str(error)
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error) and str(other) == str(error) and other.__dict__ == error.__dict__


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_who_knows_nothing_of_this_package_can_catch_it_by_a_builtin(kind: type) -> None:
    if kind is not errors.ChannelsError:
        names = {parent.__name__ for parent in kind.__mro__ if parent.__module__ == "builtins"}
        assert names - {"object", "BaseException", "Exception"} <= set(dir(builtins))
        assert names - {"object", "BaseException", "Exception"}


def test_each_error_has_an_example_here() -> None:
    assert {kind.__name__ for kind in CLASSES} - {type(error).__name__ for error in EXAMPLES} == {"ChannelsError"}


def test_a_long_name_is_shown_short() -> None:
    assert len(str(errors.BadChannelName("x" * 5000, "is too long"))) < 200
    assert len(str(errors.BadSetting("app", "x" * 5000, "is too long"))) < 200
