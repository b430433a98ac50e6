"""COCO's JSON files: every form of mask, and for every kind of broken input a message with file and entry."""

from __future__ import annotations

import gzip
import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from evaluation import masks
from harness.coco_files import Annotations, read_annotations, read_results
from harness.names import UsageError

# One image of 4 x 5 (height x width), two categories with gaps in their ids.
SQUARE = np.zeros((4, 5), np.bool_)
SQUARE[1:3, 1:3] = True
(RUNS,) = masks.encode(SQUARE[None])
TRUTH = {
    "images": [{"id": 7, "height": 4, "width": 5}, {"id": 3, "height": 4, "width": 5}],
    "categories": [{"id": 9, "name": "cup"}, {"id": 2, "name": "ant"}],
    "annotations": [
        {
            "id": 0,
            "image_id": 7,
            "category_id": 9,
            "segmentation": RUNS,
            "area": 3.5,
            "iscrowd": 1,
            "bbox": [0, 0, 1, 1],
        },
        {"id": 5, "image_id": 7, "category_id": 2, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        {"id": 6, "image_id": 3, "category_id": 2, "segmentation": {"size": [4, 5], "counts": [5, 2, 2, 2, 9]}},
    ],
}
RESULT = {"image_id": 7, "category_id": 9, "segmentation": RUNS, "score": 0.5}


def truth_file(folder: Path, content: object = TRUTH) -> Path:
    path = folder / "truth.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def results(folder: Path, content: object, agnostic: bool = False):
    truth = read_annotations(truth_file(folder))
    path = folder / "found.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    known = {image_id: image_id for image_id in truth.sizes}
    found = read_results(path, known, None if agnostic else truth.label_of)
    return {image_id: found.found(image_id, size) for image_id, size in truth.sizes.items()}


def test_masks_of_every_form_are_run_lengths(tmp_path: Path) -> None:
    truth = read_annotations(truth_file(tmp_path))
    assert list(truth.sizes) == [3, 7]  # ascending ids, as pycocotools orders them
    assert truth.categories == ("ant", "cup")
    two = truth.read(7)
    assert two.labels.tolist() == [2, 1]
    assert two.crowd.tolist() == [True, False]
    assert two.areas.tolist() == [3.5, 4.0]  # the file's, else the mask's
    for image in (truth.read(7), truth.read(3)):
        for region in masks.decode(image.regions, (4, 5)):
            assert np.array_equal(region, SQUARE)


def test_polygons_are_what_pycocotools_makes_of_them(tmp_path: Path) -> None:
    content = deepcopy(TRUTH)
    parts = [[0.3, 0.2, 4.1, 0.9, 2.2, 3.7], [3.1, 2.0, 4.9, 2.2, 4.0, 3.9]]
    content["annotations"][1]["segmentation"] = parts
    (_, region) = read_annotations(truth_file(tmp_path, content)).read(7).regions
    expected = coco.decode(coco.merge(coco.frPyObjects(parts, 4, 5)))
    assert np.array_equal(masks.decode([region], (4, 5))[0], expected)


def test_results_by_image(tmp_path: Path) -> None:
    found = results(tmp_path, [RESULT, {**RESULT, "score": 1, "category_id": 2, "bbox": [9, 9, 9, 9]}])
    assert found[7].labels.tolist() == [2, 1]
    assert found[7].scores.tolist() == [0.5, 1.0]
    assert len(found[3].regions) == 0
    assert results(tmp_path, [])[7].scores.shape == (0,)


def test_boxes(tmp_path: Path) -> None:
    content = [{"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4.5], "score": 1}]
    truth = read_annotations(truth_file(tmp_path))
    path = truth_file(tmp_path, content)
    found = read_results(path, {7: 7, 3: 3}, truth.label_of)
    assert found.boxes
    assert found.found(7, (4, 5), boxes=True).regions.tolist() == [[1, 2, 3, 4.5]]
    assert found.found(3, (4, 5), boxes=True).regions.shape == (0, 4)
    assert not read_results(truth_file(tmp_path, [RESULT]), {7: 7}, truth.label_of).boxes
    for box in ([1, 2, 3], [1, 2, -3, 4], [1, 2, "3", 4], [1, 2, 3, float("nan")], [10**400, 1, 1, 1], "box"):
        broken = read_results(truth_file(tmp_path, [{**content[0], "bbox": box}]), {7: 7}, truth.label_of)
        with pytest.raises(
            UsageError, match=r"result 0 \(image 7\): bbox is .*, not \[x, y, width, height\] in pixels"
        ):
            broken.found(7, (4, 5), boxes=True)
    with pytest.raises(UsageError, match="annotation 1 has no 'bbox'"):
        truth.read(7, boxes=True)


def test_without_categories_every_label_is_one(tmp_path: Path) -> None:
    bare = {key: value for key, value in RESULT.items() if key != "category_id"}
    assert results(tmp_path, [bare, {**RESULT, "category_id": 77}], agnostic=True)[7].labels.tolist() == [1, 1]


def test_our_own_predictions(tmp_path: Path) -> None:
    line = {"image_id": 7, "size": [4, 5], "results": [{**RESULT, "category_id": 2}], "proposals": [RESULT, RESULT]}
    path = tmp_path / "predictions.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(line) + "\n")
    assert read_results(path, {7: 7}, {2: 1}).found(7, (4, 5)).labels.tolist() == [1]
    assert read_results(path, {7: 7}, None).found(7, (4, 5)).labels.tolist() == [1, 1]
    with pytest.raises(UsageError, match="has no line for 1 of 2 images, such as 3"):
        read_results(path, {7: 7, 3: 3}, {2: 1})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"predictions\.jsonl\.gz cannot be read as predictions: EOFError"):
        read_results(path, {7: 7}, {2: 1})


BAD_RESULTS = {
    "empty": ("", "found.json is empty"),
    "cut off": (json.dumps([RESULT])[:-20], "found.json is not valid JSON, or was cut off"),
    "no list": ({"a": 1}, "found.json is not a COCO results file"),
    "annotations": (TRUTH, "that is the --ground-truth"),
    "no dictionary": ([RESULT, 3], "found.json, result 1 is not an object with fields, but '3'"),
    "unknown image": ([RESULT, {**RESULT, "image_id": 8}], "result 1: unknown image_id 8; there are"),
    "unknown category": ([{**RESULT, "category_id": 3}], "result 0: unknown category_id 3; there are 2, 9"),
    "no score": ([{key: RESULT[key] for key in RESULT if key != "score"}], "result 0 has no 'score'"),
    "NaN": ([{**RESULT, "score": float("nan")}], "result 0 (image 7): score is nan, not a number"),
    "infinite": ([{**RESULT, "score": float("inf")}], "score is inf, not a number"),
    "text": ([{**RESULT, "score": "0.5"}], "score is '0.5', not a number"),
    "true": ([{**RESULT, "score": True}], "score is True, not a number"),
    "box": (
        [{"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 1}],
        "result 0 has no 'segmentation'; this needs masks, not boxes",
    ),
    "size": (
        [RESULT, {**RESULT, "segmentation": {"size": [5, 4], "counts": RUNS["counts"]}}],
        "result 1 (image 7): its mask has the size [5, 4], the image [4, 5] (height, width)",
    ),
    "damaged": (
        [{**RESULT, "segmentation": {"size": [4, 5], "counts": "66"}}],
        "result 0 (image 7): its mask is damaged",
    ),
    "runs": (
        [{**RESULT, "segmentation": {"size": [4, 5], "counts": [1, 2]}}],
        "its runs cover 3 pixels, the image has 20",
    ),
    "polygon": ([{**RESULT, "segmentation": [[1, 2, 3, 4]]}], "a polygon needs three points or more"),
    "no mask": ([{**RESULT, "segmentation": None}], "it must be run lengths"),
    "negative run": ([{**RESULT, "segmentation": {"size": [4, 5], "counts": [25, -5]}}], "a run is not a whole number"),
    "negative packed": ([{**RESULT, "segmentation": {"size": [4, 5], "counts": "53M<"}}], "but some are negative"),
    "far polygon": ([{**RESULT, "segmentation": [[1e9, 0, 3, 0, 3, 3]]}], "far outside of the image of [4, 5]"),
    "text polygon": ([{**RESULT, "segmentation": [["1", 0, 3, 0, 3, 3]]}], "a coordinate is no number"),
    "flat polygon": ([{**RESULT, "segmentation": [1, 1, 3, 1, 3, 3]}], "x and y of each: [[x, y, x, y, x, y], ...]"),
    "a number": (5, "found.json is not a COCO results file"),
    "nothing": (None, "found.json is not a COCO results file"),
    "long number": ("[" + "9" * 5000 + "]", "found.json is not valid JSON"),
    "deep": ("[" * 100_000, "found.json is not valid JSON"),
    "huge": ([{**RESULT, "score": 10**400}], "result 0 (image 7): score is 1000"),
    "id as text": ([{**RESULT, "image_id": "7"}], "unknown image_id '7' (text here, a number there)"),
    "no size": ([{**RESULT, "segmentation": {"counts": RUNS["counts"]}}], "result 0 (image 7): segmentation"),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_broken_results(tmp_path: Path, name: str) -> None:
    content, message = BAD_RESULTS[name]
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        results(tmp_path, content)
    assert str(tmp_path / "found.json") in str(error.value)


def changed(part: str, place: int, **values: object) -> dict:
    content = deepcopy(TRUTH)
    content[part][place] |= values
    return content


BAD_TRUTH = {
    "a list": ([RESULT], "is not a COCO annotation file"),
    "no images": ({**TRUTH, "images": []}, "holds no images"),
    "images": ({**TRUTH, "images": {}}, "images must be a list"),
    "double image": (changed("images", 0, id=3), "image 1: the id 3 occurs twice"),
    "no height": (changed("images", 1, height=0), "image 1 (id 3): height and width"),
    "double category": (changed("categories", 1, id=9), "category 1: id 9"),
    "unknown image": (changed("annotations", 1, image_id=8), "annotation 1: unknown image_id 8"),
    "unknown category": (changed("annotations", 2, category_id=1), "annotation 2: unknown category_id 1"),
    "crowd": (changed("annotations", 1, iscrowd="0"), "annotation 1 (image 7): iscrowd is '0', not 0 or 1"),
    "negative area": (changed("annotations", 0, area=-1), "area is -1, not a number of 0 or more"),
    "name": (changed("categories", 0, name="\ud800"), "category 0: the name '\\ud800' cannot be printed"),
    "area": (changed("annotations", 0, area="big"), "annotation 0 (image 7): area is 'big', not a number"),
}


@pytest.mark.parametrize("name", BAD_TRUTH)
def test_broken_annotations(tmp_path: Path, name: str) -> None:
    content, message = BAD_TRUTH[name]

    def read() -> Annotations:
        truth = read_annotations(truth_file(tmp_path, content))
        return [truth.read(image_id) for image_id in truth.sizes]

    with pytest.raises(UsageError, match=re.escape(message)) as error:
        read()
    assert str(tmp_path / "truth.json") in str(error.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is a folder; a JSON file is needed"):
        read_annotations(tmp_path)
    with gzip.open(tmp_path / "packed.json.gz", "wt") as file:
        json.dump(TRUTH, file)
    with pytest.raises(UsageError, match=r"packed\.json\.gz is packed with gzip: unpack it first"):
        read_annotations(tmp_path / "packed.json.gz")
