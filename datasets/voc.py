"""PASCAL VOC 2012 in its official layout, with SBD for the split ``train_aug``.

VOC 2012: Everingham et al., IJCV 2015; ``VOCtrainval_11-May-2012.tar`` from host.robots.ox.ac.uk/pascal/VOC.
SBD: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011; ``benchmark.tgz``.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.base import IGNORE, DatasetError, DatasetInfo, Sample
from datasets.files import (
    file_digests,
    first_five,
    read_ids,
    read_indices,
    read_regions,
    read_rgb,
)
from datasets.mat_files import read_segmentation

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = ("train", "val", "trainval", "train_aug")
SBD_FOLDERS = ("benchmark_RELEASE/dataset", "SBD/dataset", "sbd/dataset", "SBD", "sbd")

_NO_FILES = "`--suite shapes` needs no files."


@dataclass(frozen=True)
class _Archive:
    """Where an archive keeps the files of image ``{}`` and the list of split ``{}``, relative to ``folder``."""

    title: str
    image: str
    classes: str
    objects: str
    split_list: str
    origin: str
    folder: Path = Path()

    def files(self, image_id: str) -> tuple[Path, Path, Path]:
        """Image, class map, object map."""
        image, classes, objects = (self.folder / name.format(image_id) for name in self._patterns())
        return image, classes, objects

    def ids(self, name: str) -> list[str]:
        return read_ids(self.folder / self.split_list.format(name))

    def check_layout(self, lists: tuple[str, ...]) -> None:
        """Raise `DatasetError` unless every folder and each of the ``lists`` is there."""
        missing = [folder for folder in map(_parent, self._patterns()) if not (self.folder / folder).is_dir()]
        names = [self.split_list.format(name) for name in lists]
        missing += [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise DatasetError(
                f"{self.title} in {self.folder} is incomplete: {', '.join(missing)} missing. {self.origin} {_NO_FILES}"
            )

    def check_files(self, split: str, ids: list[str]) -> None:
        """Raise `DatasetError` if a file of an image is missing; lists the folders, opens nothing."""
        missing = []
        for pattern in self._patterns():
            present = set(os.listdir(self.folder / _parent(pattern)))
            names = (pattern.format(image_id) for image_id in ids)
            missing += [name for name in names if PurePosixPath(name).name not in present]
        if missing:
            raise DatasetError(
                f"{self.title} in {self.folder}: {len(missing)} files of the split {split!r} are missing: "
                f"{first_five(missing)}. {self.origin} {_NO_FILES}"
            )

    def _patterns(self) -> tuple[str, str, str]:
        return self.image, self.classes, self.objects


def _parent(pattern: str) -> str:
    return str(PurePosixPath(pattern).parent)


_VOC = _Archive(
    title="VOC 2012",
    image="JPEGImages/{}.jpg",
    classes="SegmentationClass/{}.png",
    objects="SegmentationObject/{}.png",
    split_list="ImageSets/Segmentation/{}.txt",
    origin="VOC 2012 is VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; "
    "unpacked, it is VOCdevkit/VOC2012.",
)
_SBD = _Archive(
    title="SBD",
    image="img/{}.jpg",
    classes="cls/{}.mat",
    objects="inst/{}.mat",
    split_list="{}.txt",
    origin="SBD is benchmark.tgz from https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/"
    "semantic_contours/; unpacked, it is benchmark_RELEASE/dataset.",
)


class Voc:
    """One split of VOC 2012: "train" (1,464 images), "val" (1,449), "trainval" or "train_aug" (10,582).

    ``root`` holds VOCdevkit/VOC2012 or VOC2012, or is VOC2012 itself. "train_aug" is VOC 2012 train and every image
    of SBD, without those of VOC 2012 val; an image of both has VOC's annotation. SBD is looked for under `SBD_FOLDERS`
    beside VOCdevkit, beside VOC2012 and in ``root``. Order: VOC's list, then SBD's ids ascending.

    Samples: the class map's values 0..20 and 255 (void) are kept. Objects get ids 1..N in ascending order of the
    file's ids; void pixels belong to none, and SBD has no void. An SBD object's class is that of GTcls under it.

    ``regions`` is a folder of VOC2012 with an over-segmentation of every image as ID.png (for SegSort without labels).

    ``cache`` is a file that may remember digests of files (see `datasets.files.file_digests`). Opening lists the
    folders and reads the lists, no image. Raises `DatasetError` for what is missing or broken.
    """

    def __init__(
        self, root: Path | str | None, split: str, cache: Path | None = None, regions: str | None = None
    ) -> None:
        if split not in SPLITS:
            raise DatasetError(f"voc: unknown split {split!r}; available: {', '.join(SPLITS)}")
        self.split, self.cache = split, cache
        voc = _find_voc(root)
        if split == "train_aug":
            voc.check_layout(("train", "val"))
            held_out = set(voc.ids("val"))
            first = [image_id for image_id in voc.ids("train") if image_id not in held_out]
            sbd = _find_sbd(Path(root), voc.folder)
            sbd.check_layout(("train", "val"))
            second = sorted({*sbd.ids("train"), *sbd.ids("val")} - held_out - set(first))
            sbd.check_files(split, second)
        else:
            voc.check_layout((split,))
            first, second, sbd = voc.ids(split), [], voc
        voc.check_files(split, first)
        self._images = [(image_id, voc) for image_id in first] + [(image_id, sbd) for image_id in second]
        self._regions = voc.folder / regions if regions else None
        if self._regions:
            lost = [image_id for image_id, _ in self._images if not self._region_file(image_id).is_file()]
            if lost:
                raise DatasetError(f"voc {split}: {self._regions} lacks ID.png for {first_five(lost)}")

    def _region_file(self, image_id: str) -> Path:
        return self._regions / f"{image_id}.png"

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Name, split, categories and fingerprint; the first use reads every file whose digest is not remembered."""
        paths = (path for image_id, archive in self._images for path in archive.files(image_id))
        digests = iter(file_digests(paths, self.cache))
        total = hashlib.blake2b(digest_size=8)
        for image_id, _ in self._images:
            total.update(f"{image_id} {next(digests)} {next(digests)} {next(digests)}\n".encode())
        if self._regions:
            for digest in file_digests((self._region_file(image_id) for image_id, _ in self._images), self.cache):
                total.update(f"{digest}\n".encode())
        return DatasetInfo("voc", self.split, CATEGORIES, total.hexdigest())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Decode and check one sample; raises `DatasetError` like `verify`, IndexError outside 0..len-1."""
        if not 0 <= index < len(self._images):
            raise IndexError(index)
        image_id, archive = self._images[index]
        image_file, class_file, object_file = archive.files(image_id)
        try:
            image = read_rgb(image_file)
            classes, objects = _read_map(class_file, "GTcls"), _read_map(object_file, "GTinst")
            regions = read_regions(self._region_file(image_id)) if self._regions else None
            maps = [(class_file, classes), (object_file, objects)]
            maps += [] if regions is None else [(self._region_file(image_id), regions)]
            for file, labels in maps:
                if labels.shape != image.shape[:2]:
                    raise DatasetError(f"{file} is {_size(labels)}, but its image {image_file} is {_size(image)}")
            instances = _instances(classes, objects, class_file, object_file)
        except DatasetError as error:
            raise DatasetError(f"voc {self.split}, image {image_id}: {error}") from error
        return Sample(image_id, image, classes, instances, regions=regions)

    def verify(self, index: int) -> None:
        """Decode the three files of sample ``index`` and check them against each other.

        Raises `DatasetError`, naming image and file, for a file that is missing, cut off, too large or of the wrong
        kind; for maps of another size than the image; for class values outside 0..20 and 255; and for objects with
        pixels of the background or of two classes.
        """
        self[index]


def _find_voc(root: Path | str | None) -> _Archive:
    """The VOC2012 folder under ``root``: of the three accepted places the one with most of the layout."""
    if root is None:
        raise DatasetError(f"voc: no folder given; name it with --data-root. {_VOC.origin} {_NO_FILES}")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"voc: {root} is not a folder. {_VOC.origin} {_NO_FILES}")
    parts = ("ImageSets", "JPEGImages", "SegmentationClass", "SegmentationObject")
    places = [root / "VOCdevkit" / "VOC2012", root / "VOC2012", root]
    counts = [sum((place / part).is_dir() for part in parts) for place in places]
    if not any(counts):
        raise DatasetError(
            f"voc: no VOC 2012 in {root}; looked for the folders {', '.join(parts)} in "
            f"{', '.join(map(str, places))}. {_VOC.origin} {_NO_FILES}"
        )
    return replace(_VOC, folder=places[counts.index(max(counts))])


def _find_sbd(root: Path, voc: Path) -> _Archive:
    """SBD's dataset folder beside VOC: under ``root``, or beside the VOC2012 or VOCdevkit folder."""
    bases = [root, voc.parent]
    if voc.parent.name == "VOCdevkit":
        bases.append(voc.parent.parent)
    bases = list(dict.fromkeys(bases))
    for place in (base / name for base in bases for name in SBD_FOLDERS):
        if any((place / part).is_dir() for part in ("img", "cls", "inst")):
            return replace(_SBD, folder=place)
    raise DatasetError(
        f"voc: the split 'train_aug' needs SBD beside VOC 2012; looked for {', '.join(SBD_FOLDERS)} "
        f"in {', '.join(map(str, bases))}. {_SBD.origin} {_NO_FILES}"
    )


def read_annotation(class_file: Path, object_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Class map (H, W) uint8 and instances (H, W) int32, ids 1..N in the order of the file's; void belongs to none.

    Raises `DatasetError`, naming the file, as `Voc.verify` says.
    """
    classes, objects = _read_map(class_file, "GTcls"), _read_map(object_file, "GTinst")
    if objects.shape != classes.shape:
        raise DatasetError(f"{object_file} is {_size(objects)}, but {class_file} is {_size(classes)}")
    return classes, _instances(classes, objects, class_file, object_file)


def _instances(classes: np.ndarray, objects: np.ndarray, class_file: Path, object_file: Path) -> np.ndarray:
    table = _count_pairs(classes, objects)
    _check_labels(table, class_file, object_file)
    return _number_objects(table, classes, objects)


def _read_map(path: Path, struct: str) -> np.ndarray:
    """A label map (H, W) uint8 from VOC's palette PNG or SBD's MATLAB struct."""
    return read_indices(path) if path.suffix == ".png" else read_segmentation(path, struct)


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} pixels wide and {array.shape[0]} high"


def _count_pairs(classes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(256, 256) int64: the number of pixels with object id o and class value c, at [o, c]."""
    pairs = objects.ravel().astype(np.intp) * 256 + classes.ravel()
    return np.bincount(pairs, minlength=256 * 256).reshape(256, 256)


def _check_labels(table: np.ndarray, class_file: Path, object_file: Path) -> None:
    values = np.flatnonzero(table.any(axis=0))
    unknown = values[(values > len(CATEGORIES)) & (values != IGNORE)]
    if len(unknown):
        raise DatasetError(
            f"{class_file}: class values {first_five([str(v) for v in unknown])}; "
            f"a class map holds 0 (background), 1..{len(CATEGORIES)} and {IGNORE} (void)"
        )
    background = np.flatnonzero(table[1:IGNORE, 0]) + 1
    if len(background):
        count = table[background[0], 0]
        raise DatasetError(f"{object_file}: object {background[0]} has {count} pixels without a class in {class_file}")
    spread = np.flatnonzero((table[1:IGNORE, 1:IGNORE] > 0).sum(axis=1) > 1) + 1
    if len(spread):
        found = [str(c) for c in np.flatnonzero(table[spread[0], 1:IGNORE]) + 1]
        raise DatasetError(f"{object_file}: object {spread[0]} spans the classes {' and '.join(found)} in {class_file}")


def _number_objects(table: np.ndarray, classes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(H, W) int32 ids 1..N of the objects that have a pixel outside the void."""
    present = table[:, 1:IGNORE].any(axis=1)
    present[[0, IGNORE]] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.int32)
    instances = numbers[objects]
    if table[:, IGNORE].any():
        instances[classes == IGNORE] = 0
    return instances
