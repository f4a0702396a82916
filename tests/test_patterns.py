"""Tests on names: what is read from the source against what the loop really does.

The loops run for real over objects that are no tensors; the reader is asked at
the moment at which they ask for the names, as the recorder does.
"""

from __future__ import annotations

import itertools
import json
import linecache
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freezecheck.live.patterns import Found, Reader
from freezecheck.pattern import Chain, bare, read
from freezecheck.plain import decode, encode
from freezecheck.timeline import PATTERN, Event

NAMES = tuple(
    f"{where}.{what}"
    for where in (
        "stem.0",
        "layer1.0.bn1",
        "layer1.10.Norm",
        "layer10.fc1",
        "encoder.layer.1.out",
        "fc",
    )
    for what in ("weight", "bias")
)


class Thing:
    """In place of a parameter."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requires_grad = True

    def requires_grad_(self, requires_grad: bool = True) -> Thing:
        self.requires_grad = requires_grad
        return self

    def parameters(self) -> list[Thing]:
        return [self]


class Model:
    """Hands out names, and lets the reader look at who asks."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.things = [Thing(name) for name in names]
        self.reader = Reader()
        self.found: list[Found] = []

    def named_parameters(self) -> Iterator[tuple[str, Thing]]:
        self.found += self.reader.chains(sys._getframe(1), "named_parameters")
        return iter([(thing.name, thing) for thing in self.things])

    @property
    def frozen(self) -> set[str]:
        return {thing.name for thing in self.things if not thing.requires_grad}


_numbers = itertools.count()


def run(code: str, **variables: Any) -> tuple[Model, dict[str, Any]]:
    code = textwrap.dedent(code)
    filename = f"loop{next(_numbers)}.py"
    linecache.cache[filename] = (len(code), None, code.splitlines(True), filename)
    model = Model()
    namespace = {"model": model, **variables}
    try:
        exec(compile(code, filename, "exec"), namespace)
    finally:
        del linecache.cache[filename]
    return model, namespace


def chain(found: Found) -> Chain:
    """As a rule gets it, by way of JSON."""
    event = Event(
        PATTERN, names=found.reached(NAMES), data={**found.data("parameters", None), "model": "m"}
    )
    return read(decode(Event, json.loads(json.dumps(encode(event)))))


def hits(found: Found) -> set[str]:
    """The names that go into a branch; fails where that is not known."""
    each = chain(found)
    taken = {name: each.taken(name) for name in each.names}
    assert None not in taken.values()
    return {name for name, index in taken.items() if index is not None and index >= 0}


def hidden(found: Found) -> bool:
    """Nothing is claimed about any name."""
    each = chain(found)
    return all(each.taken(name) is None for name in each.names)


# -- the oracle -------------------------------------------------------------------

_words = st.one_of(
    st.sampled_from(
        ["fc", "layer1", "layer1.0", "bn", "NORM", "norm", ".weight", "bias", "1", "stem.0.bias"]
    ),
    st.sampled_from(NAMES).flatmap(
        lambda name: st.tuples(st.integers(0, len(name) - 1), st.integers(1, 6)).map(
            lambda cut: name[cut[0] : cut[0] + cut[1]]
        )
    ),
)
_lists = st.lists(_words, min_size=1, max_size=3)


_atoms = st.one_of(
    st.tuples(
        _words, st.sampled_from(["in", "not in"]), st.sampled_from(["name", "name.lower()"])
    ).map(lambda t: f"{t[0]!r} {t[1]} {t[2]}"),
    st.tuples(st.sampled_from(["startswith", "endswith"]), _words).map(
        lambda t: f"name.{t[0]}({t[1]!r})"
    ),
    st.tuples(st.sampled_from(["startswith", "endswith"]), _lists).map(
        lambda t: f"name.{t[0]}(tuple({t[1]!r}))"
    ),
    st.tuples(st.sampled_from(["==", "!="]), st.sampled_from(NAMES)).map(
        lambda t: f"name {t[0]} {t[1]!r}"
    ),
    st.tuples(st.sampled_from(["in", "not in"]), st.lists(st.sampled_from(NAMES), min_size=1)).map(
        lambda t: f"name {t[0]} {t[1]!r}"
    ),
    st.tuples(st.sampled_from(["any", "all"]), _lists).map(
        lambda t: f"{t[0]}(k in name for k in {t[1]!r})"
    ),
    st.tuples(st.sampled_from(["any", "all"]), _lists).map(
        lambda t: f"{t[0]}([name.startswith(k) for k in {t[1]!r}])"
    ),
    st.tuples(_words, _words).map(
        lambda t: f"any(k in name for k in [{t[0]!r}] + WORDS + [{t[1]!r}])"
    ),
    _words.map(lambda word: f'f"{{{word!r}}}.1" in name'),
    st.integers(1, 12).map(lambda n: f"any(f'layer{{i}}.' in name for i in range({n}))"),
    st.just("WORD in name"),
    st.just("name.startswith(args.words[0])"),
    st.just("any(k in name for k in args.words)"),
    st.just("name.endswith(CONFIG['suffix'])"),
)
_conditions = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        inner.map(lambda c: f"not ({c})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda t: f"({t[0]}) {t[1]} ({t[2]})"
        ),
    ),
    max_leaves=4,
)


class Args:
    words = ("layer1", "fc1")


VARIABLES = {
    "WORDS": ["bn", "stem"],
    "WORD": "layer1.",
    "args": Args(),
    "CONFIG": {"suffix": ".bias"},
}


@settings(max_examples=300, deadline=None)
@given(_conditions, _conditions)
def test_what_is_read_is_what_happens(first: str, second: str):
    """A chain of two tests, the flags that it leaves, and what the chain predicts."""
    model, _ = run(
        f"""
        for name, p in model.named_parameters():
            if {first}:
                p.requires_grad = False
            elif {second}:
                p.requires_grad_(False)
        """,
        **VARIABLES,
    )
    (found,) = model.found
    each = chain(found)
    for name in NAMES:
        taken = each.taken(name)
        assert taken is not None
        assert (taken >= 0) == (name in model.frozen), name


# -- idioms -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "for n, p in model.named_parameters():\n    p.requires_grad = 'fc' not in n",
        "for n, p in model.named_parameters():\n    p.requires_grad_('fc' not in n)",
        "for n, p in model.named_parameters():\n    p.requires_grad_(requires_grad='fc' not in n)",
        "for n, p in model.named_parameters():\n    if 'fc' in n: p.requires_grad = False",
        "for n, p in list(model.named_parameters()):\n    if 'fc' in n: p.requires_grad = False",
        "for i, (n, p) in enumerate(model.named_parameters()):\n    if 'fc' in n: p.requires_grad = False",
        "pairs = list(model.named_parameters())\nfor n, p in pairs:\n    if 'fc' in n: p.requires_grad = False",
        "pairs = [(n, p) for n, p in model.named_parameters() if p.requires_grad]\n"
        "for name, q in pairs:\n    if 'fc' in name: q.requires_grad = False",
        "for n, p in model.named_parameters():\n    with open('/dev/null'):\n"
        "        if 'fc' in n: p.requires_grad = False",
        "for p in [p for n, p in model.named_parameters() if 'fc' in n]: p.requires_grad = False",
        "for n, p in model.named_parameters():\n    p.requires_grad = False if 'fc' in n else True",
        "word = 'fc'\nfor n, p in model.named_parameters():\n    if word in n: p.requires_grad = False",
        "def freeze(m, words):\n    for n, p in m.named_parameters():\n"
        "        if any(w in n for w in words): p.requires_grad = False\nfreeze(model, {'fc'})",
        "class Trainer:\n    words = ['fc']\n    def freeze(self, m):\n"
        "        for n, p in m.named_parameters():\n"
        "            if n.split('.')[-1] and any(w in n for w in self.words): p.requires_grad = False\n"
        "Trainer().freeze(model)",
        "pairs = list(model.named_parameters())\nwords = ['fc']\n"
        "for n, p in pairs:\n    if any(w in n for w in words): p.requires_grad = False",
        "for n, p in model.named_parameters():\n    for w in ['fc', 'nothing']:\n"
        "        if w in n: p.requires_grad = False",
        "for w in ['fc', 'nothing']:\n    for n, p in model.named_parameters():\n"
        "        if w in n: p.requires_grad = False",
    ],
)
def test_idioms_for_the_same_choice(code):
    model, _ = run(code)
    assert model.frozen == {"layer10.fc1.weight", "layer10.fc1.bias", "fc.weight", "fc.bias"}
    for found in model.found:
        each = chain(found)
        for name in NAMES:
            unknown = "split" in code and each.taken(name) is None
            chosen = (each.taken(name) == 0) != each.branches[0].atoms[0].negated
            assert unknown or chosen == (name in model.frozen)
    assert model.found


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("out = [p for n, p in model.named_parameters() if 'fc' in n]", {"fc", "layer10.fc1"}),
        (
            "out = [{'params': [p], 'lr': 1 if 'fc' in n else 2} for n, p in model.named_parameters()]",
            {"fc", "layer10.fc1"},
        ),
        (
            "out = [{'params': [p], 'lr': 2 if n.startswith('fc') else 1}\n"
            "       for n, p in model.named_parameters() if n != 'fc.bias']",
            {"fc"},
        ),
        (
            "out = []\nfor n, p in model.named_parameters():\n    if 'fc' in n: out.append(p)",
            {"fc", "layer10.fc1"},
        ),
        (
            "out = []\nfor n, p in model.named_parameters():\n"
            "    lr = 1 if 'fc' in n else 2\n    out.append({'params': [p], 'lr': lr})",
            {"fc", "layer10.fc1"},
        ),
        (
            "out = []\nfor n, p in model.named_parameters():\n    if 'fc' in n: lr = 1\n    else: lr = 2\n"
            "    out += [dict(params=[p], lr=lr)]",
            {"fc", "layer10.fc1"},
        ),
    ],
)
def test_collections(code, names):
    model, _ = run(code)
    found = model.found[-1]
    assert {branch.action for branch in chain(found).branches} == {"collect"}
    assert {bare(name).rpartition(".")[0] for name in hits(found)} >= names
    assert hits(found)


def test_names_come_only_as_far_as_they_are_let():
    model, _ = run(
        """
        for n, p in model.named_parameters():
            if "layer" in n:
                if "fc" in n:
                    p.requires_grad = False
            if n.endswith("bias"):
                continue
            if "bn" in n or "stem" in n:
                p.requires_grad = False
        """
    )
    outer, inner, leave, last = model.found
    assert "fc.weight" not in inner.reached(NAMES)
    assert "layer10.fc1.weight" in inner.reached(NAMES)
    assert hits(inner) == {"layer10.fc1.weight", "layer10.fc1.bias"}
    assert not any(name.endswith("bias") for name in last.reached(NAMES))
    assert hits(inner) | hits(last) == model.frozen
    assert [each.branches[0][1] for each in (outer, inner, leave, last)] == [
        "freeze",
        "freeze",
        "skip",
        "freeze",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "for n, p in model.named_parameters():\n    if 'fc' in n: print(n)",
        "for n, p in model.named_parameters():\n    print('fc' in n, p.requires_grad)",
        "print(sum(p.requires_grad for n, p in model.named_parameters() if 'fc' in n))",
        "names = [n for n, p in model.named_parameters() if 'fc' in n]",
        "state = {n: p for n, p in model.named_parameters() if 'fc' in n}",
        "rows = []\nfor n, p in model.named_parameters():\n    if 'fc' in n: rows.append((n, p.name))",
        "for n, p in model.named_parameters():\n    n = n[1:]\n    if 'c' in n: p.requires_grad = False",
        "for pair in model.named_parameters():\n    if 'fc' in pair[0]: pair[1].requires_grad = False",
        "for n, p in model.named_parameters():\n    if n[:2] == 'fc': p.requires_grad = False",
        "for n, p in model.named_parameters():\n    if p.name: p.requires_grad = False",
        "import re\nfor n, p in model.named_parameters():\n    if re.match('fc', n): p.requires_grad = False",
        "other = model\nx = [p for n, p in model.named_parameters() if 'a' in n], "
        "[p for n, p in other.named_parameters() if 'b' in n]",
    ],
)
def test_what_is_not_about_training_or_not_understood_is_not_read(code):
    model, _ = run(code)
    assert not model.found


@pytest.mark.parametrize(
    "test",
    [
        "word in n",  # changes within the loop
        "n.startswith(words[i])",
        "Lazy().words in n",
        "secret() in n",
        "any(w in n for w in words if w)",
        "'' in n",
    ],
)
def test_values_that_are_not_certain_are_unknown(test):
    class Lazy:
        @property
        def words(self) -> str:
            return "fc"

    model, _ = run(
        f"""
        word = "fc"
        for n, p in model.named_parameters():
            i = 0
            if {test} or "stem" in n:
                p.requires_grad = False
            word = n[:2]
        """,
        words=["fc"],
        Lazy=Lazy,
        secret=lambda: "fc",
    )
    (found,) = model.found
    each = chain(found)
    assert each.taken("stem.0.weight") == 0
    assert each.taken("layer10.fc1.weight") is None


def test_no_code_of_the_user_s_is_run():
    class Trap:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("called")

        def __contains__(self, item: Any) -> bool:
            return False

        def __iter__(self) -> Any:
            raise AssertionError("iterated")

        def __len__(self) -> int:
            raise AssertionError("measured")

    model, _ = run(
        """
        for n, p in model.named_parameters():
            if n in trap or n == "fc.bias":
                p.requires_grad = False
        """,
        trap=Trap(),
    )
    assert model.frozen == {"fc.bias"}
    assert hidden(model.found[0]) is False
    assert chain(model.found[0]).taken("stem.0.bias") is None


def test_a_file_without_source_is_nothing():
    model = Model()
    exec(
        "for n, p in model.named_parameters():\n    if 'fc' in n: p.requires_grad = False",
        {"model": model},
    )
    assert not model.found
    assert model.frozen


def test_names_without_wrappers():
    assert bare("module.layer1.weight") == "layer1.weight"
    assert bare("module._orig_mod.fc.bias") == "fc.bias"
    assert bare("encoder._checkpoint_wrapped_module.fc.bias") == "encoder.fc.bias"
    assert bare("encoder.module.bias") == "encoder.module.bias"
