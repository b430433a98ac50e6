"""What a dataset is: numbered samples of one split, with the categories and a fingerprint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

IGNORE = 255  # semantic value of pixels that no loss and no metric may judge (VOC's void contour)


class DatasetError(Exception):
    """The data on disk are missing or broken. The message names the file and says what to do."""


@dataclass(frozen=True)
class DatasetInfo:
    """What records and tables need to know of a split.

    ``categories[0]`` belongs to label 1; label 0 is background. ``fingerprint`` changes exactly when
    an image, an annotation or the split's list changes. ``generated`` splits have no files that could be broken.
    ``background`` is False where every pixel has a category or is ignored: label 0 then never occurs.
    """

    name: str
    split: str
    categories: tuple[str, ...]
    fingerprint: str
    generated: bool = False
    background: bool = True


@dataclass(frozen=True)
class Attributes:
    """Facts about the instances of one sample, for breakdowns; arrays of shape (N,), in id order.

    ``area``: visible pixels (int64). ``visible_fraction``: visible area over the area that the whole
    object would cover inside the image (float64, 0..1). ``parts``: number of 4-connected visible parts
    (int64). ``same_class_contacts``: other instances of the same class that touch this one along
    an edge (int64).
    """

    area: np.ndarray
    visible_fraction: np.ndarray
    parts: np.ndarray
    same_class_contacts: np.ndarray


@dataclass(frozen=True)
class Objects:
    """The annotated objects themselves, where they may overlap or be crowds, as COCO has them; N of them.

    ``masks``: COCO run lengths, {"size": [H, W], "counts": bytes}, of the sample's size. ``labels``: (N,) int64 in
    1..C. ``crowd``: (N,) bool. ``areas``: (N,) float64 and ``boxes``: (N, 4) float64 as x, y, width, height, both as
    annotated; None after a transform.
    """

    masks: tuple[dict[str, object], ...]
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray | None
    boxes: np.ndarray | None = None


@dataclass(frozen=True)
class Sample:
    """One image with its annotation; all maps have the image's height and width.

    ``image``: (H, W, 3) uint8 RGB. ``semantic``: (H, W) uint8; 0 background, 1..C, 255 ignore.
    ``instances``: (H, W) int32; 0 none, ids 1..N; every id lies within one semantic class.
    ``attributes``: only where the dataset knows them (``shapes``), else None. ``regions``: (H, W) int32 numbers of an
    over-segmentation, only where the dataset has one. The rest only where a layout has it: ``objects``;
    ``contours``: (A, H, W) bool, the boundaries that each annotator drew (BSDS500); ``official_ids``: (H, W) int32, the
    file's own instance ids (Cityscapes). No transform keeps these two.
    """

    image_id: str
    image: np.ndarray
    semantic: np.ndarray
    instances: np.ndarray
    attributes: Attributes | None = None
    regions: np.ndarray | None = None
    objects: Objects | None = None
    contours: np.ndarray | None = None
    official_ids: np.ndarray | None = None

    def labels(self) -> np.ndarray:
        """Category of instance 1..N, shape (N,) int64: the class under each id's pixels."""
        flat, classes = self.instances.ravel(), self.semantic.ravel()
        labels = np.zeros(int(flat.max(initial=0)) + 1, dtype=np.int64)
        known = classes != IGNORE
        labels[flat[known]] = classes[known]
        return labels[1:]


class Dataset(Protocol):
    """A split: random access to samples; opening it reads no pixels."""

    info: DatasetInfo

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def verify(self, index: int) -> None:
        """Raise `DatasetError`, naming the file, if sample ``index`` cannot be used."""


class Subset:
    """``count`` samples of a split, evenly spaced, for a look at a large one."""

    def __init__(self, whole: Dataset, count: int) -> None:
        self.whole, self.count = whole, count

    @property
    def info(self) -> DatasetInfo:
        whole = self.whole.info
        return replace(whole, split=f"{whole.split} ({self.count})", fingerprint=f"{whole.fingerprint}-{self.count}")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self._place(index)]

    def verify(self, index: int) -> None:
        self.whole.verify(self._place(index))

    def _place(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return index * len(self.whole) // self.count
