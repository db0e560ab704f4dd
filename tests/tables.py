"""The tables of the pages under docs/, cell by cell."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def tables(page: str) -> list[list[list[str]]]:
    """Of docs/`page`: each table as its rows of cells, the first row the headings, the line below them left out."""
    found: list[list[list[str]]] = []
    inside = False
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            if not re.fullmatch(r"[|-]+", line):
                found[-1].append([cell.strip() for cell in line[1:-1].split("|")])
        inside = line.startswith("|")
    return found


def unfilled(table: list[list[str]]) -> list[list[str]]:
    """Rows that lack a cell, or have an empty one."""
    width = len(table[0])
    return [row for row in table[1:] if len(row) != width or not all(row)]
