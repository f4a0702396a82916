"""The plain records survive the trip through JSON, and findings keep their form."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from freezecheck.check import check
from freezecheck.finding import Edit, Finding, Fix, Note, Severity, Site
from freezecheck.live.capture import capture
from freezecheck.plain import decode, encode
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, millions, summarise
from freezecheck.timeline import FLAG, Event, Timeline

text = st.text(max_size=8)
lines = st.integers(1, 999)
sites = st.builds(Site, text, lines, lines, st.none() | lines, st.none() | lines)
numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | text
data = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
events = st.builds(
    Event,
    st.sampled_from(["flag", "mode", "step"]),
    st.none() | sites,
    text,
    st.lists(text, max_size=3).map(tuple),
    data,
    st.integers(0, 9),
    st.dictionaries(text.filter(lambda t: t != "float"), data, max_size=3),
)


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


@given(st.lists(events, max_size=4))
def test_timelines_survive(history):
    timeline = Timeline(tuple(history))
    assert decode(Timeline, through_json(encode(timeline))) == timeline


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_floats_that_json_lacks_survive(value):
    timeline = Timeline((Event("step", value=value),))
    assert decode(Timeline, through_json(encode(timeline))) == timeline


def test_snapshots_survive():
    model = torchvision.models.resnet18()
    optimizer = torch.optim.Adam(model.parameters(), lr=float("inf"), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    now = capture({"m": model}, {"o": optimizer}, {"s": scheduler})
    again = Snapshot.from_dict(through_json(now.to_dict()))
    for field in ("models", "params", "norms", "optimizers", "schedulers"):
        assert encode(getattr(again, field)) == encode(getattr(now, field))
    assert again.params[0].shape == (64, 3, 7, 7)
    assert isinstance(again.params[0].shape, tuple)
    assert again.schedulers[0].peaks == now.schedulers[0].peaks


def test_what_is_not_plain_is_refused():
    with pytest.raises(TypeError, match="Tensor is not plain data"):
        encode(torch.zeros(1))


notes = st.builds(Note, text, st.none() | st.builds(Site, text, lines))
fixes = st.builds(Fix, text, st.lists(st.builds(Edit, sites, text), max_size=2).map(tuple))
findings = st.builds(
    Finding,
    st.just("FC999"),
    text,
    st.sampled_from(Severity),
    text,
    st.none() | sites,
    st.none() | text,
    st.lists(notes, max_size=2).map(tuple),
    st.none() | fixes,
)


@given(findings)
def test_findings_survive(finding):
    assert Finding.from_dict(through_json(finding.to_dict())) == finding


def test_a_timeline_answers():
    a, b = Event(FLAG, names=("x",), value=False), Event(FLAG, names=("x", "y"), value=True)
    timeline = Timeline((a, Event("step", subject="o"), b))
    assert timeline.flags("x") == [a, b]
    assert timeline.flags("y") == [b]
    assert timeline.last(FLAG) is b
    assert timeline.last("step", "other") is None
    assert timeline.order(b) == 2


class _Both(Rule):
    """Finds one thing on each half."""

    code, name, severity = "FC998", "both", Severity.WARNING
    explains = ("FC997",)

    def in_timeline(self, timeline):
        yield self.finding("heard", subject="model", site=Site("b.py", 2))

    def in_snapshot(self, now, past):
        yield self.finding("seen", subject="model", site=Site("a.py", 9))
        yield self.finding("seen", subject="model", site=Site("a.py", 9))


class _Consequence(Rule):
    """A consequence of the other."""

    code, name, severity = "FC997", "consequence", Severity.ERROR

    def in_snapshot(self, now, past):
        yield self.finding("explained", subject="model")
        yield self.finding("unexplained", subject="other")


def test_check_sorts_and_keeps_each_defect_once():
    rules = [_Both(), _Consequence()]
    found = check(rules, timeline=Timeline((Event("step"),)), snapshots=[Snapshot()])
    assert [f.message for f in found] == ["unexplained", "seen", "heard"]
    assert [f.message for f in check(rules[:1], snapshots=[Snapshot()])] == ["seen"]


def test_words():
    assert summarise(["a", "b", "c"]) == "a, b, c"
    assert summarise(["a", "b", "c", "d"]) == "a, b and 2 more"
    assert (count(1, "tensor"), count(1200, "tensor")) == ("1 tensor", "1,200 tensors")
    assert [millions(n) for n in (512, 8400, 23_500_000, 6_740_000_000)] == [
        "512",
        "8.4 k",
        "23.5 M",
        "6.74 G",
    ]
