from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.program import ATTRIBUTE, RESULT, Module, World
from freezecheck.rule import Rule


class EmbeddingFrozenByDefault(Rule):
    """`Embedding.from_pretrained(weights)` freezes the embedding unless told not to.

    ## What it does

    Finds `nn.Embedding.from_pretrained` and `nn.EmbeddingBag.from_pretrained` without
    `freeze`.

    ## Why it matters

    All other layers train unless they are frozen; this one has `freeze=True` as its default.
    Word vectors that were to be fine-tuned with the rest stay as they were loaded, and
    so do rows that were filled with zeros for words without a vector.

    ## Bad

    ```python source
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self, vectors):
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(vectors)  # <- FC117
            self.lstm = nn.LSTM(300, 128, batch_first=True)
            self.out = nn.Linear(128, 9)

        def forward(self, words):
            return self.out(self.lstm(self.embedding(words))[0])
    ```

    ## Good

    Either is said:

    ```python
    import torch
    from torch import nn

    vectors = torch.randn(100, 16)
    trained = nn.Embedding.from_pretrained(vectors, freeze=False)
    fixed = nn.Embedding.from_pretrained(vectors, freeze=True)
    later = nn.Embedding.from_pretrained(vectors)
    later.weight.requires_grad = True
    ```

    ## How it is found

    From the text: neither the call nor any line after it says whether the weight is to train.
    An embedding that is kept in a dict or in an object that is no module says nothing: it may
    be a table to look things up in.

    ## Limits

    Who wants it frozen has to say so.

    ## References

    - [nn.Embedding.from_pretrained](https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html#torch.nn.Embedding.from_pretrained)
    """

    code = "FC117"
    name = "embedding-frozen-by-default"
    severity = Severity.WARNING

    def in_source(self, world: World) -> Iterator[Finding]:
        dropped = {event.subject for event in world.of(RESULT)}
        told = set()
        for event in world.of(ATTRIBUTE):
            module = event.subject
            if event.data["attribute"] != "from_pretrained" or event.data["said"]:
                continue
            if module in dropped or event.site in told or _is_written(module):
                continue
            if module.parent is None and (not module.label or "." in module.label):
                continue  # kept in what is no model: a table to look things up in
            told.add(event.site)
            shown = module.shown if module.parent is not None or module.label else module.builder
            yield self.finding(
                f"{shown} is frozen: from_pretrained() freezes the embedding unless freeze=False"
                " is given.",
                site=event.site,
                symbol=shown,
                fix="say which is meant: freeze=False to train it, freeze=True to keep it",
                subject=module.root.shown,
            )


def _is_written(module: Module) -> bool:
    """Some line sets its flag, to whatever."""
    writes = [event for param in module.parameters() for event in param.writes]
    return any(event.data.get("via") != "escape" for event in writes)
