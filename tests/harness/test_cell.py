"""A cell's steps, run in this process: what decides the weights and predictions, and what does not."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import BatchNorm2d

from datasets.shapes import Shapes
from datasets.transforms import Augmentation
from harness.batches import TrainStream
from harness.cell import Reporter, run_cell
from harness.plan import Request, load_method, plan, resolve
from harness.record import TrainCost, read_summary
from harness.settings import build_config
from harness.store import STEPS, Store
from harness.suite import load_suite, parse_overrides
from harness.sweep import cell_plan
from harness.train import build_method

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
    with store.drafts("cell") as drafts:
        run_cell(cell_plan(cell, store, None, drafts, STEPS), Reporter(io.StringIO()))
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


def test_what_starts_pretrained_can_stay_as_it_is_for_a_stage(tmp_path: Path) -> None:
    """With pretrained_rate = 0 no weight and no statistic of the encoder moves, and a later stage moves them again."""
    frozen = ["train.pretrained_rate=0", "pull_push.frozen_levels=0"]
    later = "train.then=[{steps = 2, pretrained_rate = 1}]"
    outcome(tmp_path / "run", "pull_push_shift", *frozen)
    outcome(tmp_path / "run", "pull_push_shift", *frozen, later)
    folders = sorted((tmp_path / "run" / "steps" / "train").iterdir())
    weights = {read_summary(folder, TrainCost).steps: load_file(folder / "weights.safetensors") for folder in folders}
    request = Request(methods=["pull_push_shift"], overrides=parse_overrides([*TINY, *frozen]))
    (_, settings) = resolve(load_suite("shapes"), request)[2][0]
    method_class = load_method("pull_push")
    method = build_method(method_class, build_config(method_class.Config, settings.config, "x"), 6, 0)
    method.initialise()
    first = method.state_dict()
    encoder = [name for name in first if ".encoder." in name and first[name].is_floating_point()]
    assert any("running_mean" in name for name in encoder)
    assert all(torch.equal(first[name], weights[3][name]) for name in encoder)
    assert not all(torch.equal(first[name], weights[5][name]) for name in encoder if name.endswith("weight"))
    assert not all(torch.equal(first[name], weights[3][name]) for name in first if ".decoder." in name)


def test_levels_that_a_network_freezes_stay_as_they_are(tmp_path: Path) -> None:
    """The trainer must not switch their statistics on again."""
    outcome(tmp_path / "run", "pull_push_shift")  # the preset freezes two levels
    (folder,) = (tmp_path / "run" / "steps" / "train").iterdir()
    weights = load_file(folder / "weights.safetensors")
    request = Request(methods=["pull_push_shift"], overrides=parse_overrides(TINY))
    (_, settings) = resolve(load_suite("shapes"), request)[2][0]
    method_class = load_method("pull_push")
    method = build_method(method_class, build_config(method_class.Config, settings.config, "x"), 6, 0)
    method.initialise()
    method.train()
    first = method.state_dict()
    still = [name for name, module in method.named_modules() if isinstance(module, BatchNorm2d) and not module.training]
    assert still
    for name in still:
        torch.testing.assert_close(weights[f"{name}.running_mean"], first[f"{name}.running_mean"], rtol=0, atol=0)


def test_images_of_a_later_stage_follow_those_of_the_first() -> None:
    data, recipe = Shapes("train", 7, "easy", 32, 0), Augmentation(None, (1.0, 1.0), 0.0, 0.0)
    whole, rest = TrainStream(data, 10, 0, recipe), TrainStream(data, 6, 0, recipe, start=4)
    assert [whole[index].image_id for index in range(4, 10)] == [rest[index].image_id for index in range(6)]
