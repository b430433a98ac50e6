"""VOC's layout of PNGs, for truth and for anybody's results: SegmentationClass/ID.png and SegmentationObject/ID.png.

A results folder may hold ``scores.txt``, lines ``ID OBJECT SCORE`` (OBJECT: the value in SegmentationObject/ID.png).
Without it every object has the score 1, and equal scores are taken in the order of images and objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.base import IGNORE, DatasetError
from datasets.files import first_five, read_ids, read_indices
from datasets.voc import read_annotation
from harness.names import UsageError

CLASSES, OBJECTS, SCORES = "SegmentationClass", "SegmentationObject", "scores.txt"


@dataclass(frozen=True)
class Labelled:
    """One image: class map (H, W) uint8 with 255 for void, instances (H, W) int32 with ids 1..N, and their labels."""

    semantic: np.ndarray
    instances: np.ndarray
    labels: np.ndarray  # (N,) int64 in 1..20
    scores: np.ndarray  # (N,) float64; 1 where nothing is said

    @property
    def void(self) -> np.ndarray | None:
        """(H, W) bool, None where there is none."""
        void = self.semantic == IGNORE
        return void if void.any() else None


@dataclass(frozen=True)
class VocFolder:
    """``image_ids`` of a folder in VOC's layout; ``folder[image_id]`` reads one."""

    path: Path
    image_ids: Sequence[str]
    scores: Mapping[str, Mapping[int, float]] | None = None  # by image and object

    def __getitem__(self, image_id: str) -> Labelled:
        class_file, object_file = (self.path / part / f"{image_id}.png" for part in (CLASSES, OBJECTS))
        try:
            semantic, instances = read_annotation(class_file, object_file)
            objects = None if self.scores is None else read_indices(object_file)
        except DatasetError as error:
            raise UsageError(str(error)) from error
        _, first = np.unique(instances, return_index=True)
        first = first[instances.ravel()[first] > 0]
        labels = semantic.ravel()[first].astype(np.int64)
        scores = np.ones(len(first)) if objects is None else self._scores(image_id, objects.ravel()[first].tolist())
        return Labelled(semantic, instances, labels, scores)

    def _scores(self, image_id: str, objects: Sequence[int]) -> np.ndarray:
        given = self.scores.get(image_id, {})
        for problem, names in (("no score for", set(objects) - set(given)), ("a score for", set(given) - set(objects))):
            if names:
                missing = "" if problem == "no score for" else ", which the map does not have"
                raise UsageError(f"{self.path / SCORES}: {problem} object {min(names)} of image {image_id}{missing}")
        return np.array([given[number] for number in objects], np.float64)


def is_voc(path: Path) -> bool:
    """Whether ``path``, or VOCdevkit/VOC2012 or VOC2012 in it, has VOC's two folders of label maps."""
    return _root(path) is not None


def open_truth(path: Path, split: str | None) -> VocFolder:
    """The annotation of ImageSets/Segmentation/SPLIT.txt (default: val), or without such lists of every object map."""
    root = _root(path)
    if root is None:
        raise UsageError(
            f"{path} is not in VOC's layout: no folders {CLASSES} and {OBJECTS} in it or in VOCdevkit/VOC2012"
        )
    lists = root / "ImageSets" / "Segmentation"
    if split is None and not lists.is_dir():
        return VocFolder(root, _all_ids(root))
    try:
        ids = read_ids(lists / f"{split or 'val'}.txt")
    except DatasetError as error:
        raise UsageError(str(error)) from error
    _demand(root, ids)
    return VocFolder(root, ids)


def open_results(path: Path, image_ids: Sequence[str]) -> VocFolder:
    """Results for exactly ``image_ids``; `UsageError` for a missing or an unknown image, or a bad line of scores."""
    root = _root(path)
    if root is None:
        raise UsageError(f"{path} is not in VOC's layout: no folders {CLASSES} and {OBJECTS}")
    unknown = sorted(set(_all_ids(root)) - set(image_ids))
    if unknown:
        raise UsageError(f"{root / OBJECTS}: {len(unknown)} unknown image ids: {first_five(unknown)}")
    _demand(root, image_ids)
    file = root / SCORES
    return VocFolder(root, image_ids, _read_scores(file, set(image_ids)) if file.exists() else None)


def _root(path: Path) -> Path | None:
    places = (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012")
    return next((place for place in places if all((place / part).is_dir() for part in (CLASSES, OBJECTS))), None)


def _all_ids(root: Path) -> list[str]:
    ids = sorted(file.stem for file in (root / OBJECTS).glob("*.png"))
    if not ids:
        raise UsageError(f"{root / OBJECTS} holds no PNG")
    return ids


def _demand(root: Path, image_ids: Sequence[str]) -> None:
    for part in (CLASSES, OBJECTS):
        present = {file.name for file in (root / part).iterdir()}
        lost = [image_id for image_id in image_ids if f"{image_id}.png" not in present]
        if lost:
            raise UsageError(f"{root / part}: {len(lost)} of {len(image_ids)} images are missing: {first_five(lost)}")


def _read_scores(path: Path, image_ids: set[str]) -> dict[str, dict[int, float]]:
    scores: dict[str, dict[int, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            image_id, key, score = words[0], int(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise UsageError(f"{path}, line {number}: {line!r} is not `ID OBJECT SCORE`") from None
        if image_id not in image_ids:
            raise UsageError(f"{path}, line {number}: unknown image id {image_id!r}")
        if len(words) > 3 or not math.isfinite(score) or key in scores.get(image_id, {}):
            raise UsageError(f"{path}, line {number}: {line!r}: the score is not finite, or the object occurs twice")
        scores.setdefault(image_id, {})[key] = score
    return scores
