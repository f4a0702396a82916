from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import Trace
from freezecheck.warmup import Warmup, surely_below


class TrainEvalGap(Rule):
    """In eval mode the model is far worse than in train mode, on the very same samples.

    ## What it does

    Compares both modes on the same samples with the weights that a warm-up at the run's largest rates
    left. Finds a gap that remains when BatchNorm layers have gathered their statistics anew.

    ## Why it matters

    Every validation will tell of a bad model, and so will every use of it. It is not overfitting: the
    samples are the same. Statistics that are not updated, or batches of one kind each, are the usual causes.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip((100 + 10 * x).split(32), y.split(32)))
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    model[0].track_running_stats = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC609
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.randn(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip((100 + 10 * x).split(32), y.split(32)))
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    At high rates running statistics lag behind the weights, which passes as the rates fall; so BatchNorm
    layers that train get new ones from one more pass through the samples before eval mode is judged. The
    accuracy has to be lower by 15 points and three standard errors; without classes, the loss in eval
    mode has to be above that of the initial weights and twice that in train mode.

    ## Limits

    The gap before that pass is in the report, and no finding.

    ## References

    - [torch.nn.BatchNorm2d, `track_running_stats`](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "FC609"
    name = "train-eval-gap"
    severity = Severity.WARNING

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.outcome or warmup.train is None or warmup.settled is None:
            return
        if not _apart(warmup):
            return
        train, later = warmup.train, warmup.settled
        if train.accuracy is not None and later.accuracy is not None:
            what = (
                f"{train.accuracy:.0%} rightly in train mode and {later.accuracy:.0%} in eval mode"
            )
        else:
            what = (
                f"with a loss of {train.loss:.3g} in train mode and {later.loss:.3g} in eval mode"
            )
        yield self.finding(
            f"After {len(warmup.losses)} steps the model reads the same {warmup.samples} samples {what}, with"
            " statistics of its own weights.",
            site=trace.site,
            symbol="modes",
            fix="let BatchNorm layers that train update their statistics, mix the classes within each"
            " batch, or keep BatchNorm in eval mode",
            subject="probe",
        )


def _apart(warmup: Warmup) -> bool:
    train, later, start = warmup.train, warmup.settled, warmup.start
    if train is None or later is None or start is None:
        return False
    if train.accuracy is None or later.accuracy is None:
        return later.loss > start.loss and later.loss > 2 * train.loss > 0
    return surely_below(later.accuracy, train.accuracy, warmup.samples, _POINTS)


_POINTS = 0.15
