from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import Trace
from freezecheck.warmup import INCONCLUSIVE, SAFE, Warmup


class NoProgress(Rule):
    """Sixty steps at the run's largest rates leave the loss where it was.

    ## What it does

    Finds warm-ups at whose end the loss is that of the initial weights on the same batches, though
    these know nothing of the labels yet.

    ## Why it matters

    A rate too small by orders of magnitude, a loss that does not reach the layers that train, or
    inputs that tell nothing of the targets cost a whole run, and look like patience.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC608
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    The loss of each of the last ten steps is compared with that of the initial weights on its batch,
    and the mean difference is below half a percent; where the loss surely falls, below a hundredth of one.
    The loss must be no lower than nine tenths of what a
    model costs that ignores its input; or it is the same in every step to the last digit.

    ## Limits

    A model that is already trained, whose loss is low and stays so, is left alone. So is one whose
    task or loss is of an unknown kind, unless nothing moves at all.

    ## References

    - Smith, [Cyclical Learning Rates for Training Neural Networks](https://arxiv.org/abs/1506.01186), 2017
    """

    code = "FC608"
    name = "no-progress"
    severity = Severity.WARNING

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.zone not in (INCONCLUSIVE, SAFE) or not warmup.losses:
            return
        still = warmup.losses == warmup.initial
        if not still and not _stuck(warmup):
            return
        yield self.finding(
            f"{len(warmup.losses)} steps at up to {warmup.stated} have changed the loss of the initial weights by"
            f" {-warmup.gain:.2%}" + (": nothing moves at all." if still else "."),
            site=trace.site,
            symbol="loss",
            fix="raise the learning rates, or look at whether the loss reaches what trains, and the"
            " inputs tell the targets",
            subject="probe",
        )


def _stuck(warmup: Warmup) -> bool:
    known = warmup.level
    if known is None or known <= 0:
        return False
    little = _LITTLE if warmup.zone == INCONCLUSIVE else _NOTHING
    return abs(warmup.gain) < little and warmup.initial[0] >= _IGNORANT * known


_LITTLE = 0.005
_NOTHING = 1e-4  # where the loss falls, surely, but so slowly
_IGNORANT = 0.9
