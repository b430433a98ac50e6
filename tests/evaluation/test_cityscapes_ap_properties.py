"""Cityscapes AP: what must hold for any input. The official evaluator is in test_cityscapes_ap_official.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import cityscapes_ap, masks
from evaluation.cityscapes_ap import CLASSES, Distances, ImageDetections, ImageMatches, ImageTruth

SIZE = (30, 40)
Image = tuple[ImageTruth, ImageDetections]
many = settings(max_examples=40, deadline=None)


def image(rng: np.random.Generator) -> Image:
    """Boxes of ids on void or road; what is found is such a box, bent or not, or any other."""

    def box() -> tuple[slice, slice]:
        top, left = int(rng.integers(20)), int(rng.integers(30))
        return slice(top, top + int(rng.integers(4, 20))), slice(left, left + int(rng.integers(4, 20)))

    ids = np.full(SIZE, rng.choice([0, 7]), np.int32)
    for _ in range(rng.integers(1, 6)):
        ids[box()] = rng.choice([24001, 24002, 26001, 26002, 26, 24, 4, -1])
    dense, labels = np.zeros((rng.integers(0, 7), *SIZE), np.bool_), []
    for mask in dense:
        number = rng.choice(np.unique(ids))
        mask |= ids == number
        mask[box()] = rng.integers(2)
        labels.append(number // 1000 if number >= 1000 else rng.choice([24, 26, 33]))
    present = np.unique(ids)
    metres = rng.choice([20.0, 50.0, 70.0, 100.0, 120.0], len(present))
    distances = Distances(present, metres, rng.choice([0.2, 0.5, 0.9], len(present)))
    found = ImageDetections(masks.encode(dense), np.array(labels, np.int64), rng.integers(0, 4, len(labels)) / 4)
    return ImageTruth(ids, distances), found


images = st.integers(0, 2**32 - 1).map(
    lambda seed: [image(rng) for rng in np.random.default_rng(seed).spawn(1 + seed % 3)]
)


def matched(data: list[Image]) -> list[ImageMatches]:
    return [cityscapes_ap.match_image(*one) for one in data]


def ap(data: list[Image]) -> np.ndarray:
    return cityscapes_ap.average_precision(matched(data), np.ones((1, len(data)), np.int64))[0]


@many
@given(images, st.integers(0, 2**32 - 1))
def test_weights_are_copies(data: list[Image], seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 4, (3, len(data)))
    matches = matched(data)
    weighted = cityscapes_ap.measure(matches, counts)
    for row, times in enumerate(counts):
        copies = [one for one, number in zip(matches, times, strict=True) for _ in range(number)]
        written_out = cityscapes_ap.measure(copies, np.ones((1, len(copies)), np.int64))
        for name, values in weighted.items():
            np.testing.assert_allclose(values[row], written_out[name][0], rtol=0, atol=1e-12, err_msg=name)


@many
@given(images, st.randoms())
def test_no_order_matters(data: list[Image], random) -> None:
    # Not even that of equal scores, of which there are many.
    shuffled = []
    for truth, found in random.sample(data, len(data)):
        order = random.sample(range(len(found.masks)), len(found.masks))
        listed = ImageDetections([found.masks[n] for n in order], found.label_ids[order], found.scores[order])
        shuffled.append((truth, listed))
    np.testing.assert_allclose(ap(shuffled), ap(data), rtol=0, atol=1e-12)


@many
@given(images)
def test_only_the_order_of_scores_matters(data: list[Image]) -> None:
    stretched = [(truth, replace(found, scores=np.exp(3 * found.scores) - 7)) for truth, found in data]
    np.testing.assert_array_equal(ap(stretched), ap(data))


@many
@given(images)
def test_the_truth_itself_scores_one(data: list[Image]) -> None:
    perfect = []
    for truth, _ in data:
        numbers = [number for number in np.unique(truth.ids) if number >= cityscapes_ap.FIRST_OBJECT]
        dense = np.array([truth.ids == number for number in numbers], np.bool_).reshape(-1, *SIZE)
        labels = np.array(numbers, np.int64) // cityscapes_ap.FIRST_OBJECT
        perfect.append((truth, ImageDetections(masks.encode(dense), labels, np.ones(len(numbers)))))
    found = ap(perfect)
    assert ((found == 1) | np.isnan(found)).all()
    counts = sum(match.truth_counts for match in matched(perfect))
    np.testing.assert_array_equal(np.isnan(found), np.repeat(counts[:, None] == 0, 10, axis=1))


@many
@given(images)
def test_matches_are_small_numbers_that_add_up(data: list[Image]) -> None:
    for (truth, found), match in zip(data, matched(data), strict=True):
        real = masks.areas(found.masks) > 0
        np.testing.assert_array_equal(match.scores, found.scores[real])
        assert np.isin(match.outcome, [-1, 0, 1]).all()
        for column, label in enumerate(CLASSES):  # each object is found at most once
            correct = (match.outcome[..., match.label_ids == label] == 1).sum(2)
            assert (correct <= match.truth_counts[:, None, column]).all()
        assert (match.truth_counts[0] >= match.truth_counts[1]).all()
        assert (match.truth_counts[1] >= match.truth_counts[2]).all()
        assert match.truth_counts[0].sum() == sum(
            number >= 1000 and (truth.ids == number).sum() >= 100 for number in np.unique(truth.ids)
        )


@many
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_runs_are_masks(dense: np.ndarray) -> None:
    # One run for each pixel: adjoining runs are one.
    pixels = np.flatnonzero(dense.T)
    assert masks.encode_runs(pixels, pixels + 1, dense.shape) == masks.encode(dense[None])[0]


@many
@given(
    hnp.arrays(np.int32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([0, 3, 24, 25001]))
)
def test_maps_of_any_shape_are_taken_apart(ids: np.ndarray) -> None:
    # A small object, a group and void, each found exactly: all is dropped, which one wrong pixel in a run would change.
    dense = np.stack([ids == 25001, ids == 24, np.isin(ids, [0, 3])])
    found = ImageDetections(masks.encode(dense), np.array([25, 24, 26]), np.ones(3))
    match = cityscapes_ap.match_image(ImageTruth(ids), found)
    assert len(match.scores) == dense.any((1, 2)).sum()
    assert (match.outcome == -1).all()
    assert not match.truth_counts.any()
