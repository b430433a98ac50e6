"""Options of every test run. That this file lies in the root also lets a bare `pytest` import our packages."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        action="append",
        default=[],
        metavar="DIR",
        help="folder of golden files for tests/parity, instead of tests/parity/golden; may be given several times",
    )
    parser.addoption(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="method for tests/method_contract.py, instead of the built-in ones: a name or file.py:Class",
    )
