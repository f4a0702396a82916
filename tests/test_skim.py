"""No file on which a rule fires is passed over on its bytes."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

from freezecheck import catalogue
from freezecheck.lint import Linter, Settings
from freezecheck.rule import Rule
from freezecheck.source import skim

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    example
    for rule in catalogue.load()
    if type(rule).in_source is not Rule.in_source
    for example in rule.examples()
]


def codes(text: str, monkeypatch) -> set[str]:
    """What the rules find in a text, however it may look."""
    with monkeypatch.context() as patch:
        patch.setattr(skim, "matters", lambda data: True)
        linter = Linter(Settings(strict=True, texts={"a.py": text.encode()}), ["a.py"])
        return {finding.code for finding in linter.check("a.py").findings}


def parts(text: str, seed: str) -> list[str]:
    """Texts with some of the statements: helper modules hold only a piece of the story."""
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return []
    choose = random.Random(seed)
    kept = [[n for n in body if choose.random() < share] for share in (0.3, 0.5, 0.7)]
    return [ast.unparse(ast.Module(nodes, [])) for nodes in kept]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_and_parts_of_them(example, monkeypatch):
    for text in (example.code, *parts(example.code, str(example))):
        if not skim.matters(text.encode()):
            assert codes(text, monkeypatch) == set(), text


@pytest.mark.parametrize("path", sorted(ROOT.glob("fixtures/**/*.py")), ids=lambda p: p.stem)
def test_fixtures(path, monkeypatch):
    if not skim.matters(path.read_bytes()):
        assert codes(path.read_text(), monkeypatch) == set()


@pytest.mark.parametrize(
    "text",
    [
        "for p in model.parameters():\n    p.require_grad = False",
        "setattr(p, 'requires_grad', False)",
        "def f(m):\n    m.requires_grad_(False)",
        "from learn import freeze\nfreeze(model)",
        "import torchvision\ndef build():\n    m = torchvision.models.vgg16()\n    m.fc = nn.Linear(2, 3)",
        "import keras\nbase.trainable = False",
        "import torch.nn\nself.embed.from_pretrained(weights)",
        "import torch\nm.eval\n",
        "x = 1  # noqa: FC201",
        "x = 1  # freezecheck: ignore",
        "import torch.optim\n".encode("utf-16"),
    ],
)
def test_what_matters(text):
    assert skim.matters(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "", "import numpy", "import torch\nx = torch.zeros(3)", "model.eval()\noptimizer.step()",
        "x = 1  # noqa: E501", "import torch\nclass Net(torch.nn.Module):\n    pass",
        "from transformers import AutoTokenizer\nt = AutoTokenizer.from_pretrained('x')",
    ],
)  # fmt: skip
def test_what_does_not(text):
    assert not skim.matters(text.encode())
