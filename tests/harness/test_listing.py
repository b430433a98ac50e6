"""What a dry run says, with and without the data."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness import estimate
from harness.listing import show_dry_run
from harness.plan import Request
from harness.suite import load_suite, parse_overrides, suite_names


def shown(suite: str, output: Path, **request: object) -> str:
    text = io.StringIO()
    show_dry_run(suite, Request(**request), output, Console(file=text, width=200))
    return text.getvalue()


def test_cells_estimates_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_training", lambda *_: (estimate.Line(1.0, 0.0), estimate.Line(0.0, 0.0), 0))
    monkeypatch.setattr(estimate, "_prediction", lambda *_: estimate.Line(0.25, 0.0))
    settings = ["data.val_images=8", "train.steps=60", "train.then=[{steps = 30, crop = 64}]"]
    rows = ["pull_push_shift", "pull_push_fixed"]
    text = shown("shapes", tmp_path, methods=rows, overrides=parse_overrides(settings))
    assert "train 90 s, network 2 s" in text
    assert "train shared, network 2 s" in text
    assert "  train.then[0].crop = 64" in text
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("suite", [name for name in suite_names() if load_suite(name).needs != "no files"])
def test_without_the_data_the_settings_are_shown_all_the_same(suite: str, tmp_path: Path) -> None:
    text = shown(suite, tmp_path, preset="paper")
    assert "the data cannot be opened" in text
    assert all(f"\n{row}." in text for row in load_suite(suite).presets["paper"].run or load_suite(suite).rows)
