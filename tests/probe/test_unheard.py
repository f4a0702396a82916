"""What a probe does in a script that is recorded or watched is not heard as the script's doing."""

from __future__ import annotations

import pytest
import torch
from recording import record
from torch import nn
from torch.nn import functional as F

import freezecheck
from freezecheck.plain import encode

SCRIPT = """
import freezecheck, torch
from torch import nn
from torch.nn import functional as F

labels = torch.randint(4, (256,))
inputs = torch.randn(256, 16) + 3 * F.one_hot(labels, 16)
batches = list(zip(inputs.split(32), labels.split(32)))
model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
model[0].requires_grad_(False)
optimizer = torch.optim.SGD(model[1:].parameters(), lr=0.05, momentum=0.9)
# first
for epoch in range(3):
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
# later
model[0].requires_grad_(True)
for x, y in batches:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
PROBE = "freezecheck.probe(model, torch.optim.SGD(model[1:].parameters(), lr=1e4), batches, F.cross_entropy)"
SAME = "torch.optim.SGD(model[1:].parameters(), lr=1e4)"


@pytest.mark.parametrize("place", ["# first", "# later"])
def test_the_record_is_that_of_the_script_alone(place: str):
    runs = []
    for code in (PROBE, SAME):
        script = SCRIPT.replace(place, code)
        run = record(script, steps=None, tripwires=True)
        findings = [(f.code, f.site and f.site.line) for f in run.findings()]
        runs.append((findings, encode(run.timeline), encode(run.phases), encode(run.traces)))
    assert runs[0] == runs[1]
    assert runs[0][0]


def test_a_watched_run_that_probes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4, momentum=0.9)
    labels = torch.randint(4, (256,))
    inputs = torch.randn(256, 16) + 3 * F.one_hot(labels, 16)
    batches = list(zip(inputs.split(32), labels.split(32)))
    told: list[freezecheck.Finding] = []
    with freezecheck.watch(model, optimizer, on_finding=told.append) as watch:
        assert freezecheck.probe(model, optimizer, batches, F.cross_entropy).zone == "unsafe"
        assert not told
        optimizer.param_groups[0]["lr"] = 1e-2
        for x, y in batches * 4:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert [f.code for f in told if f.code.startswith("FC6")] == []
    assert watch.report.phases[-1].last == 32
