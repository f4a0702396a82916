"""What frameworks keep in objects of their own, such as Lightning's fine-tuning callback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def gather() -> Iterator[tuple[str, dict[str, Any]]]:
    """(fact, details) for each thing seen; see `docs/timeline.md`."""
    yield from ()
