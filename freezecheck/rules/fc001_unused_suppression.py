from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.text import Text


class UnusedSuppression(Rule):
    """A comment suppresses a finding that is not there.

    ## What it does

    Finds `# freezecheck: ignore[...]`, `# freezecheck: ignore-file[...]` and
    `# noqa: FC...` comments, or single codes of them, that suppress nothing.

    ## Why it matters

    The comment says that there is a problem where there is none (any more). It stays when the
    code below it changes, and then hides the next mistake on that line.

    ## Bad

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # freezecheck: ignore[FC201]  # <- FC001
    ```

    ## Good

    ```python source
    import torch, torchvision

    model = torchvision.models.resnet18(weights="DEFAULT")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ```

    ## How it is found

    A comment holds for the statement that it is in, `ignore-file` for the whole file. It is
    unused if no finding of its codes lies there. A code whose rule was not looked for,
    because of `--select` or because linting cannot find it, is never called unused; nor is
    `# noqa` without codes, or with codes of other linters.

    ## Limits

    A finding that only `freezecheck inspect` makes at that line is not known here. Where a
    comment is for such a finding, name this rule in it too: `ignore[FC401, FC001]`.

    ## References

    - [The same check in ruff: unused-noqa](https://docs.astral.sh/ruff/rules/unused-noqa/)
    """

    code = "FC001"
    name = "unused-suppression"
    severity = Severity.WARNING

    def in_text(self, text: Text) -> Iterator[Finding]:
        for comment in text.comments:
            if not comment.unused:
                continue
            codes = ", ".join(comment.unused)
            where = "in this file" if comment.whole_file else "here"
            rest = len(comment.unused) < len(comment.codes)
            yield self.finding(
                f"This comment ignores {codes or 'all rules'}, but nothing of the kind is found"
                f" {where}.",
                site=comment.site,
                symbol=codes or None,
                fix=f"remove {codes} from it" if rest else "remove it",
            )
