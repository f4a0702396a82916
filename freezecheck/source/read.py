"""From the bytes of a script or a notebook to its text and its syntax tree."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from typing import TYPE_CHECKING

from freezecheck.finding import Site
from freezecheck.source.columns import count_characters
from freezecheck.text import Problem

if TYPE_CHECKING:
    from freezecheck.source.notebook import Cell

_NESTED = "it is nested too deeply"


class Source:
    """A file that was read. `tree` is None where `problems` say why; a notebook keeps
    the cells that could be read. `text` is what the lines of the tree count."""

    __slots__ = ("cells", "path", "problems", "text", "tree")

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = ""
        self.tree: ast.Module | None = None
        self.cells: list[Cell] = []
        self.problems: list[Problem] = []

    def object(self, message: str, line: int = 1, column: int = 1) -> None:
        """Keep one reason why it could not be read."""
        line, column = max(line, 1), max(column, 1)
        self.problems.append(Problem(message, Site(self.path, line, column, line, column + 1)))


def read(path: str, data: bytes) -> Source:
    """Read a file; what is wrong with it is in `problems`, nothing is raised."""
    source = Source(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user's own, such as invalid escapes
        (_read_notebook if path.endswith(".ipynb") else _read_script)(source, data)
    return source


def decode(data: bytes) -> tuple[str, str]:
    """The text of a script, with its line ends as they are, and its encoding. SyntaxError
    and UnicodeDecodeError as Python's own."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        raise
    except (LookupError, UnicodeError) as problem:  # a codec, but none of text
        raise SyntaxError(str(problem)) from None


def _read_script(source: Source, data: bytes) -> None:
    try:
        source.text, _ = decode(data)
    except SyntaxError as problem:
        source.object(f"its encoding is not known: {problem.msg or problem}")
        return
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        source.object(f"it is not {problem.encoding}, as Python would read it", line)
        return
    if "\0" in source.text:
        before = source.text[: source.text.index("\0")]
        source.object("it contains null bytes", before.count("\n") + 1)
        return
    try:
        source.tree = ast.parse(source.text)
        count_characters(source.tree, source.text)
    except SyntaxError as problem:
        source.object(*_syntax(problem))
    except (RecursionError, MemoryError):
        source.object(_NESTED)
    except ValueError as problem:
        source.object(str(problem))


def _syntax(problem: SyntaxError) -> tuple[str, int, int]:
    return f"syntax error: {problem.msg}", problem.lineno or 1, problem.offset or 1


def _read_notebook(source: Source, data: bytes) -> None:
    from freezecheck.source import notebook

    try:
        source.cells = notebook.cells(data)
    except notebook.Unreadable as problem:
        source.object(f"it is no notebook: {problem}")
        return
    body: list[ast.stmt] = []
    for cell in source.cells:
        before = cell.first - 1
        try:
            tree = notebook.parse(cell)
            count_characters(tree, cell.source)
            for statement in tree.body:
                body.append(ast.increment_lineno(statement, before))
        except SyntaxError as problem:
            message, line, column = _syntax(problem)
            source.object(message, line + before, column)
        except (RecursionError, MemoryError):
            source.object(_NESTED, cell.first)
        except ValueError as problem:
            source.object(str(problem), cell.first)
    source.text = "\n".join(cell.source for cell in source.cells)
    source.tree = ast.Module(body, [])
