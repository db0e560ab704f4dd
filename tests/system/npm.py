"""Packages of npm in a directory of their own, for programs that node runs; where there are none, tests are skipped."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile

import pytest

_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _installed(*packages: str) -> tuple[str, str]:
    """(directory of the modules, or why there is none)."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return "", "node and npm are not installed"
    _kept.append(tempfile.TemporaryDirectory(prefix="channels-npm-"))
    directory = _kept[-1].name
    command = [npm, "install", "--prefix", directory, "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "", "npm install took longer than two minutes"
    if done.returncode:
        return "", f"npm install failed: {done.stderr.strip().splitlines()[-1:]}"
    return os.path.join(directory, "node_modules"), ""


def node(script: str, *arguments: str, packages: tuple[str, ...]) -> subprocess.Popen[str]:
    """A running program with these packages; its output is a pipe.  Skips the test where they cannot be installed."""
    modules, reason = _installed(*packages)
    if reason:
        pytest.skip(reason)
    return subprocess.Popen(
        ["node", "-e", script, *arguments],
        env={**os.environ, "NODE_PATH": modules},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
