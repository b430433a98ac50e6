"""Golden files ``miou*``: semantic IoU as chainercv, detectron2 and mmsegmentation give it, and the confusion."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from runner import TOLERANCE, Golden

from evaluation import semantic_iou

NAME = re.compile(r"(?P<who>chainercv|detectron2|mmseg)_(?P<number>iou|miou|pixacc|mean_class_acc)")
NUMBERS = {"miou": "miou", "pixacc": "pixel_accuracy", "mean_class_acc": "mean_accuracy"}


def check(paths: list[Path]) -> int:
    """Compare one case, given as its .expected.json and its .npz; the number of values compared."""
    assert [path.name.split(".", 1)[1] for path in paths] == ["expected.json", "npz"], f"not a miou case: {paths}"
    expected, inputs = (Golden(path) for path in paths)
    images = list(zip(inputs.take("gt"), inputs.take("pred"), strict=True))
    classes = int(inputs.take("n_class"))
    inputs.finish()
    names = [str(label) for label in range(classes)]
    assert expected.take("n_class") == classes, f"{paths[0].name}: n_class is {classes} in the input"
    pixels = sum(semantic_iou.confusion(truth, predicted, classes) for truth, predicted in images)
    theirs = np.array(expected.take("confusion_gt_rows"))
    # chainercv's matrix and table end with the last class that occurs.
    _compare(expected, "confusion_gt_rows", pixels, np.pad(theirs, (0, classes - len(theirs))))
    matches = [semantic_iou.match_image(truth, predicted, classes) for truth, predicted in images]
    values = semantic_iou.measure(matches, np.ones((1, len(images)), dtype=np.int64), names)
    for name in sorted(set(expected.names()) - {"n_class", "confusion_gt_rows"}):
        parts = NAME.fullmatch(name)
        assert parts, f"{paths[0].name}: unknown entry {name!r}"
        theirs = np.array(expected.take(name), dtype=float)
        if parts["number"] == "iou":
            ours = np.array([values[f"iou/{label}"][0] for label in names])
            theirs = np.pad(theirs, (0, classes - len(theirs)), constant_values=np.nan)
            if parts["who"] == "detectron2":  # a class without truth is excluded there: its entry was never filled
                absent = pixels.sum(1) == 0
                assert (np.isnan(theirs) | (theirs == 0))[absent].all(), f"{name}: IoU of a class without truth"
                theirs[absent] = ours[absent]
        else:
            key = NUMBERS[parts["number"]]
            ours = values["miou_present" if name == "detectron2_miou" else key][0]
        _compare(expected, name, ours, theirs, 1e-6 if parts["who"] == "mmseg" else TOLERANCE)  # mmseg is in float32
    return expected.finish()


def _compare(expected: Golden, name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=f"{expected.path.name} {name}")
    expected.count(np.size(theirs))
