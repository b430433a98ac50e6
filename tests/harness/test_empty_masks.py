"""A detection whose mask has no pixel keeps its box: what each protocol makes of it, as its official scorer does.

Mask R-CNN gives such masks where no probability in a box reaches the threshold; its box counts for the boxes' AP.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_feeds import Listed, box, coded, value

from datasets.base import Objects, Sample
from evaluation import coco_ap
from harness.evaluate import evaluate, outlines
from harness.predict import FILE, _line, read_predictions
from harness.record import Evaluation
from harness.settings import EvaluateSettings
from methods.base import Instances, Prediction

SIZE = (16, 24)
CAR = 26  # Cityscapes' id of cars
WHOLE = box(slice(2, 13), slice(3, 14), SIZE)  # 121 pixels: Cityscapes looks for objects from 100


def predicted(folder: Path, scores: tuple[float, ...], full: tuple[bool, ...]) -> Path:
    """What the predict step writes for detections of class 1 at `WHOLE`'s place, some without a pixel."""
    masks = torch.stack([torch.from_numpy(WHOLE) & found for found in full]) if full else torch.zeros(0, *SIZE).bool()
    boxes = torch.tensor([[3.0, 2.0, 14.0, 13.0]]).repeat(len(full), 1)
    labels = torch.ones(len(full), dtype=torch.int64)
    found = Instances(masks, labels, torch.tensor(scores), boxes)
    proposals = Instances(masks, 0 * labels, torch.tensor(scores), boxes)
    folder.mkdir()
    with gzip.open(folder / FILE, "wt", encoding="utf-8") as file:
        file.write(json.dumps(_line("7", Prediction(found, proposals=proposals), SIZE)) + "\n")
    (folder / "semantic").mkdir()
    Image.fromarray(WHOLE.astype(np.uint8)).save(folder / "semantic" / "7.png")
    return folder


def data(objects: bool = True) -> Listed:
    semantic, ids = WHOLE.astype(np.uint8), WHOLE.astype(np.int32)
    known = Objects(
        tuple(coded(WHOLE)), np.array([1]), np.array([False]), np.array([121.0]), np.array([[3.0, 2.0, 11.0, 11.0]])
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    official = np.where(WHOLE, 1000 * CAR, 0).astype(np.int32)
    sample = Sample("7", image, semantic, ids, objects=known if objects else None, official_ids=official)
    return Listed([sample], ("car",))


PROTOCOLS = ("coco", "boxes", "voc", "proposals", "semantic", "cityscapes")


def judged(tmp_path: Path, scores: tuple[float, ...], full: tuple[bool, ...], objects: bool = True) -> Evaluation:
    folder, out = predicted(tmp_path / "predict", scores, full), tmp_path / "evaluate"
    out.mkdir()
    return evaluate(data(objects), folder, EvaluateSettings(protocols=PROTOCOLS, resamples=5), out, lambda *_: None)


MASKS = ("coco_ap", "ap_r_50", "ap_r_vol", "cs_ap")


@pytest.mark.parametrize("objects", [True, False], ids=["objects", "map"])
def test_alone_it_finds_nothing_but_its_box(tmp_path: Path, objects: bool) -> None:
    found = judged(tmp_path, (0.9,), (False,), objects)
    for metric in (*MASKS, "recall_50@10", "coco_ar_100"):
        assert value(found, metric) == 0.0, metric
    assert value(found, "box_ap") == pytest.approx(1.0)
    assert value(found, "miou") == 1.0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("coco_ap", 0.5),  # pycocotools: an empty mask finds nothing, so it is false
        ("ap_r_50", 0.5),
        ("cs_ap", 1.0),  # the official script passes over a mask without a pixel
        ("box_ap", 1.0),  # the surer one is the hit, the other comes too late to cost anything
        ("recall_50@1", 0.0),  # it takes a proposal's place
        ("recall_50@3", 1.0),
        ("coco_ar_1", 0.0),
        ("coco_ar_10", 1.0),
    ],
)
def test_before_the_right_one_it_counts_as_a_false_detection(tmp_path: Path, metric: str, expected: float) -> None:
    found = judged(tmp_path, (0.9, 0.8), (False, True))
    assert value(found, metric) == pytest.approx(expected)


def test_behind_the_right_one_it_costs_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, (0.8, 0.9), (False, True))
    for metric in (*MASKS, "box_ap", "recall_50@1", "coco_ar_1"):
        assert value(found, metric) == pytest.approx(1.0), metric


def test_no_detection_at_all(tmp_path: Path) -> None:
    found = judged(tmp_path, (), ())
    for metric in (*MASKS, "box_ap", "recall_50@10"):
        assert value(found, metric) == 0.0, metric


def test_the_file_keeps_box_and_score(tmp_path: Path) -> None:
    (line,) = read_predictions(predicted(tmp_path / "predict", (0.9, 0.8), (False, True)) / FILE)
    assert line.boxes.tolist() == [[3.0, 2.0, 11.0, 11.0]] * 2
    assert len(line.proposals) == 2
    assert [len(one["counts"]) > 0 for one in line.masks] == [True, True]
    assert outlines(line).any(), "the other mask's outline"


def test_sizes_of_an_empty_mask_are_those_of_pycocotools() -> None:
    """A mask of area 0 is false among all and the small ones, and outside of medium and large ones."""
    from pycocotools import cocoeval as pycoco
    from pycocotools.coco import COCO

    truth = COCO()
    segmentation = coded(WHOLE)[0]
    truth.dataset = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 121.0, "bbox": [3, 2, 11, 11],
             "segmentation": segmentation}
        ],
    }  # fmt: skip
    truth.createIndex()
    empty = coded(np.zeros(SIZE, np.bool_))[0]
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": empty},
        {"image_id": 1, "category_id": 1, "score": 0.8, "segmentation": segmentation},
    ]
    official = pycoco.COCOeval(truth, truth.loadRes(results), "segm")
    official.evaluate()
    official.accumulate()
    official.summarize()
    image = coco_ap.match_image(
        coco_ap.ImageTruth(coded(WHOLE), np.array([1]), np.array([False]), np.array([121.0])),
        coco_ap.ImageDetections([empty, segmentation], np.array([1, 1]), np.array([0.9, 0.8])),
        1,
    )
    ours = coco_ap.measure([image], np.ones((1, 1), np.int64), ["car"])
    names = ("coco_ap", "coco_ap_50", "coco_ap_75", "coco_ap_small", "coco_ap_medium", "coco_ap_large")
    for name, stated in zip(names, official.stats, strict=False):
        assert float(ours[name][0]) == pytest.approx(stated) or (stated == -1 and np.isnan(ours[name][0])), name
    assert official.stats[0] == pytest.approx(0.5, abs=0.01)
