"""settings_file.py: a Python file whose names are settings and hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from channels import settings_file
from channels.errors import BadSetting


def read(tmp_path: Path, text: str) -> tuple[dict[str, object], dict[str, object]]:
    path = tmp_path / "file.py"
    path.write_text(text)
    values, hooks = settings_file.read(str(path), must_exist=True)
    return values, dict(hooks)


def test_names_are_settings_and_functions_are_hooks(tmp_path: Path) -> None:
    values, hooks = read(tmp_path, "workers = 1 + 2\nbind = ['unix:/x']\ndef when_ready(server): pass\n")
    assert values == {"workers": 3, "bind": ["unix:/x"]} and list(hooks) == ["when_ready"]


def test_gunicorns_name_of_the_application_is_understood(tmp_path: Path) -> None:
    assert read(tmp_path, "wsgi_app = 'a:b'\n")[0] == {"app": "a:b"}


def test_imports_helpers_classes_and_private_names_are_the_files_own(tmp_path: Path) -> None:
    text = "import os\nfrom pathlib import Path\n_n = 3\ndef helper(): return 4\nclass C: pass\nworkers = helper()\n"
    assert read(tmp_path, text) == ({"workers": 4}, {})


def test_hooks_see_the_files_own_names(tmp_path: Path) -> None:
    _, hooks = read(tmp_path, "_seen = []\ndef on_exit(server):\n    _seen.append(server)\n    return _seen\n")
    assert hooks["on_exit"](7) == [7]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers = = 3\n", "line 1"),
        ("\n\nworkers = nothing\n", "line 3: NameError"),
        ("def f():\n    return 1 / 0\nworkers = f()\n", "line 2: ZeroDivisionError"),
        ("import no_such_module_at_all\n", "line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit"),
        ("wrokers = 3\n", "there is no such setting"),
        ("when_ready = 3\n", "there is no such setting"),
        ("workers = '\0'\n", "line"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read(tmp_path, text)
    assert says in str(caught.value) and "file.py" in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_only_when_it_was_asked_for(tmp_path: Path) -> None:
    assert settings_file.read(str(tmp_path / "none.py"), must_exist=False) == ({}, {})
    with pytest.raises(BadSetting, match="there is no such file"):
        settings_file.read(str(tmp_path / "none.py"), must_exist=True)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="Is a directory"):
        settings_file.read(str(tmp_path), must_exist=True)
