"""Each of two processes inspects its own copy; the second has forgotten a layer."""

import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import freezecheck


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params[2 * rank :], lr=0.1)
    model(torch.randn(4, 8)).sum().backward()
    report = freezecheck.inspect(model, optimizer)
    text = f"{report}\n{[m['rank'] for m in report.to_dict()['models']]}\n"
    try:
        freezecheck.assert_sane(model, optimizer)
    except freezecheck.SetupError as error:
        text += f"{error}\n"
    with open(f"{folder}/{rank}.txt", "w") as file:
        file.write(text)
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1],), nprocs=2)
