"""Pairs of class maps as PNG: truth and anybody's results, for semantic IoU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.base import DatasetError
from datasets.files import first_five, read_indices
from datasets.voc import CATEGORIES
from harness import voc_files
from harness.names import UsageError


@dataclass(frozen=True)
class MapPairs:
    """``names`` are the paths of the maps below both folders; ``categories`` names class 0, 1, ..., where known."""

    truth: Path
    predictions: Path
    names: Sequence[str]
    categories: Sequence[str] | None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(name, truth, prediction); both maps (H, W) uint8. `UsageError` where one cannot be read, or sizes differ."""
        for name in self.names:
            try:
                truth, found = read_indices(self.truth / name), read_indices(self.predictions / name)
            except DatasetError as error:
                raise UsageError(str(error)) from error
            if truth.shape != found.shape:
                raise UsageError(
                    f"{self.predictions / name} is {found.shape[1]} x {found.shape[0]} pixels, "
                    f"{self.truth / name} is {truth.shape[1]} x {truth.shape[0]} (width x height)"
                )
            yield name, truth, found


def open_pairs(truth: Path, predictions: Path, split: str | None) -> MapPairs:
    """The maps of two folders, by equal names; in VOC's layout those of a split in SegmentationClass.

    `UsageError` for a folder without maps, a missing map, or one that the truth does not have.
    """
    categories = None
    if voc_files.is_voc(truth):
        folder = voc_files.open_truth(truth, split)
        truth, names = folder.path / voc_files.CLASSES, [f"{image_id}.png" for image_id in folder.image_ids]
        categories = ("background", *CATEGORIES)
    elif split is not None:
        raise UsageError(f"--split {split}: {truth} is not in VOC's layout, so it has no lists")
    else:
        names = _maps(truth)
    inner = [predictions / part for part in (voc_files.CLASSES, "semantic") if (predictions / part).is_dir()]
    if inner and not (predictions / names[0]).exists():
        predictions = inner[0]
    present = set(_maps(predictions))
    lost, unknown = [name for name in names if name not in present], sorted(present - set(names))
    if lost:
        raise UsageError(f"{predictions}: {len(lost)} of {len(names)} class maps are missing: {first_five(lost)}")
    if unknown:
        raise UsageError(f"{predictions}: {len(unknown)} class maps have no truth in {truth}: {first_five(unknown)}")
    return MapPairs(truth, predictions, names, categories)


def _maps(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of class maps")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    if not names:
        raise UsageError(f"{folder} holds no PNG")
    return names
