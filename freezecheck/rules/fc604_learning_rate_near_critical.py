from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import Trace
from freezecheck.warmup import NEAR


class LearningRateNearCritical(Rule):
    """The loss leaps at the rates that the run will reach, though it does not stay far up.

    ## What it does

    Finds warm-ups in which the loss leapt far above its best, or stayed above that of the initial
    weights, but did not end far above what a model costs that knows nothing.

    ## Why it matters

    Near the rate at which training diverges, chance decides: another seed, another order of the
    data or a longer warm-up ends the other way. What was pretrained has been shaken in any case.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    y = torch.randint(4, (512,))
    x = torch.randn(512, 16) + 3 * nn.functional.one_hot(y, 16)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    backbone, head = model[:-1].parameters(), model[-1].parameters()
    optimizer = torch.optim.AdamW([{"params": backbone, "lr": 1.0}, {"params": head, "lr": 3e-3}])
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC604
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    y = torch.randint(4, (512,))
    x = torch.randn(512, 16) + 3 * nn.functional.one_hot(y, 16)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(
        nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    backbone, head = model[:-1].parameters(), model[-1].parameters()
    optimizer = torch.optim.AdamW([{"params": backbone, "lr": 3e-3}, {"params": head, "lr": 3e-3}])
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    `freezecheck.probe` raises all rates in ten steps to the largest that the schedule will give them,
    and holds them there. A leap is four times the best loss so far. After one, the warm-up goes on to
    its last step; if the loss of the last twenty is then more than 1.5 times that of the initial weights
    and of a model that ignores its input, the rates are unsafe, otherwise near the edge. They are near the
    edge also where the loss is higher still but the scores tell the labels, and the schedule is known to
    bring the rates down to a tenth: of 79 such runs on handwritten digits 5 exploded or collapsed.

    ## Limits

    A leap that settles at a lower loss than before (a catapult) may do no harm, and with SGD even good.
    Gradient clipping, which the probe leaves out, may prevent it.

    ## References

    - Lewkowycz et al., [The large learning rate phase of deep learning: the catapult mechanism](https://arxiv.org/abs/2003.02218), 2020
    """

    code = "FC604"
    name = "learning-rate-near-critical"
    severity = Severity.WARNING
    explains = ("FC605", "FC606", "FC609")

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.zone != NEAR:
            return
        if warmup.tripped is not None:
            what = f"leapt at step {warmup.tripped}, to {max(warmup.losses):.3g} at most"
        else:
            what = "stayed above that of the initial weights for long"
        yield self.finding(
            f"The loss began at {warmup.losses[0]:.3g}, {what}, and is {warmup.late[0]:.3g} over the last"
            f" ten of {len(warmup.losses)} steps. Such rates are near those at which training diverges.",
            site=trace.site,
            symbol="loss",
            fix=f"{warmup.advice}, or make the schedule's warm-up longer",
            subject="probe",
        )
