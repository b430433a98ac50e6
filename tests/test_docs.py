"""The documentation's example method, taken from its page and used as a stranger would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "data.size=64", "data.train_images=8", "data.val_images=3", "train.steps=3", "evaluate.resamples=0",
    "components.decoder_channels=64", "components.pretrained=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def example() -> str:
    page = (ROOT / "docs" / "plugin.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return code


def test_the_example_is_short(example: str) -> None:
    assert len(example.splitlines()) < 60


def run(method: str, folder: Path, path: Path | None = None) -> dict:
    """The record of the example's only cell, run from another folder than the clone."""
    command = [sys.executable, str(ROOT / "run_all.py"), "--methods", method, "--output", "out"]
    command += [part for text in SMALL for part in ("--set", text)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (folder / "out" / "records").glob("*.json")
    return json.loads(record.read_text(encoding="utf-8"))


def test_it_runs_by_path(example: str, tmp_path: Path) -> None:
    (tmp_path / "components.py").write_text(example, encoding="utf-8")
    record = run("components.py:Components", tmp_path)
    assert record["status"] == "ok"
    assert record["settings"]["config"]["decoder"] == "FPN"  # what the preset says for all grouping methods


@pytest.mark.slow
def test_it_runs_by_entry_point(example: str, tmp_path: Path) -> None:
    # What an installer leaves behind: the package, and its description with the entry point.
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").write_text("", encoding="utf-8")
    (site / "my_package" / "components.py").write_text(example, encoding="utf-8")
    info = site / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    entry = "[groupbench.methods]\ncomponents = my_package.components:Components\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")
    assert run("components", tmp_path, site)["status"] == "ok"


def test_it_keeps_the_contract(example: str, tmp_path: Path) -> None:
    (tmp_path / "components.py").write_text(example, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/method_contract.py"]
    command += ["--method", f"{tmp_path / 'components.py'}:Components", "-k", "not learns"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
