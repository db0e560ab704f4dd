"""MODULE:NAME -> the WSGI application."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Callable, Protocol

from channels.assignment import Assignment
from channels.errors import BadSetting

WSGIApplication = Callable[..., Any]


class Extension(Protocol):
    """What of the web's side wants to be told of a worker's life; `extension()` of a module makes one."""

    def attached(self, given: Assignment) -> None:
        """Channels and alerts work; the application is not imported yet."""

    def loaded(self, application: WSGIApplication) -> WSGIApplication:
        """It is; what is served instead."""

    def serving(self) -> None:
        """About to accept; alerts come already.  May wait."""

    def draining(self) -> None:
        """Nothing new is accepted any more; what runs may finish."""

    def ended(self) -> None:
        """The last request is answered."""


def set_environment(entries: Sequence[str]) -> None:
    """NAME=VALUE each, for the application."""
    for entry in entries:
        name, _, value = entry.partition("=")
        os.environ[name] = value


def load(text: str, chdir: str = "") -> WSGIApplication:
    """Import the application; whatever its module raises passes.

    Args:
        text: "MODULE:NAME", "MODULE:NAME.ATTRIBUTE", "MODULE:FACTORY(literal, name=literal)", or "MODULE" alone, which
            means its `application` or `app`.

    Raises:
        BadSetting: The text says no such thing, or what it names is not callable.
    """
    if chdir:
        os.chdir(chdir)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module_name, _, name = text.partition(":")
    if not module_name:
        raise BadSetting("app", text, "must be MODULE:NAME")
    module = importlib.import_module(module_name)
    if not name:
        found = getattr(module, "application", None) or getattr(module, "app", None)
        if found is None:
            raise BadSetting(
                "app", text, f"{module_name} has neither `application` nor `app`; write {module_name}:NAME"
            )
    else:
        found = _evaluate(module, name, text)
    if not callable(found):
        raise BadSetting("app", text, f"is {type(found).__name__}, not a WSGI application")
    return found  # type: ignore[no-any-return]


def _evaluate(module: Any, name: str, text: str) -> Any:
    try:
        expression = ast.parse(name, mode="eval").body
    except SyntaxError:
        raise BadSetting("app", text, f"{name!r} is neither a name nor a call") from None
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    target = expression
    if isinstance(expression, ast.Call):
        target = expression.func
        try:
            arguments = [ast.literal_eval(argument) for argument in expression.args]
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in expression.keywords}
        except ValueError:
            raise BadSetting("app", text, "a factory takes literals only") from None
    found = module
    for part in _dotted(target, name, text):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise BadSetting("app", text, f"{module.__name__} has no {name!r}") from None
    return found(*arguments, **keywords) if isinstance(expression, ast.Call) else found


def _dotted(node: ast.expr, name: str, text: str) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value, name, text), node.attr]
    raise BadSetting("app", text, f"{name!r} is neither a name nor a call")
