"""What the README and results/published show is one and the same run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.suite import load_suite

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results" / "published" / "shapes-quick"


def test_readme_shows_the_published_table() -> None:
    table = [
        line for line in (FOLDER / "instances.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    assert len(table) == 2 + len(load_suite("shapes").tables["instances"].rows)
    assert "\n".join(table) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_published_table_is_drawn_from_the_published_records() -> None:
    table = (FOLDER / "instances.md").read_text(encoding="utf-8")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "records").glob("*.json"))]
    assert {record["settings"]["row"] for record in records} == set(load_suite("shapes").presets["quick"].run)
    for record in records:
        assert record["status"] == "ok"
        assert not record["train"]["environment"]["dirty"]
        metric = record["evaluation"]["verdicts"]["voc"]["metrics"]["ap_r_50"]
        text = f"{100 * metric['value']:.1f} ± {100 * (metric['high'] - metric['low']) / 2:.1f}"
        assert text in table, f"{record['cell']}: {text}"
        assert metric["value"] >= 0.5  # what the quick preset promises


@pytest.mark.parametrize("path", sorted(FOLDER.parent.rglob("*.*")), ids=lambda path: path.name)
def test_published_files_name_no_machine_path(path: Path) -> None:
    assert not re.search(r"[\s\"'(]/\w+/", path.read_text(encoding="utf-8"))
