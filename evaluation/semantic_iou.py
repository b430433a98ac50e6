"""Semantic segmentation: intersection over union (IoU) of the classes' pixels over all images, and pixel accuracies.

IoU of class c = pixels that are c and predicted as c / pixels that are c or predicted as c, where pixels of all images
are counted together first. A pixel without a true class (255) is not counted, whatever was predicted there.

Two conventions for a class that occurs in no truth but was predicted somewhere:

================  ==============================================  ===================================
name              such a class                                    as in
================  ==============================================  ===================================
``miou``          has IoU 0, which enters the mean                chainercv, mmsegmentation, Cityscapes
``miou_present``  does not enter the mean                         detectron2
================  ==============================================  ===================================

A class that occurs nowhere, neither in truth nor predicted, has no IoU and enters no mean.

A prediction of 255, or of any other number that is not a class, on a pixel that counts is an error. The references
disagree about it (an exception, a miss, a count in another class's bin), so no number would mean the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.base import check_counts, mean_of_known, quotient

VERSION = "1"  # raise it when any number that this file returns changes; records carry it

IGNORE = 255  # no true class
_VALUES = 256


@dataclass(frozen=True)
class ImageMatches:
    """Pixels of each class in one image, as far as they count; all (C,) int64.

    ``correct``: predicted as what they are. ``truth``: of the class. ``predicted``: as the class. No field is ragged.
    Every number follows from these three; the full confusion would be C times as large.
    """

    correct: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


def match_image(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> ImageMatches:
    """Count the pixels of one image; arguments as for `confusion`."""
    pixels = confusion(truth, predicted, num_classes)
    return ImageMatches(pixels.diagonal().copy(), pixels.sum(1), pixels.sum(0))


def confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many pixels of class i were predicted as class j: (C, C) int64.

    ``truth``: (H, W) integer, 0..C-1 or 255. ``predicted``: (H, W) integer, 0..C-1, anything where ``truth`` is 255.
    C is at most 255. ValueError for another shape or dtype and for a value that is no class.
    """
    if not 1 <= num_classes <= IGNORE:
        raise ValueError(f"there can be 1..{IGNORE} classes, not {num_classes}")
    for name, values in (("truth", truth), ("prediction", predicted)):
        if values.ndim != 2 or values.dtype.kind not in "iu":
            raise ValueError(f"the {name} must be an integer map (H, W), not {values.dtype} of shape {values.shape}")
    if truth.shape != predicted.shape:
        raise ValueError(f"the prediction is of shape {predicted.shape}, the truth of {truth.shape} (height, width)")
    if truth.dtype != np.uint8:
        _demand_classes("the truth", truth, num_classes, truth != IGNORE)
    if predicted.dtype != np.uint8:
        _demand_classes("the prediction", predicted, num_classes, truth != IGNORE)
    # Pairs of bytes as one number each: a single pass, and no copy of the pixels that count. Where nothing counts, a
    # prediction that is no byte becomes some byte, but stays in the row that is not looked at.
    pairs = truth.astype(np.uint16) * np.uint16(_VALUES) + predicted.astype(np.uint8)
    pixels = np.bincount(pairs.ravel(), minlength=_VALUES**2).reshape(_VALUES, _VALUES)
    inside = pixels[:num_classes, :num_classes]
    if inside.sum() + pixels[IGNORE].sum() != truth.size:
        _demand_classes("the truth", truth, num_classes, truth != IGNORE)
        _demand_classes("the prediction", predicted, num_classes, truth != IGNORE)
    return inside.astype(np.int64)


def measure(matches: Sequence[ImageMatches], counts: np.ndarray, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    ``miou``, ``miou_present``: see the module's docstring. ``pixel_accuracy``: share of all pixels that are correct.
    ``mean_accuracy``: mean over the classes in the truth of the share of their pixels that are correct. ``fwiou``:
    mean IoU weighted by the classes' pixels in the truth. ``iou/NAME`` of one class, of ``categories`` (C,).
    NaN without a pixel to count, or, for ``iou/NAME``, without the class.
    """
    check_counts(counts, len(matches))
    for index, image in enumerate(matches):
        if image.truth.shape != (len(categories),):
            raise ValueError(f"image {index} was counted for {len(image.truth)} classes, not {len(categories)}")
    correct, truth, predicted = (
        _total(counts, [getattr(image, name) for image in matches], len(categories))
        for name in ("correct", "truth", "predicted")
    )
    union = truth + predicted - correct
    iou = quotient(correct, union)
    values = {
        "miou": mean_of_known(iou),
        "miou_present": mean_of_known(np.where(truth > 0, iou, np.nan)),
        "pixel_accuracy": quotient(correct.sum(1), truth.sum(1)),
        "mean_accuracy": mean_of_known(quotient(correct, truth)),
        "fwiou": quotient((np.where(truth > 0, iou, 0.0) * truth).sum(1), truth.sum(1)),
    }
    return values | {f"iou/{name}": iou[:, column] for column, name in enumerate(categories)}


def _total(counts: np.ndarray, pixels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Pixels of each class over all images under their weights: (B, C) float64, exact below 2^53."""
    return counts.astype(np.float64) @ np.array(pixels, dtype=np.float64).reshape(-1, classes)


def _demand_classes(name: str, values: np.ndarray, num_classes: int, counted: np.ndarray) -> None:
    wrong = counted & ((values < 0) | (values >= num_classes))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = f"{values[row, column]} at row {row}, column {column}"
        raise ValueError(f"{name} has the value {value}, which is not a class 0..{num_classes - 1}")
