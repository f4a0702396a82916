"""Two processes train together: under torchrun, or started here with `spawn` as the argument."""

import os
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train(rank, how, init):
    if init:
        dist.init_process_group("gloo", init_method=init, rank=rank, world_size=2)
    else:
        dist.init_process_group("gloo")
        rank = dist.get_rank()
    model = DistributedDataParallel(nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        model(torch.randn(4, 8)).sum().backward()
        if how == "hang" and rank == 1:
            time.sleep(1000)  # the second process never steps
        if how == "late" and rank == 1:
            time.sleep(1.5)
        optimizer.step()


if __name__ == "__main__":
    if sys.argv[1] == "spawn":
        init = "file://" + tempfile.mktemp(dir=os.environ["RENDEZVOUS"])
        mp.spawn(train, args=("spawn", init), nprocs=2)
    else:
        train(None, sys.argv[1], None)
