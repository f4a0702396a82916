from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Note, Severity
from freezecheck.peft import adapters, takers
from freezecheck.program import FLAG, World
from freezecheck.rule import Rule
from freezecheck.snapshot import Snapshot, count, is_adapter, summarise
from freezecheck.timeline import Timeline


class PeftAdaptersFrozen(Rule):
    """The PEFT adapters that should train are frozen.

    ## What it does

    Finds a PEFT model in a training setup none of whose adapter parameters is
    trainable.

    ## Why it matters

    `PeftModel.from_pretrained` loads adapters for inference, frozen, unless it is given
    `is_trainable=True`; helpers that freeze a base model for low-bit training freeze the
    adapters too if they are called after `get_peft_model`. Training then changes nothing
    of what was meant to train.

    ## Bad

    ```python needs=peft
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.query(x).relu())

    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"]))
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.requires_grad = False
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)  # <- FC116
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python needs=peft
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.query(x).relu())

    model = get_peft_model(Net(), LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"]))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 1, 0]))
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    Adapter parameters are told by the names that PEFT gives them (`lora_A`, `ia3_l`, ...).
    The model must be in a training setup, with an optimizer.

    In a text: the adapters come from `get_peft_model` or `PeftModel.from_pretrained`, all of
    them are known to be frozen where an optimizer is built from the model, and it steps while
    they still are.

    ## Limits

    A setup that trains other parts and keeps loaded adapters frozen on purpose looks the
    same.

    ## References

    - [PEFT: PeftModel.from_pretrained, is_trainable](https://huggingface.co/docs/peft/package_reference/peft_model)
    """

    code = "FC116"
    name = "peft-adapters-frozen"
    severity = Severity.ERROR
    explains = ("FC120", "FC203")

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.optimizers:
            return
        for index, model in enumerate(now.models):
            if "peft" not in model.frameworks:
                continue
            adapters = [p for p in now.of_model(index) if is_adapter(p.name)]
            if not adapters or any(p.trainable for p in adapters):
                continue
            names = [now.path(index, p.name) for p in adapters]
            yield self.finding(
                f"all {count(len(adapters), 'adapter tensor')} of {model.label} are frozen:"
                f" {summarise(names)}. Training will not change them.",
                site=next((o.site for o in now.optimizers if o.site), None),
                symbol=names[0],
                fix=_FIX,
                subject=model.label,
            )

    def in_source(self, world: World) -> Iterator[Finding]:
        for model in adapters(world):
            if any(param.trainable is not False for param in model.params):
                continue
            for optimizer, built in takers(world, model):
                last = optimizer.steps[-1].index if optimizer.steps else None
                when = (built, last)
                if any(param.trains(time) is not False for param in model.params for time in when):
                    continue
                flags = dict.fromkeys(
                    event.site for event in world.of(FLAG) if set(event.params) & set(model.params)
                )
                yield self.finding(
                    f"the adapters of {model.module.root.shown} are all frozen. Training will not"
                    " change them.",
                    site=optimizer.site,
                    symbol=model.params[0].path,
                    notes=[
                        Note("the adapters come from here", model.wrap.site),
                        *(Note("frozen here", site) for site in flags if site != model.wrap.site),
                    ],
                    fix=_FIX,
                    subject=model.module.root.shown,
                )
                break


_FIX = (
    "load them with PeftModel.from_pretrained(..., is_trainable=True), and prepare the base model"
    " before get_peft_model()"
)
