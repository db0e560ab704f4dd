"""The server's configuration and the settings that fill it."""

from __future__ import annotations

import dataclasses

from channels.settings import Settings, make
from channels.worker.http.config import HttpConfig
from channels.worker.serve import http_config


def test_every_field_can_be_set_in_the_settings() -> None:
    names = {field.name for field in dataclasses.fields(HttpConfig)}
    internal = {"limit_request_head", "linger_timeout", "multiprocess", "access_log_buffer"}
    assert names - internal - {field.name for field in dataclasses.fields(Settings)} == set()


def test_defaults_are_the_same_in_both_places() -> None:
    assert http_config(make([{"workers": 1}])) == dataclasses.replace(
        HttpConfig(), forwarded_allow_ips=["127.0.0.1", "::1"], proxy_allow_ips=["127.0.0.1", "::1"]
    )


def test_several_workers_are_several_processes() -> None:
    assert http_config(make([{"workers": 2}])).multiprocess
