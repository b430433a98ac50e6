"""The number that the quick preset promises, by the whole main job (minutes)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.suite import load_suite

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_method_works_on_easy_scenes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "run_all.py", "--output", str(tmp_path)], cwd=ROOT, check=True)
    found = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    reached = {
        record["settings"]["row"]: record["evaluation"]["verdicts"]["voc"]["metrics"]["ap_r_50"]["value"]
        for record in found
    }
    assert set(reached) == set(load_suite("shapes").presets["quick"].run)
    # Processors round differently, and a few minutes leave much to chance: RPE and SegSort were just above a half.
    assert min(reached.values()) >= 0.4, reached
