"""Boundary maps on disk, for truth and for anybody's results: BSDS500's .mat files, or PNGs. ID is the image's id.

Ground truth, a folder that holds for each image one of

* ``ID.mat``: BSDS500's own file, the cell ``groundTruth`` with a struct for each annotator and its matrix
  ``Boundaries``;
* ``ID/``: a folder with one grey PNG for each annotator, of any name; a pixel that is not 0 is boundary;
* ``ID.png``: the same, for a single annotator.

Predictions, a folder that holds for each image one of

* ``ID.png``: grey of 8 or 16 bits, the probability of a boundary x 255 or x 65535;
* ``ID.mat``: a contour map ``ucm2`` of 2H + 1 x 2W + 1 values in 0..1, as BSDS500's own results have it.

Other files in these folders are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from datasets import files
from datasets.base import DatasetError
from datasets.files import first_five
from datasets.mat_files import open_mat
from evaluation.boundary import ImageBoundary, ImageTruth
from harness.names import UsageError

_GREY = {"1": 1, "L": 255, "I;16": 65535, "I": 65535}  # Pillow's mode -> value of a sure boundary; "I" before 11


@dataclass(frozen=True)
class BoundaryFiles:
    """Where one image's boundaries lie: a .mat, PNG or folder as ``truth``, a PNG or .mat as ``prediction``."""

    image_id: str
    truth: Path
    prediction: Path

    def read(self) -> tuple[ImageTruth, ImageBoundary]:
        """What `evaluation.boundary.match_image` needs; `UsageError` for a file that is broken or of another size."""
        drawn = _read_truth(self.truth)
        probability = _read_ucm2(self.prediction) if _is_mat(self.prediction) else _read_grey(self.prediction)
        if probability.shape != drawn.shape[1:]:
            raise UsageError(
                f"{self.prediction}: {_size(probability)}, but the ground truth {self.truth} is {_size(drawn[0])}; "
                "a prediction must have the size of its image"
            )
        return ImageTruth(drawn), ImageBoundary(probability)


def find_boundaries(ground_truth: Path, predictions: Path) -> list[BoundaryFiles]:
    """The images of ``ground_truth`` by id, each with its prediction; lists the two folders, opens no file.

    `UsageError` for an image without prediction, a prediction without image, and an image that is there twice.
    """
    truths, found = _entries(ground_truth, folders=True), _entries(predictions, folders=False)
    if not truths:
        raise UsageError(f"{ground_truth} holds no ground truth: neither ID.mat nor ID.png, nor a folder for an image")
    missing, unknown = sorted(truths.keys() - found), sorted(found.keys() - truths)
    if missing:
        raise UsageError(
            f"{predictions}: {len(missing)} of {len(truths)} predictions are missing: {first_five(missing)}; every "
            "image of the ground truth needs ID.png or ID.mat, be it a map of zeros"
        )
    if unknown:
        raise UsageError(
            f"{predictions}: {len(unknown)} predictions have no ground truth in {ground_truth}: {first_five(unknown)}; "
            "remove them, or give the ground truth of the same split"
        )
    return [BoundaryFiles(image_id, truths[image_id], found[image_id]) for image_id in sorted(truths)]


def _entries(folder: Path, folders: bool) -> dict[str, Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder that holds a boundary map for each image")
    paths = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and folders:
            paths[path.name].append(path)
        elif path.is_file() and path.suffix.lower() in (".mat", ".png"):
            paths[path.stem].append(path)
    for image_id, several in paths.items():
        if len(several) > 1:
            names = " and ".join(path.name for path in several)
            raise UsageError(f"{folder}: image {image_id} is there twice, as {names}; keep one of them")
    return {image_id: path for image_id, (path,) in paths.items()}


def _read_truth(path: Path) -> np.ndarray:
    """(A, H, W) bool."""
    if path.is_dir():
        parts = [part for part in sorted(path.iterdir()) if part.suffix.lower() == ".png" and part.name[0] != "."]
        if not parts:
            raise UsageError(
                f"{path} holds no PNG; a folder in the ground truth is one image, with a PNG for each annotator. "
                "Give the folder that holds the images' files themselves"
            )
    else:
        parts = [path]
    maps = _read_annotators(path) if _is_mat(path) else [_read_grey(part) > 0 for part in parts]
    sizes = sorted({_size(one) for one in maps})
    if len(sizes) > 1:
        raise UsageError(f"{path}: the annotators' maps differ in size: {'; '.join(sizes)}")
    return np.stack(maps)


def _read_annotators(path: Path) -> list[np.ndarray]:
    cell = _read_variable(path, "groundTruth", "BSDS500's ground truth")
    try:
        maps = [np.asarray(struct["Boundaries"][0, 0]) for struct in cell.ravel()]
    except (IndexError, KeyError, TypeError, ValueError):
        maps = []
    if not maps or not all(one.ndim == 2 and one.dtype.kind in "buif" and np.isin(one, (0, 1)).all() for one in maps):
        raise UsageError(
            f"{path}: groundTruth is not a cell with a struct for each annotator, whose matrix Boundaries holds 0 and "
            "1; this is not BSDS500's ground truth of boundaries"
        )
    return [one.astype(np.bool_) for one in maps]


def _read_ucm2(path: Path) -> np.ndarray:
    values = np.asarray(_read_variable(path, "ucm2", "a contour map"))
    if values.ndim != 2 or values.dtype.kind != "f" or not all(side % 2 and side > 1 for side in values.shape):
        raise UsageError(f"{path}: ucm2 must be a real matrix of 2H + 1 x 2W + 1 values, not {values.shape}")
    values = values[2::2, 2::2].astype(np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise UsageError(f"{path}: ucm2 has values outside 0..1 or NaN")
    return values


def _read_variable(path: Path, name: str, what: str) -> np.ndarray:
    """A variable of a MATLAB 5 file. Reading runs no code of the file.

    Checksums are looked at first, since scipy's reader can crash on damaged bytes. Only compressed files have them, as
    MATLAB writes them with -v7 (its default) and BSDS500's are.
    """
    try:
        return loadmat(open_mat(path.read_bytes()), variable_names=[name])[name]
    except KeyError:
        raise UsageError(f"{path} is not {what}: it has no variable {name}") from None
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise UsageError(
            f"{path} cannot be read as a MATLAB file ({type(error).__name__}: {error}); it is broken, was not copied "
            "completely, or was saved with -v7.3 (save it with -v7)"
        ) from error


def _read_grey(path: Path) -> np.ndarray:
    """A grey PNG as (H, W) float64 in 0..1."""
    try:
        files.decode(path, _check_grey)
        return files.decode(path, _divide)
    except DatasetError as error:
        raise UsageError(str(error)) from error


def _check_grey(image: Image.Image) -> None:
    if image.format != "PNG" or image.mode not in _GREY:
        raise DatasetError(
            f"{image.filename}: a boundary map must be a grey PNG of 8 or 16 bits without transparency, but this is "
            f"{image.format} of mode {image.mode}"
        )
    image.verify()  # Pillow does not look at the checksums when it reads pixels


def _divide(image: Image.Image) -> np.ndarray:
    return np.array(image, dtype=np.float64) / _GREY[image.mode]


def _is_mat(path: Path) -> bool:
    return path.suffix.lower() == ".mat" and not path.is_dir()


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} pixels wide and {array.shape[0]} high"
