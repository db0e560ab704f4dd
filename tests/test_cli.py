"""cli.py: arguments, environment and file become settings; what is wrong is one clear line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from channels import __version__, cli, settings
from tests.children import in_child

APP = "tests.system.app:app"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("CHANNELS_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert cli.main([*arguments, "--print-config"]) == 0
    return dict(line.split(" = ", 1) for line in capsys.readouterr().out.splitlines())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr."""
    assert cli.main(list(arguments)) == cli.STATUS_USAGE
    error = capsys.readouterr().err
    assert error.startswith("channels: ") and error.count("\n") == 1
    return error


def test_every_setting_has_an_option_and_stands_in_the_help() -> None:
    text = cli.parser().format_help()
    for name, field in settings.FIELDS.items():
        assert name == "app" or "--" + name.replace("_", "-") in text
        assert all(flag in text for flag in field.metadata["flags"])


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-w", "3"], "workers", 3),
        (["-b", ":1", "-b", "unix:/x"], "bind", [":1", "unix:/x"]),
        (["-k", "gevent"], "worker_class", "gevent"),
        (["-t", "7"], "timeout", 7.0),
        (["--graceful-timeout", "8"], "graceful_timeout", 8.0),
        (["--max-requests", "9"], "max_requests", 9),
        (["--max-requests-jitter", "2"], "max_requests_jitter", 2),
        (["--preload"], "preload_app", True),
        (["--reload"], "reload", True),
        (["-p", "/x"], "pidfile", "/x"),
        (["--pid", "/x"], "pidfile", "/x"),
        (["-u", "nobody"], "user", "nobody"),
        (["-g", "nogroup"], "group", "nogroup"),
        (["-m", "007"], "umask", 7),
        (["--error-logfile", "/x"], "errorlog", "/x"),
        (["--log-file", "-"], "errorlog", "-"),
        (["--log-level", "debug"], "loglevel", "debug"),
        (["-e", "A=1", "--env", "B=2"], "raw_env", ["A=1", "B=2"]),
        (["-D"], "daemon", True),
        (["--daemon"], "daemon", True),
        (["a:b"], "app", "a:b"),
        (["--wsgi-app", "a:b"], "app", "a:b"),
    ],
)
def test_gunicorns_options_mean_the_same(
    capsys: pytest.CaptureFixture[str], arguments: list[str], name: str, value: Any
) -> None:
    assert printed(capsys, *arguments)[name] == repr(value)


def test_command_line_beats_environment_beats_file_beats_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "channels.conf.py").write_text("workers = 2\nbacklog = 2\ntimeout = 2\n")
    monkeypatch.setenv("CHANNELS_BACKLOG", "3")
    monkeypatch.setenv("CHANNELS_TIMEOUT", "3")
    shown = printed(capsys, "--timeout", "4")
    assert (shown["workers"], shown["backlog"], shown["timeout"]) == ("2", "3", "4.0")
    assert shown["boot_timeout"] == "60.0"


def test_another_file_may_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "channels.conf.py").write_text("workers = 2\n")
    (tmp_path / "other.py").write_text("workers = 3\n")
    assert printed(capsys, "-c", "other.py")["workers"] == "3"
    assert printed(capsys, "-c", "file:other.py")["workers"] == "3"


def test_paths_mean_the_directory_where_it_was_started(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    shown = printed(capsys, "--pid", "run.pid", "--error-logfile", "log", "--chdir", "sub")
    assert shown["pidfile"] == repr(str(tmp_path / "run.pid"))
    assert shown["errorlog"] == repr(str(tmp_path / "log"))
    assert shown["chdir"] == repr(str(tmp_path / "sub"))
    assert printed(capsys)["errorlog"] == "'-'"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which application? For example: channels examples.chat:app"),
        ([APP, "-w", "many"], "setting workers='many': must be a whole number"),
        ([APP, "-u", "no-such-user"], "there is no such user"),
        ([APP, "--chdir", "/no/such/place"], "there is no such directory"),
        ([APP, "-c", "none.py"], "there is no such file"),
        ([APP, "--bind", "nowhere"], "must be HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ([APP, "--bind", "::1:80"], "write IPv6 addresses in brackets"),
        ([APP, "--bind", "unix:"], "a path of a Unix socket has 1 to 107 bytes"),
        ([APP, "--bind", "unix:/no/such/place/socket"], "cannot listen there: No such file or directory"),
        ([APP, "--bind", "127.0.0.1:0", "--pid", "/no/such/place/pid"], "cannot be written: No such file"),
        ([APP, "--error-logfile", "/no/such/place/log"], "cannot be written: No such file"),
        ([APP, "--daemon"], "needs a file for the errors: --error-logfile PATH"),
        (["--check-config", "tests.system.app:nothing"], "has no 'nothing'"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_so(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in in_child(lambda: refused(capsys, *arguments))


def test_an_environment_variable_that_cannot_be_is_refused_by_its_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANNELS_WORKERS", "x")
    assert "setting workers='x'" in refused(capsys, APP)


def test_an_abbreviated_option_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([APP, "--worker", "3"])
    assert "--worker" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"channels {__version__}\n"


def test_a_good_configuration_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check-config", APP]) == 0
    assert "the settings and the application are good" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["raise RuntimeError('no')", "import sys; sys.exit(0)", "x = = 3"])
def test_an_application_that_cannot_be_imported_is_status_4(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "broken.py").write_text(text)

    def check() -> tuple[int, str]:
        sys.path.insert(0, str(tmp_path))
        status = cli.main(["--check-config", "broken:app"])
        return status, capsys.readouterr().err

    status, error = in_child(check)
    assert status == 4 and "channels: cannot import 'broken:app'" in error


def test_the_check_sees_the_variables_that_the_application_gets(tmp_path: Path) -> None:
    (tmp_path / "wants.py").write_text("import os\ncolour = os.environ['COLOUR']\ndef app(e, s): pass\n")

    def check() -> int:
        sys.path.insert(0, str(tmp_path))
        return cli.main(["--check-config", "wants:app", "--env", "COLOUR=blue"])

    assert in_child(check) == 0


def test_a_hook_with_wrong_arguments_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "channels.conf.py").write_text("def when_ready(server, worker, more): pass\n")
    assert "it takes (server)" in refused(capsys, "--check-config", APP)
