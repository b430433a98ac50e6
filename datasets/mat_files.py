"""Annotation in MATLAB 5 files, as SBD and BSDS500 have it. Failures are a `DatasetError`; no code of a file runs."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.io import loadmat, whosmat

from datasets.base import DatasetError
from datasets.files import check_regular, size_text

Value = TypeVar("Value")

_BYTES = 1 << 28  # of a file once expanded; BSDS500's largest take 2 MB
_READS = 5000  # pieces of a file: a matrix has six, and with each level of cells the reader goes one call deeper
_ANNOTATORS = 100


def read_segmentation(path: Path, struct: str) -> np.ndarray:
    """The matrix ``struct``.Segmentation of a MATLAB 5 file, as SBD has it: (H, W) uint8.

    Raises `DatasetError` for a file that is missing, broken, cut off, or without such a matrix of 0..255.
    """
    what = f"SBD's MATLAB struct {struct} with the field Segmentation"
    labels = _read_mat(path, what, lambda file: _load(file, struct)["Segmentation"][0, 0])
    return _whole_numbers(labels, np.uint8, f"{path}: {struct}.Segmentation")


def read_annotators(path: Path, field: str) -> np.ndarray:
    """The matrices ``field`` of a ground truth of BSDS500, one for each annotator: (A, H, W) uint16.

    The file holds a cell groundTruth with a struct for each annotator, whose fields are Segmentation (numbers of
    segments, from 1 on) and Boundaries (0 and 1). Raises `DatasetError` for a file that is missing, broken, cut off,
    or without such a cell of matrices of one size; also for values outside 0..65535.
    """
    what = f"BSDS500's MATLAB cell groundTruth with the field {field}"
    found = _read_mat(path, what, lambda file: [one[field][0, 0] for one in _load(file, "groundTruth").ravel()])
    _check_count(path, len(found))
    maps = [_whole_numbers(one, np.uint16, f"{path}: {field} of annotator {k}") for k, one in enumerate(found, 1)]
    sizes = sorted({size_text(one) for one in maps})
    if len(sizes) > 1:
        raise DatasetError(f"{path}: the annotators' {field} differ in size: {'; '.join(sizes)}")
    return np.stack(maps)


def count_annotators(path: Path) -> int:
    """How many annotators a ground truth of BSDS500 has, without reading their matrices.

    Raises `DatasetError` for a file that is missing, broken, cut off, or without a cell groundTruth.
    """
    shapes = _read_mat(path, "BSDS500's MATLAB cell groundTruth", _cell_shapes)
    if "groundTruth" not in shapes:
        raise DatasetError(f"{path}: there is no cell groundTruth in it; it is not a ground truth of BSDS500")
    count = int(np.prod(shapes["groundTruth"]))
    _check_count(path, count)
    return count


def _check_count(path: Path, annotators: int) -> None:
    if not 0 < annotators <= _ANNOTATORS:
        found = f"has {annotators} entries" if annotators else "is empty"
        raise DatasetError(f"{path}: groundTruth {found}; it must hold a struct for each annotator")


def _cell_shapes(file: io.BytesIO) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape, kind in whosmat(file) if kind == "cell"}


def _load(file: io.BytesIO, name: str) -> np.ndarray:
    return loadmat(file, variable_names=[name])[name]


def _read_mat(path: Path, what: str, convert: Callable[[io.BytesIO], Value]) -> Value:
    """What ``convert`` makes of a MATLAB 5 file whose checksums are right."""
    check_regular(path)
    try:
        return convert(open_mat(path.read_bytes()))
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise DatasetError(
            f"{path}: cannot be read as {what} ({type(error).__name__}: {error}); "
            "the file is broken or was not copied completely"
        ) from error


def _whole_numbers(found: object, kind: type[np.unsignedinteger], place: str) -> np.ndarray:
    labels = np.asarray(found)
    whole = labels.ndim == 2 and labels.dtype.kind in "buif"
    if whole:
        with np.errstate(invalid="ignore"):
            values = labels.astype(kind)
        whole = np.array_equal(values, labels)
    if not whole:
        raise DatasetError(f"{place} must be a matrix of whole numbers in 0..{np.iinfo(kind).max}")
    return values


class _FewReads(io.BytesIO):
    """Ends the reading of a file of too many parts: scipy's reader, in C, crashes on cells nested by the thousand."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _READS:
            raise ValueError("it has more parts than any annotation")
        return super().read(size)


def open_mat(content: bytes) -> io.BytesIO:
    """A MATLAB 5 file for scipy's reader, compressed variables expanded; an exception if it is cut off or damaged.

    scipy's reader does not look at the checksums, and damaged bytes can crash the whole process. Given the result, it
    has nothing to expand a second time. Nor does it know limits: what expands without end is an exception here.
    """
    if content[126:128] not in (b"IM", b"MI"):
        raise ValueError("no header of a MATLAB 5 file")
    order = "little" if content[126:128] == b"IM" else "big"
    parts = [content[:128]]
    start = 128
    while start < len(content):
        kind, size = (int.from_bytes(content[at : at + 4], order) for at in (start, start + 4))
        end = start + 8 + size
        if end > len(content):
            raise EOFError(f"{len(content)} of at least {end} bytes")
        compressed = kind == 15  # miCOMPRESSED
        parts.append(_expand(content[start + 8 : end], order) if compressed else content[start:end])
        start = end
        if sum(map(len, parts)) > _BYTES:
            raise ValueError(f"it expands to more than {_BYTES >> 20} MB")
    return _FewReads(b"".join(parts))


def _expand(packed: bytes, order: str) -> bytes:
    """The one matrix that the compressed bytes hold; no more than just above the limit of it."""
    stream = zlib.decompressobj()
    part = stream.decompress(packed, _BYTES + 1)
    if len(part) > _BYTES:
        return part
    kind, size = (int.from_bytes(part[at : at + 4], order) for at in (0, 4))
    if not stream.eof or kind != 14 or len(part) < 8 + size:  # miMATRIX
        raise EOFError("a compressed variable is cut off, or holds no matrix")
    return part[: 8 + size]
