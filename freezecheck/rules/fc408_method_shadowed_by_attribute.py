from __future__ import annotations

import re
from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.program import ATTRIBUTE, World
from freezecheck.rule import Rule

_FLAG = re.compile(r"freez|frozen|_bn$|^train$|^eval$", re.IGNORECASE)


class MethodShadowedByAttribute(Rule):
    """An attribute of the same name hides a method of the class.

    ## What it does

    Finds assignments such as `self.freeze_bn = freeze_bn` in a class that defines a method
    `freeze_bn`.

    ## Why it matters

    Python looks at the object before it looks at its class. From that line on
    `model.freeze_bn` is the flag: `model.freeze_bn()` raises a TypeError, and code that asks
    `if model.freeze_bn:`, or calls it only where it is callable, never freezes anything.
    An assignment to `self.train` or `self.eval` also cuts the module off from the modes of
    everything around it.

    ## Bad

    ```python source
    import torch, torchvision
    from torch import nn

    class Segmenter(nn.Module):
        def __init__(self, freeze_bn=False):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.freeze_bn = freeze_bn  # <- FC408

        def freeze_bn(self):
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

        def forward(self, x):
            return self.backbone(x)
    ```

    ## Good

    ```python source
    import torch, torchvision
    from torch import nn

    class Segmenter(nn.Module):
        def __init__(self, freeze_bn=False):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT")
            self.keep_statistics = freeze_bn

        def freeze_bn(self):
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

        def train(self, mode=True):
            super().train(mode)
            if self.keep_statistics:
                self.freeze_bn()
            return self

        def forward(self, x):
            return self.backbone(x)
    ```

    A function in the place of a method, and a property with a setter, are no such slip:

    ```python source
    import torch, torchvision
    from torch import nn

    def disabled_train(self, mode=True):
        return self

    class Frozen(nn.Module):
        def __init__(self, frozen):
            super().__init__()
            self.backbone = torchvision.models.resnet18(weights="DEFAULT").eval()
            self.backbone.train = disabled_train
            self.frozen = frozen

        @property
        def frozen(self):
            return self._frozen

        @frozen.setter
        def frozen(self, value):
            self._frozen = value

        def forward(self, x):
            return self.backbone(x)
    ```

    ## How it is found

    From the text: an attribute that is set on an object, and a method of that name in its class
    or in a class of the same project that it descends from. The value must be one that cannot
    be called; where it is not known, the name must be that of a switch (`freeze_...`).

    ## Limits

    Methods that the class inherits from a library are not looked at.

    ## References

    - [Python: the attribute of an object comes before that of its class](https://docs.python.org/3/reference/datamodel.html#invoking-descriptors)
    """

    code = "FC408"
    name = "method-shadowed-by-attribute"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(ATTRIBUTE):
            hidden, name = event.data.get("hides"), event.data.get("attribute", "")
            if hidden is None or event.site in told:
                continue
            if not event.data["plain"] and not _FLAG.search(name):
                continue
            told.add(event.site)
            owner = getattr(event.subject.cls, "name", "")
            yield self.finding(
                f"self.{name} hides the method {name}() of {owner}: on this object the name is the"
                " attribute from here on, and the method cannot be called.",
                site=event.site,
                symbol=f"{owner}.{name}",
                notes=[Note("the method is defined here", hidden)],
                fix="give the attribute or the method another name",
                subject=owner,
            )
