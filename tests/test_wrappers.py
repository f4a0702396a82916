"""Wrapped models are looked through: the names are the user's own, identity holds."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import freezecheck
from freezecheck.live.capture import capture


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)
    )


NAMES = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias", "4.weight", "4.bias"]


@pytest.mark.parametrize(
    ("wrap", "wrappers"),
    [
        (nn.DataParallel, ("DataParallel",)),
        (torch.compile, ("OptimizedModule",)),
        (lambda m: torch.compile(nn.DataParallel(m)), ("OptimizedModule", "DataParallel")),
    ],
    ids=["DataParallel", "compile", "both"],
)
def test_wrapped(wrap, wrappers):
    model = net()
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    now = capture({"model": wrapped}, {"optimizer": optimizer})
    assert now.models[0].wrappers == wrappers
    assert [p.name for p in now.params] == NAMES
    assert all(p.held for p in now.params)
    assert freezecheck.inspect(wrapped, optimizer).ok


def test_a_wrapped_child():
    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.DataParallel(net())

    assert [p.name for p in capture({"m": Task()}, {}).params] == [f"net.{n}" for n in NAMES]


def test_the_average_of_a_model_is_not_the_model():
    model = net()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 4)).sum().backward()
    assert freezecheck.inspect({"model": model, "ema": average}, optimizer).ok
    assert freezecheck.inspect([model, copy.deepcopy(model)], optimizer).ok


def in_process_group(body: str) -> str:
    """What a script prints that runs `body` as the only rank of a gloo group."""
    start = """
        import torch, torch.distributed as dist
        from torch import nn
        import freezecheck
        from freezecheck.live.capture import capture
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        def net():
            return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    """
    end = "dist.destroy_process_group()"
    code = "\n".join(textwrap.dedent(part) for part in (start, body, end))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_distributed_data_parallel():
    printed = in_process_group("""
        model = nn.parallel.DistributedDataParallel(net())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(4, 4)).sum().backward()
        report = freezecheck.inspect(model, optimizer)
        print(report.ok, report.snapshot.models[0].wrappers, report.snapshot.params[0].name)
    """)
    assert printed == "True ('DistributedDataParallel',) 0.weight\n"


@pytest.mark.slow
def test_fully_sharded():
    """FSDP2 keeps modules and identity; an optimizer built before it holds what is gone."""
    printed = in_process_group("""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        mesh = init_device_mesh("cpu", (1,))
        for late in (True, False):
            model = net()
            if late:
                fully_shard(model, mesh=mesh)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            if not late:
                fully_shard(model, mesh=mesh)
            model(torch.randn(4, 4)).sum().backward()
            report = freezecheck.inspect(model, optimizer)
            forecast = freezecheck.forecast(model, optimizer)
            print(report.ok, report.codes(), len(forecast.moving), report.snapshot.params[0].name)
    """)
    right, wrong = printed.splitlines()
    assert right == "True [] 6 0.weight"
    assert wrong.startswith("False ['FC202']")


def test_100_000_tensors_are_walked_once():
    """Each module's own parameters are asked for a fixed number of times, however deep it is."""
    asked = 0

    class Counting(dict):
        def items(self):
            nonlocal asked
            asked += 1
            return super().items()

    def chain(depth: int) -> nn.Module:
        model: nn.Module = nn.Linear(2, 2)
        for _ in range(depth):
            model = nn.Sequential(model, nn.Linear(2, 2))
        return model

    def count(depth: int) -> float:
        nonlocal asked
        model = chain(depth)
        modules = list(model.modules())
        for module in modules:
            object.__setattr__(module, "_parameters", Counting(module._parameters))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        asked = 0
        freezecheck.inspect(model, optimizer)
        return asked / len(modules)

    assert count(100) == pytest.approx(count(10), abs=0.5)
    assert count(100) < 5
