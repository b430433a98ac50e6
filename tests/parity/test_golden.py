"""Our numbers against those of the reference implementations: ``pytest tests/parity --golden DIR``."""

from __future__ import annotations

from collections.abc import Callable

import runner


def test_golden(golden_case: runner.Case, record_property: Callable[[str, object], None]) -> None:
    record_property("golden values compared", runner.check_case(golden_case))
