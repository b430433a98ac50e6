"""A cell's steps, run in this process: what decides the weights and predictions, and what does not."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from harness.cell import CellPlan, Reporter, run_cell
from harness.plan import Request, plan, resolve
from harness.record import TrainCost, read_summary
from harness.store import STEPS, Store
from harness.suite import load_suite, parse_overrides

TINY = ["train.steps=3", "train.batch_size=2", "data.train_images=5", "data.val_images=2", "data.size=64"]


def outcome(folder: Path, row: str, *overrides: str, seed: int = 0) -> tuple[str, bytes]:
    """The digest of the weights and the text of the predictions."""
    request = Request(
        methods=[row], seeds=[seed], overrides=parse_overrides([*TINY, "evaluate.resamples=5", *overrides])
    )
    _, _, settings = resolve(load_suite("shapes"), request)
    store = Store(folder)
    (cell,) = plan(settings, store, None)
    with store.drafts() as drafts:
        handed = CellPlan(
            settings=cell.settings, output=folder, data_root=None, folders=cell.folders, drafts=drafts, missing=STEPS
        )
        run_cell(handed, Reporter(io.StringIO()))
    predictions = (cell.folders["predict"] / "predictions.jsonl.gz").read_bytes()
    return read_summary(cell.folders["train"], TrainCost).weights_digest, gzip.decompress(predictions)


@pytest.mark.parametrize("row", ["pull_push_shift", "mask_rcnn"])
def test_the_seed_decides_weights_and_predictions(tmp_path: Path, row: str) -> None:
    first = outcome(tmp_path / "one", row)
    assert outcome(tmp_path / "two", row) == first
    assert outcome(tmp_path / "three", row, seed=1)[0] != first[0]


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    alone = outcome(tmp_path / "alone", "pull_push_shift")
    assert outcome(tmp_path / "helped", "pull_push_shift", "train.workers=2") == alone
