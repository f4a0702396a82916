from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.text import Text


class UnknownCodeInSuppression(Rule):
    """A comment ignores a code that no rule has.

    ## What it does

    Finds `# freezecheck: ignore[...]` and `# noqa: FC...` comments with a code or a name
    that no rule has.

    ## Why it matters

    The comment does nothing: the finding that it was written for is still reported, or the
    rule that it names was retired.

    ## Bad

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # freezecheck: ignore[FC999]  # <- FC002
    ```

    ## Good

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ```

    ## How it is found

    A comment may name codes (`FC201`), beginnings of codes (`FC2`) and names of rules
    (`trainable-not-in-optimizer`). What is none of these is unknown. Of `# noqa` comments only
    codes that begin with FC are looked at; the others belong to other linters.

    ## Limits

    A code of another linter that begins with FC would be called unknown in a `# noqa` comment.

    ## References

    - [The same check in ruff: invalid-rule-code](https://docs.astral.sh/ruff/rules/invalid-rule-code/)
    """

    code = "FC002"
    name = "unknown-code-in-suppression"
    severity = Severity.WARNING

    def in_text(self, text: Text) -> Iterator[Finding]:
        for comment in text.comments:
            for word, nearest in comment.unknown:
                yield self.finding(
                    f"This comment ignores {word}, which is no rule"
                    + (f"; did you mean {nearest}?" if nearest else "."),
                    site=comment.site,
                    symbol=word,
                    fix=f"write {nearest}, or remove it" if nearest else "remove it",
                )
