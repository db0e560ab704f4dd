"""`from channels import alerts`: the public face of channels.worker.alerts, where it is documented."""

from __future__ import annotations

from typing import Any

from channels.worker import alerts as _alerts
from channels.worker.alerts import broadcast, call, call_all, receive, reply, send


def __getattr__(name: str) -> Any:
    if name == "sender":
        return _alerts.sender()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["broadcast", "call", "call_all", "receive", "reply", "send", "sender"]  # noqa: F822
