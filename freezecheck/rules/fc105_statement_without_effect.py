from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.program import STATEMENT, Event, Module, Optimizer, Scheduler, World
from freezecheck.rule import Rule

_METHODS = frozenset(
    "train eval requires_grad_ zero_grad step backward cuda cpu half freeze unfreeze".split()
)
_FLAG = re.compile(r"\.(?:requires_grad|training) (?:==|is) (?:True|False)$")


class StatementWithoutEffect(Rule):
    """A method that is named and not called, or a comparison where an assignment is meant.

    ## What it does

    Finds statements such as `model.eval`, `optimizer.zero_grad` and
    `param.requires_grad == False`.

    ## Why it matters

    Python evaluates them and drops the result. The model stays in train mode, the
    gradients are not cleared, nothing is frozen.

    ## Bad

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.requires_grad == False  # <- FC105
    model.fc = torch.nn.Linear(512, 5)
    model.eval  # <- FC105
    ```

    ## Good

    ```python
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    for param in model.parameters():
        param.requires_grad = False
    model.fc = torch.nn.Linear(512, 5)
    model.eval()
    assert model.conv1.weight.requires_grad == False
    mode = model.eval
    ```

    ## How it is found

    From the text: a statement that is nothing but such an attribute of a model, an optimizer,
    a scheduler or a tensor, or such a comparison. `eval` and `train` count of anything,
    except in a notebook, where the last line of a cell is shown.

    ## Limits

    A bare name of another method is passed over.

    ## References

    - [Python reference: expression statements](https://docs.python.org/3/reference/simple_stmts.html#expression-statements)
    """

    code = "FC105"
    name = "statement-without-effect"
    severity = Severity.ERROR
    explains = ("FC120", "FC203", "FC405")

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(STATEMENT):
            finding = None if event.site in told else self._judge(event)
            if finding is not None:
                told.add(event.site)
                yield finding

    def _judge(self, event: Event) -> Finding | None:
        text, subject = str(event.value), event.subject
        if _FLAG.search(text):
            return self.finding(
                f"{text} compares, and the result is dropped: nothing is set.",
                site=event.site,
                symbol=text,
                fix=f"assign: {re.sub(' (==|is) ', ' = ', text)}",
            )
        unknown = subject is None
        if text not in _METHODS or (unknown and event.site and ".ipynb" in event.site.path):
            return None
        owner = _called(subject) or event.data.get("owner", "")
        shown = f"{owner}.{text}" if owner else text
        return self.finding(
            f"{shown} is named here and not called: nothing happens.",
            site=event.site,
            symbol=shown,
            fix=f"call it: {shown}()",
            subject=subject.root.shown if isinstance(subject, Module) else (),
        )


def _called(subject: object) -> str:
    return (
        subject.shown
        if isinstance(subject, (Module, Optimizer))
        else (subject.label if isinstance(subject, Scheduler) else "")
    )
