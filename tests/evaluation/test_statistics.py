"""Intervals: resampling by weights is resampling, draws are shared between methods, Student's t by table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import statistics, voc_apr
from evaluation.voc_apr import ImageMatches, Variant

AREA, POINTS = Variant(), Variant(integral="11-point")


def image(labels: list[int], scores: list[float], correct: list[int], truth_counts: list[int]) -> ImageMatches:
    rows = np.tile(np.array(correct, np.bool_), (9, 1))
    return ImageMatches(np.array(labels, np.int64), np.array(scores, np.float64), rows, np.array(truth_counts))


@st.composite
def outcomes(draw: st.DrawFn, distinct: bool = False) -> list[ImageMatches]:
    """One to four images of two classes; at most one correct detection per truth; scores in four levels or distinct."""
    numbers = iter(draw(st.permutations(range(24))))
    result = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 5))
        labels = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
        scores = [next(numbers) if distinct else draw(st.integers(0, 3)) for _ in range(count)]
        correct = np.array(draw(st.lists(st.booleans(), min_size=9 * count, max_size=9 * count)), np.bool_)
        correct = correct.reshape(9, count)
        needed = [int(correct[:, [of == label for of in labels]].sum(1).max(initial=0)) for label in (1, 2)]
        truth_counts = np.array([number + draw(st.integers(0, 2)) for number in needed])
        result.append(ImageMatches(np.array(labels, np.int64), np.array(scores, np.float64), correct, truth_counts))
    return result


def written_out(matches: list[ImageMatches], counts: np.ndarray) -> ImageMatches:
    """Every detection as often as its image was drawn, copies side by side: one long image."""
    times = np.repeat(counts, [len(match.labels) for match in matches])
    labels = np.repeat(np.concatenate([match.labels for match in matches]), times)
    scores = np.repeat(np.concatenate([match.scores for match in matches]), times)
    correct = np.repeat(np.concatenate([match.correct for match in matches], axis=1), times, axis=1)
    return ImageMatches(labels, scores, correct, counts @ np.stack([match.truth_counts for match in matches]))


def slow_ap(match: ImageMatches, level: int, label: int, points: bool) -> float:
    """AP of one list by definition, detection by detection."""
    positives = int(match.truth_counts[label - 1])
    if not positives:
        return float("nan")
    mine = [n for n in np.argsort(-match.scores, kind="stable") if match.labels[n] == label]
    curve, right = [], 0
    for seen, number in enumerate(mine, start=1):
        right += int(match.correct[level, number])
        curve.append((right / positives, right / seen))
    if points:
        return sum(max((p for r, p in curve if r >= 0.1 * step), default=0.0) for step in range(11)) / 11
    gains = [number for number, detection in enumerate(mine) if match.correct[level, detection]]
    return sum(max(p for _, p in curve[number:]) for number in gains) / positives


@settings(max_examples=80, deadline=None)
@given(outcomes(), st.data(), st.booleans())
def test_weights_are_copies(matches: list[ImageMatches], data: st.DataObject, points: bool) -> None:
    counts = np.array([[data.draw(st.integers(0, 3)) for _ in matches] for _ in range(2)])
    variant = POINTS if points else AREA
    weighted = voc_apr.weighted_average_precision(matches, counts, variant, 2)
    for row in range(2):
        copies = written_out(matches, counts[row])
        np.testing.assert_allclose(weighted[row], voc_apr.average_precision([copies], variant, 2).per_class, atol=1e-12)
        slow = [[slow_ap(copies, level, label, points) for label in (1, 2)] for level in range(9)]
        np.testing.assert_allclose(weighted[row], slow, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(outcomes(distinct=True), st.data())
def test_without_ties_weights_are_repeated_images(matches: list[ImageMatches], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, 3)) for _ in matches]
    drawn = [match for match, count in zip(matches, counts, strict=True) for _ in range(count)]
    weighted = voc_apr.weighted_average_precision(matches, np.array([counts]), AREA, 2)[0]
    np.testing.assert_allclose(weighted, voc_apr.average_precision(drawn, AREA, 2).per_class, rtol=0, atol=1e-12)


def test_copies_stand_side_by_side_among_equal_scores() -> None:
    # One image, two equal scores, wrong then right, drawn twice: wrong wrong right right of 2 truths.
    # Precision at the end is 2/4 and that is the envelope of both: AP 1/2.
    match = image([1, 1], [0.5, 0.5], [0, 1], [1])
    assert voc_apr.weighted_average_precision([match], np.array([[2]]), AREA, 1)[0, 4, 0] == 0.5


def test_draws_are_counts_and_depend_on_the_seed_alone() -> None:
    counts = statistics.draws(5, 2000, seed=1)
    assert counts.shape == (2000, 5)
    assert (counts.sum(1) == 5).all()
    assert np.array_equal(counts, statistics.draws(5, 2000, seed=1))
    assert not np.array_equal(counts, statistics.draws(5, 2000, seed=2))
    # Each image is left out with probability (4/5)^5 = 0.328; 10,000 counts: standard error below 0.005.
    assert (counts == 0).mean() == pytest.approx(0.8**5, abs=0.02)


def test_a_resample_by_hand() -> None:
    # Image 0: its one truth is found. Image 1: its one truth is missed. Drawn (2, 0): AP 1; (1, 1): 1/2; (0, 2): 0.
    matches = [image([1], [0.9], [1], [1]), image([], [], [], [1])]
    result = statistics.bootstrap(matches, AREA, 1, resamples=500, seed=7)
    expected = statistics.draws(2, 500, seed=7)[:, 0] / 2
    assert np.array_equal(result.means[:, 4], expected)
    assert np.array_equal(result.vol, expected)
    assert (result.low[4], result.high[4]) == (0.0, 1.0)  # a quarter of the resamples lies at either end
    narrow = statistics.bootstrap(matches, AREA, 1, resamples=500, seed=7, confidence=0.4)
    assert (narrow.vol_low, narrow.vol_high) == (0.5, 0.5)  # the middle 40 % lie in the middle half


def test_a_class_that_was_not_drawn_is_skipped() -> None:
    # Image 0 holds class 1, found; image 1 holds class 2, missed. (2, 0): class 1 alone, mean 1; (1, 1): (1 + 0) / 2;
    # (0, 2): class 2 alone, mean 0. Under "zero" the missing class counts as 0: 1/2, 1/2, 0.
    matches = [image([1], [0.9], [1], [1, 0]), image([], [], [], [0, 1])]
    first = statistics.draws(2, 300, seed=0)[:, 0]
    skipped = statistics.bootstrap(matches, AREA, 2, resamples=300)
    assert np.array_equal(skipped.means[:, 0], np.choose(first, [0.0, 0.5, 1.0]))
    counted = statistics.bootstrap(matches, Variant(absent="zero"), 2, resamples=300)
    assert np.array_equal(counted.means[:, 0], np.choose(first, [0.0, 0.5, 0.5]))


def test_a_resample_without_any_instance_is_left_out() -> None:
    # Image 1 has no truth: drawn twice there is no AP. Otherwise the one class is found at precision 1.
    matches = [image([1], [0.9], [1], [1]), image([], [], [], [0])]
    result = statistics.bootstrap(matches, AREA, 1, resamples=300)
    assert np.isnan(result.means[:, 0]).sum() == (statistics.draws(2, 300, seed=0)[:, 0] == 0).sum() > 0
    assert (result.low[0], result.high[0], result.vol_low, result.vol_high) == (1.0, 1.0, 1.0, 1.0)


def test_no_instance_in_any_image_gives_nan() -> None:
    result = statistics.bootstrap([image([1], [0.9], [0], [0])], AREA, 1, resamples=10)
    assert np.isnan([*result.low, *result.high, result.vol_low, result.vol_high]).all()


def many(seed: int, scale: float = 1.0) -> list[ImageMatches]:
    """30 images of three classes; the chance of a correct detection is about ``scale``, less at higher thresholds."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(30):
        luck = rng.random(4)
        correct = luck < scale * np.arange(9, 0, -1)[:, None] / 10
        result.append(ImageMatches(rng.integers(1, 4, 4), rng.integers(0, 8, 4) / 8, correct, np.array([4, 4, 4])))
    return result


def test_the_interval_holds_the_value_and_every_resample_is_an_average_precision() -> None:
    matches = many(0)
    value = voc_apr.average_precision(matches, AREA, 3)
    result = statistics.bootstrap(matches, AREA, 3, resamples=400)
    assert (result.low < value.mean).all()
    assert (value.mean < result.high).all()
    assert result.vol_low < value.vol < result.vol_high
    assert ((result.means >= 0) & (result.means <= 1)).all()
    wide = statistics.bootstrap(matches, AREA, 3, resamples=400, confidence=0.99)
    assert (wide.low <= result.low).all()
    assert (wide.high >= result.high).all()


def test_two_methods_are_compared_on_the_same_images() -> None:
    # The second method has the first one's detections and loses some of the correct ones: worse in every resample.
    better, worse = many(3, 1.0), many(3, 0.6)
    one, two = (statistics.bootstrap(matches, AREA, 3, resamples=300, seed=5) for matches in (better, worse))
    assert (one.vol > two.vol).all()
    # Paired, the difference is surer than two methods on draws of their own.
    other = statistics.bootstrap(worse, AREA, 3, resamples=300, seed=6)
    assert np.std(one.vol - two.vol) < np.std(one.vol - other.vol)


def test_only_the_thresholds_asked_for() -> None:
    whole = statistics.bootstrap(many(1), AREA, 3, resamples=50)
    some = statistics.bootstrap(many(1), AREA, 3, resamples=50, thresholds=(0.7, 0.5))
    assert some.thresholds == (0.7, 0.5)
    assert np.array_equal(some.means, whole.means[:, [6, 4]])
    assert np.isnan(some.vol_low)  # AP^r_vol is the mean over all nine
    with pytest.raises(ValueError, match=r"no matches at threshold 0\.75"):
        statistics.bootstrap(many(1), AREA, 3, thresholds=(0.75,))


def test_the_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statistics.bootstrap(many(2), POINTS, 3, resamples=50)
    monkeypatch.setattr(statistics, "_CHUNK", 7 * sum(len(match.scores) for match in many(2)))
    assert np.array_equal(statistics.bootstrap(many(2), POINTS, 3, resamples=50).means, whole.means)


def test_the_t_interval_by_table() -> None:
    # 1, 2, 3: mean 2, standard deviation 1; t(0.975, 2 degrees of freedom) = 4.302653; 4.302653 / sqrt(3) = 2.484138.
    mean, half = statistics.t_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(2.484138, abs=1e-6)
    # t(0.95, 2) = 2.919986.
    assert statistics.t_interval([1.0, 2.0, 3.0], 0.9)[1] == pytest.approx(2.919986 / 3**0.5, abs=1e-6)


def test_one_seed_has_no_spread() -> None:
    mean, half = statistics.t_interval([0.4])
    assert mean == 0.4
    assert np.isnan(half)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        statistics.t_interval([])
    with pytest.raises(ValueError, match="at least one image"):
        statistics.bootstrap([], AREA, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.bootstrap(many(0), AREA, 3, confidence=95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.t_interval([1.0, 2.0], confidence=95)
