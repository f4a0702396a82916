"""Random schedules of freezing, unfreezing and rebuilding, run and judged by what really moves.

A schedule is written as a script, whose log says of each step which tensors were trainable,
which got a gradient and which moved. In each phase of the run, what is trainable, gets
gradients and never moves must be what FC201 (or the finding that explains it) counts, and
what is frozen and moves what FC206 counts; and where there is nothing, nothing is found.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from recording import Recording, record

from freezecheck import catalogue
from freezecheck.check import check
from freezecheck.finding import Finding, Severity
from freezecheck.phases import Phase

START = """\
import torch
from torch import nn
model = nn.Sequential()
model.stem = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
model.body = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
model.neck = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
model.head = nn.Linear(8, 3)
x, y = torch.randn(12, 6), torch.arange(12) % 3
log, old = [], []
def train(optimizers, steps, to_none):
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=to_none)
        nn.functional.cross_entropy(model(x), y).backward()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for optimizer in optimizers:
            optimizer.step()
        waiting = {id(p) for o in old for group in o.param_groups for p in group["params"]}
        log.append({
            name: (
                p.requires_grad,
                p.grad is not None,
                not torch.equal(p, before[name]),
                id(p) in waiting,
            )
            for name, p in model.named_parameters()
        })
def trainable():
    if not any(p.requires_grad for p in model.parameters()):
        model.head.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]
def all_of(*parts):
    return [p for part in parts for p in part.parameters()]
def without(optimizer, part):
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [p for p in part.parameters() if id(p) not in held]
"""
PARTS = ("stem", "body", "neck", "head")
KINDS = (
    "SGD({}, lr=0.1)",
    "SGD({}, lr=0.1, momentum=0.9)",
    "SGD({}, lr=0.1, weight_decay=0.01)",
    "Adam({}, lr=0.01)",
    "AdamW({}, lr=0.01)",
    "RMSprop({}, lr=0.01, momentum=0.5)",
    "Adagrad({}, lr=0.01)",
    "NAdam({}, lr=0.01)",
)
# What says of the trainable tensors that are in no optimizer that they are.
LOST = ("FC201", "FC202", "FC203", "FC204")

part = st.sampled_from(PARTS)
parts = st.lists(part, min_size=1, max_size=3, unique=True)


@st.composite
def built(draw: st.DrawFn) -> str:
    """An optimizer of what is trainable, of all, or of some parts."""
    some = ", ".join(f"model.{name}" for name in draw(parts))
    params = draw(st.sampled_from(("trainable()", "model.parameters()", f"all_of({some})")))
    return "torch.optim." + draw(st.sampled_from(KINDS)).format(params)


@st.composite
def operation(draw: st.DrawFn) -> str:
    """A line between two epochs."""
    name = draw(part)
    flag = f"model.{name}.requires_grad_({draw(st.booleans())})"
    rebuilt = f"optimizers[0] = {draw(built())}"
    added = (
        f"if new := without(optimizers[0], model.{name}):"
        ' optimizers[0].add_param_group({"params": new})'
    )
    kept = f"old.append(optimizers[0]); {rebuilt}"
    return draw(st.sampled_from((flag, flag, flag, rebuilt, added, kept)))


@st.composite
def schedules(draw: st.DrawFn) -> str:
    """A script of two to four epochs."""
    lines = [f"model.{name}.requires_grad_(False)" for name in draw(st.lists(part, max_size=3))]
    lines += ["trainable()", f"optimizers = [{draw(built())}]"]
    if draw(st.integers(0, 3)) == 0:
        lines.append(f"optimizers.append({draw(built())})")
    to_none = draw(st.booleans())
    for epoch in range(draw(st.integers(2, 4))):
        if epoch:
            lines += draw(st.lists(operation(), max_size=3))
        lines += ["trainable()", f"train(optimizers, {draw(st.integers(1, 6))}, {to_none})"]
    return START + "\n".join(lines) + "\n"


def judged(seen: Recording, phase: Phase) -> list[Finding]:
    """What is found in one phase alone."""
    past = seen.timeline.until(phase.events)
    return check(catalogue.select(["FC1", "FC2"]), timeline=past, phases=[phase])


def counted(findings: list[Finding], code: str) -> int:
    """How many tensors the findings of a rule speak of."""
    told = [re.match(r"(\d+) ", f.message) for f in findings if f.code == code]
    return sum(int(match[1]) for match in told if match)


@pytest.mark.slow
def test_what_is_found_is_what_happens(pytestconfig: pytest.Config):
    """On a few fixed schedules, or on as many random ones as `--oracle-examples` asks for."""
    examples = pytestconfig.getoption("--oracle-examples")
    settings(
        max_examples=examples or 12,
        derandomize=examples is None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Stage.reuse, Stage.generate],  # to shrink would take minutes
    )(given(schedules())(agrees))()


def agrees(code: str) -> None:
    """What is found in each phase is what happens in it."""
    seen = record(code, "schedule.py", None)
    log = seen.namespace["log"]
    assert seen.phases[0].first == 1
    assert seen.phases[-1].last == len(log)
    every = seen.findings(["FC1", "FC2"])
    for phase in seen.phases:
        steps = log[phase.first - 1 : phase.last]
        lost = [
            name
            for name in log[0]
            if all(flag and grad and not moves for flag, grad, moves, _ in (s[name] for s in steps))
        ]
        # What an optimizer holds that is there and does not step may be for later.
        sure = [name for name in lost if not steps[0][name][3]]
        moved = [name for name, (flag, _, moves, _) in steps[0].items() if moves and not flag]
        found = judged(seen, phase)
        codes = {f.code for f in found if f.severity > Severity.INFO}
        story = f"{phase}: {lost} {moved} {[f.message for f in found]}\n{code[len(START) :]}"
        told = not codes.isdisjoint(LOST)
        assert bool(sure) <= told <= bool(lost), story
        assert "FC201" not in codes or len(sure) <= counted(found, "FC201") <= len(lost), story
        several = len({f.subject for f in found if f.code == "FC206"}) > 1
        assert counted(found, "FC206") == len(moved) or several, story
        assert bool(moved) == ("FC206" in codes), story
        before = {f.code for f in every if (f.step or 1) <= phase.first}
        assert "FC206" in before or not moved, story
        assert not sure or not before.isdisjoint(LOST), story
    late = {f.step for f in every if f.code in (*LOST, "FC206")} - {None}
    assert late <= {phase.first for phase in seen.phases}
