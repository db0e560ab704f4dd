from __future__ import annotations

import pytest

from channels.core.commons import plan
from channels.errors import BadSetting
from channels.settings import make


def test_the_settings_say_what_there_is() -> None:
    settings = make(
        [
            {
                "uwsgi_cache": ["a:10:64", "b:20:128"],
                "uwsgi_queue": 7,
                "uwsgi_sharedarea": ["100", "200"],
                "uwsgi_mules": 2,
                "uwsgi_farms": ["pool:1:2"],
            }
        ]
    )
    found = {(part.kind, part.name): part.sizes for part in plan.parts(settings, 9)}
    assert found["roster", ""] == (9,)
    assert found["cache", "a"] == (10, 64) and found["cache", "b"] == (20, 128)
    assert found["queue", ""] == (7, 8192) and found["area", "1"] == (200,)
    assert {name for kind, name in found if kind == "queue"} == {"", "/mules", "/mule1", "/mule2", "/farm:pool"}


def test_nothing_is_made_when_the_module_is_off() -> None:
    assert plan.parts(make([{"no_uwsgi": True}]), 9) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"uwsgi_cache": ["a:b"]},
        {"uwsgi_cache": ["a:1:8", "a:2:8"]},
        {"uwsgi_cache": ["a:0:8"]},
        {"uwsgi_sharedarea": ["x"]},
        {"uwsgi_farms": ["pool"]},
        {"uwsgi_farms": ["pool:3"], "uwsgi_mules": 2},
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSetting):
        make([wrong])
