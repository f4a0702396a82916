from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import NOT_FINITE, Trace
from freezecheck.warmup import Warmup


class NonFiniteLoss(Rule):
    """The loss is NaN or infinite and stays so.

    ## What it does

    Finds runs whose last three losses or more are not finite.

    ## Why it matters

    The gradients of such a loss are NaN, and a step writes them into every weight: the model is lost
    from there on, and the run goes on without a word. A gradient scaler leaves the steps
    out, which saves the weights and trains nothing. A single such loss may pass, three in a row do not.

    ## Bad

    A learning rate that is far too high:

    ```python live
    import torch
    from torch import nn

    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    x = torch.randn(64, 8)
    y = x.sum(1, keepdim=True)

    for step in range(40):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # <- FC601
        optimizer.step()
    ```

    ## Good

    ```python live
    import torch
    from torch import nn

    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(64, 8)
    y = x.sum(1, keepdim=True)

    for step in range(40):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ```

    ## How it is found

    In a run that is watched or goes beyond its first step: the loss that `backward` is called on is
    kept, of a scaled one the loss before scaling, and looked at every 20 steps.

    ## Limits

    It is told up to 20 steps late. Where something other than `backward` of one number computes
    the gradients, only the values of torch's loss functions are seen.

    ## References

    - [torch.autograd.set_detect_anomaly](https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection)
    - [Automatic mixed precision](https://docs.pytorch.org/docs/stable/notes/amp_examples.html)
    """

    code = "FC601"
    name = "non-finite-loss"
    severity = Severity.ERROR

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        if trace.verdict != NOT_FINITE:
            return
        if trace.warmup is not None:
            yield self._probed(trace, trace.warmup)
            return
        yield self.finding(
            "The loss is NaN or infinite, and no step trains the model any more.",
            site=trace.site,
            symbol="loss",
            fix="lower the learning rate or raise it slowly from 0, look for a division by 0 or the"
            " logarithm of 0, and begin again from a checkpoint of before",
            step=trace.finite + 1,
        )

    def _probed(self, trace: Trace, warmup: Warmup) -> Finding:
        if trace.lost:
            what = f"The loss is NaN or infinite from step {trace.finite + 1} of a warm-up on"
        else:
            what = "The gradients are not finite, at whatever scale"
        return self.finding(
            f"{what}, at rates of up to {warmup.stated}.",
            site=trace.site,
            symbol="loss",
            fix=warmup.advice,
            subject="probe",
        )
