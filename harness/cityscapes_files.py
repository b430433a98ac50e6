"""Cityscapes' files: truth as ``*_gtFine_instanceIds.png``, and results in the layout of the official submission.

Results are one text file an image, ``CITY_SEQUENCE_FRAME*.txt`` anywhere below the folder, of lines
``PATH LABEL_ID SCORE`` with exactly one space between. PATH, relative to the text file, is a picture of the mask: every
pixel but black belongs to the instance. Where the official evaluator goes on with something odd, so does this:

* A label without instances, and an empty mask, are passed over; the former's file is not even looked at.
* A label id may be written as ``26.0``. (The official code also cuts 26.7 to 26; here that is an error.)
* Of two lines of one text file with the same PATH the last counts, at the place of the first.
* PATH may lead out of the text file's folder, but not out of the results' and not to an absolute place.

Errors here and not there: checksums that do not match, scores that are not finite, and text files below the folder that
belong to no image.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import TypeVar

import numpy as np
from PIL import Image

from datasets.files import first_five, open_image
from evaluation import cityscapes_ap, masks
from evaluation.cityscapes_ap import Distances, ImageDetections, ImageTruth
from evaluation.masks import RunLengths
from harness.coco_files import read_json
from harness.names import UsageError
from harness.store import write_file, write_text

TRUTH = "_gtFine_instanceIds.png"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Line:
    """One line of a results file; ``label_id`` is a key of `cityscapes_ap.CLASSES`."""

    place: str  # for errors: file and line
    mask: Path
    label_id: int
    score: float


@dataclass(frozen=True)
class Pairs:
    """Truth and results of the same images, in the order of the truth's paths. Masks are read image by image."""

    truths: Mapping[str, Path]
    lines: Mapping[str, Sequence[Line]]
    distances: Mapping[str, Distances]

    @property
    def image_ids(self) -> list[str]:
        return list(self.truths)

    def __iter__(self) -> Iterator[tuple[str, ImageTruth, ImageDetections]]:
        """`UsageError` for a map or a mask that is missing, cannot be decoded, or has another size."""
        for image_id, path in self.truths.items():
            ids = _read_truth(path)
            lines = self.lines[image_id]
            found = ImageDetections(
                [_read_mask(line, ids.shape) for line in lines],
                np.array([line.label_id for line in lines], np.int64),
                np.array([line.score for line in lines], np.float64),
            )
            yield image_id, ImageTruth(ids, self.distances.get(image_id)), found


def open_pairs(truth: Path, predictions: Path, split: str | None = None, distances: Path | None = None) -> Pairs:
    """Every truth below the folder ``truth`` with its results below the folder ``predictions``.

    Of a folder with parts such as train and val, or gtFine with them, the ``split`` is taken (default: val).
    ``distances``: a gtInstances.json as the official tool writes it, if it holds medDist and distConf.

    `UsageError` for a folder without truth, an image with no results file or several, a results file of no image, and
    lines that cannot be used.
    """
    truths = _find_truths(truth, split)
    root = Path(os.path.abspath(predictions))  # as the official code: links stay what they are
    if not root.is_dir():
        raise UsageError(f"{predictions} is not a folder of results")
    named = (Path(folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(".txt"))
    files = sorted(path for path in named if path.is_file())  # a pipe would block for ever
    if not files:
        raise UsageError(f"{predictions} holds no results file CITY_SEQUENCE_FRAME*.txt")
    lines, unknown = {}, set(files)
    for image_id in truths:
        own = [file for file in files if file.name.startswith(image_id)]
        if len(own) != 1:
            several = f"several results files: {first_five([str(file) for file in own])}"
            raise UsageError(f"{predictions}: image {image_id} has {several if own else 'no results file'}")
        unknown -= set(own)
        lines[image_id] = _read_lines(own[0], root)
    if unknown:
        names = [str(file.relative_to(root)) for file in sorted(unknown)]
        raise UsageError(
            f"{predictions}: {len(unknown)} results files belong to no image of {truth}: {first_five(names)}"
        )
    return Pairs(truths, lines, _read_distances(distances, truths) if distances else {})


def write_image(folder: Path, image_id: str, found: ImageDetections) -> Path:
    """Write the results of one image below ``folder``: IMAGE_ID.txt, last, and masks/IMAGE_ID_NUMBER.png.

    Returns the text file. `UsageError` for an ``image_id`` that is not CITY_SEQUENCE_FRAME: the official evaluator
    could not find it. ValueError for a damaged mask.
    """
    if not re.fullmatch(r"[^\s_/]+_[^\s_/]+_[^\s_/]+", image_id):
        raise UsageError(f"{image_id!r} is not an image id of Cityscapes, CITY_SEQUENCE_FRAME")
    lines = []
    for number, (mask, label, score) in enumerate(zip(found.masks, found.label_ids, found.scores, strict=True)):
        name = f"masks/{image_id}_{number:04d}.png"
        picture = Image.fromarray(masks.decode([mask], tuple(mask["size"]))[0])  # one bit a pixel
        write_file(folder / name, lambda file, picture=picture: picture.save(file, "PNG"))
        lines.append(f"{name} {int(label)} {float(score)!r}\n")
    text = folder / f"{image_id}.txt"
    write_text(text, "".join(lines))
    return text


def _find_truths(folder: Path, split: str | None) -> dict[str, Path]:
    inner = [folder / part / (split or "val") for part in ("gtFine", "")]
    outer = folder if split in (None, folder.name) else inner[-1]
    root = next((place for place in inner if place.is_dir()), outer)
    found: dict[str, Path] = {}
    for path in sorted(root.rglob(f"*{TRUTH}")):
        image_id = path.name.removesuffix(TRUTH)
        if len(image_id.split("_")) != 3:
            raise UsageError(f"{path}: the name is not CITY_SEQUENCE_FRAME{TRUTH}")
        if image_id in found:
            raise UsageError(f"{path} and {found[image_id]} are truths of one image")
        found[image_id] = path
    if not found:
        raise UsageError(f"{root} holds no truth *{TRUTH}")
    return found


def _read_lines(path: Path, root: Path) -> list[Line]:
    try:
        texts = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    lines: dict[Path, Line | None] = {}
    for number, text in enumerate(texts, 1):
        place, words = f"{path}, line {number}", text.split(" ")
        if len(words) != 3 or not all(words):
            raise UsageError(f"{place}: {short(text)} is not `PATH LABEL_ID SCORE` with one space between")
        mask = Path(os.path.abspath(path.parent / words[0]))
        if os.path.isabs(words[0]) or not mask.is_relative_to(root):
            raise UsageError(f"{place}: {words[0]} is absolute or leads out of {root}")
        label, score = _number(place, "label id", words[1]), _number(place, "score", words[2])
        if label not in cityscapes_ap.LABEL_IDS:
            raise UsageError(f"{place}: {words[1]} is not a label id of Cityscapes, -1 ... 33")
        known = label in cityscapes_ap.CLASSES
        lines[mask] = Line(place, mask, int(label), score) if known else None
        if known and not mask.is_file():
            raise UsageError(f"{place}: there is no mask {mask}")
    return [line for line in lines.values() if line is not None]


def _number(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{place}: the {name} {short(text)} is not a finite number")
    return value


def _read_truth(path: Path) -> np.ndarray:
    """(H, W) integer ids, all of them Cityscapes'."""
    ids = _decode(path, str(path), np.array)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise UsageError(f"{path}: a truth has one whole number a pixel, not {ids.dtype} of shape {ids.shape}")
    right = ids[:, 1:]
    present = np.unique(np.append(ids[:, 0], right[right != ids[:, :-1]])).astype(np.int64)  # wherever a row changes
    labels = np.where(present < cityscapes_ap.FIRST_OBJECT, present, present // cityscapes_ap.FIRST_OBJECT)
    wrong = [number for number, label in zip(present, labels, strict=True) if label not in cityscapes_ap.LABEL_IDS]
    if wrong:
        raise UsageError(f"{path}: {wrong[0]} is not an id of Cityscapes: a label id, or label id * 1000 + number")
    return ids


def _read_mask(line: Line, size: tuple[int, int]) -> RunLengths:
    def convert(image: Image.Image) -> RunLengths:
        if image.size != size[::-1]:
            shapes = [f"{width} x {height}" for width, height in (image.size, size[::-1])]
            raise UsageError(f"{line.place}: {line.mask} is {shapes[0]} pixels, its image {shapes[1]} (width x height)")
        grey = image.convert("L")  # as the official code: colours count by their brightness
        box = grey.getbbox() or (0, 0, 0, 0)
        # Columns as rows, and black above and below, so that the borders of each column come in pairs.
        columns = np.asarray(grey.crop(box).transpose(Image.Transpose.TRANSPOSE)) > 0
        column, row = np.divmod(np.flatnonzero(np.diff(np.pad(columns, ((0, 0), (1, 1))))), columns.shape[1] + 1)
        border = (box[0] + column) * size[0] + box[1] + row
        return masks.encode_runs(border[::2], border[1::2], size)

    return _decode(line.mask, f"{line.place}: {line.mask}", convert)


def _decode(path: Path, place: str, convert: Callable[[Image.Image], Value]) -> Value:
    try:
        with open_image(path) as image:
            image.verify()  # Pillow skips the checksums when it reads pixels
        with open_image(path) as image:
            return convert(image)
    except UsageError:
        raise
    except Exception as error:  # decoders raise whatever the bytes lead them to
        raise UsageError(f"{place} cannot be decoded ({type(error).__name__}: {error})") from error


def _read_distances(path: Path, image_ids: Iterable[str]) -> dict[str, Distances]:
    """The official form: {path of truth: {label: [{instID, medDist, distConf, ...}, ...]}}, by image id."""
    found = {}
    try:
        for name, by_label in read_json(path).items():
            objects = [entry for entries in by_label.values() for entry in entries]
            ids, metres, confidences = ([entry[key] for entry in objects] for key in ("instID", "medDist", "distConf"))
            columns = np.array(ids, np.int64), np.array(metres, np.float64), np.array(confidences, np.float64)
            if np.isnan(columns[1:]).any() or len(set(ids)) < len(ids):
                raise ValueError(f"{name} has a distance that is no number, or two of one object")
            found[os.path.basename(name).removesuffix(TRUTH)] = Distances(*columns)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path} is not a gtInstances.json: {type(error).__name__}: {error}") from error
    lost = sorted(set(image_ids) - found.keys())
    if lost:
        raise UsageError(f"{path} has no distances for {len(lost)} images: {first_five(lost)}")
    return found
