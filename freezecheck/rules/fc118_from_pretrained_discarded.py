from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.program import RESULT, World
from freezecheck.rule import Rule


class FromPretrainedDiscarded(Rule):
    """`self.embedding.from_pretrained(weights)` as a statement loads nothing.

    ## What it does

    Finds `from_pretrained` of an embedding whose result is dropped.

    ## Why it matters

    `from_pretrained` is a class method: it returns a *new* embedding and leaves the one
    that it is called on as it was. The model goes on with random vectors.

    ## Bad

    ```python source
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self, vectors):
            super().__init__()
            self.embedding = nn.Embedding(len(vectors), 300)
            self.embedding.from_pretrained(vectors)  # <- FC118
            self.lstm = nn.LSTM(300, 128, batch_first=True)

        def forward(self, words):
            return self.lstm(self.embedding(words))[0]
    ```

    ## Good

    ```python
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self, vectors):
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(vectors, freeze=False)
            self.lstm = nn.LSTM(16, 8, batch_first=True)

        def forward(self, words):
            return self.lstm(self.embedding(words))[0]

    tagger = Tagger(torch.randn(100, 16))
    ```

    ## How it is found

    From the text: the call is a statement by itself, on a layer that is an `nn.Embedding`
    or an `nn.EmbeddingBag`, or on these classes.

    ## Limits

    `from_pretrained` of a class of one's own may well change the object, and that of a
    library fills its cache; both are passed over.

    ## References

    - [nn.Embedding.from_pretrained](https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html#torch.nn.Embedding.from_pretrained)
    """

    code = "FC118"
    name = "from-pretrained-discarded"
    severity = Severity.ERROR

    def in_source(self, world: World) -> Iterator[Finding]:
        told = set()
        for event in world.of(RESULT):
            called = str(event.value)
            embedding = event.subject.type == "torch.nn.Embedding"
            if event.site in told or not embedding or not called.endswith(".from_pretrained"):
                continue
            told.add(event.site)
            yield self.finding(
                f"{called}() returns a new embedding, which is dropped: nothing is loaded.",
                site=event.site,
                symbol=called,
                fix=f"keep it: {called.rpartition('.')[0]} = nn.Embedding.from_pretrained(...)",
            )
