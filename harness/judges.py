"""Judges: each takes the images of one protocol one by one, keeps what matching came to, and hands over `Judged`.

They hold no masks: memory grows by a few numbers an instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation import (
    boundary,
    breakdowns,
    cityscapes_ap,
    coco_ap,
    error_budget,
    masks,
    proposals,
    semantic_iou,
    voc_apr,
)
from evaluation.masks import RunLengths
from evaluation.voc_apr import ImageDetections, ImageMatches, ImageTruth, Variant
from harness.judged import Judged

DEFAULT = Variant()
MATCHINGS = [(matching, void) for matching in voc_apr.MATCHINGS for void in voc_apr.VOIDS]


class VocJudge:
    """VOC AP^r under ``variant``, with the other conventions' main numbers beside it, errors and breakdowns."""

    def __init__(self, categories: Sequence[str], variant: Variant = DEFAULT) -> None:
        self.categories, self.variant = tuple(categories), variant
        self.variants = [dataclasses.replace(variant, matching=m, void=v) for m, v in MATCHINGS]
        self.matches: dict[Variant, list[ImageMatches]] = {one: [] for one in self.variants}
        self.errors: list[error_budget.ImageMatches] = []
        self.bins: list[breakdowns.Bins] = []
        self.parts: list[breakdowns.ImageMatches] = []
        self.image_ids: list[str] = []

    def add(
        self,
        image_id: str,
        truth: ImageTruth,
        found: ImageDetections,
        attributes: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """``attributes`` of the truths by name, where the data know them; else area and parts, from the map."""
        classes = len(self.categories)
        outcomes = voc_apr.match_variants(truth, found, self.variants, classes)
        for variant, outcome in zip(self.variants, outcomes, strict=True):
            self.matches[variant].append(outcome)
        self.errors.append(error_budget.match_image(truth, found, classes))
        known = attributes
        if known is None:
            known = breakdowns.attributes_of(truth.instances, truth.labels)
            del known["same_class_contacts"]  # across VOC's void contours nothing touches
        self.bins = self.bins or [one for one in breakdowns.BINS if one.attribute in known]
        self.parts.append(breakdowns.match_image(truth, found, known, self.bins, classes))
        self.image_ids.append(image_id)

    def finish(self) -> list[Judged]:
        matches = self.matches[self.variant]
        instances = int(sum(match.truth_counts.sum() for match in matches))
        names, bins = {"categories": self.categories}, [dataclasses.asdict(one) for one in self.bins]

        def judged(kind: str, convention: Variant, matches: Sequence[object], **options: object) -> Judged:
            return Judged(kind, convention.tag, {**names, **options}, self.image_ids, matches, instances)

        main = judged("voc", self.variant, matches, variant=dataclasses.asdict(self.variant))
        return [
            dataclasses.replace(main, variants=self._variants()),
            judged("errors", DEFAULT, self.errors),
            judged("breakdowns", DEFAULT, self.parts, bins=bins),
        ]

    def _variants(self) -> dict[str, float]:
        """Mean AP^r at 0.5 and over 0.1..0.9 under each convention, by its tag."""
        values = {}
        for matched, matches in self.matches.items():
            for integral in voc_apr.INTEGRALS:
                for absent in voc_apr.ABSENTS:
                    variant = dataclasses.replace(matched, integral=integral, absent=absent)
                    result = voc_apr.average_precision(matches, variant, len(self.categories))
                    values[f"ap_r_50 {variant.tag}"] = float(result.mean[list(result.thresholds).index(0.5)])
                    values[f"ap_r_vol {variant.tag}"] = float(result.vol)
        return values


class CocoJudge:
    """COCO AP and AR of masks, or of boxes where ``regions`` says so; ``kind`` names the numbers, see `KINDS`."""

    def __init__(self, categories: Sequence[str], regions: str = "masks", kind: str = "coco") -> None:
        self.categories, self.regions, self.kind = tuple(categories), regions, kind
        self.matches: list[coco_ap.ImageMatches] = []
        self.image_ids: list[int | str] = []
        self.instances = 0

    def add(
        self,
        image_id: int | str,
        truth: coco_ap.ImageTruth,
        found: coco_ap.ImageDetections,
        checked: bool = False,
    ) -> None:
        """``checked``: the masks have passed `evaluation.masks.check` already."""
        self.matches.append(coco_ap.match_image(truth, found, len(self.categories), checked))
        self.image_ids.append(image_id)
        self.instances += int((~truth.crowd).sum())

    def finish(self) -> list[Judged]:
        options = {"categories": self.categories}
        return [Judged(self.kind, self.regions, options, self.image_ids, self.matches, self.instances)]


class CityscapesJudge:
    """Cityscapes AP, as the official script has it."""

    def __init__(self) -> None:
        self.matches: list[cityscapes_ap.ImageMatches] = []
        self.image_ids: list[str] = []

    def add(self, image_id: str, truth: cityscapes_ap.ImageTruth, found: cityscapes_ap.ImageDetections) -> None:
        self.matches.append(cityscapes_ap.match_image(truth, found))
        self.image_ids.append(image_id)

    def finish(self) -> list[Judged]:
        every = cityscapes_ap.RANGES.index("all")
        instances = int(sum(match.truth_counts[every].sum() for match in self.matches))
        return [Judged("cityscapes", "official", {}, self.image_ids, self.matches, instances)]


class ProposalsJudge:
    """Recall and AR of class-agnostic proposals, with the other conventions' recalls beside it."""

    VARIANTS = tuple(
        proposals.Variant(matching, void, hit)
        for matching in proposals.MATCHINGS
        for void in proposals.VOIDS
        for hit in proposals.HITS
    )

    def __init__(self) -> None:
        self.matches: list[list[proposals.ImageMatches]] = [[] for _ in self.VARIANTS]
        self.image_ids: list[int | str] = []

    def add(self, image_id: int | str, truth: proposals.ImageTruth, found: proposals.ImageProposals) -> None:
        for matches, match in zip(self.matches, proposals.match_variants(truth, found, self.VARIANTS), strict=True):
            matches.append(match)
        self.image_ids.append(image_id)

    def add_map(self, image_id: str, truth: ImageTruth, found: Sequence[RunLengths], scores: np.ndarray) -> None:
        """The same for a map of instances, with void."""
        regions = masks.encode_ids(truth.instances, len(truth.labels))
        void = None if truth.void is None else masks.encode(truth.void[None])[0]
        annotated = proposals.ImageTruth(regions, truth.instances.shape, void)
        self.add(image_id, annotated, proposals.ImageProposals(found, scores))

    def finish(self) -> list[Judged]:
        main = proposals.Variant()
        matches = self.matches[self.VARIANTS.index(main)]
        once, variants = np.ones((1, len(matches)), np.int64), {}
        for variant, found in zip(self.VARIANTS, self.matches, strict=True):
            values = proposals.measure(found, once, variant)
            names = [f"{name}@{number}" for name in ("recall_50", "ar", "ar_hosang") for number in (10, 30, 60)]
            variants |= {f"{name} {variant.tag}": float(values[name][0]) for name in names}
        instances = sum(match.overlaps.shape[1] for match in matches)
        options = {"variant": dataclasses.asdict(main)}
        judged = Judged("proposals", main.tag, options, self.image_ids, matches, instances, variants)
        return [dataclasses.replace(judged, curves=self._curves(matches))]

    def _curves(self, matches: Sequence[proposals.ImageMatches]) -> dict[str, list[float]]:
        """Recall over IoU at some K, and over K at some IoU; the abscissas stand beside them."""
        curves = {"iou": list(proposals.CURVE), "k": list(proposals.KS)}
        curves["proposals_used"] = proposals.proposals_used(matches).tolist()
        curves |= {f"recall_over_iou@{k}": proposals.recall_over_iou(matches, k).tolist() for k in (10, 30, 60, 100)}
        return curves | {f"recall_over_k_{t}": proposals.recall_over_k(matches, t / 100).tolist() for t in (50, 70, 90)}


class SemanticJudge:
    """Semantic IoU; ``categories`` names class 0, 1, ...; without them the classes that occur are numbered.

    ``background=False``: class 0 never occurs in the truth and has no IoU; a pixel called so is a miss of its class.
    """

    def __init__(self, categories: Sequence[str] | None, background: bool = True) -> None:
        self.categories, self.background = categories, background
        self.matches: list[semantic_iou.ImageMatches] = []
        self.image_ids: list[str] = []

    def add(self, image_id: str, truth: np.ndarray, found: np.ndarray) -> None:
        classes = semantic_iou.IGNORE if self.categories is None else len(self.categories)
        self.matches.append(semantic_iou.match_image(truth, found, classes))
        self.image_ids.append(image_id)

    def finish(self) -> list[Judged]:
        matches, categories = self.matches, self.categories
        if categories is None:
            seen = 1 + max(int(np.flatnonzero(match.truth + match.predicted).max(initial=0)) for match in matches)
            categories = [str(number) for number in range(seen)]
            parts = [(match.correct[:seen], match.truth[:seen], match.predicted[:seen]) for match in matches]
            matches = [semantic_iou.ImageMatches(*part) for part in parts]
        if not self.background:
            categories = categories[1:]
            matches = [semantic_iou.ImageMatches(m.correct[1:], m.truth[1:], m.predicted[1:]) for m in matches]
        options = {"categories": tuple(categories)}
        return [Judged("semantic", "absent classes: miou 0, miou_present not", options, self.image_ids, matches, 0)]


class BoundaryJudge:
    """ODS, OIS and AP of boundaries, as published; py-bsds500's convention beside it."""

    def __init__(
        self, max_distance: float = boundary.MAX_DISTANCE, thresholds: np.ndarray = boundary.THRESHOLDS
    ) -> None:
        self.max_distance, self.thresholds = max_distance, thresholds
        self.matches: list[boundary.ImageMatches] = []
        self.image_ids: list[str] = []

    def add(self, image_id: str, match: boundary.ImageMatches) -> None:
        """``match``, which takes seconds, is made by the caller, several at a time."""
        self.matches.append(match)
        self.image_ids.append(image_id)

    def finish(self) -> list[Judged]:
        once = np.ones((1, len(self.matches)), np.int64)
        main, other = boundary.CONVENTIONS
        values = boundary.measure(self.matches, once, self.thresholds, other)
        variants = {f"{name} {other}": float(values[name][0]) for name in ("ods", "ois", "boundary_ap")}
        options = {"thresholds": self.thresholds.tolist(), "convention": main}
        variant = f"{main}, within {self.max_distance:g} of the diagonal"
        curve = boundary.curve(self.matches, once)
        curves = {"thresholds": self.thresholds.tolist()}
        curves |= {name: getattr(curve, name)[0].tolist() for name in ("recall", "precision", "f")}
        return [Judged("boundary", variant, options, self.image_ids, self.matches, 0, variants, curves)]
