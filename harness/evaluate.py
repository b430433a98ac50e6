"""The evaluate step: stored predictions and a split's annotation -> metrics with intervals, and per-image matches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets.base import IGNORE, Dataset, Sample
from evaluation.voc_apr import ImageDetections, ImageTruth
from harness.judged import save
from harness.judges import VocJudge
from harness.predict import FILE, ImageResults, read_predictions
from harness.record import Evaluation
from harness.suite import EvaluateSettings
from harness.train import Progress

Feed = Callable[[object, Sample, ImageResults, Path], None]


def evaluate(
    data: Dataset, predictions: Path, settings: EvaluateSettings, folder: Path, progress: Progress
) -> Evaluation:
    """Judge the predict step's folder under the protocols of ``settings``; per-image matches go to ``folder``."""
    judges = {name: JUDGES[name](data) for name in settings.protocols}
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


JUDGES: dict[str, Callable[[Dataset], object]] = {"voc": lambda data: VocJudge(data.info.categories)}
FEEDS: dict[str, Feed] = {"voc": _feed_voc}
