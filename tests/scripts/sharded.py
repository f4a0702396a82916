"""Two ranks under torchrun; what goes wrong is the argument."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


def main(how):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    if how == "mismatch":
        model[1].requires_grad_(rank == 0)  # the others reduce what this one does not
    if how == "unfreeze":
        model[:2].requires_grad_(False)
    params = list(model.parameters())
    if how == "skip":
        model = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        params = params if how == "early" else list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.1)
    torch.manual_seed(rank)
    for step in range(4):
        if how == "unfreeze" and step == 2:
            model.requires_grad_(True)
        loss = model(torch.randn(4, 8)).square().mean()
        if how == "skip" and rank == 1:
            loss = loss.detach()  # as if it had been NaN here
        else:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main(sys.argv[1])
