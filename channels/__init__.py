"""Real-time for WSGI without a broker.

The front door: every public name, imported on first use (PEP 562), so that a master that forks stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "channel_send": "channels.core.native",
    "channel_join": "channels.worker.subscription",
    "channel_leave": "channels.worker.subscription",
    "channel_fd": "channels.worker.subscription",
    "channel_recv": "channels.worker.subscription",
    "wait_fd_read": "channels.worker.waiting",
    "wait_fd_write": "channels.worker.waiting",
    "subscribe": "channels.worker.subscription",
    "Message": "channels.worker.subscription",
    "Subscription": "channels.worker.subscription",
    "publish": "channels.worker.api",
    "worker_id": "channels.worker.api",
    "workers": "channels.worker.api",
    "WorkerInfo": "channels.worker.api",
    **{
        name: "channels.errors"
        for name in (
            "AlertLoop",
            "BadAlertName",
            "BadChannelName",
            "BadSetting",
            "CallTimeout",
            "ChannelTableFull",
            "ChannelsError",
            "ClientGone",
            "Draining",
            "ForkedProcess",
            "MessageTooBig",
            "NotAttached",
            "RemoteError",
            "Restarting",
            "RingFull",
            "RouterUnavailable",
            "SegmentError",
            "StreamEnded",
            "SubscriptionClosed",
            "WebSocketClosed",
            "WorkerGone",
        )
    },
}

if TYPE_CHECKING:
    from channels import alerts as alerts
    from channels.core.native import channel_send as channel_send
    from channels.errors import (
        AlertLoop as AlertLoop,
    )
    from channels.errors import (
        BadAlertName as BadAlertName,
    )
    from channels.errors import (
        BadChannelName as BadChannelName,
    )
    from channels.errors import (
        BadSetting as BadSetting,
    )
    from channels.errors import (
        CallTimeout as CallTimeout,
    )
    from channels.errors import (
        ChannelsError as ChannelsError,
    )
    from channels.errors import (
        ChannelTableFull as ChannelTableFull,
    )
    from channels.errors import (
        ClientGone as ClientGone,
    )
    from channels.errors import (
        Draining as Draining,
    )
    from channels.errors import (
        ForkedProcess as ForkedProcess,
    )
    from channels.errors import (
        MessageTooBig as MessageTooBig,
    )
    from channels.errors import (
        NotAttached as NotAttached,
    )
    from channels.errors import (
        RemoteError as RemoteError,
    )
    from channels.errors import (
        Restarting as Restarting,
    )
    from channels.errors import (
        RingFull as RingFull,
    )
    from channels.errors import (
        RouterUnavailable as RouterUnavailable,
    )
    from channels.errors import (
        SegmentError as SegmentError,
    )
    from channels.errors import (
        StreamEnded as StreamEnded,
    )
    from channels.errors import (
        SubscriptionClosed as SubscriptionClosed,
    )
    from channels.errors import (
        WebSocketClosed as WebSocketClosed,
    )
    from channels.errors import (
        WorkerGone as WorkerGone,
    )
    from channels.worker.api import (
        WorkerInfo as WorkerInfo,
    )
    from channels.worker.api import (
        publish as publish,
    )
    from channels.worker.api import (
        worker_id as worker_id,
    )
    from channels.worker.api import (
        workers as workers,
    )
    from channels.worker.subscription import (
        Message as Message,
    )
    from channels.worker.subscription import (
        Subscription as Subscription,
    )
    from channels.worker.subscription import (
        channel_fd as channel_fd,
    )
    from channels.worker.subscription import (
        channel_join as channel_join,
    )
    from channels.worker.subscription import (
        channel_leave as channel_leave,
    )
    from channels.worker.subscription import (
        channel_recv as channel_recv,
    )
    from channels.worker.subscription import (
        subscribe as subscribe,
    )
    from channels.worker.waiting import (
        wait_fd_read as wait_fd_read,
    )
    from channels.worker.waiting import (
        wait_fd_write as wait_fd_write,
    )


def __getattr__(name: str) -> Any:
    if name == "alerts":
        return importlib.import_module("channels.alerts")
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE, "alerts"])


__all__ = [*_WHERE, "alerts"]
