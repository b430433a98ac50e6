"""Error budget: what must hold for any input, and a slow second implementation with sets of pixels and loops."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import error_budget, masks, voc_apr
from evaluation.error_budget import ERRORS, TYPES
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant

FEW, MANY = settings(max_examples=50, deadline=None), settings(max_examples=500, deadline=None)
CATEGORIES = ("cat", "dog")
SHAPE = (3, 7)
Image = tuple[ImageTruth, ImageDetections]
Entry = tuple[float, int, int, int, bool]  # minus the score, image, place, class, correct


def few_and_many(check: Callable, *inputs: st.SearchStrategy) -> tuple[Callable, Callable]:
    """Two tests of one property."""
    return FEW(given(*inputs)(check)), pytest.mark.slow(MANY(given(*inputs)(check)))


@st.composite
def images(draw: st.DrawFn, distinct: bool = False) -> list[Image]:
    """Up to three images of 3 x 7 pixels, two classes; detections are unions, parts and mixtures of the truths.

    Drawn from a seed: left to itself, hypothesis prefers sparse masks, in which hardly anything is correct or split.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [_image(rng, distinct) for _ in range(rng.integers(1, 4))]


def _image(rng: np.random.Generator, distinct: bool) -> Image:
    blocks = np.sort(rng.integers(0, rng.choice([1, 2, 3, 3, 4, 4]), SHAPE[1]))  # columns of 0 to 3 truths
    ids = np.where(rng.random(SHAPE) < rng.choice([0.8, 1.0]), blocks, 0)
    ids = np.searchsorted(np.append(0, np.setdiff1d(ids, [0])), ids)  # 1..N without gaps
    labels = rng.integers(1, 1 + rng.integers(1, 3), ids.max())
    count = rng.integers(0, 7)
    dense, classes = np.zeros((count, *SHAPE), np.bool_), rng.integers(1, 3, count)
    chosen = np.zeros(1, np.int64)
    for number in range(count):
        if rng.random() < 0.6:  # else one more region on the same truths
            chosen = rng.integers(1, len(labels) + 1, rng.integers(1, 3)) if len(labels) else chosen
        if chosen.any() and rng.random() < 0.8:
            classes[number] = labels[chosen.max() - 1]
        whole = np.isin(ids, chosen[chosen > 0])
        part = whole.ravel("F").cumsum().reshape(SHAPE, order="F") <= rng.uniform(0.2, 0.8) * whole.sum()
        noise = rng.random(SHAPE) < rng.choice([0.0, 0.1, 0.5])
        rest = whole & ~dense[number - 1]  # what the last detection has left
        dense[number] = [whole, whole & part, whole & ~part, rest, whole ^ noise, noise][rng.integers(6)]
    scores = rng.permutation(count) if distinct else rng.integers(0, 3, count)
    return ImageTruth(ids, labels), ImageDetections(masks.encode(dense), classes, scores.astype(np.float64))


def matched(data: list[Image]) -> list[error_budget.ImageMatches]:
    return [error_budget.match_image(*image, len(CATEGORIES)) for image in data]


class Slow:
    """One image by the table of the docstring: pixels as sets, fractions, one detection at a time."""

    def __init__(self, truth: ImageTruth, detections: ImageDetections) -> None:
        dense = masks.decode(detections.masks, SHAPE)
        self.regions = [set(np.flatnonzero(mask.ravel())) for mask in dense]
        self.truths = [set(np.flatnonzero(truth.instances.ravel() == n + 1)) for n in range(len(truth.labels))]
        self.labels, self.truth_labels = detections.labels.tolist(), list(truth.labels)
        self.scores = detections.scores.tolist()
        self.order = sorted(range(len(self.regions)), key=lambda d: -self.scores[d])
        self.found: dict[int, int] = {}  # truth: detection
        for d in self.order:
            t = self.best(d, self.own(d))
            if t is not None and self.iou(d, t) >= Fraction(1, 2) and t not in self.found:
                self.found[t] = d
        self.types = [self.type_of(d) for d in range(len(self.regions))]

    def iou(self, d: int, t: int) -> Fraction:
        return Fraction(len(self.regions[d] & self.truths[t]), len(self.regions[d] | self.truths[t]))

    def own(self, d: int) -> list[int]:
        return [t for t, label in enumerate(self.truth_labels) if label == self.labels[d]]

    def other(self, d: int) -> list[int]:
        return [t for t, label in enumerate(self.truth_labels) if label != self.labels[d]]

    def best(self, d: int, among: list[int]) -> int | None:
        return max(among, key=lambda t: self.iou(d, t), default=None)

    def covered(self, d: int) -> list[int]:
        return [t for t in self.own(d) if 2 * len(self.regions[d] & self.truths[t]) >= len(self.truths[t])]

    def merges(self, d: int) -> bool:
        inside = sum(len(self.regions[d] & self.truths[t]) for t in self.covered(d))
        return len(self.covered(d)) >= 2 and 2 * inside >= len(self.regions[d])

    def home(self, d: int) -> int | None:
        t = max(self.own(d), key=lambda t: len(self.regions[d] & self.truths[t]), default=None)
        inside = 0 if t is None else len(self.regions[d] & self.truths[t])
        return t if inside and 2 * inside >= len(self.regions[d]) else None

    def pieces(self, d: int, e: int) -> bool:
        smaller = min(len(self.regions[d]), len(self.regions[e]))
        same = self.labels[d] == self.labels[e] and self.home(d) is not None and self.home(d) == self.home(e)
        return d != e and same and 2 * len(self.regions[d] & self.regions[e]) < smaller

    def type_of(self, d: int) -> str:
        own = max((self.iou(d, t) for t in self.own(d)), default=Fraction(0))
        other = max((self.iou(d, t) for t in self.other(d)), default=Fraction(0))
        if d in self.found.values():
            return "correct"
        if own >= Fraction(1, 2):
            return "duplicate"
        if other >= Fraction(1, 2):
            return "classification"
        if self.merges(d):
            return "merge"
        if any(self.pieces(d, e) for e in range(len(self.regions))):
            return "split"
        if own >= Fraction(1, 10):
            return "localisation"
        return "both" if other >= Fraction(1, 10) else "background"

    def claimed(self, d: int, error: str) -> list[int | None]:
        """The truths that the detection would find if this error were fixed."""
        if error == "merge" and (self.types[d] == "merge" or (self.types[d] == "correct" and self.merges(d))):
            return self.covered(d)
        if error != self.types[d]:
            return []
        if error == "classification":
            return [self.best(d, self.other(d))]
        if error == "split":
            return [self.home(d)]
        return [self.best(d, self.own(d))] if error == "localisation" else []

    def finders(self, errors: Collection[str]) -> dict[int, int]:
        new: dict[int, int] = {}
        for d in self.order:
            for error in errors:
                for t in self.claimed(d, error):
                    if t not in self.found and t not in new:
                        new[t] = d
        return new

    def fixed(self, errors: Collection[str], index: int) -> tuple[list[Entry], list[int]]:
        """The detections and the labels of the truths that are left when the errors are fixed."""
        kept = [d for d, of in enumerate(self.types) if of not in errors]
        new = self.finders(errors)
        listed = [(-self.scores[d], index, d, self.labels[d], self.types[d] == "correct") for d in kept]
        listed += [(-self.scores[d], index, d, self.truth_labels[t], True) for t, d in new.items()]
        explained = self.found.keys() | self.finders(ERRORS).keys()
        counted = [of for t, of in enumerate(self.truth_labels) if t in explained or "missed" not in errors]
        return listed, counted


def slow_ap(data: list[Slow], errors: Collection[str], label: int) -> float:
    parts = [image.fixed(errors, index) for index, image in enumerate(data)]
    positives = sum(counted.count(label) for _, counted in parts)
    if not positives:
        return 1.0 if any(label in image.truth_labels for image in data) else float("nan")
    # Several entries of one detection are all correct, so their order among each other does not matter.
    mine = [entry[4] for entry in sorted(e for listed, _ in parts for e in listed) if entry[3] == label]
    precision = [sum(mine[:n]) / n for n in range(1, len(mine) + 1)]
    return sum(max(precision[n:]) for n, correct in enumerate(mine) if correct) / positives


def _agrees_with_the_slow_one(data: list[Image]) -> None:
    fast, slow = matched(data), [Slow(*image) for image in data]
    names = ("correct", *TYPES)
    assert [[names[number] for number in image.types] for image in fast] == [image.types for image in slow]
    values = error_budget.measure(fast, np.ones((1, len(data)), np.int64), CATEGORIES)
    for label, name in enumerate(CATEGORIES, start=1):
        before = slow_ap(slow, (), label)
        for error in ERRORS:
            expected = slow_ap(slow, (error,), label) - before
            np.testing.assert_allclose(values[f"lost_{error}/{name}"], expected, rtol=0, atol=1e-12, err_msg=error)
    for error in error_budget.FINDERS:
        assert values[f"truths_{error}"] == sum(len(image.finders([error])) for image in slow)


def _never_loses_less_than_nothing(data: list[Image], counts: np.ndarray) -> None:
    values = error_budget.measure(matched(data), counts[:, : len(data)], CATEGORIES)
    for error in ERRORS:
        assert not (values[f"lost_{error}"] > 1 - values["ap_r_50"] + 1e-12).any()
        for lost in (values[f"lost_{error}"], *(values[f"lost_{error}/{name}"] for name in CATEGORIES)):
            assert not (lost < -1e-12).any()


def _fixing_everything_gives_one(data: list[Image]) -> None:
    found = matched(data)
    fixed = [error_budget.fix(image, ERRORS, 2) for image in found]
    per_class = voc_apr.average_precision(fixed, Variant(), 2).per_class[4]
    # A class all of whose truths are missed has none left: 1 by definition, which `measure` fills in.
    assert np.isnan(per_class).all() or (per_class[~np.isnan(per_class)] == 1).all()
    for image, repaired in zip(found, fixed, strict=True):
        missed = (image.found_by < 0).all(0)
        assert repaired.correct.all()
        assert repaired.truth_counts.tolist() == np.bincount(image.truth_labels[~missed] - 1, minlength=2).tolist()
        assert np.bincount(repaired.labels - 1, minlength=2).tolist() == repaired.truth_counts.tolist()


def _weights_are_repeated_images(data: list[Image], times: list[int]) -> None:
    found = matched(data)
    times = times[: len(data)]
    drawn = [image for image, count in zip(found, times, strict=True) for _ in range(count)]
    weighted = error_budget.measure(found, np.array([times]), CATEGORIES)
    repeated = error_budget.measure(drawn, np.ones((1, len(drawn)), np.int64), CATEGORIES)
    for name in weighted:
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=0, atol=1e-12, err_msg=name)


WEIGHTS = hnp.arrays(np.int64, (4, 3), elements=st.integers(0, 3))
TIMES = st.lists(st.integers(0, 3), min_size=3, max_size=3)
test_agreement, test_agreement_many = few_and_many(_agrees_with_the_slow_one, images())
test_losses, test_losses_many = few_and_many(_never_loses_less_than_nothing, images(), WEIGHTS)
test_everything, test_everything_many = few_and_many(_fixing_everything_gives_one, images())
test_weights, test_weights_many = few_and_many(_weights_are_repeated_images, images(), TIMES)


@FEW
@given(images())
def test_correct_is_what_apr_calls_correct_and_nothing_fixed_is_apr(data: list[Image]) -> None:
    matches = [voc_apr.match_image(*image, Variant(), 2) for image in data]
    for image, match in zip(matched(data), matches, strict=True):
        assert np.array_equal(image.types == error_budget.CORRECT, match.correct[4])
        assert sorted(image.found_by[0][image.found_by[0] >= 0]) == np.flatnonzero(match.correct[4]).tolist()
        as_it_is = error_budget.fix(image, (), 2)
        assert np.array_equal(as_it_is.correct[4], match.correct[4])
        assert np.array_equal(as_it_is.truth_counts, match.truth_counts)


@FEW
@given(images())
def test_the_truth_itself_has_no_error(data: list[Image]) -> None:
    perfect = []
    for truth, _ in data:
        count = len(truth.labels)
        perfect.append((truth, ImageDetections(masks.encode_ids(truth.instances, count), truth.labels, np.ones(count))))
    values = error_budget.measure(matched(perfect), np.ones((1, len(data)), np.int64), CATEGORIES)
    for name, value in values.items():
        if name.startswith(("errors_", "truths_")):
            assert value == 0, name
        elif name.startswith("lost_"):
            assert np.isnan(value) or value == 0, name


@FEW
@given(images())
def test_what_is_stored_has_the_promised_shapes(data: list[Image]) -> None:
    for (truth, detections), image in zip(data, matched(data), strict=True):
        m, n = len(detections.masks), len(truth.labels)
        arrays = [image.labels, image.scores, image.types, image.truth_labels, image.found_by]
        assert [array.shape for array in arrays] == [(m,), (m,), (m,), (n,), (5, n)]
        assert [str(array.dtype) for array in arrays] == ["int64", "float64", "int8", "int64", "int64"]
