"""COCO's numbers of `evaluation.coco_ap` from an engine: hotcoco, or pycocotools where that is not installed.

Both have the interface of pycocotools. Three of its traps are avoided here:

* An annotation of id 0 counts as "not matched": ids are given anew, from 1.
* ``loadRes`` takes areas from boxes where a result has one beside its mask: it is not used, areas are given.
* ``summarize`` is made for three limits on the number of detections: numbers are read from the arrays under it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import coco_ap
from evaluation.coco_ap import AGNOSTIC_LIMITS, LIMITS, ImageDetections, ImageTruth

ENGINES = ("hotcoco", "pycocotools")


def evaluate(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    categories: Sequence[str],
    *,
    agnostic: bool = False,
    engine: str | None = None,
    checked: bool = False,
) -> dict[str, float]:
    """The numbers of `coco_ap.measure` on all images as they are.

    ``agnostic``: the class-agnostic ones too, which doubles the time. ``engine``: one of `ENGINES`; None for the first
    that is installed. ``checked``: see `coco_ap.check`. All regions must be masks, or all boxes. ValueError as in
    `coco_ap.match_image`; ImportError if ``engine`` is not installed.
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images are annotated, {len(detections)} have detections: give one of each")
    for truth, found in zip(truths, detections, strict=True):
        coco_ap.check(truth, found, len(categories), checked)
    parts = [one.regions for one in (*truths, *detections) if len(one.regions)]
    kinds = {"bbox" if isinstance(part, np.ndarray) else "segm" for part in parts} or {"segm"}
    if len(kinds) > 1:
        raise ValueError("some images have masks, and some have boxes")
    (kind,) = kinds
    dataset_type, evaluator_type = engine_classes(engine)
    expected = _dataset(dataset_type, categories, truths, [{"area": one.areas, "iscrowd": one.crowd} for one in truths])
    scored = [{"area": coco_ap.region_areas(one.regions), "score": one.scores} for one in detections]
    found = _dataset(dataset_type, categories, detections, scored)

    def run(use_categories: bool, limits: Sequence[int]) -> Mapping[str, np.ndarray]:
        one = evaluator_type(expected, found, kind)
        one.params.useCats, one.params.maxDets = int(use_categories), list(limits)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            one.evaluate()
            one.accumulate()
        return {name: np.where((a := np.asarray(one.eval[name])) < 0, np.nan, a) for name in ("precision", "recall")}

    runs = [(LIMITS, run(True, LIMITS))] + ([(AGNOSTIC_LIMITS, run(False, AGNOSTIC_LIMITS))] if agnostic else [])
    ap = runs[0][1]["precision"][..., -1].mean(1).transpose(2, 0, 1)  # (10, 101, C, 4) to (4, 10, C)

    def recall(pooled: bool, size: int, limits: Sequence[int]) -> np.ndarray:
        known, arrays = runs[pooled]
        columns = [known.index(limit) for limit in limits]
        return arrays["recall"][:, :, size, columns].transpose(2, 0, 1)[None]

    return {name: float(value[0]) for name, value in coco_ap.named(ap[None], recall, categories, agnostic).items()}


def installed() -> str:
    """The engine that is taken when none is named."""
    return next(name for name in ENGINES if importlib.util.find_spec(name))


def engine_classes(name: str | None) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of an engine."""
    if name not in (None, *ENGINES):
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {name!r}")
    if name != "pycocotools":
        try:
            from hotcoco import COCO, COCOeval

            return COCO, COCOeval
        except ImportError:
            if name is not None:
                raise
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _dataset(
    dataset_type: Any,
    categories: Sequence[str],
    images: Sequence[ImageTruth | ImageDetections],
    columns: Sequence[Mapping[str, np.ndarray]],
) -> Any:
    """A COCO object of all images, numbered from 1; ``columns``: entries by name, in addition to region and label."""
    sizes, rows = [], []
    for number, (image, more) in enumerate(zip(images, columns, strict=True), 1):
        boxes = isinstance(image.regions, np.ndarray)
        regions, region = (image.regions.tolist(), "bbox") if boxes else (image.regions, "segmentation")
        # Only pycocotools reads the size, and only to look whether the masks need a conversion.
        height, width = (0, 0) if boxes or not len(regions) else regions[0]["size"]
        sizes.append({"id": number, "height": height, "width": width})
        names = ("category_id", region, *more)
        values = (
            np.asarray(image.labels).tolist(),
            regions,
            *(np.asarray(column).tolist() for column in more.values()),
        )
        for entry in zip(*values, strict=True):
            rows.append({"id": len(rows) + 1, "image_id": number, **dict(zip(names, entry, strict=True))})
    dataset = dataset_type()
    listed = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    dataset.dataset = {"images": sizes, "categories": listed, "annotations": rows}
    with contextlib.redirect_stdout(io.StringIO()):
        dataset.createIndex()
    return dataset
