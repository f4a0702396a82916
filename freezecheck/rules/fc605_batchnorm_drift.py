from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import count, summarise
from freezecheck.trace import Trace


class BatchnormDrift(Rule):
    """BatchNorm statistics have left those of the initial weights far behind within a few steps.

    ## What it does

    Finds BatchNorm layers whose running mean and variance, after a warm-up at the run's largest
    rates, are orders of magnitude away from those that the initial weights gather from the same data.

    ## Why it matters

    Normalisation hides it: the loss in train mode falls as it should, while the layers before have
    gone wild and what they had been pretrained for is lost. In eval mode, whose statistics lag behind, the
    same model may be close to guessing.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    norm = nn.BatchNorm1d
    model = nn.Sequential(
        nn.Linear(16, 64), norm(64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 4)
    )
    backbone, head = model[:5].parameters(), model[6].parameters()
    optimizer = torch.optim.AdamW([{"params": backbone, "lr": 3.0}, {"params": head, "lr": 3e-3}])
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC605
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    norm = nn.BatchNorm1d
    model = nn.Sequential(
        nn.Linear(16, 64), norm(64), nn.ReLU(), nn.Linear(64, 64), norm(64), nn.ReLU(), nn.Linear(64, 4)
    )
    backbone, head = model[:5].parameters(), model[6].parameters()
    optimizer = torch.optim.AdamW([{"params": backbone, "lr": 3e-3}, {"params": head, "lr": 3e-3}])
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    By the symmetric divergence between two Gaussians for each channel, and its median over the channels
    of a layer. Both sets of statistics come from the same batches, so that data of another kind than those of
    the pretraining do not count.

    ## Limits

    The bound is set where runs on handwritten digits began to lose accuracy for good; it is far above
    what usual fine-tuning does. A stem alone at a wild rate stays below it, and often recovers as the rate
    falls. Layers in eval mode do not drift.

    ## References

    - [torch.nn.BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "FC605"
    name = "batchnorm-drift"
    severity = Severity.WARNING
    explains = ("FC606", "FC609")

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.outcome:
            return
        far = [layer for layer in warmup.layers if layer.drift >= _FAR]
        if not far:
            return
        worst = max(far, key=lambda layer: layer.drift)
        yield self.finding(
            f"The running statistics of {count(len(far), 'BatchNorm layer')}"
            f" ({summarise([layer.path for layer in far], 3)}) have drifted away in"
            f" {len(warmup.losses)} steps: by {worst.drift:.2g} nats in {worst.path}.",
            site=trace.site,
            symbol=worst.path,
            fix=f"{warmup.advice}, above all for the layers before these",
            subject="probe",
        )


_FAR = 1e5  # nats; runs on handwritten digits that ended well stayed below 8.3e4
