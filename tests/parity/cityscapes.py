"""Golden files ``cs*``: AP per range, threshold and class as the official evaluator of cityscapesscripts gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from runner import Golden

from evaluation import cityscapes_ap, masks
from evaluation.cityscapes_ap import Distances, ImageDetections, ImageTruth

# The official names of the averages: range and thresholds.
AVERAGES = {
    "allAp": ("all", slice(None)),
    "allAp50%": ("all", slice(1)),
    "allAp100m": ("100m", slice(None)),
    "allAp50m": ("50m", slice(None)),
    "allAp50%50m": ("50m", slice(1)),
}
MEASURED = {"allAp": "cs_ap", "allAp50%": "cs_ap_50", "allAp100m": "cs_ap_100m", "allAp50m": "cs_ap_50m"}
MEASURED_OF_CLASS = {"ap": "cs_ap", "ap50%": "cs_ap_50"}


def check(paths: list[Path]) -> int:
    """Compare one case, given as its .expected.json and its .npz; the number of values compared."""
    assert [path.name.split(".", 1)[1] for path in paths] == ["expected.json", "npz"], f"not a cs case: {paths}"
    expected, inputs = (Golden(path) for path in paths)
    maps, found = inputs.take("gt_instanceIds"), _detections(inputs)
    inputs.finish()
    assert expected.take("instLabels") == list(cityscapes_ap.CLASSES.values())
    expected.compare("overlaps", cityscapes_ap.OVERLAPS)

    matches = [cityscapes_ap.match_image(ImageTruth(ids), image) for ids, image in zip(maps, found, strict=True)]
    _compare(expected, expected.take("apMatrix"), expected.take("average"), matches)
    values = cityscapes_ap.measure(matches, np.ones((1, len(maps)), np.int64))
    for label, numbers in expected.take("classes").items():
        for name, value in numbers.items():
            _same(expected, f"{label} {name}", value, values[f"{MEASURED_OF_CLASS[name]}/{label}"][0])
    if "with_distance" in expected.names():
        content = expected.take("with_distance")
        assert content.keys() == {"average", "apMatrix", "distances"}, f"{expected.path.name}: {list(content)}"
        truths = _with_distances(maps, content["distances"])
        matches = [cityscapes_ap.match_image(*pair) for pair in zip(truths, found, strict=True)]
        _compare(expected, content["apMatrix"], content["average"], matches)
    return expected.finish()


def _detections(inputs: Golden) -> list[ImageDetections]:
    height, width = int(inputs.take("H")), int(inputs.take("W"))
    packed, labels, scores = (inputs.take(f"pred_{name}") for name in ("masks_packed", "labelIDs", "scores"))
    image_of = inputs.take("pred_img")
    dense = np.unpackbits(packed, axis=1, count=height * width).reshape(-1, height, width).astype(np.bool_)
    of_image = [np.flatnonzero(image_of == image) for image in range(len(inputs.take("gt_instanceIds")))]
    return [ImageDetections(masks.encode(dense[these]), labels[these], scores[these]) for these in of_image]


def _with_distances(maps: np.ndarray, listed: dict[str, list[float]]) -> list[ImageTruth]:
    """``listed``: [metres, confidence] under names like ``c_000003_000000_gtFine_instanceIds.png|26001``."""
    entries: list[list[tuple[int, float, float]]] = [[] for _ in maps]
    for name, (metres, confidence) in listed.items():
        file, number = name.split("|")
        entries[int(file.split("_")[1])].append((int(number), metres, confidence))
    truths = []
    for ids, rows in zip(maps, entries, strict=True):
        numbers, metres, confidences = (np.array(column) for column in zip(*rows, strict=True)) if rows else [[]] * 3
        truths.append(ImageTruth(ids, Distances(np.array(numbers, np.int64), metres, confidences)))
    return truths


def _compare(
    expected: Golden, matrix: Any, averages: dict[str, float], matches: list[cityscapes_ap.ImageMatches]
) -> None:
    """The official matrix is [range][class][threshold], without the ranges that need distances where it had none."""
    once = np.ones((1, len(matches)), np.int64)
    ours, values = cityscapes_ap.average_precision(matches, once)[0], cityscapes_ap.measure(matches, once)
    table = np.array(matrix, dtype=float)
    _same(expected, "apMatrix", table, ours[: len(table)].transpose(0, 2, 1))
    for name, value in averages.items():
        place, levels = AVERAGES[name]
        of_class = ours[cityscapes_ap.RANGES.index(place), levels]
        _same(expected, name, value, of_class[~np.isnan(of_class)].mean())
        if name in MEASURED:
            _same(expected, name, value, values[MEASURED[name]][0])


def _same(expected: Golden, name: str, value: Any, ours: Any) -> None:
    value, ours = np.array(value, dtype=float), np.asarray(ours)
    assert value.shape == ours.shape, f"{expected.path.name} {name}: {ours.shape}, expected {value.shape}"
    np.testing.assert_allclose(ours, value, rtol=0, atol=1e-9, err_msg=f"{expected.path.name} {name}")
    expected.count(value.size)
