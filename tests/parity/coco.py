"""Golden files ``coco*``: what pycocotools says of the annotations ``gt`` and the results ``dt`` of the other file.

The twelve numbers, AP of each category, and recall with and without classes. Ours and both engines are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco
from runner import TOLERANCE, Golden

from evaluation import coco_ap, coco_engine
from evaluation.coco_ap import ImageDetections, ImageTruth
from evaluation.masks import RunLengths

STATS = ["coco_ap", "coco_ap_50", "coco_ap_75", *(f"coco_ap_{size}" for size in coco_ap.SIZES[1:])]
STATS += [f"coco_ar_{which}" for which in (*coco_ap.LIMITS, *coco_ap.SIZES[1:])]


def check(paths: list[Path]) -> int:
    """Compare one case, given as its .expected.json and its .json; the number of values compared."""
    assert [path.name.split(".", 1)[1] for path in paths] == ["expected.json", "json"], f"not a coco case: {paths}"
    expected, inputs = (Golden(path) for path in paths)
    truths, detections, categories = read(inputs.take("gt"), inputs.take("dt"))
    inputs.finish()
    matches = [coco_ap.match_image(*image, len(categories)) for image in zip(truths, detections, strict=True)]
    once = np.ones((1, len(matches)), np.int64)
    ours = {name: float(value[0]) for name, value in coco_ap.measure(matches, once, categories).items()}
    for engine in coco_engine.ENGINES:
        theirs = coco_engine.evaluate(truths, detections, categories, agnostic=True, engine=engine)
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(value, ours[name], rtol=0, atol=1e-12, err_msg=f"{engine} {name}")

    _compare(expected, "stats", dict(enumerate(expected.take("stats"))), dict(enumerate(ours[name] for name in STATS)))
    for key, name in (("AP_per_cat_all", "coco_ap"), ("AP50_per_cat", "coco_ap_50")):
        values = [ours[f"{name}/{category}"] for category in categories]
        _compare(expected, key, dict(enumerate(expected.take(key))), dict(enumerate(values)))
    recall = coco_ap.recalls(matches, once, len(categories))
    for agnostic, key in ((True, "AR_useCats0"), (False, "AR_useCats1")):
        values = {}
        for size, name in enumerate(coco_ap.SIZES):
            found = recall(agnostic, size, coco_ap.AGNOSTIC_LIMITS)[0]
            for limit, of_limit in zip(coco_ap.AGNOSTIC_LIMITS, found, strict=True):
                known = of_limit[:, ~np.isnan(of_limit[0])]
                values[f"AR@{limit}_{name}"] = known.mean() if known.size else np.nan
                if not size:
                    values[f"R50@{limit}"] = known[0].mean() if known.size else np.nan
        _compare(expected, key, expected.take(key), values)
    # How far the engines were from pycocotools when the file was made.
    expected.ignore(*(name for name in expected.names() if name.endswith("_maxabsdiff")))
    return expected.finish()


def _compare(expected: Golden, name: str, values: Mapping[Any, float], ours: Mapping[Any, float]) -> None:
    """pycocotools writes -1 where a number does not exist."""
    assert values.keys() == ours.keys(), f"{expected.path.name} {name}: {list(values)}, ours {list(ours)}"
    for key, value in values.items():
        value = np.nan if value == -1 else value
        message = f"{expected.path.name} {name} {key}"
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=TOLERANCE, err_msg=message)
    expected.count(len(values))


def read(
    annotations: Mapping[str, Any], results: list[Mapping[str, Any]], boxes: bool = False
) -> tuple[list[ImageTruth], list[ImageDetections], list[str]]:
    """COCO's two files as what is evaluated, images and categories by ascending id; masks, or their ``boxes``."""
    numbers = sorted(category["id"] for category in annotations["categories"])
    names = {category["id"]: category["name"] for category in annotations["categories"]}
    truths, detections = [], []
    for image in sorted(annotations["images"], key=lambda image: image["id"]):
        columns = []
        for entries in (annotations["annotations"], results):
            mine = [entry for entry in entries if entry["image_id"] == image["id"]]
            labels = np.array([1 + numbers.index(entry["category_id"]) for entry in mine], np.int64)
            if boxes:
                regions = np.array([entry["bbox"] for entry in mine], np.float64).reshape(-1, 4)
            else:
                regions = [_mask(entry["segmentation"], image) for entry in mine]
            columns.append((mine, regions, labels))
        (mine, regions, labels), (found, *detected) = columns
        crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in mine], np.bool_)
        truths.append(ImageTruth(regions, labels, crowd, np.array([entry["area"] for entry in mine], np.float64)))
        detections.append(ImageDetections(*detected, np.array([entry["score"] for entry in found], np.float64)))
    return truths, detections, [names[number] for number in numbers]


def _mask(region: Any, image: Mapping[str, Any]) -> RunLengths:
    if isinstance(region, list):
        region = coco.merge(coco.frPyObjects(region, image["height"], image["width"]))
    elif isinstance(region["counts"], list):
        region = coco.frPyObjects(region, image["height"], image["width"])
    counts = region["counts"]
    return RunLengths(size=list(region["size"]), counts=counts if isinstance(counts, str) else counts.decode("ascii"))
