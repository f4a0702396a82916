"""Two processes train copies of a model in many ways, recorded; what became of the copies is
written down beside the records, in `FOLDER/RANK.json`. Scripts in the folder are run likewise.

Data is each process's own throughout, so copies stay equal only if gradients are averaged.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

from freezecheck.live.record import Recorder
from freezecheck.plain import encode

VARIANTS: dict[str, Callable[[int], Any]] = {}
STEPS = 4


def variant(function: Callable[[int], Any]) -> Callable[[int], Any]:
    """Trains; gives the modules whose copies are to be compared."""
    VARIANTS[function.__name__] = function
    return function


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(8, 2))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)


def train(
    model: Callable[..., torch.Tensor], optimizer: torch.optim.Optimizer, steps: int = STEPS
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()


def own_data(rank: int) -> None:
    torch.manual_seed(100 + rank)


# -- copies that stay equal ---------------------------------------------------------------


@variant
def frozen_before_the_wrap(rank: int) -> nn.Module:
    model = net()
    model[0].requires_grad_(False)
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def other_seeds_before_the_wrap(rank: int) -> nn.Module:
    model = net(seed=rank)
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def unfrozen_and_wrapped_again(rank: int) -> nn.Module:
    model = net()
    model[:4].requires_grad_(False)
    own_data(rank)
    ddp = DDP(model)
    train(ddp, sgd(model), 2)
    model.requires_grad_(True)
    ddp = DDP(model)
    train(ddp, sgd(model), 2)
    return model


@variant
def wrapped_again_at_each_step(rank: int) -> nn.Module:
    model = net()
    model[:4].requires_grad_(False)
    own_data(rank)
    for step in range(8):
        if step == 6:
            model.requires_grad_(True)
        ddp = DDP(model)
        train(ddp, sgd(model), 1)
    return model


@variant
def thawed_and_frozen_behind_a_wrapper_that_knew_all(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model, find_unused_parameters=True)
    model[:4].requires_grad_(False)
    own_data(rank)
    train(ddp, sgd(model), 2)
    model.requires_grad_(True)
    train(ddp, sgd(model), 2)
    return model


@variant
def frozen_behind_a_wrapper_that_looks(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model, find_unused_parameters=True)
    model[0].requires_grad_(False)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def frozen_behind_a_wrapper_that_looks_later(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model, find_unused_parameters=True)
    own_data(rank)
    optimizer = sgd(model)
    train(ddp, optimizer, 2)
    model[0].requires_grad_(False)
    train(ddp, optimizer, 2)
    return model


@variant
def frozen_behind_a_static_wrapper(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model, static_graph=True)
    model[0].requires_grad_(False)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def accumulated_under_no_sync(rank: int) -> nn.Module:
    model = net()
    ddp, optimizer = DDP(model), sgd(model)
    own_data(rank)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with ddp.no_sync():
            ddp(torch.randn(4, 8)).square().mean().backward()
        ddp(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    return model


@variant
def statistics_of_its_own(rank: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    ddp = DDP(model, broadcast_buffers=False)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def a_discriminator_that_rests(rank: int) -> list[nn.Module]:
    g, d = nn.Linear(8, 8), net()
    ddp_g, ddp_d = DDP(g), DDP(d)
    opt_g, opt_d = sgd(g), sgd(d)
    own_data(rank)
    for _ in range(STEPS):
        d.requires_grad_(False)
        opt_g.zero_grad()
        ddp_d(ddp_g(torch.randn(4, 8))).mean().backward()
        opt_g.step()
        d.requires_grad_(True)
        opt_d.zero_grad()
        (ddp_d(torch.randn(4, 8)) - ddp_d(ddp_g(torch.randn(4, 8)).detach())).mean().backward()
        opt_d.step()
    return [g, d]


@variant
def a_discriminator_past_its_wrapper(rank: int) -> list[nn.Module]:
    """The generator's loss goes through the bare discriminator: its gradients are not averaged,
    and never used."""
    g, d = nn.Linear(8, 8), net()
    ddp_g, ddp_d = DDP(g), DDP(d)
    opt_g, opt_d = sgd(g), sgd(d)
    own_data(rank)
    for _ in range(STEPS):
        opt_d.zero_grad()
        (ddp_d(torch.randn(4, 8)) - ddp_d(ddp_g(torch.randn(4, 8)).detach())).mean().backward()
        opt_d.step()
        opt_g.zero_grad()
        d(ddp_g(torch.randn(4, 8))).mean().backward()
        opt_g.step()
    return [g, d]


@variant
def a_frozen_teacher_beside(rank: int) -> nn.Module:
    model, teacher = net(), net(seed=rank)
    teacher.requires_grad_(False)
    ddp, optimizer = DDP(model), sgd(model)
    own_data(rank)
    for _ in range(STEPS):
        optimizer.zero_grad()
        x = torch.randn(4, 8)
        (ddp(x) - teacher(x)).square().mean().backward()
        optimizer.step()
    return model


@variant
def with_a_closure(rank: int) -> nn.Module:
    model = net()
    ddp, optimizer = DDP(model), sgd(model)
    own_data(rank)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = ddp(torch.randn(4, 8)).square().mean()
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
    return model


# -- copies that drift apart, or a step that raises ---------------------------------------


@variant
def as_many_other_layers_frozen(rank: int) -> nn.Module:
    model = net()
    model[2 * rank].requires_grad_(False)
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def unfrozen_after_the_wrap(rank: int) -> nn.Module:
    model = net()
    model[:4].requires_grad_(False)
    ddp = DDP(model)
    model.requires_grad_(True)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def unfrozen_after_two_steps(rank: int) -> nn.Module:
    model = net()
    model[:4].requires_grad_(False)
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model), 2)
    model.requires_grad_(True)
    train(ddp, sgd(model), 2)
    return model


@variant
def unfrozen_behind_a_wrapper_that_looks(rank: int) -> nn.Module:
    model = net()
    model[:4].requires_grad_(False)
    ddp = DDP(model, find_unused_parameters=True)
    model.requires_grad_(True)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def a_new_head_after_the_wrap(rank: int) -> nn.Module:
    model = net()
    model[-1].requires_grad_(False)
    ddp = DDP(model)
    ddp.module[6] = nn.Linear(8, 3)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def frozen_after_the_wrap(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model)
    model[0].requires_grad_(False)
    own_data(rank)
    train(ddp, sgd(model))
    return model


@variant
def frozen_after_two_steps(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model), 2)
    model[0].requires_grad_(False)
    train(ddp, sgd(model), 2)
    return model


@variant
def frozen_behind_a_static_wrapper_later(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model, static_graph=True)
    own_data(rank)
    train(ddp, sgd(model), 2)
    model[0].requires_grad_(False)
    train(ddp, sgd(model), 2)
    return model


@variant
def a_part_wrapped_and_unfrozen(rank: int) -> nn.Module:
    body, head = net()[:6], nn.Linear(8, 2)
    body[0].requires_grad_(False)
    model = nn.Sequential(DDP(body), DDP(head))
    body.requires_grad_(True)
    own_data(rank)
    train(model, sgd(model))
    return model


@variant
def past_the_wrapper(rank: int) -> nn.Module:
    ddp = DDP(net())
    own_data(rank)
    train(ddp.module, sgd(ddp))
    return ddp


@variant
def always_under_no_sync(rank: int) -> nn.Module:
    ddp = DDP(net())
    own_data(rank)
    with ddp.no_sync():
        train(ddp, sgd(ddp))
    return ddp


@variant
def loaded_in_one_process(rank: int) -> nn.Module:
    model = net()
    ddp = DDP(model)
    if rank == 0:
        model.load_state_dict(net(seed=7).state_dict())
    own_data(rank)
    train(ddp, sgd(model))
    return model


class Spare(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = net(), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@variant
def a_layer_that_is_never_called(rank: int) -> nn.Module:
    model = Spare()
    ddp = DDP(model)
    own_data(rank)
    train(ddp, sgd(model))
    return model


def example(path: Path) -> Callable[[int], Any]:
    """A variant that is a file."""

    def run(rank: int) -> list[nn.Module]:
        torch.manual_seed(rank)
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__"})
        return []

    return run


def record(train: Callable[[int], Any], rank: int) -> dict[str, Any]:
    """What was recorded of a variant, and the weights that it ended with."""
    gc.collect()
    recorder = Recorder(lambda _: None, steps=None)
    recorder.install()
    raised = ""
    modules: Any = []
    try:
        modules = train(rank)
    except RuntimeError as error:
        raised = str(error).partition("\n")[0]
    past = recorder.timeline()
    recorder.uninstall()
    modules = modules if isinstance(modules, list) else [modules]
    return {
        "timeline": encode(past),
        "phases": [encode(phase) for phase in recorder.phases],
        "weights": [p.tolist() for m in modules for p in m.parameters()],
        "raised": raised,
    }


def work(rank: int, folder: str) -> None:
    warnings.simplefilter("ignore")
    gc.freeze()  # models are looked for among what comes later
    init = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    every = {**VARIANTS, **{path.name: example(path) for path in Path(folder).glob("*.py")}}
    found = {name: record(every[name], rank) for name in sorted(every)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)
