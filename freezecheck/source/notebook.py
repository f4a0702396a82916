"""Notebooks: their code cells, one after the other, as one program.

A line of the program is a line of a cell: `nb.ipynb[cell 3]:5`. Cells are counted
from 1 over all of them, text included, as they stand in the notebook.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from typing import Any

from freezecheck.finding import Site

# Cell magics whose cell is run as Python here; any other hands it to something else.
_PYTHON = frozenset(
    "capture debug heat memit mprun prun pyinstrument scalene snakeviz time timeit wandb".split()
)

# What is no Python: magics, shell commands, questions, and the commands that need no `%`.
_NO_PYTHON = re.compile(
    r"(?P<indent>\s*)(?:"
    r"(?P<run>%time\s+)(?P<statement>\S.*)"
    r"|(?P<target>[\w.,()\[\] ]+=)\s*[%!].*"
    r"|[%!?].*|[^#]*\?\s*|(?:pip3?|conda|mamba|uv|cd|ls|cat|cp|mv|rm|mkdir|pwd)(?:\s.*)?)"
)

_MOST_MAGICS = 200  # in one cell


class Unreadable(Exception):
    """A notebook that is none."""


class Cell:
    """A code cell: its number, its Python (lines kept), and its first line in the program."""

    __slots__ = ("first", "number", "source", "text")

    def __init__(self, number: int, text: str, first: int) -> None:
        self.number = number
        self.text = text  # as it stands in the notebook
        self.first = first
        self.source = text  # with what is no Python passed over

    @property
    def length(self) -> int:
        return self.text.count("\n") + 1


def cells(data: bytes) -> list[Cell]:
    """The Python code cells of a notebook; none of one in another language."""
    notebook = load(data)
    if _language(notebook) not in ("python", "python3", "ipython", "ipython3", ""):
        return []
    found: list[Cell] = []
    first = 1
    for number, cell in enumerate(raw_cells(notebook), 1):
        if cell.get("cell_type") == "code":
            found.append(Cell(number, source_of(cell), first))
            first += found[-1].length
    return found


def load(data: bytes) -> dict[str, Any]:
    """The notebook as JSON; Unreadable says what is wrong."""
    import json

    try:
        notebook = json.loads(data)
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as problem:
        raise Unreadable(f"not JSON: {problem}") from None
    if not isinstance(notebook, dict) or not isinstance(_list_of_cells(notebook), list):
        raise Unreadable("it has no list of cells")
    return notebook


def _list_of_cells(notebook: dict[str, Any]) -> Any:
    """Version 3 of the format had its cells on sheets."""
    sheets = notebook.get("worksheets")
    if "cells" not in notebook and isinstance(sheets, list) and sheets:
        return sheets[0].get("cells") if isinstance(sheets[0], dict) else None
    return notebook.get("cells")


def raw_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Its cells as they are in the JSON."""
    return [cell if isinstance(cell, dict) else {} for cell in _list_of_cells(notebook)]


def source_of(cell: dict[str, Any]) -> str:
    """A cell's text, which the format allows to be in pieces."""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        return "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def with_sources(data: bytes, texts: dict[int, str]) -> bytes | None:
    """The notebook with these texts in the cells of these numbers, all else as it was, byte for
    byte; None where that cannot be done, since it was written in no usual way."""
    import json

    notebook = load(data)
    text = data.decode(errors="replace")
    for indent in (1, None, 2, 4, "\t"):
        for plain in (False, True):
            options: dict[str, Any] = {"indent": indent, "ensure_ascii": plain}
            if json.dumps(notebook, **options) == text.rstrip("\n"):
                for number, source in texts.items():
                    _put(raw_cells(notebook)[number - 1], source)
                written = json.dumps(notebook, **options)
                return (written + text[len(text.rstrip("\n")) :]).encode()
    return None


def _put(cell: dict[str, Any], text: str) -> None:
    key = "source" if "source" in cell else "input"
    cell[key] = text.splitlines(keepends=True) if isinstance(cell.get(key), list) else text


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        about = metadata.get(key) if isinstance(metadata, dict) else None
        found = about.get(name) if isinstance(about, dict) else None
        if isinstance(found, str) and found:
            return found.lower()
    return ""


def parse(cell: Cell) -> ast.Module:
    """The cell's syntax tree, with its own line numbers, and its Python in `cell.source`.

    Only lines that Python objects to are taken for something else. SyntaxError for the rest.
    """
    lines = _without_cell_magic(cell.text.split("\n"))
    for _ in range(_MOST_MAGICS):
        try:
            cell.source = "\n".join(lines)
            return ast.parse(cell.source)
        except SyntaxError as problem:
            at = (problem.lineno or 0) - 1
            match = _NO_PYTHON.fullmatch(lines[at]) if 0 <= at < len(lines) else None
            if match is None:
                raise
            _pass_over(lines, at, match)
    raise SyntaxError("too many lines that are no Python", ("", 1, 1, ""))


def _pass_over(lines: list[str], at: int, match: re.Match[str]) -> None:
    """Put a statement in the place of line `at`; nothing in that of its continuations."""
    last = at
    while lines[last].endswith("\\") and last + 1 < len(lines):
        last += 1
    lines[at + 1 : last + 1] = [""] * (last - at)
    if match["run"]:
        lines[at] = match["indent"] + match["statement"]
    elif match["target"]:
        lines[at] = f"{match['indent']}{match['target']} get_ipython().magic"
    else:
        lines[at] = match["indent"] + "pass"


def _without_cell_magic(lines: list[str]) -> list[str]:
    """`%%time` alone is passed over, `%%bash` with the whole cell."""
    start = next((i for i, text in enumerate(lines) if text.strip()), None)
    if start is None or not lines[start].startswith("%%"):
        return lines
    word = lines[start][2:].split()[:1]
    if word and word[0] in _PYTHON:
        return [""] * (start + 1) + _without_cell_magic(lines[start + 1 :])
    return [""] * len(lines)


class Places:
    """From lines of the program to lines of cells."""

    def __init__(self, path: str, cells: list[Cell]) -> None:
        self._path = path
        self._cells = cells
        self._firsts = [cell.first for cell in cells]

    def of(self, site: Site) -> Site:
        """`nb.ipynb:37` as `nb.ipynb[cell 3]:5`."""
        cell = self._cells[max(bisect_right(self._firsts, site.line) - 1, 0)]
        name = f"{self._path}[cell {cell.number}]"
        before = cell.first - 1
        end = None if site.end_line is None else site.end_line - before
        return Site(name, site.line - before, site.column, end, site.end_column)
