"""BSDS500 in its official layout: images that several people cut into segments.

Arbelaez, Maire, Fowlkes, Malik, "Contour Detection and Hierarchical Image Segmentation", PAMI 2011;
``BSR_bsds500.tgz`` from the Berkeley Computer Vision Group.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import numpy as np

from datasets.base import DatasetError, DatasetInfo, Sample
from datasets.files import check_names, file_digests, first_five, read_rgb, size_text
from datasets.mat_files import count_annotators, read_annotators

CATEGORIES = ("segment",)
# The folders of images/ and groundTruth/ that a split joins.
SPLITS = {"train": ("train",), "val": ("val",), "test": ("test",), "trainval": ("train", "val"), "all": ("",)}

_PLACES = ("", "BSDS500/data", "BSR/BSDS500/data", "data")
_PARTS = {"images": ".jpg", "groundTruth": ".mat"}
_ORIGIN = (
    "BSDS500 is BSR_bsds500.tgz from https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/; "
    "unpacked, it is BSR/BSDS500/data. `--suite shapes` needs no files."
)


class Bsds:
    """One split of BSDS500: "train" (200 images), "val" (100), "test" (200), "trainval", or "all" of a flat folder.

    ``root`` holds BSR/BSDS500/data, BSDS500/data or data, or is that folder: with images/SPLIT/ID.jpg and
    groundTruth/SPLIT/ID.mat. For "all" they lie in images and groundTruth themselves, as in the benchmark's own
    sample. Order: by id, as text; "trainval" has train first.

    Samples: every pixel has class 1, "segment"; the instances are one annotator's segments, numbered 1..N in ascending
    order of the file's numbers. A segment may have several parts. With ``training`` there is a sample for each
    annotator of each image, with the image ids ID-1, ID-2 ...; without it a sample for each image, with the first
    annotator's segments and all annotators' boundaries as ``contours``.

    ``cache`` is a file that may remember digests of files (see `datasets.files.file_digests`). Opening lists the
    folders and opens no file; for ``training`` the first use opens every .mat once, to count annotators. Raises
    `DatasetError` for what is missing or broken.
    """

    def __init__(self, root: Path | str | None, split: str, training: bool, cache: Path | None = None) -> None:
        if split not in SPLITS:
            raise DatasetError(f"bsds: unknown split {split!r}; available: {', '.join(SPLITS)}")
        self.split, self.training, self.cache = split, training, cache
        data = _find_data(root)
        self._files = [entry for folder in SPLITS[split] for entry in _find_files(data, folder, split)]

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Name, split, categories and fingerprint; the first use reads every file whose digest is not remembered."""
        total = hashlib.blake2b(digest_size=8)
        for image, annotator in self._samples:
            total.update(f"{self._image_id(image, annotator)}\n".encode())
        for digest in file_digests((path for _, *pair in self._files for path in pair), self.cache):
            total.update(f"{digest}\n".encode())
        return DatasetInfo("bsds", self.split, CATEGORIES, total.hexdigest(), background=False)

    @functools.cached_property
    def _samples(self) -> list[tuple[int, int]]:
        """Image and annotator, both from 0, of every sample."""
        if not self.training:
            return [(image, 0) for image in range(len(self._files))]
        return [(image, one) for image in range(len(self._files)) for one in range(self._count(image))]

    def _count(self, image: int) -> int:
        image_id, _, truth_file = self._files[image]
        try:
            return count_annotators(truth_file)
        except DatasetError as error:
            raise DatasetError(f"bsds {self.split}, image {image_id}: {error}") from error

    def _image_id(self, image: int, annotator: int) -> str:
        image_id = self._files[image][0]
        return f"{image_id}-{annotator + 1}" if self.training else image_id

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """Decode and check one sample; raises `DatasetError` like `verify`, IndexError outside 0..len-1."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, annotator = self._samples[index]
        image_id, image_file, truth_file = self._files[number]
        try:
            image = read_rgb(image_file)
            segments = _read_maps(truth_file, "Segmentation", image_file, image)[annotator]
            contours = None if self.training else _read_maps(truth_file, "Boundaries", image_file, image)
            if contours is not None and contours.max(initial=0) > 1:
                raise DatasetError(
                    f"{truth_file}: Boundaries holds {contours.max()}; a map of boundaries holds 0 and 1"
                )
        except DatasetError as error:
            raise DatasetError(f"bsds {self.split}, image {image_id}: {error}") from error
        return Sample(
            self._image_id(number, annotator),
            image,
            semantic=np.ones(segments.shape, dtype=np.uint8),
            instances=_renumber(segments),
            contours=None if contours is None else contours.astype(np.bool_),
        )

    def verify(self, index: int) -> None:
        """Decode the two files of sample ``index`` and check them against each other.

        Raises `DatasetError`, naming image and file, for a file that is missing, cut off or of the wrong kind, and for
        an annotator's map of another size than the image.
        """
        self[index]


def _find_data(root: Path | str | None) -> Path:
    """The folder of images and groundTruth: of the accepted places the first that has most of the two."""
    if root is None:
        raise DatasetError(f"bsds: no folder given; name it with --data-root. {_ORIGIN}")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"bsds: {root} is not a folder. {_ORIGIN}")
    places = [root / place for place in _PLACES]
    counts = [sum((place / part).is_dir() for part in _PARTS) for place in places]
    if not any(counts):
        raise DatasetError(
            f"bsds: no BSDS500 in {root}; looked for the folders {', '.join(_PARTS)} in "
            f"{', '.join(map(str, places))}. {_ORIGIN}"
        )
    return places[counts.index(max(counts))]


def _find_files(data: Path, folder: str, split: str) -> list[tuple[str, Path, Path]]:
    """Image id, image and ground truth of every image of one folder, by id."""
    names = {part: f"{part}/{folder}".rstrip("/") for part in _PARTS}
    missing = [name for name in names.values() if not (data / name).is_dir()]
    if missing:
        raise DatasetError(f"BSDS500 in {data} is incomplete: {' and '.join(missing)} missing. {_hint(data, split)}")
    ids = {part: _list_ids(data / names[part], ending) for part, ending in _PARTS.items()}
    everything = sorted(set().union(*ids.values()))
    if not everything:
        raise DatasetError(f"bsds: no image in {data / names['images']}. {_hint(data, split)}")
    lost = [
        f"{names[part]}/{image_id}{ending}"
        for part, ending in _PARTS.items()
        for image_id in everything
        if image_id not in ids[part]
    ]
    if lost:
        raise DatasetError(
            f"BSDS500 in {data}: {len(lost)} files of the split {split!r} are missing: {first_five(lost)}. {_ORIGIN}"
        )
    return [
        (image_id, *(data / names[part] / f"{image_id}{ending}" for part, ending in _PARTS.items()))
        for image_id in everything
    ]


def _list_ids(folder: Path, ending: str) -> set[str]:
    # What starts with a dot is no image: some systems write a companion of that name beside every file.
    names = [name for name in os.listdir(folder) if name.endswith(ending) and not name.startswith(".")]
    check_names(folder, names)
    return {name.removesuffix(ending) for name in names}


def _hint(data: Path, split: str) -> str:
    """The other kind of folder is the usual mistake; otherwise where to get the data."""
    if split == "all" and any((data / "images" / name).is_dir() for name in ("train", "val", "test")):
        return "It is divided: choose one of the splits train, val, test, trainval."
    if split != "all" and any((data / "images").glob("*.jpg")):
        return "It is a flat folder: choose the split all."
    return _ORIGIN


def _read_maps(file: Path, field: str, image_file: Path, image: np.ndarray) -> np.ndarray:
    """(A, H, W) uint16 of the image's size."""
    maps = read_annotators(file, field)
    if maps.shape[1:] != image.shape[:2]:
        raise DatasetError(f"{file}: {field} is {size_text(maps[0])}, but its image {image_file} is {size_text(image)}")
    return maps


def _renumber(segments: np.ndarray) -> np.ndarray:
    """(H, W) int32: the values' ranks, 1..N."""
    present = np.bincount(segments.ravel()) > 0
    return np.cumsum(present, dtype=np.int32)[segments]
