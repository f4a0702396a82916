from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.timeline import LOSS, Event, Timeline


class LossGetsWrongInput(Rule):
    """The loss function is given what it would have computed itself.

    ## What it does

    Finds probabilities handed to a loss that wants raw scores, or scores to one that wants
    log-probabilities, and cross-entropy over a single class.

    ## Why it matters

    `cross_entropy` applies log-softmax, `binary_cross_entropy_with_logits` a sigmoid.
    Applied twice, they flatten the gradient and keep the loss away from 0: with three
    classes it cannot fall below 0.55, however good the model. Over one class the softmax
    is always 1 and the loss always 0, so that nothing is learnt. Either looks like a
    collapse of the model.

    ## Bad

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    loss = criterion(model(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0]))  # <- FC507
    loss.backward()
    optimizer.step()
    ```

    One logit for two classes:

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), target)  # <- FC507
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = criterion(model(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimizer.step()
    ```

    ```python
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    loss = nn.functional.binary_cross_entropy_with_logits(model(torch.randn(4, 8)), target)
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The first training call of each loss function is looked at: which activation made its
    input, as autograd has it, and whether its rows are non-negative and sum to 1.

    ## Limits

    A loss written by hand is not seen, nor a function's later calls.

    ## References

    - [torch.nn.CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html)
    - [torch.nn.NLLLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html)
    - [torch.nn.BCEWithLogitsLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html)
    """

    code = "FC507"
    name = "loss-gets-wrong-input"
    severity = Severity.WARNING

    def in_timeline(self, timeline: Timeline) -> Iterator[Finding]:
        for event in timeline.of(LOSS):
            found = _LOSSES.get(event.value, _nothing)(event)
            if found is not None:
                message, fix = found
                yield self.finding(message, site=event.site, symbol=event.value, fix=fix)


def _classes(event: Event) -> int:
    shape = event.data["shape"]
    return shape[1] if len(shape) > 1 else shape[0]


def _rows(event: Event) -> int:
    shape = event.data["shape"]
    return math.prod(shape) // max(1, _classes(event))


def _nothing(event: Event) -> None:
    return None


def _cross_entropy(event: Event) -> tuple[str, str] | None:
    classes, made = _classes(event), event.data.get("made")
    if classes == 1:
        return (
            "cross_entropy is given one score a sample. The softmax over a single class is"
            " always 1, so that the loss is 0 and nothing is learnt.",
            "give the model one output a class, or use binary_cross_entropy_with_logits",
        )
    summing = event.data["looks"] == "probabilities" and _rows(event) > 1
    if made not in ("softmax", "sigmoid") and not summing:
        return None
    floor = math.log(1 + (classes - 1) / math.e)
    what = "the output of a sigmoid" if made == "sigmoid" else "probabilities"
    return (
        f"cross_entropy is given {what}, but applies a softmax itself: with {classes} classes"
        f" the loss cannot fall below {floor:.2f}, and its gradients are small.",
        f"leave out the {made or 'softmax'} and give it the raw scores",
    )


def _nll(event: Event) -> tuple[str, str] | None:
    if event.data["looks"] == "log-probabilities" or not event.data.get("high", 0) > 0.01:
        return None
    what = "probabilities" if event.data["looks"] == "probabilities" else "raw scores"
    return (
        f"nll_loss is given {what}, but wants log-probabilities: it only negates and averages its"
        " input, so that the loss is no likelihood and goes below 0.",
        "use cross_entropy on the raw scores, or log_softmax before nll_loss",
    )


def _with_logits(event: Event) -> tuple[str, str] | None:
    made = event.data.get("made")
    if made not in ("softmax", "sigmoid"):
        return None
    return (
        f"binary_cross_entropy_with_logits is given the output of a {made}, but"
        " applies a sigmoid itself: no prediction can leave the range from 0.5 to 0.73.",
        f"leave out the {made} and give it the raw scores",
    )


_LOSSES = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "binary_cross_entropy_with_logits": _with_logits,
}
