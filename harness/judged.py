"""What judging came to: per-image matches of one metric, stored; every number and interval follows from them alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import (
    boundary,
    breakdowns,
    cityscapes_ap,
    coco_ap,
    error_budget,
    proposals,
    semantic_iou,
    statistics,
    voc_apr,
)
from harness.names import UsageError
from harness.record import Metric, Verdict
from harness.store import write_file

_LARGEST = 2 << 30  # bytes of a file of matches once expanded; those of COCO's proposals take 0.3 GB


@dataclass(frozen=True)
class Kind:
    """A metric as the harness sees it: what it stores for an image, and how numbers follow from that.

    ``measure(matches, counts, **options)`` is the metric's own; ``shown`` names the numbers of a short table, in
    order, and ``by_class`` the one that it gives for each class. Of the fields of ``matches``, ``ragged`` is one whose
    last axis is what an image brings most of, and ``truth`` are those that the annotation alone decides.
    """

    title: str
    version: str
    matches: type
    measure: Callable[..., Mapping[str, np.ndarray]]
    ragged: str
    truth: tuple[str, ...]
    shown: tuple[str, ...]
    by_class: str = ""


def _bins(listed: Sequence[Mapping[str, Any]]) -> list[breakdowns.Bins]:
    return [breakdowns.Bins(one["attribute"], tuple(one["names"]), tuple(one["edges"])) for one in listed]


def _coco(title: str, prefix: str) -> Kind:
    """COCO's numbers, under names that begin with ``prefix``."""

    def measure(matches: Sequence[object], counts: np.ndarray, categories: Sequence[str]) -> dict[str, np.ndarray]:
        values = coco_ap.measure(matches, counts, categories)
        return {prefix + name.removeprefix("coco_"): value for name, value in values.items()}

    numbers = (
        *(f"ap{part}" for part in ("", "_50", "_75", "_small", "_medium", "_large")),
        *(f"ar_{part}" for part in ("1", "10", "100", "small", "medium", "large")),
        *(f"agnostic_ar_{number}" for number in coco_ap.AGNOSTIC_LIMITS),
    )
    shown = tuple(prefix + number for number in numbers)
    return Kind(
        title, coco_ap.VERSION, coco_ap.ImageMatches, measure, "scores", ("truth_counts",), shown, f"{prefix}ap"
    )


KINDS: dict[str, Kind] = {
    "voc": Kind(
        "VOC AP^r",
        voc_apr.VERSION,
        voc_apr.ImageMatches,
        lambda matches, counts, categories, variant: voc_apr.measure(
            matches, counts, voc_apr.Variant(**variant), categories
        ),
        "scores",
        ("truth_counts",),
        ("ap_r_50", "ap_r_70", "ap_r_vol"),
        by_class="ap_r_50",
    ),
    "coco": _coco("COCO AP", "coco_"),
    "boxes": _coco("COCO AP of boxes", "box_"),
    "cityscapes": Kind(
        "Cityscapes AP",
        cityscapes_ap.VERSION,
        cityscapes_ap.ImageMatches,
        cityscapes_ap.measure,
        "scores",
        ("truth_counts",),
        ("cs_ap", "cs_ap_50", "cs_ap_100m", "cs_ap_50m"),
        by_class="cs_ap",
    ),
    "proposals": Kind(
        "Class-agnostic proposals",
        proposals.VERSION,
        proposals.ImageMatches,
        lambda matches, counts, variant: proposals.measure(matches, counts, proposals.Variant(**variant)),
        "overlaps",
        (),
        tuple(f"{name}@{k}" for name in ("recall_50", "ar", "ar_hosang", "proposals") for k in (10, 30, 60, 100)),
    ),
    "semantic": Kind(
        "Semantic IoU",
        semantic_iou.VERSION,
        semantic_iou.ImageMatches,
        semantic_iou.measure,
        "truth",
        ("truth",),
        ("miou", "miou_present", "pixel_accuracy", "mean_accuracy", "fwiou"),
        by_class="iou",
    ),
    "boundary": Kind(
        "Boundaries",
        boundary.VERSION,
        boundary.ImageMatches,
        lambda matches, counts, thresholds, convention: boundary.measure(
            matches, counts, np.array(thresholds), convention
        ),
        "truth",
        ("truth",),
        ("ods", "ods_threshold", "ods_recall", "ods_precision", "ois", "boundary_ap"),
    ),
    "errors": Kind(
        "What AP^r 0.5 is lost to",
        error_budget.VERSION,
        error_budget.ImageMatches,
        error_budget.measure,
        "scores",
        ("truth_labels",),
        tuple(f"lost_{name}" for name in error_budget.ERRORS),
    ),
    "breakdowns": Kind(
        "Recall at IoU 0.5 by property",
        breakdowns.VERSION,
        breakdowns.ImageMatches,
        lambda matches, counts, categories, bins: breakdowns.measure(matches, counts, _bins(bins), categories),
        "scores",
        ("truth_labels", "truth_bins"),
        tuple(f"recall_50[{one.attribute}={name}]" for one in breakdowns.BINS for name in one.names),
    ),
}


@dataclass(frozen=True)
class Judged:
    """One metric on one set of predictions.

    ``kind`` is a key of `KINDS`; ``options`` what its measure needs beside the matches (JSON values); ``image_ids``
    and ``matches`` stand in the same order. ``variant`` is the convention in words, ``variants`` numbers under other
    conventions, ``curves`` named lists for plots; ``instances`` how many truths were judged.
    """

    kind: str
    variant: str
    options: Mapping[str, Any]
    image_ids: Sequence[str]
    matches: Sequence[Any]
    instances: int
    variants: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def measure(self, counts: np.ndarray) -> Mapping[str, np.ndarray]:
        """The metric's numbers under image weights; see `evaluation.statistics.Measure`."""
        return KINDS[self.kind].measure(self.matches, counts, **self.options)

    def same_truth(self, other: Judged) -> bool:
        """Whether both were judged by one annotation, as far as the matches tell."""
        fields = KINDS[self.kind].truth
        pairs = zip(self.matches, other.matches, strict=True)
        return self.instances == other.instances and all(
            np.array_equal(getattr(one, name), getattr(two, name)) for one, two in pairs for name in fields
        )

    def entries(self) -> int:
        """How many numbers one resample holds."""
        return sum(getattr(match, KINDS[self.kind].ragged).shape[-1] for match in self.matches)

    def bootstrap(self, resamples: int) -> statistics.Bootstrap:
        return statistics.bootstrap(self.measure, len(self.matches), entries=self.entries(), resamples=resamples)

    def resampled(self, resamples: int) -> statistics.Bootstrap | None:
        """None without resamples, and for one image: drawn again and again, it says nothing of others."""
        return self.bootstrap(resamples) if resamples and len(self.matches) > 1 else None

    def verdict(self, resamples: int, confidence: float) -> Verdict:
        """For the record: every number, with its interval over images where ``resamples`` is not 0."""
        return self.verdict_of(self.resampled(resamples), confidence)

    def verdict_of(self, found: statistics.Bootstrap | None, confidence: float) -> Verdict:
        """`verdict` from what `resampled` gave."""
        return Verdict(
            version=KINDS[self.kind].version,
            variant=self.variant,
            instances=self.instances,
            metrics=self._metrics(found, confidence),
            variants=dict(self.variants),
        )

    def _metrics(self, found: statistics.Bootstrap | None, confidence: float) -> dict[str, Metric]:
        if found is None:
            return {name: Metric(value=v) for name, v in statistics.whole(self.measure, len(self.matches)).items()}
        metrics = {}
        for name, value in found.values.items():
            low, high = found.interval(name, confidence)
            known = not (np.isnan(low) or np.isnan(value))
            metrics[name] = Metric(value=value, low=low if known else None, high=high if known else None)
        return metrics


def save(path: Path, judged: Judged) -> None:
    """Write the matches of all images in one file: each field joined along its last axis, and the lengths."""
    about = {"kind": judged.kind, "version": KINDS[judged.kind].version, "variant": judged.variant}
    about |= {"options": dict(judged.options), "image_ids": list(judged.image_ids), "instances": judged.instances}
    arrays = {"about": np.array(json.dumps(about))}
    for name in (one.name for one in dataclasses.fields(KINDS[judged.kind].matches)):
        parts = [np.atleast_1d(getattr(match, name)) for match in judged.matches]
        arrays[name] = np.concatenate(parts, axis=-1)
        arrays[f"{name}.lengths"] = np.array([part.shape[-1] for part in parts], np.int64)
    write_file(path, lambda file: np.savez_compressed(file, **arrays))


def load(path: Path) -> Judged:
    """Read what `save` wrote. `UsageError` for a file that is missing, broken, or of another version of the metric."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `evaluate` and a cell's evaluate step write matches as KIND.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            if sum(member.file_size for member in file.zip.infolist()) > _LARGEST:
                raise ValueError("it expands to more than any matches")
            about = json.loads(str(file["about"]))
            kind, version = KINDS[about["kind"]], about["version"]
            given = [about[name] for name in ("kind", "variant", "options", "image_ids")]
            columns = []
            for name in (one.name for one in dataclasses.fields(kind.matches)):
                bounds = np.cumsum(file[f"{name}.lengths"])[:-1]
                columns.append(np.split(file[name], bounds, axis=-1))
        matches = [kind.matches(*parts) for parts in zip(*columns, strict=True)]
        if [*map(type, (*given, version, about["instances"]))] != [str, str, dict, list, str, int]:
            raise TypeError("it says something else of itself than `save` writes")
        if len(given[-1]) != len(matches):
            raise ValueError("it has not one match for each image")
        judged = Judged(*given, matches, about["instances"])
        if version == kind.version:
            statistics.whole(judged.measure, len(matches))  # what cannot be measured was not written by `save`
    except Exception as error:  # readers raise whatever the bytes lead them to
        raise UsageError(f"{path} holds no matches of this program ({type(error).__name__})") from error
    if version != kind.version:
        raise UsageError(f"{path} was made by version {version[:40]} of its metric, this is {kind.version}")
    return judged
