"""Where a site's text is kept: a file, or a cell of a notebook."""

from __future__ import annotations

import re

_CELL = re.compile(r"(.*)\[cell (\d+)\]", re.DOTALL)


def split(path: str) -> tuple[str, int | None]:
    """The file of a site's path, and the number of the cell: `nb.ipynb[cell 3]`."""
    found = _CELL.fullmatch(path)
    return (found[1], int(found[2])) if found else (path, None)
