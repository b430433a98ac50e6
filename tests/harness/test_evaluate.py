"""The evaluate step on predictions written by hand: what is judged, and what is said of a damaged file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.shapes import Shapes
from evaluation import masks, statistics
from harness import samples
from harness.evaluate import evaluate
from harness.judged import load
from harness.record import Evaluation
from harness.settings import EvaluateSettings
from harness.store import DamagedStep

DATA = Shapes("val", count=3, level="easy", size=48)
ALL = EvaluateSettings(protocols=("voc", "coco", "proposals", "semantic"), resamples=20)


def write(folder: Path, *, found: bool = True, proposals: bool = False, semantic: bool = True) -> Path:
    """A predict step that finds everything, or nothing; as proposals it has the truth's first instance alone."""
    folder.mkdir()
    with gzip.open(folder / "predictions.jsonl.gz", "wt", encoding="utf-8") as file:
        for index in range(len(DATA)):
            sample = DATA[index]
            labels = sample.labels()
            regions = masks.encode_ids(sample.instances, len(labels))
            listed = [
                {"category_id": int(label), "score": 0.5, "segmentation": region}
                for label, region in zip(labels, regions, strict=True)
            ]
            line = {"image_id": sample.image_id, "size": [48, 48], "results": listed if found else []}
            if proposals:
                line["proposals"] = [{**one, "category_id": 0} for one in listed[:1]]
            file.write(json.dumps(line) + "\n")
            if semantic:
                (folder / "semantic").mkdir(exist_ok=True)
                Image.fromarray(sample.semantic).save(folder / "semantic" / f"{sample.image_id}.png")
    return folder


def judge(predictions: Path, output: Path, settings: EvaluateSettings = ALL) -> Evaluation:
    output.mkdir()
    return evaluate(DATA, predictions, settings, output, lambda *_: None)


def value(result: Evaluation, metric: str) -> float:
    return result.find(metric)[1].value


def test_the_truth_itself_is_perfect_by_every_protocol(tmp_path: Path) -> None:
    result = judge(write(tmp_path / "predict"), tmp_path / "evaluate")
    assert result.images == 3
    assert set(result.verdicts) == {"voc", "errors", "breakdowns", "coco", "proposals", "semantic"}
    for metric in ("ap_r_50", "ap_r_vol", "coco_ap", "recall_50@1000", "ar_hosang@1000", "miou"):
        assert value(result, metric) == pytest.approx(1.0), metric
    stored = load(tmp_path / "evaluate" / "coco.npz")
    assert stored.verdict(20, ALL.confidence).model_dump_json() == result.verdicts["coco"].model_dump_json()


def test_a_method_that_finds_nothing(tmp_path: Path) -> None:
    result = judge(write(tmp_path / "predict", found=False), tmp_path / "evaluate")
    assert [value(result, name) for name in ("ap_r_50", "coco_ap", "recall_50@10", "lost_missed")] == [0, 0, 0, 1]


def test_a_methods_own_proposals_are_judged(tmp_path: Path) -> None:
    result = judge(write(tmp_path / "predict", proposals=True), tmp_path / "evaluate")
    truths = [len(DATA[index].labels()) for index in range(3)]
    assert value(result, "recall_50@10") == pytest.approx(sum(count > 0 for count in truths) / sum(truths))
    assert value(result, "ap_r_50") == 1.0


def test_a_method_without_class_maps_has_no_semantic_verdict(tmp_path: Path) -> None:
    result = judge(write(tmp_path / "predict", semantic=False), tmp_path / "evaluate")
    assert "semantic" not in result.verdicts
    assert result.find("miou") is None


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    result = judge(write(tmp_path / "predict"), tmp_path / "out", EvaluateSettings(protocols=("coco",), resamples=0))
    assert set(result.verdicts) == {"coco"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"coco.npz", "samples.npy", "samples.json"}


def test_stored_samples_are_those_of_the_intervals(tmp_path: Path) -> None:
    predictions = write(tmp_path / "predict", proposals=True)
    result = judge(predictions, tmp_path / "evaluate")
    stored = samples.load(tmp_path / "evaluate")
    assert stored.judged.keys() == result.verdicts.keys()
    for name in ("ap_r_50", "coco_ap", "recall_50@10", "miou", "lost_missed", "recall_50[area=small]"):
        assert len(stored.of(name)) == 20
        number = result.find(name)[1]
        assert statistics.percentiles(stored.of(name)) == pytest.approx((number.low, number.high), abs=1e-6)


def test_a_damaged_class_map_names_the_step_to_delete(tmp_path: Path) -> None:
    predictions = write(tmp_path / "predict")
    file = predictions / "semantic" / f"{DATA[1].image_id}.png"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DamagedStep, match=rf"{file.name} is damaged .*; delete the folder {predictions} and run again"):
        judge(predictions, tmp_path / "evaluate")


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    predictions = write(tmp_path / "predict")
    lines = gzip.decompress((predictions / "predictions.jsonl.gz").read_bytes()).splitlines(keepends=True)
    for kept, message in ((lines[1:], "line 1: image"), (lines[:2], "holds 2 images, the split 3")):
        (predictions / "predictions.jsonl.gz").write_bytes(gzip.compress(b"".join(kept)))
        with pytest.raises(ValueError, match=message):
            judge(predictions, tmp_path / f"out{len(kept)}{message[:4]}")


def test_a_truth_count_is_that_of_the_scenes() -> None:
    assert sum(int(np.max(DATA[index].instances)) for index in range(3)) > 0  # or the tests above would say nothing
