"""The interpreter: what it makes of values, held against Python itself where Python can tell."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezecheck import program
from freezecheck.program import Module, Optimizer, Param
from freezecheck.source import calls
from freezecheck.source.analysis import Analysis, analyze
from freezecheck.source.conditions import Condition
from freezecheck.source.values import Dict, Iterator, Library, List, Name, Tensor, Unknown


def shown(value: Any) -> str:
    """A value of the interpreter, as the tests write it down."""
    if isinstance(value, Unknown):
        return "?"
    if isinstance(value, Condition):
        return "condition"
    if isinstance(value, (Param, Module, Optimizer)):
        return str(value)
    if isinstance(value, Name):
        return f"{value.prefix}..."
    if isinstance(value, Library):
        return value.name
    if isinstance(value, List):
        return f"[{', '.join([*map(shown, value.items), *(['...'] if value.open else [])])}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, Dict):
        inner = ", ".join(f"{k!r}: {shown(v)}" for k, v in value.items.items())
        return f"{{{inner}{', ...' if value.open else ''}}}"
    if isinstance(value, Iterator):
        return "spent iterator" if value.spent else "iterator"
    if isinstance(value, Tensor):
        return "tensor"
    return repr(value)


@pytest.fixture
def reveal(monkeypatch):
    """`reveal(x)` in a text: what `x` is there, in each world."""
    seen: list[list[str]] = []

    def run(code: str, **options: Any) -> list[list[str]]:
        seen.clear()
        lines: dict[int, list[str]] = {}

        def note(m, call):
            lines.setdefault(id(m.world), []).append(", ".join(map(shown, call.args)))

        monkeypatch.setitem(calls.EFFECTS, "reveal", note)
        found = analyze(ast.parse(textwrap.dedent(code)), "train.py", **options)
        return [lines.get(id(world), []) for world in found.worlds]

    return run


def worlds(code: str) -> Analysis:
    return analyze(ast.parse(textwrap.dedent(code)), "train.py")


class TestValues:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("reveal(1 + 2 * 3)", "7"),
            ("reveal('a' + 'b', 'ab'.upper())", "'ab', 'AB'"),
            ("x = [1, 2]\nx.append(3)\nreveal(x)", "[1, 2, 3]"),
            ("a, *b = (1, 2, 3)\nreveal(a, b)", "1, [2, 3]"),
            ("d = {'lr': 0.1}\nd['wd'] = 0\nreveal(d, d.get('x', 5))", "{'lr': 0.1, 'wd': 0}, 5"),
            ("def f(x, y=2, *, z=3):\n    return x + y + z\nreveal(f(1, z=10))", "13"),
            ("reveal([i * 2 for i in range(4) if i % 2])", "[2, 6]"),
            ("reveal(sorted(mystery))", "[...]"),
            ("import os\nreveal(os.environ['X'])", "os.environ"),
            ("reveal(undefined.thing(3))", "?"),
            ("def g():\n    yield 1\n    yield 2\nreveal(list(g()))", "[1, 2]"),
            ("from functools import partial\nf = partial(max, 3)\nreveal(f(5))", "5"),
            ("x = 5 if True else 6\nreveal(x)", "5"),
            ("i = iter([1, 2])\nreveal(next(i), next(i))", "1, 2"),
            ("reveal(f'layer{4}')", "'layer4'"),
            ("for i in range(100):\n    pass\nreveal(i)", "1"),
        ],
    )
    def test_plain(self, reveal, code, expected):
        assert reveal(code)[0] == [expected]

    def test_a_function_that_never_ends(self):
        found = worlds("def f(n):\n    return f(n + 1)\nwhile True:\n    f(0)\n")
        assert found.worlds

    def test_budget_is_obeyed(self):
        loops = "".join(f"{'    ' * i}for x{i} in (1, 2, 3, 4):\n" for i in range(8))
        code = loops + "    " * 8 + "y = 1\n"
        found = analyze(ast.parse(code), "train.py", steps=5_000)
        assert not found.complete


class TestModules:
    def test_a_known_architecture_is_unfolded_where_it_is_looked_at(self, reveal):
        (seen,) = reveal(
            """
            import torchvision
            model = torchvision.models.resnet18()
            reveal(model.fc.in_features, model.layer4[0].conv1.weight)
            reveal([n for n, p in model.named_parameters() if n.startswith("fc")])
            """
        )
        assert seen == [
            "512, model:layer4.0.conv1.weight",
            "['fc.weight', 'fc.bias']",
        ]

    def test_an_own_class(self, reveal):
        (seen,) = reveal(
            """
            from torch import nn
            class Net(nn.Module):
                def __init__(self, n):
                    super().__init__()
                    self.body = nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.BatchNorm1d(n))
                    self.scale = nn.Parameter(torch.ones(1))
            net = Net(8)
            reveal([n for n, _ in net.named_parameters()])
            reveal(net.body[0].out_features)
            """
        )
        assert sorted(ast.literal_eval(seen[0])) == [
            "body.0.bias",
            "body.0.weight",
            "body.2.bias",
            "body.2.weight",
            "scale",
        ]
        assert seen[1] == "8"

    def test_a_test_on_names_takes_an_unknown_model_apart(self):
        (world,) = worlds(
            """
            def freeze(model):
                for name, p in model.named_parameters():
                    if "head" not in name:
                        p.requires_grad = False
                for p in model.backbone.parameters():
                    p.requires_grad = True
            """
        ).worlds[1:]
        (model,) = world.roots
        told = {(param.path, param.trainable) for param in model.parameters()}
        assert ("backbone.*", True) in told
        assert ("*", False) in told

    def test_identity(self, reveal):
        (seen,) = reveal(
            """
            import copy, torchvision
            a = torchvision.models.resnet18()
            b, c = a, copy.deepcopy(a)
            reveal(a.fc is b.fc, a.fc is c.fc)
            """
        )
        assert seen == ["True, False"]

    def test_an_iterator_is_read_once_and_late(self, reveal):
        (seen,) = reveal(
            """
            from torch import nn
            m = nn.Linear(2, 2)
            params = filter(lambda p: p.requires_grad, m.parameters())
            m.weight.requires_grad = False
            reveal(list(params))
            reveal(list(params))
            """
        )
        assert seen == ["[m:bias]", "[]"]

    def test_own_train_method_is_run(self):
        (world,) = worlds(
            """
            from torch import nn
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.bn, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 2)
                def train(self, mode=True):
                    super().train(mode)
                    self.bn.eval()
            net = Net()
            net.eval()
            net.train()
            """
        ).worlds
        (net,) = world.roots
        assert (net.training, net.bn.training if hasattr(net, "bn") else net.children["bn"].training) == (True, False)  # fmt: skip


class TestWorlds:
    def test_each_way_through_is_one_world(self, reveal):
        found = reveal(
            """
            import sys, torch
            lr = 1
            if len(sys.argv) > 3:
                optimizer = torch.optim.SGD(params, 0.1)
                lr = 2
            if len(sys.argv) > 3:
                optimizer = reveal(lr, "long")
            else:
                reveal(lr, "short")
            """
        )
        assert sorted(found) == [["1, 'short'"], ["2, 'long'"]]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ("args.arch == 'a'", "args.arch == 'b'"),
            ("args.n < 3", "args.n >= 5"),
            ("args.x", "not args.x"),
            ("args.x is None", "args.x == 3"),
        ],
    )
    def test_conditions_that_exclude_each_other(self, reveal, first, second):
        found = reveal(
            f"""
            import torch
            train = 0
            if {first}:
                train = 1
                optimizer = 1
            if {second}:
                optimizer = 2
                reveal(train)
            """
        )
        assert ["1"] not in found
        assert ["0"] in found

    def test_a_branch_that_only_prints_is_no_fork(self):
        found = worlds("import torch\nif args.verbose:\n    print('x')\n    n = 1\noptimizer = 1\n")
        assert len(found.worlds) == 1

    def test_an_epoch_that_is_named_is_reached(self, reveal):
        (seen,) = reveal("for epoch in range(90):\n    if epoch == 30:\n        reveal(epoch)\n")
        assert seen == ["30"]

    def test_a_branch_that_raises_is_not_taken(self):
        found = worlds("import torch\nif not args.train:\n    raise ValueError\noptimizer = 1\n")
        assert [w.complete for w in found.worlds] == [True]

    def test_what_is_handed_to_something_unknown_is_not_known_any_more(self):
        (world,) = worlds(
            """
            import torchvision, helpers
            model = torchvision.models.resnet18()
            helpers.prepare(model)
            """
        ).worlds
        assert [e.kind for e in world.of(program.ESCAPE)] == ["escape"]
        assert {p.trainable for p in world.roots[0].parameters()} == {None}

    def test_calls_not_understood_are_counted(self):
        found = worlds("import torchvision, lib\nlib.change(torchvision.models.resnet18())\n")
        assert found.calls == [(2, "lib.change")]


# Programs that Python itself can run: the interpreter must come to the same, or not know.

NAMES = st.sampled_from("abc")
ATOMS = st.one_of(
    st.integers(-3, 9).map(str), NAMES, st.sampled_from(["'x'", "True", "None", "[1, 2]", "(1,)"])
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+ - * % == != < in and or".split()), inner).map(
            lambda t: f"({t[0]} {t[1]} {t[2]})"
        ),
        inner.map(lambda x: f"(not {x})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"[{t[0]}, {t[1]}]"),
        inner.map(lambda x: f"f({x})"),
    ),
    max_leaves=6,
)


@st.composite
def blocks(draw, depth: int = 2) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.integers(0, 5 if depth else 1))
        if kind <= 1:
            lines.append(f"{draw(NAMES)} = {draw(EXPRESSIONS)}")
        elif kind == 2:
            lines.append(f"{draw(NAMES)} = [x for x in range({draw(st.integers(0, 4))}) if x != 1]")
        else:
            inner = ["    " + line for line in draw(blocks(depth=depth - 1))]
            if kind == 3:
                lines += [f"for {draw(NAMES)} in [0, 'y', 2]:", *inner]
            elif kind == 4:
                lines += [f"if {draw(EXPRESSIONS)}:", *inner]
                lines += ["else:", *inner[:1]] if not inner[0].endswith(":") else []
            else:
                lines += ["for k in (1, 2):", f"    if {draw(EXPRESSIONS)}: break", *inner]
    return lines


@settings(max_examples=300, deadline=None)
@given(lines=blocks())
def test_it_computes_what_python_computes(lines):
    code = "\n".join(["a, b, c = 1, 'abx', [3]", "def f(x, y=2): return [x, y]", *lines])
    names: dict[str, Any] = {}
    try:
        exec(code, names)
    except Exception:
        names = {}  # it raises: the interpreter need not know
    told: list[list[Any]] = []

    def note(m, call):
        told.append(call.args)

    calls.EFFECTS["reveal"] = note
    try:
        found = analyze(ast.parse(f"{code}\nreveal(a, b, c)"), "train.py")
    finally:
        del calls.EFFECTS["reveal"]
    if names and found.complete:
        real = [names[name] for name in "abc"]
        # What is not known (are two lists equal?) may go either way: one of them is the real one.
        assert any(all(map(agrees, args, real)) for args in told), (told, real)


def agrees(value: Any, real: Any) -> bool:
    """The interpreter's value is the real one, or one that it says it does not know."""
    if isinstance(value, (Unknown, Condition)):
        return True
    if isinstance(value, List):
        if not isinstance(real, list):
            return False
        same = all(agrees(v, r) for v, r in zip(value.items, real))
        return same and (value.open or len(value.items) == len(real))
    if isinstance(value, tuple):
        return isinstance(real, tuple) and all(agrees(v, r) for v, r in zip(value, real))
    return type(value) is type(real) and value == real
