"""Cityscapes with fine annotation, in its official layout: objects of 8 classes, or the 19 classes of every pixel.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016;
``leftImg8bit_trainvaltest.zip`` and ``gtFine_trainvaltest.zip`` from www.cityscapes-dataset.com.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets.base import IGNORE, DatasetError, DatasetInfo, Sample
from datasets.files import check_names, file_digests, first_five, read_numbers, read_rgb, size_text

# Label ids of the official table, in the order of train ids, too. All others are void (ignoreInEval) there.
STUFF = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
}  # fmt: skip
THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
SPLITS = ("train", "val")
TASKS = {"instances": THINGS, "semantic": STUFF | THINGS}

_LABELS = 34  # label ids are 0..33
_FIRST_OBJECT = 1000  # ids from here on are label id * 1000 + number
_IMAGE, _TRUTH = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_ORIGIN = (
    "The owners give Cityscapes to whoever registers at https://www.cityscapes-dataset.com: "
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, in the browser or with `csDownload "
    "leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip` of the package cityscapesscripts; unpack both into one "
    "folder. `--suite shapes` needs no files."
)


class Cityscapes:
    """One split of Cityscapes fine: "train" (2,975 images) or "val" (500); "test" has no public annotation.

    ``root`` holds leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_instanceIds.png, or each in
    a folder with its archive's name. Order: by city, then by name. The image id is the common part of the names,
    CITY_SEQUENCE_FRAME. Everything annotated comes from instanceIds: a value from 1000 on is an object, label id *
    1000 + number; a smaller one is a label id, and of a class with objects it is a *group* that nobody told apart.

    ``instances`` of a sample: objects of the 8 classes `THINGS` as ids 1..N, in ascending order of the file's.
    ``official_ids``: the file's values. ``semantic`` depends on ``task``:

    * "instances": 1..8 for `THINGS` in order of their label ids; 0 for the other classes that are evaluated; 255 for
      groups and void, of which caravans and trailers are, objects and groups alike.
    * "semantic": 1..19 for all evaluated classes in order of their train ids, groups included; 255 for the rest. There
      is no background.

    ``cache`` is a file that may remember digests of files (see `datasets.files.file_digests`). Opening lists the
    folders and opens no file. Raises `DatasetError` for what is missing or broken.
    """

    def __init__(self, root: Path | str | None, split: str, task: str = "instances", cache: Path | None = None) -> None:
        if split == "test":
            raise DatasetError(
                "cityscapes: the annotation of the split 'test' is not public, so nothing can be trained or judged on "
                f"it here; available: {', '.join(SPLITS)}"
            )
        if split not in SPLITS:
            raise DatasetError(f"cityscapes: unknown split {split!r}; available: {', '.join(SPLITS)}")
        if task not in TASKS:
            raise DatasetError(f"cityscapes: unknown task {task!r}; available: {', '.join(TASKS)}")
        self.split, self.task, self.cache = split, task, cache
        self._files = _find_files(root, split)
        self._classes = _class_table(task)

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Name, split, categories and fingerprint; the first use reads every file whose digest is not remembered.

        Both tasks have the same fingerprint: they read the same files.
        """
        digests = iter(file_digests((path for _, *pair in self._files for path in pair), self.cache))
        total = hashlib.blake2b(digest_size=8)
        for image_id, _, _ in self._files:
            total.update(f"{image_id} {next(digests)} {next(digests)}\n".encode())
        names = tuple(TASKS[self.task].values())
        return DatasetInfo("cityscapes", self.split, names, total.hexdigest(), background=self.task == "instances")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        """Decode and check one sample; raises `DatasetError` like `verify`, IndexError outside 0..len-1."""
        if not 0 <= index < len(self._files):
            raise IndexError(index)
        image_id, image_file, truth_file = self._files[index]
        try:
            image, ids = read_rgb(image_file), read_numbers(truth_file)
            if ids.shape != image.shape[:2]:
                raise DatasetError(
                    f"{truth_file} is {size_text(ids)}, but its image {image_file} is {size_text(image)}"
                )
            numbers = _number_objects(ids, truth_file)
        except DatasetError as error:
            raise DatasetError(f"cityscapes {self.split}, image {image_id}: {error}") from error
        return Sample(image_id, image, self._classes[ids], numbers[ids], official_ids=ids)

    def verify(self, index: int) -> None:
        """Decode the two files of sample ``index`` and check them against each other.

        Raises `DatasetError`, naming image and file, for a file that is missing, cut off, too large or of the wrong
        kind; for a map of another size than the image; and for a value that is no id of Cityscapes.
        """
        self[index]


def _find_files(root: Path | str | None, split: str) -> list[tuple[str, Path, Path]]:
    """Image id, image and truth of every image of the split, by city and name."""
    if root is None:
        raise DatasetError(f"cityscapes: no folder given; name it with --data-root. {_ORIGIN}")
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(f"cityscapes: {root} is not a folder. {_ORIGIN}")
    images, truths = (_find_folder(root, name, split) for name in ("leftImg8bit", "gtFine"))
    missing = [f"{name}/{split}" for name, place in (("leftImg8bit", images), ("gtFine", truths)) if place is None]
    if images is None or truths is None:
        others = [one for one in SPLITS if all(_find_folder(root, name, one) for name in ("leftImg8bit", "gtFine"))]
        hint = f"It has {others[0]}: `--set data.{split}_split={others[0]}` takes that instead. " if others else ""
        raise DatasetError(f"Cityscapes in {root} is incomplete: {' and '.join(missing)} missing. {hint}{_ORIGIN}")
    with_image, with_truth = _list_names(images, _IMAGE), _list_names(truths, _TRUTH)
    if not with_image | with_truth:
        raise DatasetError(f"cityscapes: no image CITY/*{_IMAGE} in {images}. {_ORIGIN}")
    lost = [str(images / city / name) + _IMAGE for city, name in sorted(with_truth - with_image)]
    lost += [str(truths / city / name) + _TRUTH for city, name in sorted(with_image - with_truth)]
    if lost:
        raise DatasetError(
            f"Cityscapes in {root}: {len(lost)} files of the split {split!r} are missing: "
            f"{first_five([os.path.relpath(path, root) for path in lost])}. {_ORIGIN}"
        )
    pairs = ((images / city / name, truths / city / name) for city, name in sorted(with_image))
    return [(image.name, Path(f"{image}{_IMAGE}"), Path(f"{truth}{_TRUTH}")) for image, truth in pairs]


def _find_folder(root: Path, name: str, split: str) -> Path | None:
    places = (root / name / split, root / f"{name}_trainvaltest" / name / split)
    return next((place for place in places if place.is_dir()), None)


def _list_names(folder: Path, ending: str) -> set[tuple[str, str]]:
    """(city, name without the ending) of the files that have it."""
    cities = [city for city in folder.iterdir() if city.is_dir()]
    return {(city.name, name.removesuffix(ending)) for city in cities for name in _visible(city, ending)}


def _visible(folder: Path, ending: str) -> Iterable[str]:
    # What starts with a dot is no image: some systems write a companion of that name beside every file.
    names = [name for name in os.listdir(folder) if name.endswith(ending) and not name.startswith(".")]
    check_names(folder, names)
    return names


@functools.cache
def _class_table(task: str) -> np.ndarray:
    """Value of ``semantic`` for every id, (34,000,) uint8."""
    labels = np.full(_LABELS, IGNORE, dtype=np.uint8)
    if task == "instances":
        labels[list(STUFF)] = 0
    labels[list(TASKS[task])] = np.arange(1, len(TASKS[task]) + 1)
    table = np.repeat(labels, _FIRST_OBJECT)
    table[:_LABELS] = labels
    if task == "instances":
        table[list(THINGS)] = IGNORE  # groups
    return table


def _number_objects(ids: np.ndarray, file: Path) -> np.ndarray:
    """1..N for each id that is an object of `THINGS`, by id: (largest id + 1,) int32, 0 elsewhere."""
    right = ids[:, 1:]
    present = np.unique(np.append(ids[:, 0], right[right != ids[:, :-1]]))  # a row's first value, and where it changes
    labels = np.where(present < _FIRST_OBJECT, present, present // _FIRST_OBJECT)
    unknown = present[labels >= _LABELS]
    if len(unknown):
        raise DatasetError(
            f"{file}: the values {first_five([str(value) for value in unknown])} are no ids of Cityscapes; an id is a "
            f"label id, 0..{_LABELS - 1}, or from {_FIRST_OBJECT} on label id * {_FIRST_OBJECT} + number"
        )
    objects = present[(present >= _FIRST_OBJECT) & np.isin(labels, list(THINGS))]
    numbers = np.zeros(int(present[-1]) + 1, dtype=np.int32)
    numbers[objects] = np.arange(1, len(objects) + 1)
    return numbers
