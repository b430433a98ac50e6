"""Judges: each takes the images of one protocol one by one, keeps what matching came to, and hands over `Judged`.

They hold no masks: memory grows by a few numbers an instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from evaluation import voc_apr
from evaluation.voc_apr import ImageDetections, ImageMatches, ImageTruth, Variant
from harness.judged import Judged

DEFAULT = Variant()
MATCHINGS = [(matching, void) for matching in voc_apr.MATCHINGS for void in voc_apr.VOIDS]


class VocJudge:
    """VOC AP^r under ``variant``, with the other conventions' main numbers beside it."""

    def __init__(self, categories: Sequence[str], variant: Variant = DEFAULT) -> None:
        self.categories, self.variant = tuple(categories), variant
        self.variants = [dataclasses.replace(variant, matching=m, void=v) for m, v in MATCHINGS]
        self.matches: dict[Variant, list[ImageMatches]] = {one: [] for one in self.variants}
        self.image_ids: list[str] = []

    def add(self, image_id: str, truth: ImageTruth, found: ImageDetections) -> None:
        outcomes = voc_apr.match_variants(truth, found, self.variants, len(self.categories))
        for variant, outcome in zip(self.variants, outcomes, strict=True):
            self.matches[variant].append(outcome)
        self.image_ids.append(image_id)

    def finish(self) -> list[Judged]:
        matches = self.matches[self.variant]
        options = {"categories": self.categories, **dataclasses.asdict(self.variant)}
        instances = int(sum(match.truth_counts.sum() for match in matches))
        variants = self._variants()
        return [Judged("voc", self.variant.tag, options, self.image_ids, matches, instances, variants)]

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
