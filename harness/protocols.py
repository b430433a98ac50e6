"""The protocols of `run_all.py evaluate`: how each reads truth and results, image by image, and who judges them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console

from datasets.voc import CATEGORIES
from evaluation import boundary, coco_ap, coco_engine, masks, proposals, statistics, voc_apr
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant
from harness import cityscapes_files, coco_files, voc_files
from harness.bsds_files import BoundaryFiles, find_boundaries
from harness.judged import Judged
from harness.judges import BoundaryJudge, CityscapesJudge, CocoJudge, ProposalsJudge, SemanticJudge, VocJudge
from harness.label_maps import open_pairs
from harness.names import UsageError
from harness.progress import bar

Image = TypeVar("Image")


@dataclass(frozen=True)
class Task:
    """What to judge by what. Of the rest, None means the usual: the list val, and what `OPTIONS` says."""

    truth: Path
    predictions: Path
    split: str | None = None
    variant: str | None = None
    verify: bool | None = None
    distances: Path | None = None
    max_distance: float | None = None


# Options that not every protocol knows, and which ones do.
OPTIONS = {
    "split": ("voc", "cityscapes", "proposals", "semantic"),
    "variant": ("voc",),
    "verify": ("coco",),
    "distances": ("cityscapes",),
    "max_distance": ("boundary",),
}


def _voc(task: Task, console: Console) -> list[Judged]:
    truth = voc_files.open_truth(task.truth, task.split)
    judge, results = VocJudge(CATEGORIES, _voc_variant(task.variant)), _open_voc(task.predictions, truth)
    for image_id in _images(truth.image_ids, console):
        image = truth[image_id]
        found = results(image_id, image.semantic.shape)
        regions = ImageTruth(image.instances, image.labels, image.void)
        judge.add(image_id, regions, ImageDetections(found.regions, found.labels, found.scores))
    return judge.finish()


def _voc_variant(text: str | None) -> Variant:
    if text is None:
        return Variant()
    try:
        return Variant(**dict(zip(voc_apr.CHOICES, text.split("/"), strict=True)))
    except ValueError:
        choices = ", ".join(f"{name} {' or '.join(values)}" for name, values in voc_apr.CHOICES.items())
        raise UsageError(f"--variant {text!r}: write it as area/mnc/count/nan, of {choices}") from None


def _coco(task: Task, console: Console) -> list[Judged]:
    truth = coco_files.read_annotations(task.truth)
    results = coco_files.read_results(task.predictions, {key: key for key in truth.sizes}, truth.label_of)
    boxes = results.boxes
    judge = CocoJudge(truth.categories, "boxes" if boxes else "masks")
    seen = []
    for image_id in _images(list(truth.sizes), console):
        image, found = truth.read(image_id, boxes), results.found(image_id, truth.sizes[image_id], boxes)
        annotated = coco_ap.ImageTruth(image.regions, image.labels, image.crowd, image.areas)
        detected = coco_ap.ImageDetections(found.regions, found.labels, found.scores)
        judge.add(image_id, annotated, detected, checked=True)
        if task.verify:
            seen.append((annotated, detected))
    judged = judge.finish()
    if task.verify:
        _verify(judged[0], seen, truth.categories, console)
    return judged


def _verify(judged: Judged, seen: Sequence[tuple[Any, Any]], categories: Sequence[str], console: Console) -> None:
    """A second opinion from the engine; `UsageError` where it differs by more than 1e-9."""
    truths, detections = zip(*seen, strict=True)
    expected = coco_engine.evaluate(truths, detections, categories, agnostic=True, checked=True)
    ours = statistics.whole(judged.measure, len(judged.matches))
    wrong = [name for name in ours if not np.isclose(ours[name], expected[name], rtol=0, atol=1e-9, equal_nan=True)]
    who = coco_engine.installed()
    if wrong:
        listing = ", ".join(f"{name} {ours[name]!r} against {expected[name]!r}" for name in wrong[:5])
        raise UsageError(f"{who} gives other numbers than this program: {listing}. Please report it with the two files")
    console.print(f"verified: {who} gives the same {len(ours)} numbers", markup=False)


def _cityscapes(task: Task, console: Console) -> list[Judged]:
    judge = CityscapesJudge()
    pairs = cityscapes_files.open_pairs(task.truth, task.predictions, task.split, task.distances)
    for (image_id, truth, found), _ in zip(pairs, _images(pairs.image_ids, console), strict=True):
        judge.add(image_id, truth, found)
    return judge.finish()


def _proposals(task: Task, console: Console) -> list[Judged]:
    """The truth is VOC's folder or a COCO file; crowds and empty masks are no instances to find."""
    judge = ProposalsJudge()
    if voc_files.is_voc(task.truth):
        folder = voc_files.open_truth(task.truth, task.split)
        look = _open_voc(task.predictions, folder, agnostic=True)
        for image_id in _images(folder.image_ids, console):
            image = folder[image_id]
            found = look(image_id, image.semantic.shape)
            truth = ImageTruth(image.instances, image.labels, image.void)
            judge.add_map(image_id, truth, found.regions, found.scores)
        return judge.finish()
    if task.split is not None:
        raise UsageError(f"--split {task.split}: {task.truth} is not in VOC's layout, so it has no lists")
    annotations = coco_files.read_annotations(task.truth)
    results = coco_files.read_results(task.predictions, {key: key for key in annotations.sizes}, None)
    for image_id in _images(list(annotations.sizes), console):
        image, size = annotations.read(image_id), annotations.sizes[image_id]
        wanted = ~image.crowd & (masks.areas(image.regions) > 0)
        truth = proposals.ImageTruth([image.regions[row] for row in np.flatnonzero(wanted)], size)
        found = results.found(image_id, size)
        judge.add(image_id, truth, proposals.ImageProposals(found.regions, found.scores))
    return judge.finish()


def _open_voc(path: Path, truth: voc_files.VocFolder, agnostic: bool = False) -> Callable[..., coco_files.Found]:
    """What gives the results on an image of some size: a folder of VOC's label maps, or a COCO results file."""
    if path.is_dir():
        folder = voc_files.open_results(path, truth.image_ids)
        return functools.partial(_found_in_maps, folder)
    # 2007_000033 is the number 2007000033 in most conversions of VOC to COCO's form.
    numbers = {one.replace("_", ""): one for one in truth.image_ids}
    known = {one: one for one in truth.image_ids} | {
        int(key): one for key, one in numbers.items() if key.isascii() and key.isdecimal()
    }
    labels = None if agnostic else {label: label for label in range(1, len(CATEGORIES) + 1)}
    return coco_files.read_results(path, known, labels).found


def _found_in_maps(folder: voc_files.VocFolder, image_id: str, size: tuple[int, int]) -> coco_files.Found:
    image = folder[image_id]
    if image.semantic.shape != size:
        sizes = [f"{width} x {height}" for height, width in (image.semantic.shape, size)]
        raise UsageError(f"{folder.path}: the maps of {image_id} are {sizes[0]} pixels, the truth is {sizes[1]}")
    regions = masks.encode_ids(image.instances, len(image.labels))
    return coco_files.Found(regions, image.labels, image.scores)


def _semantic(task: Task, console: Console) -> list[Judged]:
    pairs = open_pairs(task.truth, task.predictions, task.split)
    judge = SemanticJudge(pairs.categories)
    for (name, truth, found), _ in zip(pairs, _images(pairs.names, console), strict=True):
        try:
            judge.add(name, truth, found)
        except ValueError as error:
            raise UsageError(f"{pairs.predictions / name}: {error}") from error
    return judge.finish()


def _boundary(task: Task, console: Console) -> list[Judged]:
    distance = boundary.MAX_DISTANCE if task.max_distance is None else task.max_distance
    if not 0 < distance < 1:
        raise UsageError(f"--max-distance {distance}: it is a share of the diagonal, between 0 and 1, as in 0.0075")
    judge, images = BoundaryJudge(distance), find_boundaries(task.truth, task.predictions)
    with ProcessPoolExecutor() as pool:  # one image takes seconds
        matches = pool.map(functools.partial(_match_boundary, distance), images)
        for image in _images(images, console):
            try:
                judge.add(image.image_id, next(matches))
            except BrokenProcessPool as error:
                where = f"{image.truth} or {image.prediction}, or a file read beside them,"
                raise UsageError(f"{where} ended the process that read it: it is damaged, or memory ran out") from error
    return judge.finish()


def _match_boundary(max_distance: float, image: BoundaryFiles) -> boundary.ImageMatches:
    return boundary.match_image(*image.read(), max_distance=max_distance)


def _images(images: Sequence[Image], console: Console) -> Iterator[Image]:
    with bar(console, "judging", len(images)) as advance:
        for number, image in enumerate(images, 1):
            yield image
            advance(number)


PROTOCOLS: dict[str, Callable[[Task, Console], list[Judged]]] = {
    "voc": _voc,
    "coco": _coco,
    "cityscapes": _cityscapes,
    "proposals": _proposals,
    "semantic": _semantic,
    "boundary": _boundary,
}
