"""Judges: each takes the images of one protocol one by one, keeps what matching came to, and hands over `Judged`.

They hold no masks: memory grows by a few numbers an instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation import breakdowns, error_budget, voc_apr
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
