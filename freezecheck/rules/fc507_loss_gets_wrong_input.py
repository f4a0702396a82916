from __future__ import annotations

import math
from collections.abc import Iterator

from freezecheck import program
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

    In a text: what is handed to a loss comes straight from a softmax, a sigmoid, or a
    `Linear` layer, be it the last of a `Sequential` or at the end of a `forward`, and is at
    most moved or reshaped on the way. Losses under `no_grad` are passed over.

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

    def in_source(self, world: program.World) -> Iterator[Finding]:
        told = set()
        for event in world.of(program.LOSS):
            name = _NAMES.get(event.value, event.value)
            if not event.grad or (event.site, name) in told:
                continue
            found = _TEXTS.get(name, _nothing)(event)
            if found is not None:
                told.add((event.site, name))
                message, fix = found
                yield self.finding(message, site=event.site, symbol=name, fix=fix)


# Of a text: names of layers that are functions, too.
_NAMES = {
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
}


def _cross_entropy_in_text(event: program.Event) -> tuple[str, str] | None:
    made = event.data["made"]
    if event.data["width"] == 1:
        return _ONE_SCORE
    if made not in ("softmax", "sigmoid"):
        return None
    what = "the output of a sigmoid" if made == "sigmoid" else "probabilities"
    return (
        f"cross_entropy is given {what}, but applies a softmax itself: the loss cannot come near"
        " 0, and its gradients are small.",
        f"leave out the {made} and give it the raw scores",
    )


def _nll_in_text(event: program.Event) -> tuple[str, str] | None:
    what = {"softmax": "probabilities", "linear": "raw scores"}.get(event.data["made"])
    return _not_log(what) if what is not None else None


def _with_logits_in_text(event: program.Event) -> tuple[str, str] | None:
    made = event.data["made"]
    return _twice(made) if made in ("softmax", "sigmoid") else None


def _classes(event: Event) -> int:
    shape = event.data["shape"]
    return shape[1] if len(shape) > 1 else shape[0]


def _rows(event: Event) -> int:
    shape = event.data["shape"]
    return math.prod(shape) // max(1, _classes(event))


_ONE_SCORE = (
    "cross_entropy is given one score a sample. The softmax over a single class is"
    " always 1, so that the loss is 0 and nothing is learnt.",
    "give the model one output a class, or use binary_cross_entropy_with_logits",
)


def _not_log(what: str) -> tuple[str, str]:
    return (
        f"nll_loss is given {what}, but wants log-probabilities: it only negates and averages its"
        " input, so that the loss is no likelihood and goes below 0.",
        "use cross_entropy on the raw scores, or log_softmax before nll_loss",
    )


def _twice(made: str) -> tuple[str, str]:
    return (
        f"binary_cross_entropy_with_logits is given the output of a {made}, but"
        " applies a sigmoid itself: no prediction can leave the range from 0.5 to 0.73.",
        f"leave out the {made} and give it the raw scores",
    )


def _nothing(event: object) -> None:
    return None


def _cross_entropy(event: Event) -> tuple[str, str] | None:
    classes, made = _classes(event), event.data.get("made")
    if classes == 1:
        return _ONE_SCORE
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
    return _not_log(what)


def _with_logits(event: Event) -> tuple[str, str] | None:
    made = event.data.get("made")
    return _twice(made) if made in ("softmax", "sigmoid") else None


_LOSSES = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "binary_cross_entropy_with_logits": _with_logits,
}
_TEXTS = {
    "cross_entropy": _cross_entropy_in_text,
    "nll_loss": _nll_in_text,
    "binary_cross_entropy_with_logits": _with_logits_in_text,
}
