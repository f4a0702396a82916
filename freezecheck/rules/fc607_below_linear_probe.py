from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import Trace
from freezecheck.warmup import Floor, surely_below


class BelowLinearProbe(Rule):
    """A linear head on the frozen features is better than anything that this training has left.

    ## What it does

    Fits a linear head in closed form on the features of the initial weights, and another on those
    after a warm-up at the run's largest rates. Finds that neither the second nor the model itself reaches
    what the first reads rightly.

    ## Why it matters

    It is the least that a fine-tune must beat, and costs no training at all. Where even the features no
    longer allow it, a learning rate or a BatchNorm layer has destroyed what was pretrained.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    torch.manual_seed(6)
    y = torch.randint(8, (512,))
    x = torch.rand(512, 16) + nn.functional.one_hot(y, 16)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 64), nn.Sigmoid(), nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.6)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC607
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    y = torch.randint(4, (768,))
    x = torch.rand(768, 16) + nn.functional.one_hot(y, 16)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    Ridge regression on two thirds of 256 samples or more; the rest is judged. Features are what goes
    into the head in eval mode. The difference has to be a tenth at least, and three standard errors.

    ## Limits

    For classification with a linear head. That the model itself is below the floor after so few
    steps is no finding: small rates need longer. The report has all three figures.

    ## References

    - Kumar et al., [Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution](https://arxiv.org/abs/2202.10054), 2022
    """

    code = "FC607"
    name = "below-linear-probe"
    severity = Severity.WARNING
    explains = ("FC605", "FC606")

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.outcome or warmup.floor is None:
            return
        floor = warmup.floor
        if not _below(floor):
            return
        yield self.finding(
            f"After {len(warmup.losses)} steps the model reads {floor.own:.0%} of {floor.samples} held-out"
            f" samples rightly, and a linear head on its features {floor.after:.0%}; on the features of"
            f" before, such a head reads {floor.before:.0%}.",
            site=trace.site,
            symbol="features",
            fix=f"{warmup.advice}; freeze the backbone first, or keep its BatchNorm in eval mode",
            subject="probe",
        )


def _below(floor: Floor) -> bool:
    best = max(floor.after, floor.own)
    return surely_below(best, floor.before, floor.samples, _TENTH)


_TENTH = 0.1
