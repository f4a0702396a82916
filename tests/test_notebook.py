"""Notebooks: cells as one program, what is no Python passed over, places by cell."""

from __future__ import annotations

import ast
import json

import pytest

from freezecheck.finding import Site
from freezecheck.source import notebook
from freezecheck.source.read import read


def book(*sources: str, kinds: str = "", language: str = "python", **options) -> bytes:
    """A notebook of code cells; `kinds` has an `m` for each that is text."""
    cells = [
        {
            "cell_type": "markdown" if kinds[i : i + 1] == "m" else "code",
            "metadata": {},
            "source": source.splitlines(keepends=True),
        }
        for i, source in enumerate(sources)
    ]
    metadata = {"language_info": {"name": language}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return (json.dumps(whole, **({"indent": 1, "ensure_ascii": False} | options)) + "\n").encode()


def program(*sources: str) -> str:
    """What a notebook of these cells is as Python."""
    source = read("nb.ipynb", book(*sources))
    assert not source.problems, [p.message for p in source.problems]
    assert source.tree is not None
    return ast.unparse(source.tree)


def test_cells_follow_each_other_and_lines_count_on():
    source = read("nb.ipynb", book("a = 1\n\nb = 2", "# Title", "c = 3", kinds=" m "))
    assert [(c.number, c.first) for c in source.cells] == [(1, 1), (3, 4)]
    assert [node.lineno for node in source.tree.body] == [1, 3, 4]
    assert source.text.split("\n")[3] == "c = 3"


@pytest.mark.parametrize(
    ("line", "python"),
    [
        ("%matplotlib inline", "pass"),
        ("!pip install -q torch", "pass"),
        ("!echo it's", "pass"),
        ("!ls (", "pass"),
        ("!cat <<EOF {", "pass"),
        ("model?", "pass"),
        ("model.fc??", "pass"),
        ("?model", "pass"),
        ("pip install timm", "pass"),
        ("cd ..", "pass"),
        ("%cd ..", "pass"),
        ("%time model = build()", "model = build()"),
        ("files = !ls", "files = get_ipython().magic"),
        ("x, y = %timeit -o f()", "x, y = get_ipython().magic"),
        ("!pip install a \\\n  b \\\n  c", "pass"),
        ("y = 5 % 3", "y = 5 % 3"),
        ("s = '''\n%no magic\n!nor this?\n'''", "s = '\\n%no magic\\n!nor this?\\n'"),
        ("y = (5\n% 3)", "y = 5 % 3"),
    ],
)
@pytest.mark.parametrize("indented", [False, True])
def test_what_is_no_python_is_passed_over(line, python, indented):
    if indented:
        if "'''" in line:
            pytest.skip("another string when indented")
        line = "if 1:\n" + "\n".join("    " + part for part in line.split("\n"))
        python = f"if 1:\n    {python}"
    assert program(f"first = 1\n{line}\nlast = 2") == f"first = 1\n{python}\nlast = 2"
    source = read("nb.ipynb", book(f"first = 1\n{line}\nlast = 2"))
    assert source.tree.body[-1].lineno == line.count("\n") + 3, "lines are kept"


@pytest.mark.parametrize(
    ("cell", "python"),
    [
        ("%%time\nx = 1", "x = 1"),
        ("\n%%capture out\n%%time\nx = 1", "x = 1"),
        ("%%bash\nx = (", ""),
        ("%%writefile train.py\nimport torch", ""),
        ("%%html\n<b>", ""),
        ("%%unheard_of\nx = 1", ""),
    ],
)
def test_magics_of_whole_cells(cell, python):
    assert program(cell) == python
    assert program(cell, "y = 2").endswith("y = 2")


def test_a_broken_cell_is_one_problem_and_the_others_are_read():
    source = read("nb.ipynb", book("a = 1", "b = = 2", "c = 3"))
    (problem,) = source.problems
    assert problem.site == Site("nb.ipynb", 2, 5, 2, 6)
    assert ast.unparse(source.tree) == "a = 1\nc = 3"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"{}", b"null", b'{"cells": 3}', b"\xff\xfe{}", b'{"cells": {}}',
        b'{"worksheets": [3]}', b'{"cells": []', b"[" * 100_000, b'{"a": NaN, ',
    ],
)  # fmt: skip
def test_what_is_no_notebook(data):
    source = read("nb.ipynb", data)
    assert source.tree is None
    assert len(source.problems) == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"cells": [3, null, "x", {}]}', b'{"cells": [{"cell_type": "code", "source": 3}]}',
        b'{"cells": [{"cell_type": "code", "source": ["a = 1\\n", 5, "b"]}], "metadata": 3}',
        b'{"cells": [{"cell_type": "code"}], "metadata": {"kernelspec": []}}',
    ],
)  # fmt: skip
def test_odd_notebooks(data):
    source = read("nb.ipynb", data)
    assert source.tree is not None
    assert not source.problems


def test_another_language_is_not_read():
    source = read("nb.ipynb", book("library(torch) <- 3", language="R"))
    assert (source.cells, source.problems) == ([], [])


def test_the_old_format_with_sheets():
    cell = {"cell_type": "code", "input": ["a = 1"], "language": "python"}
    source = read("nb.ipynb", json.dumps({"worksheets": [{"cells": [cell]}]}).encode())
    assert ast.unparse(source.tree) == "a = 1"


def test_places_by_cell():
    data = book("a = 1\n\nb = 2", "# Title", "c = 3\nd = 4", kinds=" m ")
    places = notebook.Places("nb.ipynb", read("nb.ipynb", data).cells)
    assert places.of(Site("nb.ipynb", 3, 1, 3, 6)) == Site("nb.ipynb[cell 1]", 3, 1, 3, 6)
    assert places.of(Site("nb.ipynb", 5)) == Site("nb.ipynb[cell 3]", 2)


@pytest.mark.parametrize("indent", [1, None, 2, 4, "\t"])
@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("end", ["", "\n"])
def test_new_sources_leave_the_rest_as_it_was(indent, ascii, end):
    data = book("é = 1\n", "# Tïtle", "c = 3", kinds=" m ", indent=indent, ensure_ascii=ascii)
    data = data.rstrip(b"\n") + end.encode()
    new = notebook.with_sources(data, {3: "c = 4"})
    assert new == data.replace(b"c = 3", b"c = 4")
    assert notebook.with_sources(data, {}) == data


def test_a_notebook_that_was_written_by_hand_is_not_written():
    assert notebook.with_sources(book("c = 3").replace(b": ", b" :  "), {1: "c = 4"}) is None
