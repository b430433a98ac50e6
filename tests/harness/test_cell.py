"""A cell's steps, run in this process: what decides the weights and predictions, and what does not."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.shapes import Shapes
from datasets.transforms import Augmentation
from harness.batches import TrainStream
from harness.cell import CellPlan, Reporter, run_cell
from harness.plan import Request, plan, resolve
from harness.record import TrainCost, read_summary
from harness.store import STEPS, Store
from harness.suite import load_suite, parse_overrides

# Two stages, the second with larger crops, a lower rate and the statistics of the first.
STAGED = [
    "train.crop=32",
    "train.around_instances=true",
    "train.then=[{steps = 2, crop = 48, around_instances = false, learning_rate = 1e-4, frozen_statistics = true}]",
]
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


def test_a_later_stage_goes_on_with_the_weights_and_keeps_the_statistics(tmp_path: Path) -> None:
    (short, _), (longer, _) = (outcome(tmp_path / "run", "pull_push_shift", *STAGED[:count]) for count in (2, 3))
    assert short != longer
    folders = sorted((tmp_path / "run" / "steps" / "train").iterdir())
    costs = {read_summary(folder, TrainCost).steps: load_file(folder / "weights.safetensors") for folder in folders}
    assert set(costs) == {3, 5}
    moved = [name for name, tensor in costs[3].items() if not torch.equal(tensor, costs[5][name])]
    assert any(name.endswith("weight") for name in moved)
    assert not any("running" in name for name in moved)


def test_images_of_a_later_stage_follow_those_of_the_first() -> None:
    data, recipe = Shapes("train", 7, "easy", 32, 0), Augmentation(None, (1.0, 1.0), 0.0, 0.0)
    whole, rest = TrainStream(data, 10, 0, recipe), TrainStream(data, 6, 0, recipe, start=4)
    assert [whole[index].image_id for index in range(4, 10)] == [rest[index].image_id for index in range(6)]
