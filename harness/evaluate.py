"""The evaluate step: stored predictions and a split's annotation -> metrics with intervals, and per-image matches."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from datasets.base import IGNORE, Dataset, Sample
from evaluation import statistics, voc_apr
from evaluation.voc_apr import ImageDetections, ImageMatches, ImageTruth, Variant
from harness.predict import ImageResults, read_predictions
from harness.record import Evaluation, Metric
from harness.suite import EvaluateSettings
from harness.train import Progress

DEFAULT = Variant()
MATCHINGS = [Variant(matching=matching, void=void) for matching in ("mnc", "sds") for void in ("count", "strip")]


def evaluate(
    data: Dataset, predictions: Path, settings: EvaluateSettings, matches_file: Path, progress: Progress
) -> Evaluation:
    """VOC AP^r of a predictions file: the default variant with intervals and per class, every other variant's mean."""
    classes = len(data.info.categories)
    matches: dict[Variant, list[ImageMatches]] = {variant: [] for variant in MATCHINGS}
    instances = 0
    for index, results in enumerate(read_predictions(predictions)):
        sample = data[index]
        if results.image_id != sample.image_id:
            raise ValueError(
                f"{predictions.name} line {index + 1}: image {results.image_id!r}, not {sample.image_id!r}"
            )
        truth = image_truth(sample)
        instances += len(truth.labels)
        found = voc_apr.match_variants(truth, _detections(results), MATCHINGS, classes)
        for variant, match in zip(MATCHINGS, found, strict=True):
            matches[variant].append(match)
        progress(index + 1, len(data))
    if len(matches[DEFAULT]) != len(data):
        raise ValueError(f"{predictions.name} holds {len(matches[DEFAULT])} images, the split {len(data)}")
    _save_matches(matches_file, matches[DEFAULT])
    return Evaluation(
        protocol="voc",
        version=voc_apr.VERSION,
        variant=DEFAULT.tag,
        images=len(data),
        instances=instances,
        confidence=settings.confidence,
        metrics=_metrics(matches[DEFAULT], data.info.categories, settings),
        variants=_variants(matches, classes),
    )


def image_truth(sample: Sample) -> ImageTruth:
    void = sample.semantic == IGNORE
    return ImageTruth(sample.instances, sample.labels(), void if void.any() else None)


def _detections(results: ImageResults) -> ImageDetections:
    return ImageDetections(results.masks, results.labels, results.scores)


def _metrics(matches: list[ImageMatches], categories: tuple[str, ...], settings: EvaluateSettings) -> dict[str, Metric]:
    result = voc_apr.average_precision(matches, DEFAULT, len(categories))
    percent = [round(100 * threshold) for threshold in result.thresholds]
    values = {f"ap_r_{name}": float(result.mean[row]) for row, name in enumerate(percent)}
    values["ap_r_vol"] = float(result.vol)
    for row, name in enumerate(percent):
        for column, category in enumerate(categories):
            values[f"ap_r_{name}/{category}"] = float(result.per_class[row, column])
    intervals: dict[str, tuple[float, float]] = {}
    if settings.resamples:
        found = statistics.bootstrap(
            matches, DEFAULT, len(categories), resamples=settings.resamples, confidence=settings.confidence
        )
        for row, name in enumerate(percent):
            intervals[f"ap_r_{name}"] = (float(found.low[row]), float(found.high[row]))
        intervals["ap_r_vol"] = (float(found.vol_low), float(found.vol_high))
    metrics = {}
    for name, value in values.items():
        low, high = intervals.get(name, (math.nan, math.nan))
        known = not (math.isnan(low) or math.isnan(high))
        metrics[name] = Metric(value=value, low=low if known else None, high=high if known else None)
    return metrics


def _variants(matches: dict[Variant, list[ImageMatches]], classes: int) -> dict[str, float]:
    """Mean AP^r at 0.5 and over 0.1..0.9 under each convention, by its tag."""
    values = {}
    for matching in matches:
        for integral in ("area", "11-point"):
            for absent in ("nan", "zero"):
                variant = dataclasses.replace(matching, integral=integral, absent=absent)
                result = voc_apr.average_precision(matches[matching], variant, classes)
                values[f"ap_r_50 {variant.tag}"] = float(result.mean[list(result.thresholds).index(0.5)])
                values[f"ap_r_vol {variant.tag}"] = float(result.vol)
    return values


def _save_matches(path: Path, matches: list[ImageMatches]) -> None:
    """All images' outcomes in four arrays, detections in file order; what paired comparisons start from."""
    np.savez_compressed(
        path,
        detections=np.array([len(match.scores) for match in matches], np.int64),
        labels=np.concatenate([match.labels for match in matches]),
        scores=np.concatenate([match.scores for match in matches]),
        correct=np.concatenate([match.correct for match in matches], axis=1),
        truth_counts=np.stack([match.truth_counts for match in matches]),
    )
