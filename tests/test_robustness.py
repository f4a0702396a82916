"""The linter on texts that nobody meant to write: broken, cut off, of other versions, mutated.

Whatever a file holds, it is read or a finding FC003 says why not; nothing is raised, it ends,
and it says the same thing each time.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_notebook import book

from freezecheck import config
from freezecheck.lint import Settings, lint
from freezecheck.source import skim

TOP = b"import torch\nfrom torch import nn, optim\n"
TRAINS = (
    TOP
    + b"""
model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
for p in model.parameters():
    p.requires_grad = False
model[2] = nn.Linear(4, 3)
optimizer = optim.SGD(model.parameters(), lr=0.1)
optimizer.step()
"""
)
SECONDS = 30  # of processor time: many times what the budget of steps allows


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config._of_folder.cache_clear()


def said(data: bytes, path: str = "train.py") -> list[tuple[str, str, str]]:
    """All that is said about a text; what must hold for any."""
    start = time.process_time()
    linted = lint([path], Settings(strict=True, texts={path: data}))
    assert time.process_time() - start < SECONDS
    found = [(f.code, str(f.site), f.message) for f in linted.findings]
    assert not [message for _, _, message in found if "freezecheck itself" in message]
    return found


def twice(data: bytes, path: str = "train.py") -> list[tuple[str, str, str]]:
    """The same, and it is said again."""
    found = said(data, path)
    assert said(data, path) == found
    return found


# -- texts that are no Python ---------------------------------------------------

UNREADABLE = {
    "broken syntax": (TRAINS + b"x = (\n", "syntax error"),
    "cut off in a string": (TRAINS + b'"""', "syntax error"),
    "Python 2": (TRAINS + b'print "loss", loss\n', "syntax error"),
    "Python 2, an exception": (TRAINS + b"try:\n  pass\nexcept E, e:\n  pass\n", "syntax error"),
    "a merge conflict": (TRAINS + b"<<<<<<< HEAD\nx = 1\n=======\n", "syntax error"),
    "a template": (TRAINS + b"lr = {{ cookiecutter.lr }}}\n", "syntax error"),
    "tabs and spaces": (TRAINS + b"if x:\n        y\n\tz\n", "syntax error"),
    "null bytes": (TRAINS + b"\0\n", "null bytes"),
    "Latin-1": (TRAINS + b"# \xe9t\xe9\n", "not utf-8"),
    "UTF-16": (TRAINS.decode().encode("utf-16"), "encoding is not known"),
    "an unheard-of encoding": (b"# coding: klingon\n" + TRAINS, "encoding is not known"),
    "a codec that is none of text": (b"# coding: hex\n" + TRAINS, "encoding is not known"),
    "a codec that takes nothing": (b"# coding: undefined\n" + TRAINS, "encoding is not known"),
    "a codec of domain names": (b"# coding: idna\n" + TRAINS + b"\xff", ""),
    "two encodings": (b"\xef\xbb\xbf# coding: latin-1\n" + TRAINS, "encoding is not known"),
    "a lone surrogate": (TRAINS + b"x = '\xed\xa0\x80'\n", "not utf-8"),
    "parentheses": (TRAINS + b"x = " + b"(" * 5000 + b")" * 5000, ""),
    "minus signs": (TRAINS + b"x = " + b"-" * 200_000 + b"1\n", ""),
    "a number beyond all limits": (TRAINS + b"x = " + b"9" * 5000 + b"\n", ""),
    "a pickle": (b"\x80\x04\x95torch Adam()", "encoding is not known"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said(name):
    data, says = UNREADABLE[name]
    found = twice(data)
    assert [code for code, _, _ in found] == ["FC003"]
    assert says in found[0][2]


# -- Python that nobody would write ---------------------------------------------


def nested(before: str, times: int, after: str = "", core: str = "x") -> bytes:
    return TRAINS + (before * times + core + after * times).encode() + b"\n"


def blocks(head: str, depth: int) -> bytes:
    lines = [" " * level + head for level in range(depth)]
    return TRAINS + "\n".join([*lines, " " * depth + "model.eval()"]).encode() + b"\n"


ODD = {
    "nothing at all": b"",
    "only a mark": b"\xef\xbb\xbf",
    "a mark first": b"\xef\xbb\xbf" + TRAINS,
    "Latin-1 that says so": b"# coding: latin-1\n# \xe9t\xe9\n" + TRAINS,
    "line ends of all kinds": TRAINS.replace(b"\n", b"\r\n") + b"x = 1\ry = 2\r\n",
    "form feeds": TRAINS.replace(b"\n\n", b"\n\f\n"),
    "names in many scripts": TRAINS + "моdель = model; 模型 = model.eval()\n".encode(),
    "no line end": TRAINS.rstrip(),
    "statements on one line": TRAINS + b"x = 1; " * 20_000,
    "a list on one line": TRAINS + b"x = [" + b"1, " * 60_000 + b"]\n",
    "a string on one line": TRAINS + b"x = '" + b"x" * 1_000_000 + b"'\n",
    "a comment on one line": TRAINS + b"# " + b"freezecheck: " * 80_000,
    "calls on one line": TRAINS + b"model.eval();" * 10_000,
    "an identifier of a megabyte": TRAINS + b"x" * 1_000_000 + b" = model\n",
    "a set of options": TRAINS + b"x = {" + b"'lr': 0.1, " * 20_000 + b"}\n",
    **{
        f"{name}, {times} deep": nested(before, times, after, core)
        for times in (80, 190, 900, 2500)
        for name, before, after, core in (
            ("a sum", "1 + ", "", "1"),
            ("attributes", "", ".x", "model"),
            ("calls", "", "()", "model.eval"),
            ("subscripts", "", "[0]", "model"),
            ("wrapped calls", "f(", ")", "model"),
            ("lists", "[", "]", "model"),
            ("negations", "not ", "", "model"),
            ("conditions", "1 if x else ", "", "2"),
            ("lambdas", "lambda: ", "", "model"),
            ("comparisons", "1 < ", "", "x"),
            ("ands", "x and ", "", "x"),
            ("strings", "'a' ", "", "'b'"),
            ("awaited", "f(x for y in ", ")", "model.parameters()"),
        )
    },
    **{
        f"{head} {depth} deep": blocks(head, depth)
        for depth in (15, 95)
        for head in ("if x:", "for i in y:", "while x:", "def f(model):", "class A(nn.Module):")
    },
    "with 15 deep": blocks("with x:", 15),
    "elifs": TRAINS + b"if x == 0: pass\n" + b"elif x == 1: model.eval()\n" * 1500,
    "a function that calls itself": TRAINS + b"def f(x):\n    return f(f(x))\nf(model)\n",
    "two that call each other": TRAINS
    + b"def f(x):\n  g(x); g(x)\ndef g(x):\n  f(x); f(x)\nf(model)\n",
    "a class that is its own base": TRAINS + b"class A(A): pass\nA().eval()\n",
    "classes in a ring": TRAINS + b"class A(B): pass\nclass B(A): pass\nB().train()\n",
    "a list in itself": TRAINS + b"x = []\nx.append(x)\nfor a in x:\n  for b in a: b.eval()\n",
    "a dict in itself": TRAINS + b"x = {}\nx['x'] = x\noptim.SGD([x], lr=1)\n",
    "a model in itself": TRAINS
    + b"model.x = model\nmodel.eval()\nfor p in model.parameters(): p\n",
    "models in a ring": TRAINS + b"a = nn.Module()\na.model = model\nmodel.a = a\na.train()\n",
    "a module that makes itself": TRAINS
    + b"class A(nn.Module):\n  def __init__(self):\n    super().__init__()\n    self.a = A()\nA()\n",
    "an endless loop": TRAINS + b"while True:\n  model.eval()\n",
    "a list that grows": TRAINS + b"x = [model]\nfor m in x:\n  x.append(m)\n",
    "numbers that grow": TRAINS + b"x = 10\nfor i in range(9):\n  x = x ** x\n",
    "strings that grow": TRAINS + b"x = 'ab'\nfor i in range(99):\n  x = x * 99\n",
    "lists that grow": TRAINS + b"x = [1, 2]\nfor i in range(99):\n  x = x + x\n",
    "lists multiplied": TRAINS + b"x = [model] * 10**9\ny = nn.Sequential(*x)\n",
    "a very long range": TRAINS + b"for i in range(10**12): model.eval()\n",
    "shifted far": TRAINS + b"x = 1 << 10**10\n",
    "divided by zero": TRAINS + b"x = 1 / 0\ny = 1 % 0\nz = 0 ** -1\n",
    "a width beyond all limits": TRAINS + b"x = '%999999999d' % 1\ny = f'{1:999999999}'\n",
    "numbers with limits": TRAINS + b"x = int('9' * 5000)\ny = str(10 ** 5000)\n",
    "a pattern that takes for ever": TRAINS
    + b"import re\nfor n, p in model.named_parameters():\n"
    + b"  if re.match('(a*)*$', 'a' * 60 + 'b'): p.requires_grad = True\n",
    "a pattern that is none": TRAINS
    + b"import re\nfor n, p in model.named_parameters():\n"
    + b"  if re.match('(((', n): p.requires_grad = True\n",
    "star arguments": TRAINS + b"f(*model, **model)\noptim.SGD(*x, **y)\nnn.Linear(*x, **y)\n",
    "too few arguments": TRAINS
    + b"optim.SGD()\nnn.Linear()\nnn.Sequential()\nsetattr()\nfilter()\nisinstance()\nsuper()\n",
    "too many arguments": TRAINS + b"model.eval(1, 2, 3)\nmodel.parameters(1, 2, x=3)\nlen(1, 2)\n",
    "strange arguments": TRAINS
    + b"optim.SGD(None)\noptim.SGD({})\noptim.SGD([{}])\noptim.SGD([None])\nnn.Sequential(None)\n"
    + b"optim.Adam([{'params': None, 'lr': 'x'}], lr='y')\nsetattr(model, 3, 4)\ngetattr(1, 2)\n"
    + b"nn.ModuleList(3)\nnn.ModuleDict([1])\nzip(1)\nenumerate()\nmap(None)\nrange('a')\nsorted(3)\n"
    + b"optim.lr_scheduler.StepLR(3)\noptim.lr_scheduler.LambdaLR(optimizer, 'x')\nmodel[9]\n",
    "everything new": TRAINS
    + b"match model:\n  case nn.Linear(x=1) | {'a': [*_]}: model.eval()\n  case _: pass\n"
    + b"async def f():\n  async with x as y:\n    async for z in y: await z\n"
    + b"  return [a async for a in y]\n"
    + b"def g(a, /, b, *, c, **d): yield from a; nonlocal_ = yield\n"
    + b"if (n := len([1])) > 0: print(f'{n!r:>{n}} {n=}')\nx = *model, 1\ndel x, model.y\n"
    + b"try: pass\nexcept* ValueError: pass\n" * (sys.version_info >= (3, 11)),
    "outside of everything": TRAINS + b"return 1\n" + b"def f():\n  return\n",
    "break outside": TRAINS + b"break\ncontinue\nyield 1\nawait x\nself.x = 1\n",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_python(name):
    twice(ODD[name])


def test_deep_in_a_class_and_a_function():
    """What looks at a tree as a whole has the same limits as what runs it."""
    for times in (300, 900, 2500):
        deep = " + ".join(["1"] * times)
        for text in (
            f"class A(nn.Module):\n    def forward(self, x):\n        return {deep}\n",
            f"def train(model):\n    model.eval()\n    return {deep}\n",
            f"model.eval()\nf({deep})\nmodel.g({deep}).h\n",
            f"for p in {deep}:\n    p.requires_grad = {deep}\n",
        ):
            twice(TRAINS + text.encode())


# -- notebooks ------------------------------------------------------------------

NOTEBOOK = book(*TRAINS.decode().split("\n\n"), "model.eval()\n!ls", "# text", kinds="   m")


def test_a_notebook_that_is_cut_off():
    for end in range(0, len(NOTEBOOK), 61):
        assert {code for code, _, _ in said(NOTEBOOK[:end], "a.ipynb")} <= {"FC003"}


@pytest.mark.parametrize(
    "odd", [b"null", b"[]", b"3", b'"x"', b"{}", b"\0", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_notebook_that_is_something_else(odd):
    twice(odd, "a.ipynb")
    twice(odd + b" torch.optim", "a.ipynb")
    twice(b'{"torch.optim": ' + odd + b"}", "a.ipynb")
    twice(b'{"torch.optim": 1, "nbformat": 4, "cells": ' + odd + b"}", "a.ipynb")


def test_a_notebook_with_odd_parts():
    """Each value of it, replaced."""
    whole = json.loads(NOTEBOOK)

    def places(value, way=()):
        yield way
        if isinstance(value, (dict, list)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                yield from places(part, (*way, key))

    for way in list(places(whole))[1:]:
        for odd in (None, 3, "x", [], {}, [None], {"x": 1}, "model.requires_grad = ("):
            changed = json.loads(NOTEBOOK)
            part = changed
            for key in way[:-1]:
                part = part[key]
            part[way[-1]] = odd
            said(json.dumps(changed).encode() + b"\n", "a.ipynb")


# -- real files, mutated ----------------------------------------------------------


def real() -> list[Path]:
    """Files of the libraries that are looked into and are not long."""
    found = []
    for library in ("torchvision", "timm", "lightning"):
        spec = importlib.util.find_spec(library)
        if spec is not None and spec.origin is not None:
            found += Path(spec.origin).parent.rglob("*.py")
    files = [(path, path.read_bytes()) for path in sorted(found)]
    return [path for path, data in files if len(data) < 25_000 and skim.matters(data)]


FILES = real()
OPERATIONS = ("delete", "double", "swap", "move", "rename", "cut", "indent", "replace")
SPARE = (
    "None True 0 -1 'x' [] {} () * ** : = == . , ( ) [ ] model self optimizer requires_grad"
    " parameters() eval() train() lambda yield await not if else for in import"
).split()


def mutated(text: str, operations: list[tuple[str, bool, int, int]]) -> str:
    """A text after operations on its lines or its tokens, as (name, whether lines, place, other)."""
    for name, by_line, place, other in operations:
        parts = text.splitlines(keepends=True) if by_line else re.findall(r"\w+|\s+|\W", text)
        if not parts:
            return text
        place, other = place % len(parts), other % len(parts)
        if name == "delete":
            del parts[place]
        elif name == "double":
            parts.insert(place, parts[place])
        elif name == "swap":
            parts[place], parts[other] = parts[other], parts[place]
        elif name == "move":
            parts.insert(other, parts.pop(place))
        elif name == "rename":  # everywhere, to another name of the file or to one that matters
            names = sorted(set(re.findall(r"[A-Za-z_]\w*", text)))
            if names:
                old = names[place % len(names)]
                new = (names + SPARE[-14:-9])[other % (len(names) + 5)]
                parts = [re.sub(rf"\b{old}\b", lambda _, new=new: new, text)]
        elif name == "cut":
            parts = parts[:place] if by_line else parts
        elif name == "indent":
            parts[place] = "    " + parts[place] if other % 2 else parts[place][4:]
        elif name == "replace":
            parts[place] = SPARE[other % len(SPARE)]
        text = "".join(parts)
    return text


OPERATION = st.tuples(
    st.sampled_from(OPERATIONS), st.booleans(), st.integers(0, 10_000), st.integers(0, 10_000)
)


@pytest.mark.skipif(not FILES, reason="needs torchvision, timm or lightning")
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(FILES), st.lists(OPERATION, min_size=1, max_size=4))
def test_real_files_mutated(path, operations):
    text = mutated(path.read_text(encoding="utf-8"), operations)
    twice(text.encode())


@pytest.mark.skipif(not FILES, reason="needs torchvision, timm or lightning")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(FILES), st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_statements_of_real_files_mutated(path, places):
    """Whole statements taken out, doubled and moved: what is left can be read."""
    tree = ast.parse(path.read_bytes())
    for place in places:
        bodies = [
            body
            for node in ast.walk(tree)
            for field in ("body", "orelse", "finalbody")
            if isinstance(body := getattr(node, field, None), list) and body
        ]
        body = bodies[place % len(bodies)]
        other = bodies[(place * 7 + 3) % len(bodies)]
        statement = body[place % len(body)]
        if place % 3 == 0:
            body[place % len(body)] = ast.Pass()
        elif place % 3 == 1:
            body.insert(0, statement)
        elif not any(each is other for each in ast.walk(statement)) and other is not body:
            other.append(ast.parse(ast.unparse(statement)).body[0])
    twice(ast.unparse(ast.fix_missing_locations(tree)).encode())


# -- the command ----------------------------------------------------------------


def command(*words: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freezecheck", "lint", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
        timeout=300,
    )


def test_the_command_survives_them_all(tmp_path):
    for number, data in enumerate([*(d for d, _ in UNREADABLE.values()), b"", TRAINS]):
        (tmp_path / f"a{number}.py").write_bytes(data)
    (tmp_path / "a.ipynb").write_bytes(NOTEBOOK[:200])
    (tmp_path / "folder.py").mkdir()
    for form in ("text", "concise", "json", "sarif"):
        done = command("--output-format", form, ".")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout
        assert done.stdout.count("FC003") >= len(UNREADABLE)


def test_the_same_in_each_process(tmp_path):
    """The order of sets differs from process to process; what is said does not."""
    for number, path in enumerate(FILES[::25]):
        (tmp_path / f"f{number}.py").write_bytes(path.read_bytes())
    (tmp_path / "train.py").write_bytes(TRAINS + b"model.eval\nmodel.fc.out_features = 3\n")
    said = {command("--strict", "--output-format", "json", ".", seed=s).stdout for s in "012"}
    assert len(said) == 1
