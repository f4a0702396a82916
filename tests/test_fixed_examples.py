"""What `--fix` makes of the rules' own Bad examples: mended, once and for all, and nothing else."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freezecheck import catalogue
from freezecheck.finding import Finding
from freezecheck.lint import Settings, lint
from freezecheck.mend import mend
from freezecheck.rule import Example

# Rules that `--fix` mends, and those for --unsafe-fixes.
SAFE = {"FC101", "FC102", "FC103", "FC104", "FC105", "FC207", "FC406", "FC503"}
UNSAFE = {"FC112", "FC118", "FC122"}
FIXED = SAFE | UNSAFE

FILE = "train.py"


def found(text: str, code: str) -> list[Finding]:
    linted = lint([FILE], Settings([code], texts={FILE: text.encode()}))
    return [f for f in linted.findings if f.code == code]


def fixed(text: str, code: str, *, unsafe: bool) -> str:
    settings = Settings([code], texts={FILE: text.encode()})
    mended = mend([FILE], settings, unsafe=unsafe, jobs=1)
    return mended.new.get(FILE, text.encode()).decode()


EXAMPLES = [
    example
    for rule in catalogue.load()
    if rule.code in FIXED and "S" in rule.halves()
    for example in rule.examples()
    if not example.good and any(code == rule.code for _, code in example.expected)
]


def indented(text: str) -> str:
    return "if True:\n" + textwrap.indent(text, "\t")


def in_function(text: str) -> str:
    return "def main():\n" + textwrap.indent(text, "  ") + "\nmain()\n"


def commented(text: str) -> str:
    """A comment above every statement that stands alone, and no mark at the end of lines."""
    return re.sub(r"^( *)(?=[a-z_.]+\.\w+ = )", r"\1# 注意: é\n\1", text, flags=re.MULTILINE)


WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "indented": indented,
    "in a function": in_function,
    "commented": commented,
    "no newline at the end": lambda text: text.rstrip("\n"),
    "after characters": lambda text: re.sub(
        r"^( *)(?=[a-z_.]+\.\w+ = )", r"\1'∀é𝄞'; ", text, flags=re.MULTILINE
    ),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_fixed(example: Example, written: str):
    code = example.rule
    text = WRITTEN[written](example.code)
    before = found(text, code)
    if not before and written == "in a function" and "class " in text:
        pytest.skip("a class inside a function, never instantiated, is not looked into")
    assert before, "the finding is not found when written so"
    unsafe = code in UNSAFE
    after = fixed(text, code, unsafe=unsafe)
    assert fixed(after, code, unsafe=unsafe) == after
    assert not unsafe or fixed(text, code, unsafe=False) == text
    assert untouched(text, after, before)
    mechanical = {finding.site for finding in before if finding.fix and finding.fix.edits}
    assert len(found(after, code)) == len(before) - len(mechanical), after


@pytest.mark.parametrize("code", sorted({example.rule for example in EXAMPLES}))
def test_every_rule_has_an_example_that_is_fixed(code: str):
    examples = [example.code for example in EXAMPLES if example.rule == code]
    assert any(fixed(text, code, unsafe=code in UNSAFE) != text for text in examples)


def untouched(text: str, after: str, findings: list[Finding]) -> bool:
    """Every line that no edit is on is as it was, its end included."""
    edited = {
        line
        for finding in findings
        if finding.fix
        for edit in finding.fix.edits
        for line in range(edit.site.line, (edit.site.end_line or edit.site.line) + 1)
    }
    old, new = (t.splitlines(keepends=True) for t in (text, after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    changed = {
        number + 1
        for tag, first, last, _, _ in matcher.get_opcodes()
        if tag != "equal"
        for number in range(first, last)
    }
    return changed <= edited and (not edited or bool(changed))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "freezecheck", "lint", "--select", "FC1", *words],
        cwd=folder,
        capture_output=True,
    )


BAD = (
    "# -*- coding: latin-1 -*-\r\nimport torch, torchvision  # é\r\n"
    "model = torchvision.models.resnet18()\r\n"
    "'é'; model.layer4.requires_grad = False\r\n\x0c\r\n"
    "model.eval # ü"
)
GOOD = BAD.replace("requires_grad = False", "requires_grad_(False)").replace(
    "model.eval", "model.eval()"
)


BUILD = ["import torchvision\n", "model = torchvision.models.resnet18()"]


def book(*sources: list[str]) -> dict[str, Any]:
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cells = [{**code, "source": source} for source in sources]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_the_command_fixes_scripts_and_notebooks(tmp_path: Path):
    script, notebook = tmp_path / FILE, tmp_path / "nb.ipynb"
    script.write_bytes(BAD.encode("latin-1"))
    notebook.write_text(
        json.dumps(book(BUILD, ["# é\n", "model.fc.requires_grad = False"]), indent=1)
    )
    before = script.read_bytes(), notebook.read_bytes()

    done = run(tmp_path, "--diff")
    assert (script.read_bytes(), notebook.read_bytes()) == before
    assert done.returncode == 1, done.stderr
    assert b"+model.eval() # \xc3\xbc" in done.stdout
    assert b"[cell 2]" in done.stdout

    done = run(tmp_path, "--fix")
    assert done.returncode == 0, done.stdout
    assert b"3 fixes applied" in done.stderr
    assert script.read_bytes() == GOOD.encode("latin-1")
    assert notebook.read_bytes() == before[1].replace(b" = False", b"_(False)")
    assert run(tmp_path, "--diff").stdout == b""
