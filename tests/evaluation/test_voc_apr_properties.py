"""AP^r: what must hold for any input, and a slow second implementation with dense masks, fractions and loops."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import masks, voc_apr
from evaluation.voc_apr import APr, ImageDetections, ImageTruth, Variant

VARIANTS = [Variant(*values) for values in product(*voc_apr.CHOICES.values())]
Image = tuple[ImageTruth, ImageDetections]


def apr(images: list[Image], variant: Variant, classes: int) -> APr:
    matches = [voc_apr.match_image(*image, variant, classes) for image in images]
    return voc_apr.average_precision(matches, variant, classes)


def iou(first: np.ndarray, second: np.ndarray) -> Fraction:
    return Fraction(int((first & second).sum()), int((first | second).sum()))


def slow_ap(images: list[Image], variant: Variant, label: int, tenths: int) -> float:
    threshold = Fraction(tenths, 10)
    listed, positives = [], 0
    for index, (annotation, detections) in enumerate(images):
        regions = [annotation.instances == n + 1 for n, of in enumerate(annotation.labels) if of == label]
        positives += len(regions)
        dense = masks.decode(detections.masks, annotation.instances.shape)
        if variant.void == "strip" and annotation.void is not None:
            dense &= ~annotation.void | (annotation.instances > 0)
        mine = [n for n, of in enumerate(detections.labels) if of == label]
        free = set(range(len(regions)))
        for number in sorted(mine, key=lambda n: -detections.scores[n]):
            ious = {n: iou(region, dense[number]) for n, region in enumerate(regions)}
            if variant.matching == "mnc":
                best = max(ious, key=lambda n: ious[n], default=None)
                correct = best is not None and ious[best] >= threshold and best in free
            else:
                best = max(sorted(free), key=lambda n: ious[n], default=None)
                correct = best is not None and ious[best] > threshold
            if correct:
                free.remove(best)
            listed.append((-detections.scores[number], index, number, correct))
    if positives == 0:
        return 0.0 if variant.absent == "zero" else float("nan")
    points, right = [], 0  # (recall, precision) after each detection
    for seen, (*_, correct) in enumerate(sorted(listed), start=1):
        right += correct
        points.append((right / positives, right / seen))
    if variant.integral == "11-point":
        levels = [0.1 * step for step in range(11)]
        return sum(max((p for r, p in points if r >= level), default=0.0) for level in levels) / 11
    recalls = [0.0] + [r for r, _ in points]
    return sum((b - a) * max(p for r, p in points if r >= b) for a, b in pairwise(recalls))


@st.composite
def images(draw: st.DrawFn, distinct: bool = False) -> list[Image]:
    """Up to three images of 2 x 5 pixels, two classes; scores in three levels, or all different."""
    numbers = iter(draw(st.permutations(range(12))))
    result = []
    for _ in range(draw(st.integers(1, 3))):
        ids = draw(hnp.arrays(np.int64, (2, 5), elements=st.integers(0, 3)))
        ids = np.searchsorted(np.append(0, np.setdiff1d(ids, [0])), ids)  # 1..N without gaps
        labels = draw(hnp.arrays(np.int64, int(ids.max()), elements=st.integers(1, 2)))
        void = draw(st.none() | hnp.arrays(np.bool_, (2, 5)))
        count = draw(st.integers(0, 4))
        dense = draw(hnp.arrays(np.bool_, (count, 2, 5)))
        for number in range(count):  # half of the detections start from a truth, so that something is found
            if len(labels) and draw(st.booleans()):
                dense[number] = (ids == draw(st.integers(1, len(labels)))) ^ (dense[number] & dense[number, ::-1])
        scores = [next(numbers) if distinct else draw(st.integers(0, 2)) for _ in range(count)]
        classes = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
        detections = ImageDetections(masks.encode(dense), np.array(classes, np.int64), np.array(scores, np.float64))
        result.append((ImageTruth(ids, labels, void), detections))
    return result


def check_the_slow_implementation(data: list[Image], variant: Variant) -> None:
    slow = [[slow_ap(data, variant, label, tenths) for label in (1, 2)] for tenths in range(1, 10)]
    np.testing.assert_allclose(apr(data, variant, 2).per_class, slow, rtol=0, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(images(), st.sampled_from(VARIANTS))
def test_the_slow_implementation_agrees(data: list[Image], variant: Variant) -> None:
    check_the_slow_implementation(data, variant)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(images(), st.sampled_from(VARIANTS))
def test_the_slow_implementation_agrees_many_times(data: list[Image], variant: Variant) -> None:
    check_the_slow_implementation(data, variant)


@settings(max_examples=40, deadline=None)
@given(images())
def test_variants_matched_together_are_those_matched_alone(data: list[Image]) -> None:
    for image in data:
        for variant, match in zip(VARIANTS, voc_apr.match_variants(*image, VARIANTS, 2), strict=True):
            assert np.array_equal(match.correct, voc_apr.match_image(*image, variant, 2).correct)


@settings(max_examples=40, deadline=None)
@given(images(), st.sampled_from(VARIANTS))
def test_only_the_order_of_scores_matters(data: list[Image], variant: Variant) -> None:
    stretched = [(t, ImageDetections(d.masks, d.labels, np.exp(3 * d.scores) - 7)) for t, d in data]
    assert np.array_equal(apr(stretched, variant, 2).per_class, apr(data, variant, 2).per_class, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(images(distinct=True), st.sampled_from(VARIANTS), st.randoms())
def test_without_ties_the_order_of_images_and_detections_does_not_matter(data: list, variant: Variant, random) -> None:
    shuffled = []
    for annotation, d in random.sample(data, len(data)):
        order = random.sample(range(len(d.masks)), len(d.masks))
        listed = ImageDetections([d.masks[n] for n in order], d.labels[order], d.scores[order])
        shuffled.append((annotation, listed))
    assert np.array_equal(apr(shuffled, variant, 2).per_class, apr(data, variant, 2).per_class, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(images(), st.sampled_from(VARIANTS), st.floats(-1, 3), st.integers(1, 2))
def test_one_more_false_detection_never_helps(data: list[Image], variant: Variant, score: float, label: int) -> None:
    annotation, d = data[0]
    nothing = masks.encode(np.zeros((1, 2, 5), np.bool_))
    worse = ImageDetections([*d.masks, *nothing], np.append(d.labels, label), np.append(d.scores, score))
    before, after = apr(data, variant, 2).per_class, apr([(annotation, worse), *data[1:]], variant, 2).per_class
    assert np.array_equal(np.isnan(before), np.isnan(after))
    assert not (after > before + 1e-12).any()
    if score < 0:  # below every other score it changes nothing at all
        assert np.array_equal(before, after, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(images(), st.sampled_from(VARIANTS))
def test_the_truth_itself_scores_one(data: list[Image], variant: Variant) -> None:
    perfect = []
    for annotation, _ in data:
        count = len(annotation.labels)
        regions = masks.encode_ids(annotation.instances, count)
        perfect.append((annotation, ImageDetections(regions, annotation.labels, np.ones(count))))
    result = apr(perfect, variant, 2).per_class
    present = {int(label) for annotation, _ in data for label in annotation.labels}
    for label in (1, 2):
        if label in present:
            np.testing.assert_allclose(result[:, label - 1], 1.0)


@settings(max_examples=40, deadline=None)
@given(images())
def test_a_higher_threshold_is_never_easier_for_mnc(data: list[Image]) -> None:
    # A detection's candidate does not depend on the threshold; fewer hits leave each truth at most one later match.
    for image in data:
        correct = voc_apr.match_image(*image, Variant(), 2).correct
        assert (np.diff(correct.sum(1)) <= 0).all()
