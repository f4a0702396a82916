from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import EXPLODED, WINDOW, Trace
from freezecheck.warmup import Warmup


class LossExplosion(Rule):
    """The loss has risen above what a model gives that knows nothing, and stays there.

    ## What it does

    Finds runs whose loss, in the median of 20 steps, is more than 1.5 times as high as at the start
    and as that of a model that ignores its input.

    ## Why it matters

    With a learning rate beyond what the loss surface allows each step overshoots. What was pretrained
    is destroyed within a few of them; Adam keeps the values finite, so that no NaN tells.

    ## Bad

    ```python live
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3.0)

    for step in range(80):
        x = torch.randn(64, 16)
        y = x[:, :4].argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # <- FC602
        optimizer.step()
    ```

    ## Good

    ```python live
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    for step in range(80):
        x = torch.randn(64, 16)
        y = x[:, :4].argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    In a run that is watched or goes beyond its first step, from what torch's loss functions return:
    cross-entropy is compared with the logarithm of the number of classes, binary cross-entropy with
    that of 2, regression losses with five times that of the mean target. A spike is no verdict, and
    many healthy runs begin with one: nothing is said before step 60, nor while the loss falls.

    ## Limits

    Losses written by hand are not judged, since it is not known what a model without knowledge
    gives; nor are losses below 0, nor optimizers that take turns, each on a loss of its own:
    the losses of adversaries rise in good order.

    ## References

    - [Lewkowycz et al., The large learning rate phase of deep learning: the catapult mechanism](https://arxiv.org/abs/2003.02218)
    - [Smith, Cyclical learning rates for training neural networks](https://arxiv.org/abs/1506.01186)
    """

    code = "FC602"
    name = "loss-explosion"
    severity = Severity.ERROR

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        if trace.verdict != EXPLODED:
            return
        if trace.warmup is not None:
            yield self._probed(trace, trace.warmup)
            return
        if trace.start is None or trace.level is None:
            return
        yield self.finding(
            f"The loss has exploded: it began at {trace.start:.3g}, a model that ignores its input stays"
            f" below {trace.level:.3g}, and the median of {WINDOW} steps is {trace.typical:.3g}.",
            site=trace.site,
            symbol="loss",
            fix="lower the learning rate, raise it slowly from 0, or clip the gradients",
            step=max(1, trace.step - WINDOW + 1),
        )

    def _probed(self, trace: Trace, warmup: Warmup) -> Finding:
        level, (now, first) = warmup.level, warmup.late
        ignorant = "" if level is None else f", a model that ignores its input {level:.3g}"
        return self.finding(
            f"The loss explodes at rates of up to {warmup.stated}: over the last ten of"
            f" {trace.step} steps it is {now:.3g}; the initial weights have"
            f" {first:.3g} on the same batches{ignorant}.",
            site=trace.site,
            symbol="loss",
            fix=warmup.advice,
            subject="probe",
        )
