from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.trace import Trace


class FeatureDrift(Rule):
    """What goes into the head is dead, or has nothing left of what it was.

    ## What it does

    Compares the features that go into the head, of the same samples in eval mode, before and after
    a warm-up at the run's largest rates. Finds that 85% of them have become the same for every sample, or
    that they point elsewhere and tell the labels less well.

    ## Why it matters

    A fine-tune lives on the features that it was given. ReLU units that one large step has pushed
    below 0 for every input get no gradient any more, and never come back.

    ## Bad

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.rand(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)  # <- FC606
    ```

    ## Good

    ```python live probe
    import freezecheck, torch
    from torch import nn

    x = torch.rand(512, 16)
    y = x[:, :4].argmax(1)
    batches = list(zip(x.split(32), y.split(32)))
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    freezecheck.probe(model, optimizer, batches, nn.functional.cross_entropy)
    ```

    ## How it is found

    A feature is dead if it has the same value for all samples. Direction is measured by the cosine
    between a sample's features before and after; it counts only where a linear head on the features has
    become worse, too, as training from scratch turns them all.

    ## Limits

    The head has to be a linear layer whose output is the model's, and its input one vector for each
    sample. Some drift is what fine-tuning is for: the figure is in the report, and only extremes are
    findings.

    ## References

    - Kumar et al., [Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution](https://arxiv.org/abs/2202.10054), 2022
    """

    code = "FC606"
    name = "feature-drift"
    severity = Severity.WARNING

    def in_trace(self, trace: Trace) -> Iterator[Finding]:
        warmup = trace.warmup
        if warmup is None or warmup.outcome or warmup.features is None:
            return
        features, floor = warmup.features, warmup.floor
        if features.dead_after >= _DEAD and features.dead_before <= _DEAD / 2:
            what = (
                f"{features.dead_after:.0%} of the features that go into the head are the same for"
                f" every sample, {features.dead_before:.0%} were before"
            )
        elif features.drift >= _ELSEWHERE and floor and floor.before - floor.after >= _WORSE:
            what = (
                "the features that go into the head have nothing in common with those of before"
                f" (1 - cosine: {features.drift:.2f}), and a linear head on them reads"
                f" {floor.after:.0%} of the samples rightly, not {floor.before:.0%}"
            )
        else:
            return
        yield self.finding(
            f"After {len(warmup.losses)} steps {what}.",
            site=trace.site,
            symbol="features",
            fix=f"{warmup.advice}, or train the head alone first",
            subject="probe",
        )


_DEAD = 0.85  # with 0.8, a run on handwritten digits ended well as the rate fell
_ELSEWHERE = 0.9
_WORSE = 0.05
