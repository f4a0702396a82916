"""Mechanical remedies: the edits that mend a statement, in whatever form it is written."""

from __future__ import annotations

import ast
import re

import pytest

from freezecheck import fixes
from freezecheck.finding import Finding, Fix, Severity, Site
from freezecheck.source import remedies
from freezecheck.source.read import read

HEAD = "import torch\nfrom torch import nn\n"


def place(text: str, start: int, end: int) -> Site:
    """The site of `text[start:end]`, as Python counts lines."""

    def at(offset: int) -> tuple[int, int]:
        lines = re.split("\r\n|\r|\n", text[:offset])
        return len(lines), len(lines[-1]) + 1

    return Site("t.py", *at(start), *at(end))


def mended(
    code: str,
    marked: str,
    *,
    safe: bool = True,
    head: str = HEAD,
    symbol: str | None = None,
    message: str = "mend it",
) -> str:
    """The text after the remedy of a rule, whose finding is at what «» enclose."""
    marked = head + marked
    start, end = marked.index("«"), marked.index("»") - 1
    text = marked.replace("«", "").replace("»", "")
    source = read("t.py", text.encode())
    assert source.tree is not None, text
    fix = Fix(message)
    found = Finding(code, "rule", Severity.ERROR, "m", place(text, start, end), symbol, fix=fix)
    (finding,) = remedies.attach([found], source)
    assert finding.fix is not None
    assert finding.fix.message == message
    assert finding.fix.safe is (safe and bool(finding.fix.edits))
    new = fixes.apply([finding], lambda path: text, unsafe=True).texts.get("t.py", text)
    assert new.startswith(head)
    return new.removeprefix(head)


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("FC101", "«model.a.requires_grad» = True\n", "model.a.requires_grad_(True)\n"),
        ("FC101", "«m.requires_grad»=False  # off\n", "m.requires_grad_(False)  # off\n"),
        ("FC101", "«m[0].requires_grad» = not (a and b)", "m[0].requires_grad_(not (a and b))"),
        ("FC101", "«m.requires_grad» = (False)\n", "m.requires_grad_((False))\n"),
        ("FC101", "«m.requires_grad» \\\n  = \\\n  x == 3\n", "m.requires_grad_(x == 3)\n"),
        ("FC101", "if 1:\r\n\t«m.requires_grad» = 0; a = 1\r\n",
         "if 1:\r\n\tm.requires_grad_(0); a = 1\r\n"),
        ("FC101", "s = 'é∀𝄞'; «s.requires_grad» = 'ü'\n", "s = 'é∀𝄞'; s.requires_grad_('ü')\n"),
        ("FC101", "«f(\n  x\n).requires_grad» = False\n", "f(\n  x\n).requires_grad_(False)\n"),
        ("FC102", "«p.require_grad» = False\n", "p.requires_grad = False\n"),
        ("FC102", "a = «p . requried_grad» = False\n", "a = p . requires_grad = False\n"),
        ("FC103", "«p.requires_grad_» = False\n", "p.requires_grad_(False)\n"),
        ("FC104", "«p.data.requires_grad» = False\n", "p.requires_grad = False\n"),
        ("FC104", "«p.detach( ).requires_grad» = False\n", "p.requires_grad = False\n"),
        ("FC104", "«p.data.requires_grad_(False)»\n", "p.requires_grad_(False)\n"),
        ("FC105", "«p.requires_grad is False»\n", "p.requires_grad = False\n"),
        ("FC105", "«model.eval»  # now\n", "model.eval()  # now\n"),
        ("FC105", "«p.requires_grad == False»\n", "p.requires_grad = False\n"),
        ("FC105", "«p.requires_grad==x[1]»;y\n", "p.requires_grad=x[1];y\n"),
        ("FC406", "if isinstance(m, nn.BatchNorm2d):\n    «m.eval()»\n",
         "if isinstance(m, nn.modules.batchnorm._BatchNorm):\n    m.eval()\n"),
        ("FC406", "if a and isinstance(m, (nn.Conv2d, torch.nn.BatchNorm2d)):\n    «m.eval()»\n",
         "if a and isinstance(m, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):\n    m.eval()\n"),
        ("FC406", "if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm)):\n    «m.eval()»\n",
         "if isinstance(m, nn.modules.batchnorm._BatchNorm):\n    m.eval()\n"),
        ("FC406", "«isinstance(m, nn.BatchNorm2d)»\n",
         "isinstance(m, nn.modules.batchnorm._BatchNorm)\n"),
        ("FC503", "y = «checkpoint(block, x)»\n",
         "y = checkpoint(block, x, use_reentrant=False)\n"),
        ("FC503", "y = «cp.checkpoint(f, use_reentrant=True)»\n",
         "y = cp.checkpoint(f, use_reentrant=False)\n"),
        ("FC503", "y = «checkpoint(\n    f,\n    *xs,  # ,\n)»\n",
         "y = checkpoint(\n    f,\n    *xs, use_reentrant=False,  # ,\n)\n"),
    ],
)  # fmt: skip
def test_safe_remedy(code: str, before: str, after: str):
    assert mended(code, before) == after


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("FC112", "«self.a» = [f(x) for x in y]\n",
         "self.a = nn.ModuleList([f(x) for x in y])\n"),
        ("FC112", "«self.a»=({'a': b})\n", "self.a=(nn.ModuleDict({'a': b}))\n"),
        ("FC118", "«self.emb.from_pretrained(w)»\n",
         "self.emb = self.emb.from_pretrained(w, freeze=False)\n"),
        ("FC118", "«emb.from_pretrained(w, freeze=True)»\n",
         "emb = emb.from_pretrained(w, freeze=True)\n"),
        ("FC122", "«model.fc.out_features» = len(classes)\n",
         "model.fc = nn.Linear(model.fc.in_features, len(classes))\n"),
    ],
)  # fmt: skip
def test_unsafe_remedy(code: str, before: str, after: str):
    assert mended(code, before, safe=False) == after


@pytest.mark.parametrize(
    ("code", "before"),
    [
        ("FC101", "a = «m.requires_grad» = False\n"),
        ("FC101", "«setattr(m, 'requires_grad', False)»\n"),
        ("FC101", "«m.requires_grad»: bool = False\n"),
        ("FC104", "«(p[0]).data.requires_grad» = 1\n"),
        ("FC105", "(«p.requires_grad == False»)\n"),
        ("FC105", "x = «p.requires_grad == False»\n"),
        ("FC105", "«p.requires_grad is not True»\n"),
        ("FC105", "«p.requires_grad != True»\n"),
        ("FC112", "«self.a» = a, b\n"),
        ("FC112", "«self.a» = self.b = [a]\n"),
        ("FC112", "«self.a» = list(b)\n"),
        ("FC118", "«emb.from_pretrained()»\n"),
        ("FC122", "«conv.out_channels» = 5\n"),
        ("FC406", "if type(m) is nn.BatchNorm2d:\n    «m.eval()»\n"),
        ("FC503", "y = «checkpoint(f, **options)»\n"),
        ("FC999", "«m.requires_grad» = False\n"),
    ],
)
def test_what_is_not_of_the_form_stays_words(code: str, before: str):
    assert mended(code, before) == before.replace("«", "").replace("»", "")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("import torch\n", "torch.nn.modules.batchnorm._BatchNorm"),
        ("import torch.nn as nn\n", "nn.modules.batchnorm._BatchNorm"),
        ("import torch as th\n", "th.nn.modules.batchnorm._BatchNorm"),
        ("from torch.nn.modules.batchnorm import _BatchNorm\n", "_BatchNorm"),
        ("def f():\n    import torch\nfrom torch.nn import BatchNorm2d\n", "nn.BatchNorm2d"),
    ],
)
def test_names_are_those_of_the_file(head: str, name: str):
    before = "if isinstance(m, nn.BatchNorm2d):\n    «m.eval()»\n"
    after = mended("FC406", before, head=head)
    assert after == f"if isinstance(m, {name}):\n    m.eval()\n"


@pytest.mark.parametrize(
    ("before", "unused", "after"),
    [
        ("x = 1  «# freezecheck: ignore[FC201]»\n", "FC201", "x = 1\n"),
        ("x = 1  «# freezecheck: ignore[FC201, FC301]»\n", "FC201, FC301", "x = 1\n"),
        ("x = 1  «# freezecheck: ignore[FC201, FC301]»\n", "FC201",
         "x = 1  # freezecheck: ignore[FC301]\n"),
        ("x = 1  «# freezecheck: ignore»\n", "", "x = 1\n"),
        ("«# freezecheck: ignore-file[FC2]»  \r\nx = 1\r\n", "FC2", "x = 1\r\n"),
        ("if x:\n    «# noqa: FC201»\n    y\n", "FC201", "if x:\n    y\n"),
        ("x = 1  «# noqa: E501,FC201»\n", "FC201", "x = 1  # noqa: E501\n"),
        ("x = 1  «# noqa:FC201 FC301»", "FC301", "x = 1  # noqa:FC201"),
        ("x = 1  «# noqa: FC201»", "FC201", "x = 1"),
        ("x = 1 «# noqa: FC201»  # é: why", "FC201", "x = 1 # é: why"),
        ("x = 1  # type: ignore «# noqa: FC201»\n", "FC201", "x = 1  # type: ignore\n"),
        ("x = 1  «# noqa: FC201» + 2\n", "FC201", "x = 1  # noqa: FC201 + 2\n"),
    ],
)  # fmt: skip
def test_comments_lose_what_is_unused(before: str, unused: str, after: str):
    assert mended("FC001", before, symbol=unused or None) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("o = «SGD([{'params': a, 'learning_rate': 1}, {'params': b, \"learning_rate\": 2}])»\n",
         "o = SGD([{'params': a, 'lr': 1}, {'params': b, \"lr\": 2}])\n"),
        ("«group['learning_rate']» = 0.1\n", "group['lr'] = 0.1\n"),
        ("o = «SGD([{'params': a, 'lr': 1, 'learning_rate': 2}])»\n",
         "o = SGD([{'params': a, 'lr': 1, 'learning_rate': 2}])\n"),
        ("o = «SGD(groups, 'learning_rate')»\n", "o = SGD(groups, 'learning_rate')\n"),
    ],
)  # fmt: skip
def test_keys_are_written_right(before: str, after: str):
    assert mended("FC207", before, message="write 'lr' instead of 'learning_rate'") == after


def test_edits_of_a_rule_are_kept():
    source = read("t.py", b"import torch\nm.requires_grad = False\n")
    made = Fix("mine", ())
    found = Finding("FC201", "rule", Severity.ERROR, "m", Site("t.py", 2, 1, 2, 16), fix=made)
    assert remedies.attach([found], source) == [found]


@pytest.mark.parametrize("site", [None, Site("t.py", 2), Site("t.py", 9, 1, 9, 2),
                                  Site("u.py", 2, 1, 2, 16)])  # fmt: skip
def test_a_place_that_is_no_node_has_no_edits(site: Site | None):
    source = read("t.py", b"import torch\nm.requires_grad = False\n")
    found = Finding("FC101", "rule", Severity.ERROR, "m", site)
    assert remedies.attach([found], source) == [found]


def test_columns_of_the_tree_count_characters():
    text = "x = 'é'; y = 1\n@f('∀', a)\ndef g(é='ü', *, z): return {é: z}\nclass C: pass\n"
    tree = read("t.py", b"import torch\n" + text.encode()).tree
    assert tree is not None
    lines = ["import torch", *text.split("\n")]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.arg)):
            name = node.id if isinstance(node, ast.Name) else node.arg
            assert lines[node.lineno - 1][node.col_offset : node.end_col_offset] == name
