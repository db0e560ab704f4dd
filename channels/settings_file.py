"""A Python file of settings: its names are settings and hooks."""

from __future__ import annotations

import os
import runpy
import types
from typing import Any, Callable

from channels import settings
from channels.errors import BadSetting
from channels.hooks import NAMES

DEFAULT = "channels.conf.py"


def read(path: str, must_exist: bool) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """(settings, hooks).  Raises BadSetting with the line where the file fails."""
    if not os.path.exists(path):
        if must_exist:
            raise BadSetting("config", path, "there is no such file")
        return {}, {}
    try:
        names = runpy.run_path(path, run_name="__channels_config__")
    except SyntaxError as error:
        raise BadSetting("config", path, f"line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        line = _line_in(path, error.__traceback__)
        raise BadSetting("config", path, f"line {line}: {type(error).__name__}: {error}") from error
    values: dict[str, Any] = {}
    hooks: dict[str, Callable[..., Any]] = {}
    for name, value in names.items():
        if name in settings.FIELDS:
            values[name] = value
        elif name in NAMES and callable(value):
            hooks[name] = value
        elif not name.startswith("_") and not isinstance(value, (types.ModuleType, type)) and not callable(value):
            raise BadSetting(
                name, value, f"{path} sets it, but there is no such setting; begin its name with _ to keep it"
            )
    return values, hooks


def _line_in(path: str, trace: types.TracebackType | None) -> int:
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
