from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.snapshot import Param, Snapshot
from freezecheck.story import story
from freezecheck.timeline import Timeline


class TiedParameterFrozen(Rule):
    """Freezing the embeddings froze the head too: they are one tensor.

    ## What it does

    Finds a frozen tensor that is both an earlier layer's weight and the head's, in a model
    whose layers before the head are trained.

    ## Why it matters

    Language models often share one matrix between the input embeddings and the output
    layer (GPT-2: `transformer.wte` and `lm_head`). A flag belongs to the tensor, not to
    the name: "freeze the embeddings" freezes the head as well.

    ## Bad

    ```python
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(50, 16)
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.lm_head = nn.Linear(16, 50, bias=False)
            self.lm_head.weight = self.wte.weight

        def forward(self, tokens):
            x = self.wte(tokens)
            for block in self.blocks:
                x = x + block(x).relu()
            return self.lm_head(x)

    model = Tiny()
    model.wte.requires_grad_(False)  # <- FC111
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    tokens = torch.arange(8).reshape(1, 8)
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    optimizer.step()
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(50, 16)
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.lm_head = nn.Linear(16, 50, bias=False)
            self.lm_head.weight = self.wte.weight

        def forward(self, tokens):
            x = self.wte(tokens)
            for block in self.blocks:
                x = x + block(x).relu()
            return self.lm_head(x)

    model = Tiny()
    model.lm_head.weight = nn.Parameter(model.wte.weight.detach().clone())
    model.wte.requires_grad_(False)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    tokens = torch.arange(8).reshape(1, 8)
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    optimizer.step()
    ```

    ## How it is found

    By identity: one parameter under two paths, of which one is the last layer's weight.
    The matrices of the last block before the head must be trained, most of them; adapters
    and biases that train in a frozen model are thus passed over.

    ## Limits

    Whether the head was meant to stay cannot be known; where it was, ignore this.

    ## References

    - [transformers: PreTrainedModel.tie_weights](https://huggingface.co/docs/transformers/main_classes/model#transformers.PreTrainedModel.tie_weights)
    """

    code = "FC111"
    name = "tied-parameter-frozen"
    severity = Severity.WARNING

    def in_snapshot(self, now: Snapshot, past: Timeline) -> Iterator[Finding]:
        if not now.frozen or not now.optimizers:
            return
        for index, model in enumerate(now.models):
            tied = _tied_head(now, index)
            if tied is None:
                continue
            name, head = (now.path(index, path) for path in _both(now, index, tied))
            flag = past.written([name], False)
            yield self.finding(
                f"{name} and {head} are one tensor ({tied.numel:,} parameters). It is frozen, so"
                " the head does not train either, while the layers before it do.",
                site=flag.site if flag else now.built(index),
                symbol=name,
                notes=story(past, [name], [now.holder(index).label]),
                fix="untie them by giving the head a copy of its own, or leave the tensor trainable",
                subject=model.label,
            )


def _both(now: Snapshot, index: int, tied: Param) -> tuple[str, str]:
    """The tensor's first path and the head's."""
    head = now.models[index].head
    return tied.name, f"{head.path}.weight" if head else tied.aliases[0]


def _tied_head(now: Snapshot, index: int) -> Param | None:
    """The frozen tensor of an earlier stage that is also the head's weight, where the
    stage before the head trains."""
    model, last = now.models[index], len(now.models[index].stages) - 1
    if last < 2 or model.head is None or model.stages[last].kind != "head":
        return None
    weight = f"{model.head.path}.weight"
    if any(p.name == weight for p in now.by_stage[index, last]):
        return None
    if not _trains(now, index, last):
        return None
    return next(
        (p for p in now.frozen if p.model == index and p.stage != last and weight in p.aliases),
        None,
    )


def _trains(now: Snapshot, index: int, last: int) -> bool:
    """Most of the last stage before the head that has matrices is trainable."""
    for stage in reversed(range(last)):
        matrices = [p for p in now.by_stage[index, stage] if len(p.shape) > 1]
        if matrices:
            trained = sum(p.numel for p in matrices if p.trainable)
            return 2 * trained > sum(p.numel for p in matrices)
    return False
