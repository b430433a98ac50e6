"""What the evaluate step makes of each layout's own annotation, on samples and predictions written by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.base import Dataset, DatasetInfo, Objects, Sample
from evaluation import masks
from harness.evaluate import evaluate, outlines
from harness.names import UsageError
from harness.predict import read_predictions
from harness.record import Evaluation
from harness.settings import EvaluateSettings


class Listed:
    """A dataset of given samples."""

    def __init__(self, samples: list[Sample], categories: tuple[str, ...], background: bool = True) -> None:
        self.samples = samples
        self.info = DatasetInfo("listed", "val", categories, "0", background=background)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def verify(self, index: int) -> None:
        pass


def box(rows: slice, columns: slice, size: tuple[int, int] = (12, 20)) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[rows, columns] = True
    return mask


def coded(*dense: np.ndarray) -> list[dict[str, object]]:
    return masks.encode(np.stack(dense))


def as_text(mask: dict[str, object]) -> dict[str, object]:
    return {**mask, "counts": bytes.decode(mask["counts"]) if isinstance(mask["counts"], bytes) else mask["counts"]}


def run(
    tmp_path: Path,
    data: Dataset,
    found: list[list[dict[str, object]]],
    protocols: tuple[str, ...],
    **maps: list[np.ndarray],
) -> Evaluation:
    """Judge ``found``, one list of results an image; ``maps`` are "semantic" or "boundary" PNGs."""
    folder, out = tmp_path / "predict", tmp_path / "evaluate"
    folder.mkdir()
    out.mkdir()
    with gzip.open(folder / "predictions.jsonl.gz", "wt", encoding="utf-8") as file:
        for sample, results in zip(data.samples, found, strict=True):
            line = {"image_id": sample.image_id, "size": list(sample.semantic.shape), "results": results}
            file.write(json.dumps(line) + "\n")
    for name, images in maps.items():
        (folder / name).mkdir()
        for sample, values in zip(data.samples, images, strict=True):
            Image.fromarray(values).save(folder / name / f"{sample.image_id}.png")
    settings = EvaluateSettings(protocols=protocols, resamples=0, boundary_thresholds=3)
    return evaluate(data, folder, settings, out, lambda *_: None)


def value(result: Evaluation, metric: str) -> float:
    return result.find(metric)[1].value


def result(mask: np.ndarray, label: int = 1, score: float = 0.9, **more: object) -> dict[str, object]:
    return {"category_id": label, "score": score, "segmentation": as_text(coded(mask)[0]), **more}


def overlapping() -> Listed:
    """Two objects of one class, the small one wholly in front of the large one, and a crowd at the right."""
    large, small, crowd = (
        box(slice(0, 12), slice(0, 12)),
        box(slice(2, 10), slice(2, 10)),
        box(slice(0, 12), slice(14, 20)),
    )
    objects = Objects(
        tuple(coded(large, small, crowd)),
        np.array([1, 1, 1]),
        np.array([False, False, True]),
        np.array([144.0, 64.0, 72.0]),
        np.array([[0.0, 0.0, 12.0, 12.0], [2.0, 2.0, 8.0, 8.0], [14.0, 0.0, 6.0, 12.0]]),
    )
    instances = np.where(small, 2, np.where(large, 1, 0)).astype(np.int32)
    semantic = np.where(instances > 0, 1, np.where(crowd, 255, 0)).astype(np.uint8)
    image = np.zeros((12, 20, 3), np.uint8)
    return Listed([Sample("7", image, semantic, instances, objects=objects)], ("thing",))


class TestCoco:
    def test_the_truth_are_the_whole_objects_and_a_crowd_forgives(self, tmp_path: Path) -> None:
        data = overlapping()
        found = [result(box(slice(0, 12), slice(0, 12))), result(box(slice(2, 10), slice(2, 10)), score=0.8)]
        found.append(result(box(slice(0, 6), slice(14, 18)), score=0.99))  # in the crowd: neither right nor wrong
        scored = run(tmp_path, data, [found], ("coco", "proposals", "voc"))
        assert value(scored, "coco_ap") == pytest.approx(1.0)
        assert scored.verdicts["coco"].instances == 2
        assert value(scored, "recall_50@10") == 1.0
        # By the map the large one has a hole of 64 of 144 pixels: the whole object has IoU 80 / 144 with it.
        assert value(scored, "ap_r_70") < 1.0

    def test_boxes_are_the_methods_own_or_those_around_the_masks(self, tmp_path: Path) -> None:
        wrong_mask = box(slice(0, 3), slice(0, 3))
        found = [result(wrong_mask, bbox=[0.0, 0.0, 12.0, 12.0]), result(box(slice(2, 10), slice(2, 10)))]
        scored = run(tmp_path, overlapping(), [found], ("coco", "boxes"))
        assert value(scored, "box_ap") == pytest.approx(1.0)
        assert value(scored, "coco_ap") < 1.0

    def test_boxes_of_data_without_objects_are_those_of_the_map(self, tmp_path: Path) -> None:
        (sample,) = overlapping().samples
        plain = Listed([Sample("7", sample.image, sample.semantic, sample.instances)], ("thing",))
        found = [result(box(slice(0, 12), slice(0, 12))), result(box(slice(2, 10), slice(2, 10)))]
        assert value(run(tmp_path, plain, [found], ("boxes",)), "box_ap") == pytest.approx(1.0)


class TestCityscapes:
    def data(self) -> Listed:
        """A car (26), a group of cars to ignore, and road (7)."""
        ids = np.full((40, 60), 7, np.int32)
        ids[5:25, 5:25] = 26001
        ids[5:25, 30:55] = 26
        instances = (ids == 26001).astype(np.int32)
        semantic = np.where(ids == 26001, 3, np.where(ids == 26, 255, 0)).astype(np.uint8)
        sample = Sample("a", np.zeros((40, 60, 3), np.uint8), semantic, instances, official_ids=ids)
        return Listed([sample], ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"))

    def test_labels_become_official_ids_and_groups_forgive(self, tmp_path: Path) -> None:
        size = (40, 60)
        found = [
            result(box(slice(5, 25), slice(5, 25), size), label=3),
            result(box(slice(6, 20), slice(32, 50), size), label=3, score=0.95),
        ]
        scored = run(tmp_path, self.data(), [found], ("cityscapes",))
        assert value(scored, "cs_ap/car") == pytest.approx(1.0)
        assert value(scored, "cs_ap_50") == pytest.approx(1.0)

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="protocol cityscapes: the data set listed has other classes"):
            run(tmp_path, overlapping(), [[]], ("cityscapes",))


class TestWithoutBackground:
    def test_class_0_has_no_iou_and_is_a_miss(self, tmp_path: Path) -> None:
        semantic = np.array([[1, 1, 2, 255]], np.uint8)
        sample = Sample("a", np.zeros((1, 4, 3), np.uint8), semantic, np.zeros((1, 4), np.int32))
        data = Listed([sample], ("road", "car"), background=False)
        scored = run(tmp_path, data, [[]], ("semantic",), semantic=[np.array([[1, 0, 2, 0]], np.uint8)])
        assert value(scored, "iou/road") == 0.5
        assert value(scored, "miou") == 0.75
        assert scored.find("iou/background") is None


class TestBoundary:
    def data(self) -> Listed:
        contours = np.zeros((1, 20, 30), np.bool_)
        contours[0, 10] = True
        sample = Sample(
            "a",
            np.zeros((20, 30, 3), np.uint8),
            np.ones((20, 30), np.uint8),
            np.ones((20, 30), np.int32),
            contours=contours,
        )
        return Listed([sample], ("segment",), background=False)

    def test_a_boundary_map_is_judged(self, tmp_path: Path) -> None:
        drawn = np.zeros((20, 30), np.uint8)
        drawn[10] = 200
        scored = run(tmp_path, self.data(), [[]], ("boundary",), boundary=[drawn])
        assert value(scored, "ods") == pytest.approx(1.0)

    def test_without_one_the_outlines_of_the_masks_are(self, tmp_path: Path) -> None:
        upper, lower = box(slice(0, 11), slice(0, 30), (20, 30)), box(slice(11, 20), slice(0, 30), (20, 30))
        scored = run(tmp_path, self.data(), [[result(upper), result(lower)]], ("boundary",))
        assert value(scored, "ods") == pytest.approx(1.0)

    def test_outlines_by_hand(self, tmp_path: Path) -> None:
        run(tmp_path, overlapping(), [[result(box(slice(2, 4), slice(3, 5)))]], ("coco",))
        (line,) = read_predictions(tmp_path / "predict" / "predictions.jsonl.gz")
        expected = np.zeros((12, 20), np.bool_)
        expected[2:4, 2] = expected[2:4, 4] = True  # left of the mask, and its right column
        expected[1, 3:5] = expected[3, 3:5] = True
        np.testing.assert_array_equal(outlines(line), expected)

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no annotated boundaries"):
            run(tmp_path, overlapping(), [[]], ("boundary",))
