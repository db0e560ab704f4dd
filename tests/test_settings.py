"""settings.py: what may be set, what may not, and what is said then."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from channels import settings
from channels.errors import BadSetting
from channels.settings import FIELDS, Settings, from_environment, make


def test_the_defaults_are_valid_by_their_own_rules() -> None:
    assert make([]) == make([{name: getattr(Settings(), name) for name in FIELDS}]) == Settings()


def test_later_layers_win() -> None:
    assert make([{"workers": 2, "backlog": 7}, {"workers": "3"}]).workers == 3
    assert make([{"workers": 2, "backlog": 7}, {"workers": "3"}]).backlog == 7


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_what_it_is_for_and_numbers_have_bounds(name: str) -> None:
    field = FIELDS[name]
    assert field.metadata["doc"]
    if str(field.type) in ("int", "float"):
        assert field.metadata["check"] is not None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("workers", "four", "must be a whole number"),
        ("workers", 0, "must be between 1 and 120"),
        ("workers", 2.5, "must be a whole number"),
        ("workers", True, "must be a whole number"),
        ("workers", None, "must be a whole number"),
        ("workers", [1], "must be a whole number"),
        ("workers", "1e3", "must be a whole number"),
        ("workers", math.inf, "must be a whole number"),
        ("workers", math.nan, "must be a whole number"),
        ("timeout", "soon", "must be a number"),
        ("timeout", True, "must be a number"),
        ("timeout", "nan", "must be between"),
        ("timeout", "inf", "must be between"),
        ("timeout", -1, "must be between"),
        ("timeout", [], "must be a number"),
        ("daemon", "maybe", "must be true or false"),
        ("daemon", 2, "must be true or false"),
        ("app", 3, "must be text"),
        ("user", 1000, None),
        ("bind", 8000, "must be a list"),
        ("bind", [8000], "must be a list of text"),
        ("bind", [], "must not be empty"),
        ("bind", "", "must not be empty"),
        ("raw_env", ["NAME"], "'NAME' is not NAME=VALUE"),
        ("raw_env", "=x", "is not NAME=VALUE"),
        ("ring_size", 5000, "must be a power of two"),
        ("umask", "999", "must be"),
        ("umask", "0o22", None),
        ("loglevel", "loud", "must be one of debug, info"),
        ("loglevel", "INFO", None),
        ("pidfile", "a\0b", "must be text without NUL"),
    ],
)
def test_a_value_that_cannot_be_says_so_with_its_name(name: str, value: Any, says: str | None) -> None:
    if says is None:
        make([{name: value}])
        return
    with pytest.raises(BadSetting) as caught:
        make([{name: value}])
    assert says in str(caught.value) and str(caught.value).startswith(f"setting {name}=")
    assert caught.value.name == name


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(BadSetting, match="there is no such setting; did you mean workers\\?"):
        make([{"wokers": 3}])
    with pytest.raises(BadSetting, match="there is no such setting; see `channels --help`"):
        make([{"xyzzy": 3}])


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False), ("", False), ("TRUE", True)])
def test_yes_and_no_are_understood_as_text(text: str, value: bool) -> None:
    assert make([{"daemon": text}]).daemon is value


def test_lists_are_understood_with_commas_and_spaces() -> None:
    assert make([{"bind": "127.0.0.1:1, unix:/x"}]).bind == ["127.0.0.1:1", "unix:/x"]
    assert make([{"bind": ("127.0.0.1:1",)}]).bind == ["127.0.0.1:1"]


def test_a_list_of_the_defaults_is_nobodys_to_change() -> None:
    Settings().bind.append("x")
    assert Settings().bind == ["127.0.0.1:8000"]


def test_octal_is_octal_as_text_and_a_number_is_a_number() -> None:
    assert make([{"umask": "022"}]).umask == make([{"umask": "0o022"}]).umask == make([{"umask": 0o022}]).umask == 18


def test_max_workers_below_workers_is_refused() -> None:
    with pytest.raises(BadSetting, match="must be at least workers=4"):
        make([{"workers": 4, "max_workers": 2}])


def test_a_soft_limit_above_the_hard_one_is_refused() -> None:
    with pytest.raises(BadSetting, match="must not be more than spill_hard"):
        make([{"spill_soft": 2000, "spill_hard": 1000}])


def test_slots_hold_the_router_the_most_workers_and_their_successors() -> None:
    assert make([{"workers": 4}]).most_workers == 8
    assert make([{"workers": 4}]).slots == 1 + 8 + 4
    assert make([{"workers": 1, "max_workers": 3}]).slots == 1 + 3 + 2


def test_as_many_workers_as_may_be_fit_the_segment() -> None:
    assert make([{"workers": 120}]).slots <= settings.SLOTS_MAX
    assert make([{"workers": 60, "max_workers": 120}]).slots <= settings.SLOTS_MAX


def test_the_environment_gives_what_begins_with_channels() -> None:
    found = from_environment({"CHANNELS_WORKERS": "3", "CHANNELS_NOTHING": "x", "WORKERS": "5"})
    assert found == {"workers": "3"}


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().workers = 3  # type: ignore[misc]
