"""A Python file of settings: its names are settings and hooks."""

from __future__ import annotations

import types
from typing import Any, Callable

from channels import settings
from channels.errors import BadSetting
from channels.hooks import NAMES

DEFAULT = "channels.conf.py"
ALIASES = {"wsgi_app": "app"}  # gunicorn's name -> ours


def read(path: str, must_exist: bool) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """(settings, hooks).  Raises BadSetting with the line where the file fails."""
    names: dict[str, Any] = {"__name__": "__channels_config__", "__file__": path}
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec")
        exec(code, names)
    except FileNotFoundError as error:
        if error.filename == path and not must_exist:
            return {}, {}
        raise BadSetting("config", path, f"there is no such file: {error.filename}") from None
    except SyntaxError as error:
        raise BadSetting("config", path, f"line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        line = _line_in(path, error.__traceback__)
        where = f"line {line}: " if line else ""
        raise BadSetting("config", path, f"{where}{type(error).__name__}: {error}") from error
    values: dict[str, Any] = {}
    hooks: dict[str, Callable[..., Any]] = {}
    names.pop("__builtins__", None)
    for written, value in names.items():
        name = ALIASES.get(written, written)
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
