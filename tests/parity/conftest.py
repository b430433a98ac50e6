"""One test per golden case, and at the end how many values were compared. The option --golden is in /conftest.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the checkers import each other by name, in every import mode of pytest

import runner

DEFAULT = Path(__file__).parent / "golden"
COMPARED = "golden values compared"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" not in metafunc.fixturenames:
        return
    folders = [Path(text) for text in metafunc.config.getoption("--golden")] or [DEFAULT]
    cases = [case for folder in folders for case in runner.find_cases(folder)]
    metafunc.parametrize("golden_case", cases, ids=[case.name for case in cases])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    values = [value for report in passed for name, value in report.user_properties if name == COMPARED]
    if values:
        terminalreporter.write_line(f"parity: {sum(values)} golden values compared in {len(values)} cases")
