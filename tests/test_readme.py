"""Everything the README shows is run."""

from __future__ import annotations

import re
import socket
import textwrap

import pytest

from channels import cli, operate
from tests.cluster import Cluster
from tests.server import ROOT, Server

README = ROOT.joinpath("README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
APPLICATIONS = [block for block in PYTHON if "app = " in block]
SNIPPETS = [block for block in PYTHON if "app = " not in block]


def test_the_readme_has_what_these_tests_look_for():
    assert len(APPLICATIONS) == 2
    assert len(SNIPPETS) >= 3


def run(source: str) -> str:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "README.md", "exec"), {})
    return printed.getvalue()


@pytest.mark.parametrize("source", SNIPPETS, ids=lambda source: textwrap.shorten(source, 40))
def test_each_snippet_runs_in_a_worker_and_prints_something(source):
    with Cluster(2) as cluster:
        assert cluster.workers[1].run(run, source).strip()


@pytest.mark.parametrize(("number", "events", "post"), [(0, "/events", "/news"), (1, "/rooms/a/events", "/rooms/a")])
def test_each_application_streams_what_is_posted(tmp_path, number, events, post):
    (tmp_path / "shown.py").write_text(APPLICATIONS[number])
    with Server("shown:app", directory=tmp_path, workers=2) as server:
        with socket.create_connection(server.address, timeout=30) as client:
            client.sendall(f"GET {events} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            server.wait(lambda: server.get(post, b"early").strip() == b'{"workers":1}')
            received = b""
            while b"data: early\n\n" not in received:
                part = client.recv(65536)
                assert part, received
                received += part
        server.wait(lambda: server.get(post, b"late").strip() == b'{"workers":0}')


def test_each_command_line_names_options_and_commands_that_exist():
    options = {flag for action in cli.parser()._actions for flag in action.option_strings}
    lines = [line.split("#")[0].split() for block in SHELL for line in block.splitlines()]
    commands = [words[1:] for words in lines if words and words[0] == "channels"]
    assert len(commands) > 5
    for words in commands:
        if operate.is_command(words):
            assert words[0] in operate.COMMANDS
        else:
            assert {word for word in words if word.startswith("-")} <= options, words


def test_each_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    for link in links:
        assert ROOT.joinpath(link).exists(), link
