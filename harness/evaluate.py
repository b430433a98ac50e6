"""The evaluate step: stored predictions and a split's annotation -> metrics with intervals, and per-image matches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.base import IGNORE, Dataset, DatasetError, Sample
from datasets.files import read_indices
from evaluation import coco_ap, masks
from evaluation.voc_apr import ImageDetections, ImageTruth
from harness.judged import save
from harness.judges import CocoJudge, ProposalsJudge, SemanticJudge, VocJudge
from harness.predict import FILE, ImageResults, read_predictions
from harness.record import Evaluation
from harness.settings import EvaluateSettings
from harness.store import DamagedStep
from harness.train import Progress

Feed = Callable[[object, Sample, ImageResults, Path], None]


def evaluate(
    data: Dataset, predictions: Path, settings: EvaluateSettings, folder: Path, progress: Progress
) -> Evaluation:
    """Judge the predict step's folder under the protocols of ``settings``; per-image matches go to ``folder``.

    A method without a class map is not judged by its semantic IoU.
    """
    named = [name for name in settings.protocols if name != "semantic" or (predictions / "semantic").is_dir()]
    judges = {name: JUDGES[name](data) for name in named}
    images = 0
    for index, results in enumerate(read_predictions(predictions / FILE)):
        sample = data[index]
        if results.image_id != sample.image_id:
            raise ValueError(f"{FILE} line {index + 1}: image {results.image_id!r}, not {sample.image_id!r}")
        for name, judge in judges.items():
            FEEDS[name](judge, sample, results, predictions)
        images += 1
        progress(index + 1, len(data))
    if images != len(data):
        raise ValueError(f"{FILE} holds {images} images, the split {len(data)}")
    judged = [one for judge in judges.values() for one in judge.finish()]
    for one in judged:
        save(folder / f"{one.kind}.npz", one)
    verdicts = {one.kind: one.verdict(settings.resamples, settings.confidence) for one in judged}
    return Evaluation(images=images, confidence=settings.confidence, verdicts=verdicts)


def image_truth(sample: Sample) -> ImageTruth:
    void = sample.semantic == IGNORE
    return ImageTruth(sample.instances, sample.labels(), void if void.any() else None)


def _feed_voc(judge: VocJudge, sample: Sample, results: ImageResults, _: Path) -> None:
    found = ImageDetections(results.masks, results.labels, results.scores)
    judge.add(sample.image_id, image_truth(sample), found, sample.attributes and vars(sample.attributes))


def _feed_coco(judge: CocoJudge, sample: Sample, results: ImageResults, _: Path) -> None:
    labels = sample.labels()
    regions = masks.encode_ids(sample.instances, len(labels))
    truth = coco_ap.ImageTruth(regions, labels, np.zeros(len(labels), np.bool_), coco_ap.region_areas(regions))
    judge.add(sample.image_id, truth, coco_ap.ImageDetections(results.masks, results.labels, results.scores))


def _feed_proposals(judge: ProposalsJudge, sample: Sample, results: ImageResults, _: Path) -> None:
    """The method's own proposals, or its instances where it makes none."""
    judge.add_map(sample.image_id, image_truth(sample), results.proposals, results.proposal_scores)


def _feed_semantic(judge: SemanticJudge, sample: Sample, _: ImageResults, predictions: Path) -> None:
    file = predictions / "semantic" / f"{sample.image_id}.png"
    try:
        found = read_indices(file)
    except DatasetError as error:
        raise DamagedStep(file, predictions, error) from error
    judge.add(sample.image_id, sample.semantic, found)


JUDGES: dict[str, Callable[[Dataset], object]] = {
    "voc": lambda data: VocJudge(data.info.categories),
    "coco": lambda data: CocoJudge(data.info.categories),
    "proposals": lambda data: ProposalsJudge(),
    "semantic": lambda data: SemanticJudge(("background", *data.info.categories)),
}
FEEDS: dict[str, Feed] = {
    "voc": _feed_voc,
    "coco": _feed_coco,
    "proposals": _feed_proposals,
    "semantic": _feed_semantic,
}
