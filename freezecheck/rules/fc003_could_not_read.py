from __future__ import annotations

from collections.abc import Iterator

from freezecheck.finding import Finding, Severity
from freezecheck.rule import Rule
from freezecheck.text import Text


class CouldNotRead(Rule):
    """A file could not be read, so nothing is known about it.

    ## What it does

    Finds scripts and notebooks that mention a training library and cannot be read: a syntax
    error (Python 2 included), an encoding that Python would not accept, null bytes, a
    notebook that is no notebook, code that is nested too deeply, a file that may not be opened.

    ## Why it matters

    No other rule has looked at the file, or at that cell of the notebook, so no finding in it
    does not mean that it is sound.

    ## Bad

    ```python source
    import torch

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters() lr=0.01)  # <- FC003
    ```

    ## Good

    ```python source
    import torch

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ```

    ## How it is found

    The file is read as Python reads it: as UTF-8 or in the encoding that it declares, then
    parsed by the running Python's own parser. Of a notebook the other cells are checked
    all the same.

    ## Limits

    A file that mentions no training library, and none of the words that the rules are about,
    is not parsed, so its errors are not seen. Syntax that is newer than the running Python
    is an error here. `--select` leaves this rule in; `--ignore` takes it away.

    ## References

    - [PEP 263: source code encodings](https://peps.python.org/pep-0263/)
    """

    code = "FC003"
    name = "could-not-read"
    severity = Severity.ERROR

    def in_text(self, text: Text) -> Iterator[Finding]:
        for problem in text.problems:
            yield self.finding(f"Could not be read: {problem.message}.", site=problem.site)
