"""Tests on parameter names: `if "fc" in name`, read from the user's source, tried on real names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from freezecheck.finding import Site


def find(asks: Mapping[tuple[str, int], Any]) -> Iterator[tuple[Site, Any]]:
    """The tests on names in the loops that asked for them."""
    yield from ()


def outcome(test: Any, root: Any) -> tuple[Any, ...]:
    """What the test chose among the names of `root`."""
    return ()
