"""What must never be in this house, as checks on the source tree; the arrows between rooms stand in setup.cfg.

The lists of exceptions may only shrink: one that is no longer needed fails the test that reads it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "channels"
SOURCES = sorted(PACKAGE.rglob("*.py"))
NATIVE = sorted(path for end in ("c", "h", "pyx", "pxi") for path in (PACKAGE / "core").glob(f"*.{end}"))
LINES_MAX = 500

# Too long, and how long: may shrink, must not grow.
LONG_FILES: dict[str, int] = {}

# Without a test file of their own.
UNTESTED = {
    "channels/__init__.py",
    "channels/__main__.py",
    "channels/alerts.py",
    "channels/assignment.py",
    "channels/core/native.pyx",
    "channels/master/master.py",
    "channels/master/router.py",
    "channels/master/routing.py",
    "channels/master/succession.py",
    "channels/master/upgrade.py",
    "channels/worker/application.py",
    "channels/worker/control.py",
    "channels/worker/main.py",
    "channels/worker/serve.py",
}

# A struct format outside core/ speaks to the kernel or to a wire, never to the segment.
STRUCT_ALLOWED = {
    "channels/master/listeners.py": "struct sock_fprog of socket(7)",
    "channels/master/routing.py": "the spill's export to the next router",
}
STRUCT_ROOMS = ("channels/web/", "channels/worker/http/", "channels/backplane/")  # wire formats

# Runs before gevent may be imported: what it imports later, it imports in the child.
IMPORTS_LATER = {"channels/worker/main.py"}

CLOCKS = {"time", "datetime", "os", "socket", "select", "signal", "subprocess", "threading", "random", "gevent"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def attributes_of_os(path: Path) -> set[str]:
    """What of `os` the file uses, by whatever name."""
    used = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            used.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            used |= {alias.name for alias in node.names}
    return used


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether inside a function) of each import but those for types."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.module, inside
                yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
            yield from walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from walk(tree(path), False)


def module_of(path: Path) -> str:
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted[: -len(".__init__")] if dotted.endswith(".__init__") else dotted


def imported(path: Path, package: str) -> bool:
    return any(found == package or found.startswith(package + ".") for found, _ in imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_fork_kill_and_wait_stand_in_one_file(path: Path) -> None:
    if name(path) == "channels/master/processes.py":
        return
    processes = {"fork", "forkpty", "kill", "killpg", "wait", "wait3", "wait4", "waitpid", "waitid", "posix_spawn"}
    assert not attributes_of_os(path) & processes


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_mapping_and_no_format_of_the_segment_outside_the_core(path: Path) -> None:
    if name(path).startswith("channels/core/"):
        return
    assert not imported(path, "mmap") and not imported(path, "ctypes")
    if name(path) not in STRUCT_ALLOWED and not name(path).startswith(STRUCT_ROOMS):
        assert not imported(path, "struct")


def test_the_files_that_may_use_struct_use_it() -> None:
    assert not [path for path in STRUCT_ALLOWED if not imported(ROOT / path, "struct")]


@pytest.mark.parametrize("package", ["flask", "redis"])
def test_a_foreign_package_has_one_door(package: str) -> None:
    doors = {"flask": {"channels/flask.py", "channels/flask_sse.py"}, "redis": {"channels/backplane/redis.py"}}[package]
    assert {name(path) for path in SOURCES if imported(path, package)} <= doors


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_that_calls_itself_pure_reads_no_clock_and_calls_no_system(path: Path) -> None:
    if re.search(r"^Pure[:.]", ast.get_docstring(tree(path)) or "", re.MULTILINE):
        found = {module.partition(".")[0] for module, _ in imports(path)}
        assert not found & CLOCKS


def test_the_files_that_decide_call_themselves_pure() -> None:
    for path in ("lifecycle", "handover", "children", "words"):
        assert "Pure:" in (ast.get_docstring(tree(PACKAGE / "master" / f"{path}.py")) or "")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_stand_at_the_top(path: Path) -> None:
    late = [module for module, inside in imports(path) if inside]
    if name(path) in IMPORTS_LATER:
        assert late, "it imports nothing late any more: take it off the list"
    else:
        assert not late


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = {module_of(path): path for path in SOURCES}
    graph = {
        module: {found for found, inside in imports(path) if not inside and found in modules and found != module}
        for module, path in modules.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, [*trail, module])
            done.add(module)

    for module in modules:
        visit(module, [])


@pytest.mark.parametrize(
    "path",
    [*SOURCES, *NATIVE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.c"))],
    ids=name,
)
def test_a_file_is_short(path: Path) -> None:
    if path.name == "native.c":
        return  # generated
    lines = len(path.read_text().splitlines())
    allowed = LONG_FILES.get(name(path), LINES_MAX)
    if allowed > LINES_MAX:
        assert lines > LINES_MAX, "it is short enough now: take it off the list"
    assert lines <= allowed


@pytest.mark.parametrize("path", [path for path in SOURCES if path.stat().st_size], ids=name)
def test_a_file_opens_with_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path))


def test_tests_mirror_the_sources() -> None:
    missing = set()
    for path in [*SOURCES, PACKAGE / "core" / "native.pyx"]:
        if path.name == "__init__.py" and len(path.read_text().splitlines()) < 10:
            continue
        where = ROOT / "tests" / path.relative_to(PACKAGE).parent
        stem = path.parent.name if path.name == "__init__.py" else path.stem.strip("_")
        if not (where / f"test_{stem}.py").exists():
            missing.add(name(path))
    assert missing - UNTESTED == set(), "without a test file"
    assert UNTESTED - missing == set(), "tested now (or gone): take them off the list"


def test_the_packages_of_tests_have_init_files() -> None:
    """So that two files of the same name do not hide each other."""
    assert not [
        name(path) for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_a_test_waits_for_conditions_and_never_asserts_a_longest_duration(path: Path) -> None:
    durations = re.compile(r"assert .*(elapsed|duration|took|seconds)\b[^=]*<")
    assert not [line for line in path.read_text().splitlines() if durations.search(line)]
