"""Options of the test suite."""

from __future__ import annotations

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
