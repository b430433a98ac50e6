"""What several metrics share: conventions with a printed tag, the order of detections, quotients and means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np


class Convention:
    """Base of a frozen dataclass whose fields are switches; ``CHOICES`` names their values. ValueError for another."""

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def tag(self) -> str:
        """What is printed beside every number, such as "area/mnc/count/nan"."""
        return "/".join(getattr(self, name) for name in self.CHOICES)


def check_counts(counts: np.ndarray, images: int) -> None:
    """ValueError unless ``counts`` are weights (B, images)."""
    if counts.ndim != 2 or counts.shape[1] != images:
        raise ValueError(f"counts must have the shape (B, {images}), not {counts.shape}")


def in_order(labels: np.ndarray, scores: np.ndarray, image_of: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The detections (M,) of all images by class, then score, descending; ties by image, then as they stand.

    An image that is present twice lists its detections twice: of equal scores a, b within it that is a, b, a, b and not
    a, a, b, b. So those with equals in their image and class are repeated here, once for each of the ``most`` times
    that an image may be present. Returns their indices (N,), and (N,) which copy each one is: 0 for all copies at
    once, else 1 .. most. Its weight where the image is present w times is w for copy 0, else 1 if w >= copy.
    """
    order = np.lexsort((-scores, labels))  # stable
    if most < 2 or len(order) < 2:
        return order, np.zeros(len(order), np.int64)
    columns = (labels[order], scores[order], image_of[order])
    new = np.append(True, np.any([column[1:] != column[:-1] for column in columns], axis=0))
    block = np.cumsum(new) - 1
    tied = np.bincount(block)[block] > 1
    times = np.where(tied, most, 1)
    place = np.repeat(np.arange(len(order)), times)
    copy = np.arange(len(place)) - np.repeat(np.cumsum(times) - times, times) + 1
    copy[~tied[place]] = 0
    listed = np.lexsort((place, copy, block[place]))
    return order[place[listed]], copy[listed]


def copies_present(counts: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """Weights (B, N) of the entries of `in_order`, from the ``counts`` (B, N) of their images."""
    return np.where(copy > 0, counts >= copy, counts) if copy.any() else counts


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN and no warning where ``below``, which is 0 or at least 1, is 0."""
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN entries; NaN, and no warning, where all are NaN."""
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0.0).sum(-1), known.sum(-1))
