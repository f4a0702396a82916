"""Options of the test suite."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracle-examples",
        type=int,
        default=None,
        metavar="N",
        help="hold the forecast against N random setups instead of a fixed few hundred",
    )
    parser.addoption(
        "--differential-examples",
        type=int,
        default=None,
        metavar="N",
        help="hold the source half against N random scripts that are run, instead of a fixed few",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what reports print now to tests/golden, to be read before it is committed",
    )


@pytest.fixture(autouse=True, scope="module")
def heap_of_other_tests() -> Iterator[None]:
    """Models are looked for among all objects, of which an old test process has a million; what
    is there when the tests of a module begin is passed over."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
