from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.peft import adapters, head, takers
from freezecheck.program import World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, is_adapter
from freezecheck.timeline import Timeline


class PeftHeadNotTrainable(Rule):
    """PEFT froze the new, random head together with the base model.

    ## What it does

    Finds a PEFT model whose adapters train while its freshly made classification head
    is frozen.

    ## Why it matters

    `get_peft_model` freezes everything but the adapters. It spares the head only if it
    is told that there is one: by `task_type` or by `modules_to_save`. Otherwise the
    adapters learn to feed a random projection that never changes.

    ## Bad

    ```python needs=peft
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(64, 64)
            self.norm = nn.LayerNorm(64)
            self.classifier = nn.Linear(64, 2)

        def forward(self, x):
            return self.classifier(self.norm(self.query(x)))

    base = Classifier()
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query"]))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)  # <- FC115
    loss = nn.functional.cross_entropy(model(torch.randn(4, 64)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python needs=peft
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(64, 64)
            self.norm = nn.LayerNorm(64)
            self.classifier = nn.Linear(64, 2)

        def forward(self, x):
            return self.classifier(self.norm(self.query(x)))

    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    model = get_peft_model(Classifier(), config)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 64)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    The last layer is frozen, its values look as the constructor drew them, and adapter
    parameters are trainable.

    In a text: the head is the last layer with parameters, or the classifier that a model of
    transformers adds to a checkpoint that is known to have none. The PEFT config is known, and
    neither its `task_type` nor its `modules_to_save` nor its `target_modules` speaks of it.

    ## Limits

    A head without a bias whose initial values follow no known scheme cannot be told from
    a trained one, and is passed over.

    ## References

    - [PEFT: LoraConfig.modules_to_save](https://huggingface.co/docs/peft/package_reference/lora)
    """

    code = "FC115"
    name = "peft-head-not-trainable"
    severity = Severity.ERROR
    explains = ("FC110",)

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        for index, model in enumerate(now.models):
            head = model.head
            if "peft" not in model.frameworks or head is None or not head.fresh:
                continue
            if not any(p.trainable and is_adapter(p.name) for p in now.of_model(index)):
                continue
            mine = [p for p in now.of_model(index) if p.module == head.path]
            if not mine or any(p.trainable or is_adapter(p.name) for p in mine):
                continue
            symbol = now.path(index, head.path)
            yield self.finding(
                f"the head {symbol} ({head.type} with weight {head.shape}) is new and frozen, while"
                " the adapters train: its random values will never change.",
                site=next((o.site for o in now.optimizers if o.site), None),
                symbol=symbol,
                fix=_FIX.format(symbol.rpartition(".")[2]),
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for model in adapters(world):
            mine = head(model)
            if mine is None or any(param.trainable is not False for param in mine.parameters()):
                continue
            for optimizer, built in takers(world, model):
                if not any(optimizer.holds(param) for param in model.params):
                    continue
                if any(p.trains(built) is not False for p in mine.parameters()):
                    continue
                yield self.finding(
                    f"the head {mine.shown} is new and frozen, while the adapters train: its random"
                    " values will never change.",
                    site=optimizer.site,
                    symbol=mine.path,
                    notes=[Note("everything but the adapters is frozen here", model.wrap.site)],
                    fix=_FIX.format(mine.name),
                    subject=mine.root.shown,
                )
                break


_FIX = "name it in the PEFT config: modules_to_save=[{!r}], or give the config its task_type"
