"""COCO's JSON files: annotations (``instances_*.json``) and results, whoever wrote them; masks, or boxes.

Every entry is checked before it is used; what is wrong is a `UsageError` that names the file and the entry.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, TextIO

import numpy as np
from pycocotools import mask as coco

from datasets.coco_json import check_outline, is_size
from evaluation import coco_ap, masks
from evaluation.masks import RunLengths
from harness.names import UsageError

_KIND = {int: "a number", str: "text"}  # of ids
_CHARACTERS, _LINE = 2**31, 2**28  # of a packed file of predictions, and of one image's line

Regions = Sequence[RunLengths] | np.ndarray  # masks, or boxes (N, 4) float64 as x, y, width, height


@dataclass(frozen=True)
class Annotated:
    """The annotation of one image: N masks or boxes, which may overlap.

    ``labels``: (N,) int64 in 1..C, the category's place in `Annotations.categories`. ``crowd``: (N,) bool.
    ``areas``: (N,) float64, as the file gives them, or the region's where it gives none.
    """

    regions: Regions
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class Found:
    """The results on one image: M masks or boxes, ``labels`` (M,) int64 in 1..C, ``scores`` (M,) float64."""

    regions: Regions
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Annotations:
    """An annotation file: images and categories by ascending id, as pycocotools takes them, and the entries."""

    path: Path
    sizes: Mapping[int | str, tuple[int, int]]
    categories: tuple[str, ...]
    label_of: Mapping[int, int]
    entries: Mapping[int | str, Sequence[tuple[int, Mapping[str, Any]]]]  # by image: (place in the file, entry)

    def read(self, image_id: int | str, boxes: bool = False) -> Annotated:
        """The annotation of one image. `UsageError` for a region that does not fit it."""
        entries = self.entries.get(image_id, ())
        regions = _regions(self.path, "annotation", entries, self.sizes[image_id], boxes)
        areas = coco_ap.region_areas(regions)
        for row, (place, entry) in enumerate(entries):
            if "area" in entry:
                areas[row] = _number(self.path, "annotation", place, entry, "area", least=0)
        return Annotated(
            regions,
            np.array([self.label_of[entry["category_id"]] for _, entry in entries], np.int64),
            np.array([_crowd(self.path, place, entry) for place, entry in entries], np.bool_),
            areas,
        )


@dataclass(frozen=True)
class Results:
    """Anybody's results by image, still as the file has them."""

    path: Path
    label_of: Mapping[int, int]
    entries: Mapping[int | str, Sequence[tuple[int, Mapping[str, Any]]]]  # by image: (place in the file, entry)

    @property
    def boxes(self) -> bool:
        """Whether these are results of boxes: there are some, and none has a mask."""
        listed = [entry for of_image in self.entries.values() for _, entry in of_image]
        return bool(listed) and all("bbox" in entry and "segmentation" not in entry for entry in listed)

    def found(self, image_id: int | str, size: tuple[int, int], boxes: bool = False) -> Found:
        """The results on one image of ``size`` (height, width). `UsageError` for a region that does not fit it."""
        entries = self.entries.get(image_id, ())
        return Found(
            _regions(self.path, "result", entries, size, boxes),
            np.array([self.label_of[entry["category_id"]] for _, entry in entries], np.int64),
            np.array([entry["score"] for _, entry in entries], np.float64),
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file. `UsageError` where it is missing, empty, cut off, or no JSON."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            raise UsageError(f"{path} is packed with gzip: unpack it first")
        text = content.decode("utf-8-sig")
        if not text.strip():
            raise UsageError(f"{path} is empty")
        return json.loads(text)
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; a JSON file is needed") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a JSON file: {error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON, or was cut off: {error}") from error


def read_annotations(path: Path) -> Annotations:
    """Read COCO annotations. `UsageError` for a file of another form, double ids, unknown images or categories."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        raise UsageError(f"{path} is not a COCO annotation file: it needs images, annotations and categories")
    sizes: dict[int | str, tuple[int, int]] = {}
    for place, image in enumerate(_list(path, content, "images")):
        image_id, height, width = (_field(path, "image", place, image, name) for name in ("id", "height", "width"))
        if type(image_id) not in (int, str) or image_id in sizes:
            shown = short(image_id)
            raise UsageError(f"{path}, image {place}: the id {shown} occurs twice or is neither number nor text")
        if not is_size(height, width):
            where = f"{path}, image {place} (id {short(image_id)})"
            raise UsageError(f"{where}: height and width must be whole numbers above 0, and those of an image")
        sizes[image_id] = (height, width)
    if not sizes:
        raise UsageError(f"{path} holds no images")
    names: dict[int, str] = {}
    taken: set[str] = set()
    for place, category in enumerate(_list(path, content, "categories")):
        number, name = (_field(path, "category", place, category, key) for key in ("id", "name"))
        if type(number) is not int or type(name) not in (int, str) or number in names or str(name) in taken:
            what = f"id {short(number)} or name {short(name)}"
            raise UsageError(f"{path}, category {place}: {what} is no number, no text, or occurs twice")
        if not str(name).isprintable():
            raise UsageError(f"{path}, category {place}: the name {short(name)} cannot be printed")
        names[number] = str(name)
        taken.add(str(name))
    order = sorted(names)
    label_of = {number: label for label, number in enumerate(order, 1)}
    entries = _by_image(
        path, "annotation", _list(path, content, "annotations"), dict(zip(sizes, sizes, strict=True)), label_of
    )
    ordered = {image_id: sizes[image_id] for image_id in sorted(sizes, key=lambda i: (isinstance(i, str), i))}
    return Annotations(path, ordered, tuple(names[number] for number in order), label_of, entries)


def read_results(path: Path, known: Mapping[int | str, int | str], label_of: Mapping[int, int] | None) -> Results:
    """Read a COCO results file: a list of {image_id, category_id, segmentation, score}; other keys are ignored.

    ``known`` maps an image_id of the file to the truth's, ``label_of`` a category_id to its label; None: categories do
    not matter, may be missing, and every label is 1. `UsageError` for another form, an unknown image or category, a
    score that is no finite number. A ``.jsonl.gz`` of this program's predict step is read as well.
    """
    ours = path.name.endswith(".jsonl.gz")
    content = read_lines(path, label_of is None, set(known.values())) if ours else read_json(path)
    if not isinstance(content, list):
        annotations = isinstance(content, dict) and "annotations" in content
        hint = " (an annotation file? that is the --ground-truth)" if annotations else ""
        raise UsageError(f"{path} is not a COCO results file, a list of results{hint}")
    if label_of is None:
        content = [{**entry, "category_id": 1} if isinstance(entry, dict) else entry for entry in content]
        label_of = {1: 1}
    entries = _by_image(path, "result", content, known, label_of)
    for of_image in entries.values():
        for place, entry in of_image:
            _number(path, "result", place, entry, "score")
    return Results(path, label_of, entries)


def read_lines(path: Path, proposals: bool, image_ids: Collection[int | str]) -> list[dict[str, Any]]:
    """The results of a predictions file of this program, in COCO's form; its proposals where it has any and they are
    asked for. `UsageError` unless it has a line for each of the ``image_ids``.
    """
    results, seen = [], set()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in map(json.loads, _lines(file)):
                found = line.get("proposals", line["results"]) if proposals else line["results"]
                results += [{**entry, "image_id": line["image_id"]} for entry in found]
                seen.add(line["image_id"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as predictions: {type(error).__name__}: {error}") from error
    if lost := set(image_ids) - seen:
        raise UsageError(
            f"{path} has no line for {len(lost)} of {len(image_ids)} images, such as {short(min(lost, key=str))}"
        )
    return results


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a packed file. ValueError for one that would fill the memory: few bytes expand to any number."""
    total = 0
    while line := file.readline(_LINE):
        total += len(line)
        if len(line) == _LINE or total > _CHARACTERS:
            raise ValueError(f"it expands to more than {_CHARACTERS} characters, or a line to {_LINE}")
        yield line


def _by_image(
    path: Path,
    kind: str,
    content: Sequence[Any],
    known: Mapping[int | str, int | str],
    label_of: Mapping[int, int],
) -> dict[int | str, list[tuple[int, Mapping[str, Any]]]]:
    found: dict[int | str, list[tuple[int, Mapping[str, Any]]]] = {}
    for place, entry in enumerate(content):
        image_id, category = (_field(path, kind, place, entry, name) for name in ("image_id", "category_id"))
        if type(image_id) not in (int, str) or image_id not in known:
            examples = ", ".join(short(one) for one in list(known)[:3])
            twin = next((one for one in known if type(image_id) in _KIND and str(one) == str(image_id)), None)
            hint = "" if twin is None else f" ({_KIND[type(image_id)]} here, {_KIND[type(twin)]} there)"
            unknown = f"{path}, {kind} {place}: unknown image_id {short(image_id)}"
            raise UsageError(f"{unknown}{hint}; there are {examples}, ...")
        if type(category) is not int or category not in label_of:
            names = ", ".join(map(short, list(label_of)[:12])) + (", ..." if len(label_of) > 12 else "")
            raise UsageError(f"{path}, {kind} {place}: unknown category_id {short(category)}; there are {names}")
        found.setdefault(known[image_id], []).append((place, entry))
    return found


def _regions(path: Path, kind: str, entries: Sequence[tuple[int, Any]], size: tuple[int, int], boxes: bool) -> Regions:
    if not boxes:
        regions = [_mask(path, kind, place, entry, size) for place, entry in entries]
        _check(path, kind, entries, regions, size)
        return regions
    found = np.zeros((len(entries), 4))
    for row, (place, entry) in enumerate(entries):
        box = _field(path, kind, place, entry, "bbox")
        numbers = box if isinstance(box, list) and all(map(_is_number, box)) else []
        if len(numbers) != 4 or min(numbers[2:]) < 0:
            where = f"{path}, {kind} {place} (image {short(entry['image_id'])})"
            raise UsageError(f"{where}: bbox is {short(box)}, not [x, y, width, height] in pixels")
        found[row] = numbers
    return found


def _mask(path: Path, kind: str, place: int, entry: Mapping[str, Any], size: tuple[int, int]) -> RunLengths:
    """``segmentation`` as compressed run lengths: they may be given so, uncompressed, or as polygons."""
    if "segmentation" not in entry:
        boxes = "; this needs masks, not boxes" if "bbox" in entry else ""
        raise UsageError(f"{path}, {kind} {place} has no 'segmentation'{boxes}")
    region = entry["segmentation"]
    try:
        if isinstance(region, dict) and isinstance(region.get("counts"), str):
            given = region["size"]
            return RunLengths(size=list(size) if given == list(size) else given, counts=region["counts"])
        if isinstance(region, dict) and isinstance(region.get("counts"), list):
            if not all(type(run) is int and run >= 0 for run in region["counts"]):
                raise ValueError("a run is not a whole number of 0 or more")
            if (total := sum(region["counts"])) != size[0] * size[1]:
                raise ValueError(f"its runs cover {short(total)} pixels, the image has {size[0] * size[1]}")
            if region["size"] != list(size):
                raise ValueError(f"its size is {short(region['size'])}, the image's {list(size)} (height, width)")
            packed = coco.frPyObjects(region, *size)
        elif isinstance(region, list) and region:
            if any(not isinstance(part, list) or len(part) < 6 or len(part) % 2 for part in region):
                raise ValueError("a polygon needs three points or more, x and y of each: [[x, y, x, y, x, y], ...]")
            if not all(_is_number(value) for part in region for value in part):
                raise ValueError("a coordinate is no number")
            check_outline(region, *size)
            packed = coco.merge(coco.frPyObjects(region, *size))
        else:
            raise ValueError("it must be run lengths {size, counts} or a list of polygons, and not empty")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        where = f"{path}, {kind} {place} (image {short(entry['image_id'])})"
        raise UsageError(f"{where}: segmentation: {error}") from error
    return RunLengths(size=list(size), counts=packed["counts"].decode("ascii"))


def _check(
    path: Path, kind: str, entries: Sequence[tuple[int, Any]], regions: Sequence[RunLengths], size: tuple[int, int]
) -> None:
    try:
        masks.check(regions, size)
    except ValueError:  # find the one, to name its place in the file
        for (place, entry), region in zip(entries, regions, strict=True):
            try:
                masks.check([region], size)
            except ValueError as error:
                text = str(error).replace("mask 0", "its mask")
                raise UsageError(f"{path}, {kind} {place} (image {short(entry['image_id'])}): {text}") from None
        raise


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # neither NaN nor infinite, and it fits a float


def _number(path: Path, kind: str, place: int, entry: Mapping[str, Any], name: str, least: float = -math.inf) -> float:
    value = _field(path, kind, place, entry, name)
    if not _is_number(value) or value < least:
        bound = "" if least == -math.inf else f" of {least} or more"
        where = f"{path}, {kind} {place} (image {short(entry['image_id'])})"
        raise UsageError(f"{where}: {name} is {short(value)}, not a number{bound}")
    return float(value)


def _crowd(path: Path, place: int, entry: Mapping[str, Any]) -> bool:
    value = entry.get("iscrowd", 0)
    if value not in (0, 1):
        where = f"{path}, annotation {place} (image {short(entry['image_id'])})"
        raise UsageError(f"{where}: iscrowd is {short(value)}, not 0 or 1")
    return bool(value)


def _field(path: Path, kind: str, place: int, entry: Any, name: str) -> Any:
    if not isinstance(entry, dict):
        raise UsageError(f"{path}, {kind} {place} is not an object with fields, but {short(entry)!r}")
    if name not in entry:
        raise UsageError(f"{path}, {kind} {place} has no {name!r}")
    return entry[name]


def _list(path: Path, content: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(content[name], list):
        raise UsageError(f"{path}: {name} must be a list")
    return content[name]
