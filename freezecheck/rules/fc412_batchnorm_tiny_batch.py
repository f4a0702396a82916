from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.frozen import layers
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, summarise
from freezecheck.timeline import Timeline
from freezecheck.trace import Trace

# ResNet-50 on ImageNet, validation error by batch size per worker (Wu & He 2018, table 2):
# 32: 23.6 %, 16: 23.7 %, 8: 24.8 %, 4: 27.3 %, 2: 34.7 %.
_TINY = 4


class BatchnormTinyBatch(Rule):
    """BatchNorm trains on batches so small that their statistics are mostly noise.

    ## What it does

    Finds trainable BatchNorm layers in train mode whose training forward saw fewer than 4
    samples.

    ## Why it matters

    The mean and variance of two images are a poor estimate of those of the data. On ImageNet
    the error of a ResNet-50 with BatchNorm rises from 23.6 % at 32 images a worker to 27.3 %
    at 4 and 34.7 % at 2 (Wu and He 2018). Gradient accumulation does not help: each of
    the small forwards is normalised on its own.

    ## Bad

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()  # <- FC412
    for micro_batch in range(4):
        loss = F.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])) / 4
        loss.backward()
    optimizer.step()
    ```

    In a probe:

    ```python live probe
    import freezecheck, torch
    from torch import nn

    y = torch.randint(2, (256,))
    x = torch.randn(256, 16) + 3 * nn.functional.one_hot(y, 16)
    batches = list(zip(x.split(3), y.split(3)))
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=7e-4)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC412
    ```

    ## Good

    Train with the pretrained statistics; the layers' weight and bias still learn:

    ```python
    import torch, torchvision
    from torch.nn import functional as F

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    model.train()
    for m in model.modules():
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm):
            m.eval()
    for micro_batch in range(4):
        loss = F.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1])) / 4
        loss.backward()
    optimizer.step()
    ```

    ## How it is found

    In a recorded run, from the first dimension of what each BatchNorm layer was given; in a probe,
    from the size of its batches. It is the samples that count and not the pixels: those of one image resemble each other.

    ## Limits

    SyncBatchNorm is left out, as its batch is that of all processes; so is a layer whose batch
    cannot be seen. Only the first steps are looked at, so that a small last batch of an epoch
    is not.

    ## References

    - Wu and He, [Group Normalization](https://arxiv.org/abs/1803.08494), 2018
    """

    code = "FC412"
    name = "batchnorm-tiny-batch"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        tiny = [
            n
            for n in now.norms
            if n.samples is not None
            and n.samples < _TINY
            and n.training
            and n.trainable
            and n.type != "SyncBatchNorm"
        ]
        for index, model in enumerate(now.models):
            mine = [n for n in tiny if n.model == index]
            if not mine:
                continue
            samples = max(n.samples or 0 for n in mine)
            yield self.finding(
                f"Normalised over {samples} sample{'s' if samples > 1 else ''} in train mode:"
                f" {layers(now, mine)}. {_NOISE}",
                site=mine[0].site or now.built(index),
                symbol=now.path(index, mine[0].path),
                fix=_FIX,
                subject=model.label,
            )

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or not 0 < warmup.batch < _TINY:
            return
        tiny = [layer.path for layer in warmup.layers if layer.training and layer.trainable]
        if tiny:
            yield self.finding(
                f"Normalised over {count(warmup.batch, 'sample')} in train mode:"
                f" {count(len(tiny), 'BatchNorm layer')} ({summarise(tiny, 3)}). {_NOISE}",
                site=trace.site,
                symbol=tiny[0],
                fix=_FIX,
                subject="probe",
            )


_NOISE = "Statistics of so few are mostly noise; gradient accumulation does not change that."
_FIX = (
    "raise the batch size, keep the pretrained statistics (eval mode for these layers), or use"
    " GroupNorm or SyncBatchNorm"
)
