"""Anything in COCO's layout: a folder of images and a JSON with images, categories and annotations.

COCO: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; images and annotations from cocodataset.org.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np

from datasets.base import IGNORE, DatasetError, DatasetInfo, Objects, Sample
from datasets.coco_json import open_index, runs
from datasets.files import file_digests, first_five, read_rgb

_ORIGIN = (
    "COCO 2017 is train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org, unpacked "
    "in one folder. `--suite shapes` needs no files."
)


class Coco:
    """One split in COCO's layout.

    ``annotations`` is the JSON and ``images`` the folder of the images; each is absolute or relative to ``root``.
    Without ``images`` they are looked for beside the JSON: for DIR/annotations/instances_NAME.json in DIR and
    DIR/annotations, and in the subfolders NAME, images/NAME and images of both; the first that holds the first image.

    Images come by ascending id. ``training`` leaves out those without an object that is no crowd: of train2017's
    118,287 images, 117,266 remain (as others report; not counted here). The labels 1..C are the categories by ascending
    id; ``category_ids`` (C,) int64 are their ids in the JSON, for writing results.

    Samples: ``objects`` has every annotation, in the file's order, with the masks of pycocotools' annToRLE; ``areas``
    are the file's, or the masks' where it gives none. ``semantic`` and ``instances`` are as `paint` says. The image
    is as stored: an orientation in its EXIF data does not turn it, as pycocotools' users read it.

    A polygon of one or two points is left out: it covers no pixel. An annotation without any mask is an error, so that
    training and scoring agree on the objects (pycocotools fails on it, Detectron2 drops it).

    ``cache`` is a file that may remember digests of files (see `datasets.files.file_digests`); beside it, what was read
    from the JSON is kept as coco-DIGEST.npz, because parsing takes far longer. Opening lists the folder of the images
    but opens none. Raises `DatasetError` for what is missing or broken.
    """

    def __init__(
        self, root: Path | str | None, annotations: str, images: str, training: bool, cache: Path | None = None
    ) -> None:
        path = _below(root, annotations, "annotations")
        self.split, self.cache, self._path = path.stem.removeprefix("instances_"), cache, path
        if not path.is_file():
            raise DatasetError(f"coco: {path} is not a file; it must be the JSON with the annotations.{_origin(path)}")
        self._index = index = open_index(path, cache)
        self.category_ids = index.category_ids
        if training:
            totals = np.concatenate([[0], np.cumsum(~index.crowd)])[index.first]
            self._rows = np.flatnonzero(np.diff(totals))
        else:
            self._rows = np.arange(len(index.files))
        if not len(self._rows):
            raise DatasetError(f"{path}: no image has an object that is no crowd; there is nothing to train on")
        files = index.files[self._rows]
        self._folder = _below(root, images, "images") if images else _image_folder(path, self.split, str(files[0]))
        _check_files(self._folder, files.tolist(), path)

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """Name, split, categories and fingerprint; the first use reads every file whose digest is not remembered."""
        paths = [self._path, *(self._folder / name for name in self._index.files[self._rows].tolist())]
        json_digest, *digests = file_digests(paths, self.cache)
        total = hashlib.blake2b(f"{json_digest}\n".encode(), digest_size=8)
        for image_id, digest in zip(self._index.image_ids[self._rows].tolist(), digests, strict=True):
            total.update(f"{image_id} {digest}\n".encode())
        return DatasetInfo("coco", self.split, tuple(self._index.categories.tolist()), total.hexdigest())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample; raises `DatasetError` like `verify`, IndexError outside 0..len-1."""
        if not 0 <= index < len(self._rows):
            raise IndexError(index)
        row, table = self._rows[index], self._index
        image_id, file = str(table.image_ids[row]), self._folder / str(table.files[row])
        height, width = table.sizes[row].tolist()
        try:
            image = read_rgb(file)
        except DatasetError as error:
            raise DatasetError(f"coco {self.split}, image {image_id}: {error}") from error
        if image.shape[:2] != (height, width):
            turned = " (turned by its EXIF orientation?)" if image.shape[1::-1] == (height, width) else ""
            raise DatasetError(
                f"coco {self.split}, image {image_id}: {file} is {image.shape[1]} pixels wide and {image.shape[0]} "
                f"high, but {self._path} says {width} and {height}{turned}"
            )
        objects = self._objects(slice(*table.first[row : row + 2].tolist()), [height, width])
        try:
            semantic, instances = paint(objects, (height, width))
        except ValueError as error:  # the JSON's masks were checked, those of the cache were not
            where = f"coco {self.split}, image {image_id}: what {self.cache} and the files beside it remember"
            raise DatasetError(f"{where} is damaged ({error}); delete them") from error
        return Sample(image_id, image, semantic, instances, objects=objects)

    def _objects(self, part: slice, size: list[int]) -> Objects:
        table = self._index
        bounds = table.begin[part.start : part.stop + 1].tolist()
        masks = tuple(
            {"size": list(size), "counts": table.counts[start:stop].tobytes()}
            for start, stop in itertools.pairwise(bounds)
        )
        labels = table.labels[part].astype(np.int64)
        return Objects(masks, labels, table.crowd[part].copy(), table.areas[part].copy(), table.boxes[part].copy())

    def verify(self, index: int) -> None:
        """Raise `DatasetError`, naming image and file, if the image is missing, broken or not of the size in the JSON.

        That the annotations' categories are known and their masks fit has been checked on opening.
        """
        self[index]


def paint(objects: Objects, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The objects as non-overlapping maps of ``shape``: ``semantic`` (H, W) uint8 and ``instances`` (H, W) int32.

    Of two objects the smaller one is in front (by the pixels of the whole mask; of equal ones the later). Ids 1..N go,
    in the objects' order, to those with a pixel left. Crowds lie behind all objects: `IGNORE` in
    ``semantic``, 0 in ``instances``.
    """
    count = len(objects.masks)
    lengths = [runs(mask["counts"]) for mask in objects.masks]  # of background, object, background, ...
    if any(part.min() < 0 or part.sum() != shape[0] * shape[1] for part in lengths):
        raise ValueError("the runs of a mask do not add up to the image")
    pixels = np.array([part[1::2].sum() for part in lengths], np.int64)
    codes = np.where(objects.crowd, count + 1, np.arange(1, count + 1)).tolist()
    # Runs, not dense masks: no memory per object, and time only for the outline. They go down the columns.
    columns = np.zeros(shape[0] * shape[1], np.min_scalar_type(count + 1))
    for number in np.lexsort((-pixels, ~objects.crowd)).tolist():
        code, bounds = codes[number], np.cumsum(lengths[number]).tolist()
        for start, end in zip(bounds[::2], bounds[1::2], strict=False):  # the last may be background
            columns[start:end] = code
    front = np.ascontiguousarray(columns.reshape(shape[1], shape[0]).T)
    seen = np.zeros(count + 2, np.bool_)
    seen[columns] = True
    seen[[0, -1]] = False
    ids = np.where(seen, np.cumsum(seen), 0).astype(np.int32)
    classes = np.concatenate([[0], objects.labels, [IGNORE]]).astype(np.uint8)
    return classes.take(front), ids.take(front)  # twice as fast as indexing


def _origin(path: Path) -> str:
    """Where COCO itself comes from, if it is COCO that was asked for."""
    return f" {_ORIGIN}" if "2017" in path.name else ""


def _below(root: Path | str | None, part: str, option: str) -> Path:
    if root is None and not Path(part).is_absolute():
        raise DatasetError(
            f"coco: {option} {part!r} lies below the folder that --data-root names: give it, or annotations of "
            "your own with --train JSON and --val JSON"
        )
    return Path(part) if root is None else Path(root) / part


def _image_folder(path: Path, name: str, file: str) -> Path:
    """The first folder beside the JSON that holds the image ``file``."""
    bases = dict.fromkeys((path.parent.parent, path.parent))
    places = [base / part for base in bases for part in (name, f"images/{name}", "images", "")]
    for place in places:
        if (place / file).is_file():
            return place
    raise DatasetError(
        f"{path}: its image {file} is in none of {', '.join(map(str, places))}. Name the folder of the images in the "
        f"settings data.train_images and data.val_images.{_origin(path)}"
    )


def _check_files(folder: Path, names: list[str], path: Path) -> None:
    """Raise `DatasetError` if an image is missing; lists each folder once, opens nothing."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}, where the images of {path} should be, is not a folder.{_origin(path)}")
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        parent, _, last = name.rpartition("/")
        if parent not in present:
            try:
                present[parent] = set(os.listdir(folder / parent))
            except OSError:
                present[parent] = set()
        if last not in present[parent]:
            missing.append(name)
    if missing:
        raise DatasetError(f"{folder} lacks {len(missing)} images of {path}: {first_five(missing)}.{_origin(path)}")
