"""The light dataclass makes what the standard one makes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from freezecheck import records
from freezecheck.finding import Finding, Severity, Site


def _classes(module):
    @module.dataclass(frozen=True, slots=True)
    class Frozen:
        """Doc."""

        a: int
        b: str = "x"
        c: tuple = ()
        hidden: int = module.field(default=0, compare=False)
        kind: ClassVar[int] = 3

        @property
        def twice(self):
            return self.a * 2

    @module.dataclass(slots=True)
    class Open:
        a: int
        items: list = module.field(default_factory=list)

    @module.dataclass(eq=False)
    class Plain:
        a: int = 1
        made: dict = module.field(default_factory=dict, init=False)

        def __repr__(self):
            return "mine"

    return Frozen, Open, Plain


@pytest.fixture(params=[records, dataclasses], ids=["ours", "standard"])
def classes(request):
    """Whatever holds of ours holds of the standard ones, too."""
    return _classes(request.param)


def test_frozen(classes):
    Frozen, *_ = classes
    one = Frozen(1, c=(2,))
    assert (one.a, one.b, one.c, one.hidden, one.kind, one.twice) == (1, "x", (2,), 0, 3, 2)
    assert one == Frozen(1, "x", (2,), hidden=9) != Frozen(2)
    assert hash(one) == hash(Frozen(1, "x", (2,), 9))
    assert repr(one).endswith("Frozen(a=1, b='x', c=(2,), hidden=0)")
    assert one != (1, "x", (2,))
    for change in (lambda: setattr(one, "a", 2), lambda: delattr(one, "a")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert not hasattr(one, "__dict__")
    assert Frozen.__doc__ == "Doc."
    match one:
        case Frozen(a, "x"):
            assert a == 1
    with pytest.raises(TypeError):
        Frozen()


def test_open(classes):
    _, Open, Plain = classes
    one, other = Open(1), Open(1)
    one.items.append(3)
    assert other.items == []
    other.items = [3]
    assert one == other
    with pytest.raises(TypeError):
        hash(one)
    with pytest.raises(AttributeError):
        one.b = 3
    assert Plain() != Plain()
    assert Plain(3).made == {}
    assert repr(Plain()) == "mine"


def test_the_standard_functions(classes):
    Frozen, Open, Plain = classes
    assert [f.name for f in dataclasses.fields(Frozen)] == ["a", "b", "c", "hidden"]
    assert dataclasses.fields(Open)[1].default_factory is list
    assert dataclasses.fields(Open)[0].default is dataclasses.MISSING
    assert dataclasses.is_dataclass(Plain())
    assert (
        dataclasses.replace(Frozen(1), b="y") == records_replace(Frozen(1), b="y") == Frozen(1, "y")
    )
    assert dataclasses.asdict(Open(1, [2])) == {"a": 1, "items": [2]}


def records_replace(record, **changes):
    """Ours, where it can; it is for our own classes alone."""
    return (records if hasattr(record, "_fields") else dataclasses).replace(record, **changes)


def test_copies_and_pickles():
    finding = Finding("FC201", "x", Severity.ERROR, "Wrong.", Site("a.py", 3), certain=False)
    for same in (pickle.loads(pickle.dumps(finding)), copy.deepcopy(finding), copy.copy(finding)):
        assert same == finding
        assert same.certain is False
