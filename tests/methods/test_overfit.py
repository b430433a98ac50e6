"""Every method learns eight scenes by heart: what its loss asks for and what its grouping finds fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.shapes import Shapes
from harness.evaluate import evaluate
from harness.plan import load_method
from harness.predict import predict
from harness.settings import EvaluateSettings, PredictSettings, TrainSettings, build_config
from harness.suite import load_suite
from harness.train import build_method, train
from methods import METHODS
from methods.grouping import GroupingConfig

IMAGES = 8
STEPS = {
    "pull_push": 250,
    "mask_rcnn": 300,
    "mask2former": 300,
    "recurrent_mean_shift": 220,
    "spatial_embeddings": 280,
    "segsort": 220,
}
# Beside what the preset quick says. SegSort: small cells, and the nearest segment alone, as there are eight images.
CONFIG: dict[str, dict[str, Any]] = {
    "recurrent_mean_shift": {"stride": 4, "pixels": "all", "threshold": 0.8},
    "segsort": {"grid": 16, "stride": 3, "neighbours": 1, "banks": 0},
}


def test_no_method_is_left_out() -> None:
    assert set(STEPS) == set(METHODS)


def learn(name: str, folder: Path) -> Shapes:
    """Train on eight scenes as the preset quick of suite shapes does, and predict the same eight."""
    preset = load_suite("shapes").presets["quick"]
    data = Shapes("train", IMAGES, "easy", 128, 0)
    method_class = load_method(name)
    shared = preset.grouping if issubclass(method_class.Config, GroupingConfig) else {}
    config = build_config(method_class.Config, {**shared, **preset.methods[name].config, **CONFIG.get(name, {})}, name)
    recipe = {**preset.train.model_dump(), **preset.methods[name].train, "steps": STEPS[name], "flip": 0.0}
    method = build_method(method_class, config, len(data.info.categories), seed=0)
    train(method, data, TrainSettings(**recipe), 0, lambda done, total: None)
    predict(method, data, PredictSettings(), folder, lambda done, total: None)
    return data


def mean_iou(data: Shapes, folder: Path) -> float:
    """Mean over the classes that occur, background among them, of intersection over union in all images together."""
    size = len(data.info.categories) + 1
    table = np.zeros((size, size), np.int64)
    for index in range(len(data)):
        sample = data[index]
        found = np.array(Image.open(folder / "semantic" / f"{sample.image_id}.png"))
        table += np.bincount(
            sample.semantic.ravel() * size + found.ravel().astype(np.int64), minlength=size**2
        ).reshape(size, size)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return float((table.diagonal() / union)[table.sum(1) > 0].mean())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in STEPS if name != "segsort"])
def test_learns_instances(name: str, tmp_path: Path) -> None:
    data = learn(name, tmp_path)
    settings = EvaluateSettings(protocols=("voc",), resamples=0)
    found = evaluate(data, tmp_path, settings, tmp_path, lambda done, total: None).find("ap_r_50")
    assert found is not None
    assert found[1].value >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_segsort_learns_classes(tmp_path: Path) -> None:
    assert mean_iou(learn("segsort", tmp_path), tmp_path) >= 0.9
