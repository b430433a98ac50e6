"""The evaluate step: stored predictions and a split's annotation -> metrics with intervals, and per-image matches."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from datasets.base import IGNORE, Dataset, DatasetError, Sample
from datasets.files import read_indices
from evaluation import boundary, cityscapes_ap, coco_ap, masks, proposals
from evaluation.voc_apr import ImageDetections, ImageTruth
from harness import samples
from harness.judged import Judged, save
from harness.judges import BoundaryJudge, CityscapesJudge, CocoJudge, ProposalsJudge, SemanticJudge, VocJudge
from harness.names import UsageError
from harness.predict import FILE, ImageResults, read_predictions
from harness.record import Evaluation
from harness.settings import EvaluateSettings
from harness.store import DamagedStep
from harness.train import Progress


class Feed(Protocol):
    """A judge with what it needs to know of our samples and predictions."""

    def add(self, sample: Sample, results: ImageResults, predictions: Path) -> None: ...

    def finish(self) -> list[Judged]: ...


def evaluate(
    data: Dataset, predictions: Path, settings: EvaluateSettings, folder: Path, progress: Progress
) -> Evaluation:
    """Judge the predict step's folder under the protocols of ``settings``; per-image matches and samples go to
    ``folder``.

    A method without a class map is not judged by its semantic IoU. Raises `UsageError` for a protocol that the data
    set has no annotation for.
    """
    named = [name for name in settings.protocols if name != "semantic" or (predictions / "semantic").is_dir()]
    feeds = [FEEDS[name](data, settings) for name in named]
    images = 0
    for index, results in enumerate(read_predictions(predictions / FILE)):
        sample = data[index]
        if results.image_id != sample.image_id:
            raise ValueError(f"{FILE} line {index + 1}: image {results.image_id!r}, not {sample.image_id!r}")
        for feed in feeds:
            feed.add(sample, results, predictions)
        images += 1
        progress(index + 1, len(data))
    if images != len(data):
        raise ValueError(f"{FILE} holds {images} images, the split {len(data)}")
    judged = [one for feed in feeds for one in feed.finish()]
    resampled = [one.resampled(settings.resamples) for one in judged]
    for one in judged:
        save(folder / f"{one.kind}.npz", one)
    samples.save(folder, judged, resampled)
    verdicts = {
        one.kind: one.verdict_of(found, settings.confidence) for one, found in zip(judged, resampled, strict=True)
    }
    return Evaluation(images=images, confidence=settings.confidence, verdicts=verdicts)


def image_truth(sample: Sample) -> ImageTruth:
    void = sample.semantic == IGNORE
    return ImageTruth(sample.instances, sample.labels(), void if void.any() else None)


class VocFeed:
    def __init__(self, data: Dataset, _: EvaluateSettings) -> None:
        self.judge = VocJudge(data.info.categories)
        self.finish = self.judge.finish

    def add(self, sample: Sample, results: ImageResults, _: Path) -> None:
        found = ImageDetections(results.masks, results.labels, results.scores)
        self.judge.add(sample.image_id, image_truth(sample), found, sample.attributes and vars(sample.attributes))


class CocoFeed:
    """Masks, or boxes. The truth are the annotated objects, crowds included, or else the map's instances."""

    def __init__(self, data: Dataset, _: EvaluateSettings, regions: str = "masks") -> None:
        self.regions = regions
        self.judge = CocoJudge(data.info.categories, regions, "boxes" if regions == "boxes" else "coco")
        self.finish = self.judge.finish

    def add(self, sample: Sample, results: ImageResults, _: Path) -> None:
        labels, objects = sample.labels(), sample.objects
        if objects is None:
            regions, crowd = masks.encode_ids(sample.instances, len(labels)), np.zeros(len(labels), np.bool_)
            areas, boxes = coco_ap.region_areas(regions), masks.boxes(regions)
        else:
            regions, labels, crowd = list(objects.masks), objects.labels, objects.crowd
            areas, boxes = objects.areas, objects.boxes
        found = results.masks
        if self.regions == "boxes":
            regions, found = boxes, results.boxes
        truth = coco_ap.ImageTruth(regions, labels, crowd, areas)
        self.judge.add(sample.image_id, truth, coco_ap.ImageDetections(found, results.labels, results.scores))


class CityscapesFeed:
    def __init__(self, data: Dataset, _: EvaluateSettings) -> None:
        numbers = {name: number for number, name in cityscapes_ap.CLASSES.items()}
        if not set(data.info.categories) <= set(numbers):
            raise UsageError(f"protocol cityscapes: the data set {data.info.name} has other classes than Cityscapes' 8")
        self.label_ids = np.array([numbers[name] for name in data.info.categories])
        self.judge = CityscapesJudge()
        self.finish = self.judge.finish

    def add(self, sample: Sample, results: ImageResults, _: Path) -> None:
        if sample.official_ids is None:
            raise UsageError("protocol cityscapes: the data set has no official ids; Cityscapes has")
        found = cityscapes_ap.ImageDetections(results.masks, self.label_ids[results.labels - 1], results.scores)
        self.judge.add(sample.image_id, cityscapes_ap.ImageTruth(sample.official_ids), found)


class ProposalsFeed:
    """The method's own proposals, or its instances where it makes none."""

    def __init__(self, data: Dataset, _: EvaluateSettings) -> None:
        self.judge = ProposalsJudge()
        self.finish = self.judge.finish

    def add(self, sample: Sample, results: ImageResults, _: Path) -> None:
        found, scores, objects = results.proposals, results.proposal_scores, sample.objects
        if objects is None:
            self.judge.add_map(sample.image_id, image_truth(sample), found, scores)
            return
        truths = [mask for mask, crowd in zip(objects.masks, objects.crowd, strict=True) if not crowd]
        void = sample.semantic == IGNORE
        ignored = masks.encode(void[None])[0] if void.any() else None
        truth = proposals.ImageTruth(truths, sample.semantic.shape, ignored)
        self.judge.add(sample.image_id, truth, proposals.ImageProposals(found, scores))


class SemanticFeed:
    def __init__(self, data: Dataset, _: EvaluateSettings) -> None:
        self.judge = SemanticJudge(("background", *data.info.categories), background=data.info.background)
        self.finish = self.judge.finish

    def add(self, sample: Sample, _: ImageResults, predictions: Path) -> None:
        found = _read_map(predictions / "semantic" / f"{sample.image_id}.png", predictions)
        self.judge.add(sample.image_id, sample.semantic, found)


class BoundaryFeed:
    """The method's boundary map; without one, where its instances meet each other or the background.

    The truth are the annotators' boundaries. An image takes seconds, so several are matched at a time.
    """

    def __init__(self, data: Dataset, settings: EvaluateSettings) -> None:
        thresholds = boundary.even_thresholds(settings.boundary_thresholds)
        self.judge = BoundaryJudge(thresholds=thresholds)
        self.match = functools.partial(boundary.match_image, thresholds=thresholds)
        self.pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
        self.waiting: list[tuple[str, Future]] = []

    def add(self, sample: Sample, results: ImageResults, predictions: Path) -> None:
        if sample.contours is None:
            raise UsageError("protocol boundary: the data set has no annotated boundaries; BSDS500 has")
        file = predictions / "boundary" / f"{sample.image_id}.png"
        found = _read_map(file, predictions) / 255.0 if file.is_file() else outlines(results).astype(np.float64)
        job = self.pool.submit(self.match, boundary.ImageTruth(sample.contours), boundary.ImageBoundary(found))
        self.waiting.append((sample.image_id, job))

    def finish(self) -> list[Judged]:
        with self.pool:
            for image_id, job in self.waiting:
                self.judge.add(image_id, job.result())
        return self.judge.finish()


def outlines(results: ImageResults) -> np.ndarray:
    """(H, W) bool: pixels whose right or lower neighbour belongs to another set of the image's masks."""
    height, width = results.size
    drawn = np.zeros((height, width), np.bool_)
    for mask in results.masks:
        dense = masks.decode([mask], results.size)[0]
        drawn[:, :-1] |= dense[:, :-1] != dense[:, 1:]
        drawn[:-1] |= dense[:-1] != dense[1:]
    return drawn


def _read_map(file: Path, predictions: Path) -> np.ndarray:
    """(H, W) uint8. Raises `DamagedStep`."""
    try:
        return read_indices(file)
    except DatasetError as error:
        raise DamagedStep(file, predictions, error) from error


FEEDS: dict[str, Callable[[Dataset, EvaluateSettings], Feed]] = {
    "voc": VocFeed,
    "coco": CocoFeed,
    "boxes": functools.partial(CocoFeed, regions="boxes"),
    "cityscapes": CityscapesFeed,
    "proposals": ProposalsFeed,
    "semantic": SemanticFeed,
    "boundary": BoundaryFeed,
}
