"""Proposals: a slow second implementation with dense masks and fractions, pycocotools, and what must always hold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation import masks, proposals
from evaluation.proposals import KS, LEVELS, ImageMatches, ImageProposals, ImageTruth, Variant

FEW, MANY = settings(max_examples=50, deadline=None), settings(max_examples=500, deadline=None)
SHAPE = (3, 7)
VARIANTS = [Variant(*values) for values in product(*proposals.CHOICES.values())]
TWENTIETHS = range(1, 21)
Image = tuple[ImageTruth, ImageProposals]


def few_and_many(check: Callable, *inputs: st.SearchStrategy) -> tuple[Callable, Callable]:
    """Two tests of one property."""
    return FEW(given(*inputs)(check)), pytest.mark.slow(MANY(given(*inputs)(check)))


def draw_images(seed: int, apart: bool) -> list[Image]:
    """One to three images of 3 x 7 pixels with up to four instances, which overlap unless ``apart``, and void.

    From a seed: left to itself, hypothesis prefers sparse masks, in which hardly anything is found. Proposals are
    parts, unions and mixtures of the truths, or noise; scores have few levels, so that there are ties.
    """
    random = np.random.default_rng(seed)
    data = []
    for _ in range(random.integers(1, 4)):
        ids = np.sort(random.integers(0, random.integers(1, 6), SHAPE[0] * SHAPE[1])).reshape(SHAPE)
        regions = ids == np.setdiff1d(ids, [0])[:, None, None]
        if not apart:
            regions |= np.roll(regions, 1, axis=2) & (random.random(regions.shape) < 0.7)
        count = random.integers(0, 9)
        dense = random.random((count, *SHAPE)) < 0.5
        for number in range(count):
            if len(regions) and random.random() < 0.85:
                some = regions[random.integers(0, len(regions), random.integers(1, 3))].any(0)
                dense[number] = some ^ (random.random(SHAPE) < random.choice([0.0, 0.1, 0.3]))
        void = masks.encode(random.random((1, *SHAPE)) < 0.3)[0] if random.random() < 0.7 else None
        truth = ImageTruth(masks.encode(regions), SHAPE, void)
        data.append((truth, ImageProposals(masks.encode(dense), random.integers(0, 4, count))))
    return data


OVERLAPPING = st.integers(0, 2**32 - 1).map(lambda seed: draw_images(seed, apart=False))
APART = st.integers(0, 2**32 - 1).map(lambda seed: draw_images(seed, apart=True))
ANY, VARIANT = OVERLAPPING | APART, st.sampled_from(VARIANTS)


def slow_ious(truth: ImageTruth, found: ImageProposals, void: str) -> list[list[Fraction]]:
    """IoU of each proposal in score order with each truth."""
    annotated, dense = masks.decode(truth.masks, SHAPE), masks.decode(found.masks, SHAPE)
    if void == "strip" and truth.void is not None:
        dense &= ~masks.decode([truth.void], SHAPE)[0] | annotated.any(0)
    order = sorted(range(len(dense)), key=lambda n: -found.scores[n])
    return [[Fraction(int((dense[n] & t).sum()), int((dense[n] | t).sum())) for t in annotated] for n in order]


def slow_found(ious: list[list[Fraction]], truths: int, passes: Callable[[Fraction], bool], matching: str) -> int:
    """How many truths are found by these proposals, matched anew for this one threshold."""
    pairs = [(iou, n, t) for n, row in enumerate(ious) for t, iou in enumerate(row)]
    if matching == "max":
        return len({t for iou, n, t in pairs if passes(iou)})
    taken: set[int] = set()
    if matching == "score":
        for row in ious:
            free = [(iou, t) for t, iou in enumerate(row) if t not in taken and passes(iou)]
            taken |= {max(free)[1]} if free else set()
        return len(taken)
    hits, used = 0, set()
    # As in Hosang's code: among equal IoUs by whichever are fewer, truths or proposals, then by the others.
    places = (lambda n, t: (t, n)) if truths <= len(ious) else (lambda n, t: (n, t))
    for iou, n, t in sorted(pairs, key=lambda pair: (-pair[0], places(*pair[1:]))):
        if n not in used and t not in taken:
            used.add(n)
            taken.add(t)
            hits += passes(iou)
    return hits


def slow_recall(data: list[Image], number: int, threshold: float | Fraction, variant: Variant) -> float:
    """A float threshold is compared with the IoU in floating point, a fraction exactly."""

    def passes(iou: Fraction) -> bool:
        value = iou if isinstance(threshold, Fraction) else iou.numerator / iou.denominator
        return value >= threshold if variant.hit == ">=" else value > threshold

    hits = total = 0
    for truth, found in data:
        ious = slow_ious(truth, found, variant.void)[:number]
        hits += slow_found(ious, len(truth.masks), passes, variant.matching)
        total += len(truth.masks)
    return hits / total if total else float("nan")


def matched(data: list[Image], variant: Variant) -> list[ImageMatches]:
    return [proposals.match_image(*image, variant) for image in data]


def measured(matches: list[ImageMatches], variant: Variant) -> dict[str, float]:
    values = proposals.measure(matches, np.ones((1, len(matches)), np.int64), variant)
    return {name: value.item() for name, value in values.items()}


def check_recall(data: list[Image], variant: Variant) -> None:
    matches = matched(data, variant)
    for number in KS[:4]:  # there are at most eight proposals
        slow = [slow_recall(data, number, Fraction(k, 20), variant) for k in TWENTIETHS]
        ours = proposals.recall_over_iou(matches, number, [k / 20 for k in TWENTIETHS], variant)
        np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-12)
        values = measured(matches, variant)
        expected = {"recall_50": slow[9], "recall_75": slow[14], "ar": np.mean(slow[9:19])}
        expected["proposals"] = np.mean([min(number, len(found.masks)) for _, found in data])
        for name, value in expected.items():
            np.testing.assert_allclose(values[f"{name}@{number}"], value, rtol=0, atol=1e-12)


def check_hosang(data: list[Image], variant: Variant) -> None:
    # On the whole grid recall is a staircase, so that matching anew is only needed where an IoU lies in between.
    grid = [k * 0.001 for k in range(500, 1001)]
    matches = matched(data, variant)
    for number in KS[1:4:2]:
        exact = {iou for image in data for row in slow_ious(*image, variant.void) for iou in row}
        steps = sorted({0.0, *(float(iou) for iou in exact)})
        recall: dict[tuple[int, int], float] = {}
        curve = []
        for level in grid:
            place = (sum(step < level for step in steps), sum(step <= level for step in steps))
            if place not in recall:
                recall[place] = slow_recall(data, number, level, variant)
            curve.append(recall[place])
        slow = 2 * np.trapezoid(curve, dx=0.001)
        np.testing.assert_allclose(measured(matches, variant)[f"ar_hosang@{number}"], slow, rtol=0, atol=1e-12)


def check_pycocotools(data: list[Image], crowds: list[bool]) -> None:
    """Crowds are left out of our truths; pycocotools gets them."""
    annotations, results, ours = [], [], []
    for image_id, (truth, found) in enumerate(data, start=1):
        crowd = [crowds[(image_id + index) % len(crowds)] for index in range(len(truth.masks))]
        kept = [mask for mask, is_crowd in zip(truth.masks, crowd, strict=True) if not is_crowd]
        ours.append(proposals.match_image(ImageTruth(kept, SHAPE), found, Variant("score")))
        for mask, is_crowd in zip(truth.masks, crowd, strict=True):
            area = int(masks.areas([mask])[0])
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": int(is_crowd)}
            annotations.append(entry | {"segmentation": mask, "area": area, "bbox": [0, 0, 1, 1]})
        for mask, score in zip(found.masks, found.scores, strict=True):
            entry = {"image_id": image_id, "category_id": 1, "segmentation": mask, "score": float(score)}
            results.append(entry)
    if not results:  # pycocotools has no word for that
        return
    with contextlib.redirect_stdout(io.StringIO()):
        truths = COCO()
        images = [{"id": n + 1, "height": SHAPE[0], "width": SHAPE[1]} for n in range(len(data))]
        truths.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
        truths.createIndex()
        evaluation = COCOeval(truths, truths.loadRes(results), "segm")
        evaluation.params.useCats, evaluation.params.maxDets = 0, list(KS)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0, 0]  # (10, len(KS)); -1 without a truth
    recall = np.where(recall < 0, np.nan, recall)
    values = measured(ours, Variant("score"))
    np.testing.assert_allclose([values[f"ar@{number}"] for number in KS], recall.mean(0), rtol=0, atol=1e-12)
    for name, level in (("recall_50", 0), ("recall_75", 5)):
        np.testing.assert_allclose([values[f"{name}@{number}"] for number in KS], recall[level], rtol=0, atol=1e-12)


def check_matchings_agree(data: list[Image], void: str) -> None:
    above = [level + 1e-9 for level in LEVELS]
    curves = []
    for matching in proposals.MATCHINGS:
        matches = matched(data, Variant(matching, void))
        curves.append([proposals.recall_over_iou(matches, number, above) for number in KS])
        np.testing.assert_array_equal(curves[0], curves[-1])


def check_weights(data: list[Image], variant: Variant, weights: list[int]) -> None:
    matches = matched(data, variant)
    counts = np.array([weights[: len(data)], [1] * len(data)])
    values = proposals.measure(matches, counts, variant)
    for row, times in enumerate(counts):
        copies = [match for match, n in zip(matches, times, strict=True) for _ in range(n)]
        for name, value in measured(copies, variant).items():
            np.testing.assert_allclose(values[name][row], value, rtol=0, atol=1e-12, err_msg=name)


def check_order(data: list[Image], variant: Variant) -> None:
    for image in data:
        overlaps = proposals.match_image(*image, variant).overlaps
        assert (overlaps <= proposals.match_image(*image, Variant("max", variant.void)).overlaps).all()
        assert (np.diff(overlaps, axis=0) >= 0).all()  # one more proposal never loses a truth
    values = measured(matched(data, variant), variant)
    for number in KS:
        if not np.isnan(values[f"ar@{number}"]):
            assert 0 <= values[f"recall_75@{number}"] <= values[f"recall_50@{number}"] <= 1
            assert (
                values[f"ar_hosang@{number}"] <= values[f"ar@{number}"] + 1e-12 <= values[f"recall_50@{number}"] + 1e-9
            )


def check_together(data: list[Image]) -> None:
    for image in data:
        for variant, match in zip(VARIANTS, proposals.match_variants(*image, VARIANTS), strict=True):
            assert np.array_equal(match.overlaps, proposals.match_image(*image, variant).overlaps)


WEIGHTS, CROWDS = st.lists(st.integers(0, 3), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3)
test_the_slow_implementation_agrees, test_the_slow_implementation_agrees_often = few_and_many(
    check_recall, ANY, VARIANT
)
test_hosangs_integral_agrees, test_hosangs_integral_agrees_often = few_and_many(check_hosang, ANY, VARIANT)
test_pycocotools_agrees, test_pycocotools_agrees_often = few_and_many(check_pycocotools, ANY, CROWDS)
test_matchings_agree_above_a_half, test_matchings_agree_above_a_half_often = few_and_many(
    check_matchings_agree, APART, st.sampled_from(proposals.VOIDS)
)
test_weights_are_copies, test_weights_are_copies_often = few_and_many(check_weights, ANY, VARIANT, WEIGHTS)
test_more_is_more, test_more_is_more_often = few_and_many(check_order, ANY, VARIANT)
test_variants_matched_together, test_variants_matched_together_often = few_and_many(check_together, ANY)
