"""Breakdowns: AP^r and recall at IoU 0.5 by a property of the truth, such as its size or its number of parts.

Correct is what AP^r calls correct (`voc_apr`, default `Variant`, IoU 0.5); nothing is matched again within a bin.
For one bin of one property:

* Recall is the share of the bin's truths that a correct detection finds, classes together: "truths" says of how many.
* AP counts the bin's truths only, as COCO does for sizes: a correct detection of a truth outside the bin is neither
  correct nor false. So is a false detection whose own area is outside the bin, where the property is the area. A false
  detection has no other property: there it is false in every bin. Mean over the classes that have truth in the bin.
* Recall compares bins with each other. AP compares methods within a bin, and bins with each other for the area only:
  every bin of another property holds all false detections against its share of the truths, so that its AP is the
  lower the fewer truths it has.

Bins share no truth and leave none out. COCO's closed ranges put an area of exactly 32^2 into small and medium; here
it is medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from evaluation import masks, voc_apr
from evaluation.base import mean_of_known, quotient
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant

VERSION = "1"  # raise it when any number that this file returns changes

_HALF = voc_apr.THRESHOLDS.index(0.5)
_EVERY = -1  # the bin of what counts in all bins


@dataclass(frozen=True)
class Bins:
    """The bins of one property: bin k holds ``edges[k - 1] <= value < edges[k]``; the outer ones are open.

    ``attribute``: the property's name; "area" (pixels) is the one that false detections have, too. ``names``: one more
    than ``edges``. ValueError unless so, and unless the edges rise.
    """

    attribute: str
    names: tuple[str, ...]
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.edges) + 1:
            raise ValueError(f"{self.attribute}: {len(self.edges)} edges make {len(self.edges) + 1} bins: {self.names}")
        if not (np.diff(self.edges) > 0).all():
            raise ValueError(f"{self.attribute}: the edges {self.edges} do not rise")

    def of(self, values: np.ndarray) -> np.ndarray:
        """Index of each value's bin, of the same shape, int64."""
        return np.searchsorted(self.edges, values, side="right").astype(np.int64)


AREA = Bins("area", ("small", "medium", "large"), (32**2, 96**2))  # COCO's
VISIBLE_FRACTION = Bins("visible_fraction", ("under_half", "over_half", "whole"), (0.5, 1.0))
PARTS = Bins("parts", ("1", "2", "3+"), (2, 3))
CONTACTS = Bins("same_class_contacts", ("0", "1", "2+"), (1, 2))
BINS = (AREA, VISIBLE_FRACTION, PARTS, CONTACTS)


@dataclass(frozen=True)
class ImageMatches:
    """M detections and N truths of one image under P properties: stored, never matched again.

    ``labels``: (M,) int64, ``scores``: (M,) float64, ``correct``: (M,) bool at IoU 0.5. ``truth_labels``: (N,) int64.
    ``truth_bins``: (P, N) int64. ``detection_bins``: (P, M) int64: of a correct detection its truth's bin, of a false
    one the bin of its area, or -1 under another property: it counts in every bin. All six are ragged.
    """

    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    truth_labels: np.ndarray
    truth_bins: np.ndarray
    detection_bins: np.ndarray


def attributes_of(instances: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What an instance map says about its instances: arrays (N,) int64 by name.

    ``area``: pixels. ``parts``: number of 4-connected parts. ``same_class_contacts``: number of other instances of
    the class that share an edge with it (across a void contour, as in VOC, nothing touches). ``instances``: (H, W)
    integer, 0 none, ids 1..N; ``labels``: (N,) integer.
    """
    count = len(labels)
    area = np.bincount(instances.ravel(), minlength=count + 1)[1:]
    boxes = enumerate(ndimage.find_objects(instances, count), start=1)
    parts = [ndimage.label(instances[box] == number)[1] if box else 0 for number, box in boxes]
    touching = np.zeros((count + 1, count + 1), np.bool_)
    for first, second in ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])):
        border = first != second
        touching[first[border], second[border]] = True
    touching = (touching | touching.T)[1:, 1:]
    labels = np.asarray(labels)
    contacts = (touching & (labels[:, None] == labels[None])).sum(1)
    return {"area": area, "parts": np.array(parts, np.int64), "same_class_contacts": contacts}


def match_image(
    truth: ImageTruth,
    detections: ImageDetections,
    attributes: Mapping[str, np.ndarray],
    bins: Sequence[Bins],
    num_classes: int,
) -> ImageMatches:
    """Put the truths of one image and its detections into bins.

    ``attributes``: (N,) by name, at least those of ``bins``. ValueError as in `voc_apr.match_image`, and for an
    attribute that is absent, not a number, or not of this length.
    """
    apr = voc_apr.match_image(truth, detections, Variant(), num_classes)
    correct = apr.correct[_HALF]
    truth_labels = np.asarray(truth.labels, np.int64)
    truth_bins = np.zeros((len(bins), len(truth_labels)), np.int64)
    for row, one in enumerate(bins):
        truth_bins[row] = one.of(_values(attributes, one.attribute, len(truth_labels)))
    detection_bins = np.full((len(bins), len(correct)), _EVERY)
    for row, one in enumerate(bins):
        if one.attribute == AREA.attribute:
            detection_bins[row] = one.of(masks.areas(detections.masks))
    detection_bins[:, correct] = truth_bins[:, _found(truth, detections, np.flatnonzero(correct))]
    return ImageMatches(apr.labels, apr.scores, correct, truth_labels, truth_bins, detection_bins)


def measure(
    matches: Sequence[ImageMatches], counts: np.ndarray, bins: Sequence[Bins], categories: Sequence[str]
) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    For every bin, such as "area=small": ``ap_r_50[area=small]``, ``recall_50[area=small]``, NaN without truth in the
    bin, and ``truths[area=small]``, their number. ValueError if an image was matched with another number of ``bins``.
    """
    for index, image in enumerate(matches):
        if len(image.truth_bins) != len(bins):
            raise ValueError(f"image {index} was matched with {len(image.truth_bins)} properties, not {len(bins)}")
    values = {}
    for row, one in enumerate(bins):
        for number, name in enumerate(one.names):
            inside = [_inside(image, row, number, len(categories)) for image in matches]
            tag = f"[{one.attribute}={name}]"
            per_class = voc_apr.weighted_average_precision(inside, counts, Variant(), len(categories), [_HALF])[:, 0]
            truths = counts @ np.array([image.truth_counts.sum() for image in inside], np.int64)
            found = counts @ np.array([image.correct[_HALF].sum() for image in inside], np.int64)
            values[f"ap_r_50{tag}"] = mean_of_known(per_class)
            values[f"recall_50{tag}"] = quotient(found, truths)
            values[f"truths{tag}"] = truths.astype(np.float64)
    return values


def _inside(image: ImageMatches, row: int, number: int, num_classes: int) -> voc_apr.ImageMatches:
    """The image as AP^r sees it in one bin; all nine rows of ``correct`` are the one of IoU 0.5."""
    kept = np.isin(image.detection_bins[row], (number, _EVERY))
    truths = image.truth_labels[image.truth_bins[row] == number]
    return voc_apr.ImageMatches(
        image.labels[kept],
        image.scores[kept],
        np.broadcast_to(image.correct[kept], (len(voc_apr.THRESHOLDS), np.count_nonzero(kept))),
        np.bincount(truths - 1, minlength=num_classes),
    )


def _found(truth: ImageTruth, detections: ImageDetections, correct: np.ndarray) -> np.ndarray:
    """Index of the truth that each of the ``correct`` detections found: its candidate in `voc_apr`'s matching."""
    if not len(correct):
        return np.zeros(0, np.int64)
    chosen = [detections.masks[index] for index in correct]
    regions = masks.encode_ids(truth.instances, len(truth.labels))
    shared = masks.intersections(chosen, regions)
    union = masks.areas(chosen)[:, None] + masks.areas(regions)[None] - shared
    own = np.asarray(detections.labels)[correct, None] == np.asarray(truth.labels)[None]
    return np.where(own, shared / union, 0).argmax(1)


def _values(attributes: Mapping[str, np.ndarray], name: str, count: int) -> np.ndarray:
    if name not in attributes:
        raise ValueError(f"there is no attribute {name!r}; available: {', '.join(attributes)}")
    values = np.asarray(attributes[name])
    if values.shape != (count,):
        raise ValueError(f"{name} has the shape {values.shape}, but there are {count} truths")
    if np.isnan(values).any():
        raise ValueError(f"{name} of truth {np.isnan(values).argmax() + 1} is not a number")
    return values
