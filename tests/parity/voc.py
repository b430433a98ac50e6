"""Golden files ``voc*``: AP^r per threshold and class as MNC, FCIS, chainercv and SDS's MATLAB code give it.

An expected entry is named after the evaluator, the integral and what was changed in it, such as
``fcis_area_stable_patched``; ``*_map`` is the mean over classes. Every entry is compared; where a reference departs
from `evaluation.voc_apr` on purpose, the departure is computed here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from runner import TOLERANCE, Golden

from evaluation import masks, voc_apr
from evaluation.voc_apr import ImageDetections, ImageMatches, ImageTruth, Variant

VOID = 255
NAME = re.compile(
    r"(?P<who>mnc|fcis|chainercv|sds_matlab_octave)_(?P<integral>area|11pt)(?P<stable>_stable)?(_patched)?"
    r"(?P<float64>_np_arange_float64_thr)?(?P<strip>_void_stripped_from_preds)?(?P<map>_map)?"
)


def check(paths: list[Path]) -> int:
    """Compare one case, given as its .expected.json and its .npz; the number of values compared."""
    assert [path.name.split(".", 1)[1] for path in paths] == ["expected.json", "npz"], f"not a voc case: {paths}"
    expected, inputs = (Golden(path) for path in paths)
    # MNC's own mask format, from which pred_masks_packed was pasted: pasting is not part of a metric.
    inputs.ignore("native_boxes", "native_m21")
    data = list(zip(_truths(inputs), _detections(inputs), strict=True))
    classes = int(inputs.take("n_class"))
    inputs.finish()
    expected.compare("thresholds", voc_apr.THRESHOLDS)
    for name in expected.names():
        if name != "thresholds":
            _compare(expected, name, data, classes)
    return expected.finish()


def _truths(inputs: Golden) -> list[ImageTruth]:
    truths = []
    for ids, categories in zip(inputs.take("gt_inst"), inputs.take("gt_cls"), strict=True):
        found = np.setdiff1d(ids, [0, VOID])
        labels = np.array([categories[ids == number].max() for number in found], dtype=np.int64)
        instances = np.where(ids == VOID, 0, np.searchsorted(np.append(0, found), ids))
        truths.append(ImageTruth(instances, labels, (ids == VOID) if (ids == VOID).any() else None))
    return truths


def _detections(inputs: Golden) -> list[ImageDetections]:
    height, width = int(inputs.take("H")), int(inputs.take("W"))
    packed, labels, scores = (inputs.take(f"pred_{name}") for name in ("masks_packed", "labels", "scores"))
    image_of = inputs.take("pred_img")
    dense = np.unpackbits(packed, axis=1, count=height * width).reshape(-1, height, width).astype(np.bool_)
    of_image = [np.flatnonzero(image_of == image) for image in range(len(inputs.take("gt_inst")))]
    return [ImageDetections(masks.encode(dense[these]), labels[these], scores[these]) for these in of_image]


def _compare(expected: Golden, name: str, data: list[tuple[ImageTruth, ImageDetections]], classes: int) -> None:
    values = expected.take(name)
    if not isinstance(values, list):  # MNC takes the void contour for an instance of class 255 and crashes
        crashes = name.startswith("mnc_") and any(truth.void is not None for truth, _ in data)
        assert crashes, f"{expected.path.name} {name} is not a table: {values}"
        return
    parts = NAME.fullmatch(name)
    assert parts, f"{expected.path.name}: unknown reference {name!r}"
    sds = parts["who"] == "sds_matlab_octave"
    variant = Variant(
        integral="area" if parts["integral"] == "area" else "11-point",
        matching="sds" if sds else "mnc",
        void="strip" if parts["strip"] else "count",
        absent="zero" if parts["who"] in ("mnc", "fcis") else "nan",
    )
    matches = [voc_apr.match_image(truth, found, variant, classes) for truth, found in data]
    if parts["float64"]:
        matches = [_float64_thresholds(*item, match) for item, match in zip(data, matches, strict=True)]
    if sds:
        matches = _lose_images_without_truth(matches, classes)
    # Only the entries "stable" and MATLAB's say in which order equal scores were taken. The others' order is that of
    # numpy's unstable sort on some CPU; every order lies between "correct ones first" and "correct ones last".
    spread = (True, False) if not (parts["stable"] or sds) and _has_ties(matches) else (None,)
    ours = [voc_apr.average_precision(_order_ties(matches, first), variant, classes) for first in spread]
    high, low = ours[0], ours[-1]
    if parts["map"]:
        _between(expected, name, np.array(values, dtype=float), low.mean, high.mean)
        return
    table = np.array(values, dtype=float)
    # chainercv's table ends with the last class that occurs anywhere.
    seen = max(int(labels.max()) for item in data for labels in (item[0].labels, item[1].labels) if len(labels))
    if parts["who"] == "chainercv" and seen <= table.shape[1] < classes:
        table = np.pad(table, ((0, 0), (0, classes - table.shape[1])), constant_values=np.nan)
    assert table.shape == low.per_class.shape, f"{expected.path.name} {name}: shape {table.shape}"
    if sds or (parts["who"] == "fcis" and variant.integral == "area"):
        # Without truth these divide 0 by 0: NaN if the class has detections, else an integral over nothing, which is 0.
        absent = sum(match.truth_counts for match in matches) == 0
        assert (np.isnan(table[:, absent]) | (table[:, absent] == 0)).all(), f"{name}: AP of a class without truth"
        table[:, absent] = low.per_class[:, absent]
    _between(expected, name, table, low.per_class, high.per_class)


def _between(expected: Golden, name: str, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Demand low <= values <= high up to the tolerance (low is high where there are no ties); NaN equals NaN."""
    same = np.isnan(values) & np.isnan(low) & np.isnan(high)
    inside = (values >= low - TOLERANCE) & (values <= high + TOLERANCE)
    wrong = np.argwhere(~(same | inside))
    at = tuple(wrong[0]) if len(wrong) else ()
    assert not len(wrong), f"{expected.path.name} {name}{at}: {low[at]} .. {high[at]}, expected {values[at]}"
    expected.count(values.size)


def _has_ties(matches: list[ImageMatches]) -> bool:
    pairs = [(label, score) for match in matches for label, score in zip(match.labels, match.scores, strict=True)]
    return len(set(pairs)) < len(pairs)


def _order_ties(matches: list[ImageMatches], correct_first: bool | None) -> list[ImageMatches]:
    """All detections as one image's, with the correct ones first or last among equal scores; None: untouched.

    The number of correct ones among equal scores is the same for every order: MNC's candidate does not depend on
    who came before, and of all that hit one truth, one is correct and it is among those with the highest score.
    """
    if correct_first is None:
        return matches
    labels = np.concatenate([match.labels for match in matches])
    scores = np.concatenate([match.scores for match in matches])
    correct = np.concatenate([match.correct for match in matches], axis=1)
    rows = []
    for row in correct:
        order = np.lexsort((row != correct_first, -scores, labels))
        rows.append(row[order])
    counts = np.sum([match.truth_counts for match in matches], axis=0)
    return [ImageMatches(labels[order], scores[order], np.stack(rows), counts)]


def _lose_images_without_truth(matches: list[ImageMatches], classes: int) -> list[ImageMatches]:
    """SDS: detections on an image without truth are written to the table, but the next image overwrites them.

    As many rows stay at the table's end: the last ones written there, or zeros (score 0, false).
    """
    tables = []
    for label in range(1, classes + 1):
        total = sum(int((match.labels == label).sum()) for match in matches)
        scores, correct, row = np.zeros(total), np.zeros((9, total), dtype=np.bool_), 0
        for match in matches:
            mine = match.labels == label
            rows = slice(row, row + int(mine.sum()))
            scores[rows] = match.scores[mine]
            if match.truth_counts.any():
                correct[:, rows] = match.correct[:, mine]
                row = rows.stop
        counts = np.zeros(classes, dtype=np.int64)
        counts[label - 1] = sum(match.truth_counts[label - 1] for match in matches)
        tables.append(ImageMatches(np.full(total, label), scores, correct, counts))
    return tables


def _float64_thresholds(truth: ImageTruth, found: ImageDetections, match: ImageMatches) -> ImageMatches:
    """MNC's matching as chainercv does it for ``np.arange(0.1, 1, 0.1)``: float32 IoU >= float64 threshold.

    float32(7/10) and float32(9/10) lie below their float64 thresholds, so an exact hit is a miss there.
    """
    regions = [truth.instances == number + 1 for number in range(len(truth.labels))]
    shapes = masks.decode(found.masks, truth.instances.shape)
    correct = np.zeros_like(match.correct)
    for level, threshold in enumerate(np.arange(0.1, 1.0, 0.1)):
        taken = set()
        for index in np.argsort(-match.scores, kind="stable"):
            best, candidate = np.float32(-1), -1
            for number, region in enumerate(regions):
                if truth.labels[number] == match.labels[index]:
                    iou = np.float32((region & shapes[index]).sum() / (region | shapes[index]).sum())
                    best, candidate = max((best, candidate), (iou, number), key=lambda pair: pair[0])
            if best >= threshold and candidate not in taken:
                taken.add(candidate)
                correct[level, index] = True
    return ImageMatches(match.labels, match.scores, correct, match.truth_counts)
