from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import COLLAPSED, Trace


class OneClassCollapse(Rule):
    """The model gives nearly every sample the same class, and its scores say nothing of the labels.

    ## What it does

    Finds classifiers that training has brought to predict one class whatever the input.

    ## Why it matters

    The loss is then that of guessing, which looks like slow learning, and with unequal classes even the
    accuracy looks good. It is what a learning rate leaves behind that has killed the features:
    units that are zero for every input, or attention that has saturated. They do not come back.

    ## Bad

    ```python live
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0, momentum=0.9)

    for step in range(100):
        x = torch.randn(64, 16)
        y = x[:, :4].argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # <- FC603
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    ```

    ## Good

    ```python live
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    for step in range(100):
        x = torch.randn(64, 16)
        y = x[:, :4].argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    ```

    ## How it is found

    In a run that is watched or goes beyond its first step, from what torch's loss functions are
    given: at least 256 training samples, twice running, of which 90% or more get the class that is the most
    frequent prediction of their step, and whose scores rank the labels no better than chance (a rank
    test, class against rest, within each step). Scores that are the same for every sample say so alone.

    A share is not enough: where 90% of the labels are one class a healthy model predicts little else, and
    a new head often begins so. Something must have been lost, too: the scores told the labels before and
    the loss has risen since, or it has spiked, or the scores of different samples have come a hundred times
    closer.

    A probe looks at the same samples in train and in eval mode, before and after its steps, and finds a
    collapse where both agree afterwards.

    ## Limits

    Of more than 4,096 classes, of several labels to a sample, and of losses written by hand nothing is
    kept. Of several tasks the first one is looked at.

    ## References

    - [Lu et al., Dying ReLU and initialization](https://arxiv.org/abs/1903.06733)
    - [Mann and Whitney, On a test of whether one of two random variables is stochastically larger than the other](https://doi.org/10.1214/aoms/1177730491)
    """

    code = "FC603"
    name = "one-class-collapse"
    severity = Severity.ERROR

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        if trace.verdict != COLLAPSED:
            return
        pool = trace.pools[-1]
        if pool.constant:
            what = "every sample gets the same scores"
        else:
            what = (
                f"{pool.share:.0%} of the predictions of a step are one class, and the scores tell"
                " the labels no better than chance"
            )
        samples = "samples" if trace.warmup is not None else "training samples"
        yield self.finding(
            f"The model has collapsed to one class: in {pool.samples} {samples} {what}.",
            site=trace.site,
            symbol="predictions",
            fix=trace.warmup.advice
            if trace.warmup is not None
            else "lower the learning rate or raise it slowly from 0, and begin again from the"
            " pretrained weights: what has died does not come back",
            step=trace.pools[0].step if trace.warmup is None else None,
        )
