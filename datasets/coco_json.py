"""COCO's annotation file as arrays: read and checked once, every mask as run lengths, then kept beside the cache."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from datasets.base import IGNORE, DatasetError
from datasets.files import file_digests, first_five, is_image_id

_log = logging.getLogger(__name__)

_FORMAT = 2  # of the cache; a file with another number is written anew
_LONGEST = 7  # characters of one number in run lengths: 35 bits
_PIXELS, _SIDE = 2**31, 2**20  # pycocotools counts in 32 bits: more pixels, or a longer side, crash it
_OUTLINE = 2_000_000  # pixels; drawing a polygon takes 80 bytes for each


@dataclass(frozen=True)
class Index:
    """What an annotation file says: I images by ascending id (numbers before text), A annotations by image and place.

    Arrays, because loader processes share them: reading a Python object changes its count of references, and so
    copies its memory. Annotations of image i: ``first[i]`` up to ``first[i + 1]``; compressed run lengths of annotation
    a: ``counts[begin[a] : begin[a + 1]]``.
    """

    image_ids: np.ndarray  # (I,) str
    files: np.ndarray  # (I,) str
    sizes: np.ndarray  # (I, 2) int64: height, width
    first: np.ndarray  # (I + 1,) int64
    labels: np.ndarray  # (A,) uint8
    crowd: np.ndarray  # (A,) bool
    areas: np.ndarray  # (A,) float64
    boxes: np.ndarray  # (A, 4) float64: x, y, width, height
    begin: np.ndarray  # (A + 1,) int64
    counts: np.ndarray  # (bytes,) uint8
    categories: np.ndarray  # (C,) str, by ascending id
    category_ids: np.ndarray  # (C,) int64


def open_index(path: Path, cache: Path | None) -> Index:
    """Read the JSON ``path``, or what an earlier call kept of it beside ``cache`` as coco-DIGEST.npz.

    ``cache`` also remembers the digest (see `datasets.files.file_digests`). What cannot be read or written there is
    done without. Raises `DatasetError` for a JSON that is missing, broken or of another form, and for masks that do
    not fit their image.
    """
    if cache is None:
        return _parse(path)
    stored = cache.with_name(f"coco-{file_digests([path], cache)[0]}.npz")
    index = _read_index(stored)
    if index is None:
        index = _parse(path)
        _write_index(stored, index)
    return index


def _read_index(stored: Path) -> Index | None:
    try:
        with np.load(stored, allow_pickle=False) as arrays:
            if any(member.compress_type for member in arrays.zip.infolist()):  # a small file could fill the memory
                raise ValueError("it is compressed")
            if arrays["format"] == _FORMAT:
                index = Index(**{field.name: arrays[field.name] for field in fields(Index)})
                _check_index(index)
                return index
    except FileNotFoundError:
        pass
    except Exception as error:  # numpy raises whatever damaged bytes lead it to
        _log.warning("%s: ignored, not a cache of annotations (%s: %s)", stored, type(error).__name__, error)
    return None


def _check_index(index: Index) -> None:
    """ValueError for what `_parse` would not have made, whoever wrote it; masks are looked at as they are painted."""
    rows, entries = len(index.image_ids), len(index.labels)
    shapes = {"files": (rows,), "sizes": (rows, 2), "first": (rows + 1,), "crowd": (entries,), "areas": (entries,)}
    shapes |= {"boxes": (entries, 4), "begin": (entries + 1,), "category_ids": index.categories.shape}
    kinds = "".join(getattr(index, field.name).dtype.kind for field in fields(Index))
    if kinds != "UUiiubffiuUi" or any(getattr(index, name).shape != shape for name, shape in shapes.items()):
        raise ValueError("its arrays do not belong together")
    for bounds, end in ((index.first, entries), (index.begin, len(index.counts))):
        if bounds[0] != 0 or bounds[-1] != end or (np.diff(bounds) < 0).any():
            raise ValueError("its parts do not follow each other")
    known = np.arange(1, len(index.categories) + 1)
    if not 0 < len(known) < IGNORE or not np.isin(index.labels, known).all():
        raise ValueError("its labels are of no category")
    ids, files, sizes = index.image_ids.tolist(), index.files.tolist(), index.sizes.tolist()
    if not (all(map(is_image_id, ids)) and all(map(_is_below, files)) and all(is_size(*size) for size in sizes)):
        raise ValueError("its names lead elsewhere, or its sizes are of no image")


def _write_index(stored: Path, index: Index) -> None:
    temporary = stored.with_name(f"{stored.name}.{os.getpid()}.tmp")
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # through no link that lies there
            np.savez(file, format=np.array(_FORMAT), **vars(index))
        os.replace(temporary, stored)
    except OSError as error:
        _log.warning("%s: annotations not remembered (%s)", stored, error)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _parse(path: Path) -> Index:
    content = _read_json(path)
    images, names = _images(path, content["images"]), _categories(path, content["categories"])
    order = sorted(images, key=lambda image_id: (isinstance(image_id, str), image_id))
    row_of = {image_id: row for row, image_id in enumerate(order)}
    label_of = {number: label for label, number in enumerate(sorted(names), 1)}
    rows, labels, crowd, areas, boxes, masks, bad = [], [], [], [], [], [], []
    for place, entry in enumerate(content["annotations"]):
        try:
            rows.append(_known(entry, "image_id", row_of))
            labels.append(_known(entry, "category_id", label_of))
            crowd.append(_crowd(entry))
            masks.append(_mask(entry.get("segmentation"), *images[entry["image_id"]][1:]))
            areas.append(_area(entry, masks[-1]))
            boxes.append(_box(entry, {"size": images[entry["image_id"]][1:], "counts": masks[-1]}))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            bad.append(f"{_name(place, entry)}: {error}")
    if bad:
        raise DatasetError(f"{path}: {len(bad)} annotations cannot be used: {first_five(bad)}")
    _check_areas(path, masks, [images[entry["image_id"]][1:] for entry in content["annotations"]])
    by_image = np.argsort(np.array(rows, np.int64), kind="stable")
    masks = [masks[number] for number in by_image.tolist()]
    return Index(
        image_ids=np.array([str(image_id) for image_id in order]),
        files=np.array([images[image_id][0] for image_id in order]),
        sizes=np.array([images[image_id][1:] for image_id in order], np.int64),
        first=np.searchsorted(np.array(rows, np.int64)[by_image], np.arange(len(order) + 1)),
        labels=np.array(labels, np.uint8)[by_image],
        crowd=np.array(crowd, np.bool_)[by_image],
        areas=np.array(areas, np.float64)[by_image],
        boxes=np.array(boxes, np.float64).reshape(-1, 4)[by_image],
        begin=np.cumsum([0, *map(len, masks)]),
        counts=np.frombuffer(b"".join(masks), np.uint8),
        categories=np.array([names[number] for number in sorted(names)]),
        category_ids=np.array(sorted(names), np.int64),
    )


def _check_areas(path: Path, masks: list[bytes], sizes: list[tuple[int, int]]) -> None:
    """Raise `DatasetError` where most masks cover no pixel, as polygons in shares of the image's size do."""
    coded = [{"size": list(size), "counts": mask} for mask, size in zip(masks, sizes, strict=True)]
    empty = sum(not area for start in range(0, len(coded), 255) for area in coco_mask.area(coded[start : start + 255]))
    if 2 * empty > len(masks):
        raise DatasetError(
            f"{path}: {empty} of {len(masks)} masks cover no pixel; polygons must be in pixels, not in shares of the "
            "image's size"
        )


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is not valid JSON, or was not copied completely ({error})") from error
    names = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in names):
        raise DatasetError(f"{path}: is not a COCO annotation file; it needs the lists {', '.join(names)}")
    return content


def _images(path: Path, entries: list[Any]) -> dict[int | str, tuple[str, int, int]]:
    """File name, height and width by id."""
    found: dict[int | str, tuple[str, int, int]] = {}
    texts: set[str] = set()
    for place, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        image_id, name, height, width = (entry.get(key) for key in ("id", "file_name", "height", "width"))
        where = f"{path}, image {place} (id {short(image_id)})"
        usable = type(image_id) in (int, str) and is_image_id(str(image_id))
        if not usable or str(image_id) in texts or image_id == "":
            raise DatasetError(
                f"{where}: the id must be a number, or a word that could name a file (no / \\ : or .., no signs that "
                "are not shown, not overlong), and no other image may have it"
            )
        if not is_size(height, width):
            sides = f"height {short(height)} and width {short(width)}"
            raise DatasetError(f"{where}: {sides} must be those of the image, in pixels")
        if not (isinstance(name, str) and _is_below(name)):
            raise DatasetError(f"{where}: file_name is {short(name)}; it must be a path below the folder of the images")
        texts.add(str(image_id))
        found[image_id] = (str(PurePosixPath(name)), height, width)
    if not found:
        raise DatasetError(f"{path} holds no images")
    return found


def is_size(height: Any, width: Any) -> bool:
    """Whether these can be the sides of an image, and pycocotools can count its pixels."""
    return all(type(side) is int and 0 < side <= _SIDE for side in (height, width)) and height * width < _PIXELS


def _is_below(name: str) -> bool:
    """Whether ``name`` is a path below a folder, without control characters and halves of surrogate pairs."""
    path = PurePosixPath(name)
    plain = not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    return plain and bool(path.name) and not path.is_absolute() and ".." not in path.parts


def _categories(path: Path, entries: list[Any]) -> dict[int, str]:
    if not 0 < len(entries) < IGNORE:
        raise DatasetError(f"{path} has {len(entries)} categories; a map of labels holds 1 to {IGNORE - 1}")
    names: dict[int, str] = {}
    for place, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        number, name = entry.get("id"), entry.get("name")
        where, fits = f"{path}, category {place}", type(number) is int and abs(number) < 2**63
        if not fits or number in names or not isinstance(name, str) or name in names.values():
            raise DatasetError(f"{where}: id {short(number)} or name {short(name)} is of no use or occurs twice")
        if not name.isprintable():
            raise DatasetError(f"{where}: the name {short(name)} cannot be printed")
        names[number] = name
    return names


def _name(place: int, entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"annotation {place}"
    return f"annotation {short(entry.get('id', place))} (image {short(entry.get('image_id'))})"


def _known(entry: Any, key: str, number_of: Mapping[Any, int]) -> int:
    if not isinstance(entry, dict):
        raise ValueError("it is no object with fields")
    value = entry.get(key)
    if type(value) not in (int, str) or value not in number_of:
        some = ", ".join(map(repr, itertools.islice(number_of, 5)))
        raise ValueError(f"unknown {key} {short(value)}; there are {some}{', ...' if len(number_of) > 5 else ''}")
    return number_of[value]


def _crowd(entry: Mapping[str, Any]) -> bool:
    value = entry.get("iscrowd", 0)
    if value not in (0, 1):
        raise ValueError(f"iscrowd is {short(value)}, not 0 or 1")
    return bool(value)


def _area(entry: Mapping[str, Any], counts: bytes) -> float:
    if entry.get("area") is None:
        return float(runs(counts)[1::2].sum())
    value = entry["area"]
    if type(value) not in (int, float) or not 0 <= value < 1e300:
        raise ValueError(f"area is {short(value)}, not a number of 0 or more")
    return float(value)


def _box(entry: Mapping[str, Any], mask: dict[str, Any]) -> list[float]:
    """As annotated, or else around the mask."""
    if entry.get("bbox") is None:
        return coco_mask.toBbox(mask).tolist()
    value = entry["bbox"]
    if not isinstance(value, list) or len(value) != 4 or not all(type(number) in (int, float) for number in value):
        raise ValueError(f"bbox is {short(value)}, not [x, y, width, height]")
    if not all(abs(number) < 1e9 for number in value) or min(value[2:]) < 0:  # a NaN is neither
        raise ValueError(f"bbox is {short(value)}; width and height must not be negative, and all numbers finite")
    return [float(number) for number in value]


def _mask(region: Any, height: int, width: int) -> bytes:
    """Compressed run lengths of a segmentation: polygons, or run lengths of either kind. ValueError for any other."""
    if isinstance(region, dict):
        counts = region.get("counts")
        if region.get("size") != [height, width]:
            raise ValueError(f"its mask is of size {short(region.get('size'))}, the image [{height}, {width}]")
        if isinstance(counts, str):
            packed = counts.encode("utf-8", errors="surrogatepass")
            lengths = runs(packed)
        else:
            lengths = _numbers(counts)
            if (lengths != np.floor(lengths)).any():
                raise ValueError("its mask has runs that are no whole numbers")
            packed = b""
        if lengths.min(initial=0) < 0 or lengths.max(initial=0) > height * width or lengths.sum() != height * width:
            raise ValueError(f"the runs of its mask do not add up to the image's {height * width} pixels")
        return packed or coco_mask.frPyObjects(region, height, width)["counts"]
    parts = [_numbers(part) for part in region] if isinstance(region, list) else []
    if any(len(part) % 2 for part in parts):
        raise ValueError("a polygon needs x and y of each point: [x, y, x, y, x, y, ...]")
    parts = [part for part in parts if len(part) >= 6]
    if not parts:
        raise ValueError("it has no mask; segmentation must be polygons of three points or more, or run lengths")
    check_outline(parts, height, width)
    drawn = coco_mask.frPyObjects(parts, height, width)
    return (drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn))["counts"]


def check_outline(parts: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Raise ValueError for polygons [x, y, x, y, ...] that pycocotools must not draw on an image of that size.

    Drawing takes time and memory with the length of the outline, and crashes where there is too little, or where
    coordinates or their numbers in the image pass 32 bits.
    """
    arrays = [np.asarray(part, np.float64) for part in parts]
    reach = [float(np.abs(array).max(initial=0)) for array in arrays]
    if not all(one <= 10 * max(height, width) for one in reach):  # a NaN is not, either
        raise ValueError(f"a polygon lies far outside of the image of [{height}, {width}]")
    if sum(len(array) * one for array, one in zip(arrays, reach, strict=True)) <= _OUTLINE:
        return  # no side is longer than twice the reach
    points = [array.reshape(-1, 2) for array in arrays]
    if sum(np.abs(np.diff(one, axis=0, append=one[:1])).max(axis=1).sum() for one in points) > _OUTLINE:
        raise ValueError(f"the outline of its polygons is longer than the {_OUTLINE} pixels of any object")


def _numbers(values: Any) -> np.ndarray:
    array = np.array(values if isinstance(values, list) else None)
    if array.ndim != 1 or array.dtype.kind not in "if":
        raise ValueError("segmentation must be polygons [[x, y, x, y, ...], ...] or run lengths {size, counts}")
    return array


def runs(counts: bytes) -> np.ndarray:
    """Lengths (R,) int64 of the runs, background first, in COCO's compressed text; ValueError for other text.

    A number is a series of characters 48 + b: five bits of b are its value, least first and the last one's highest the
    sign, and the sixth says that more follow. From the fourth on it is the difference to the number two before.
    """
    bits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] > 31:
        raise ValueError("its counts are not compressed run lengths")
    last = np.flatnonzero(bits < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    size = last - first + 1
    if size.max() > _LONGEST:
        raise ValueError("its counts hold a number that no image reaches")
    place = np.arange(len(bits)) - np.repeat(first, size)
    lengths = np.add.reduceat((bits & 31) << 5 * place, first) - ((bits[last] & 16) << (5 * size - 4))
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
