"""The user's own source: its lines, and which of them make one statement."""

from __future__ import annotations

import ast
import io
import linecache
import os
import re
import tokenize
import warnings
from functools import lru_cache

from freezecheck.report.place import split

_LONGEST = 6  # a statement of more lines is shown by its first alone


_given: dict[str, bytes] = {}


def given(path: str, data: bytes) -> None:
    """From now on this is the text of a file, whatever is on the disk (standard input)."""
    _given[path] = data
    _read.cache_clear()
    _cells.cache_clear()


def lines(path: str) -> tuple[str, ...]:
    """The lines of a file or of a notebook's cell; none if it cannot be read.
    Undecodable bytes become U+FFFD."""
    file, cell = split(path)
    try:
        stamp = 0 if file in _given else os.stat(file).st_mtime_ns
        return _read(file, stamp) if cell is None else _cells(file, stamp)[cell - 1]
    except (OSError, ValueError, IndexError):
        # Text that has no file. `getlines` would look for others of that name on sys.path.
        entry = linecache.cache.get(path, ())
        return tuple(each.rstrip("\r\n") for each in entry[2]) if len(entry) == 4 else ()


def _data(path: str) -> bytes:
    if path in _given:
        return _given[path]
    with open(path, "rb") as file:
        return file.read()


@lru_cache(maxsize=64)
def _read(path: str, stamp: int) -> tuple[str, ...]:
    """`stamp` tells two states of one file apart."""
    data = _data(path)
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, LookupError, UnicodeError):
        text = data.decode("utf-8", "replace")
    return tuple(re.split("\r\n|\r|\n", text))


@lru_cache(maxsize=16)
def _cells(path: str, stamp: int) -> tuple[tuple[str, ...], ...]:
    """The lines of every cell of a notebook."""
    from freezecheck.source import notebook

    try:
        cells = notebook.raw_cells(notebook.load(_data(path)))
    except notebook.Unreadable:
        return ()
    return tuple(tuple(notebook.source_of(cell).split("\n")) for cell in cells)


def statement(path: str, line: int) -> range:
    """The lines of the simple statement that `line` is in; `line` alone for the
    head of a block, for long statements and where the file cannot be parsed."""
    return _statements(lines(path)).get(line, range(line, line + 1))


@lru_cache(maxsize=64)
def _statements(source: tuple[str, ...]) -> dict[int, range]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse("\n".join(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[int, range] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and not hasattr(node, "cases"):
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if 1 < len(span) <= _LONGEST:
                found.update(dict.fromkeys(span, span))
    return found
