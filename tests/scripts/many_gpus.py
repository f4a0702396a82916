"""One rank of several on GPUs: `many_gpus.py ddp` or `fully_shard`."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn

os.environ.setdefault("MASTER_ADDR", "localhost")
os.environ.setdefault("MASTER_PORT", "29561")
dist.init_process_group("nccl", rank=0, world_size=4)
torch.cuda.set_device(0)
model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)).cuda()
if sys.argv[1] == "ddp":
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = nn.parallel.DistributedDataParallel(model, device_ids=[0])
else:
    from torch.distributed.fsdp import fully_shard

    for layer in (model[0], model[3], model):
        fully_shard(layer)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
data = torch.utils.data.TensorDataset(torch.randn(64, 10), torch.randint(0, 3, (64,)))
sampler = torch.utils.data.DistributedSampler(data)
for x, y in torch.utils.data.DataLoader(data, 8, sampler=sampler):
    loss = nn.functional.cross_entropy(model(x.cuda()), y.cuda())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    print(mean.item())
