"""Intervals: resampling by weights is resampling, draws are shared between methods, Student's t by table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import statistics, voc_apr
from evaluation.statistics import Bootstrap, Measure
from evaluation.voc_apr import ImageMatches, Variant

AREA, POINTS = Variant(), Variant(integral="11-point")


def image(labels: list[int], scores: list[float], correct: list[int], truth_counts: list[int]) -> ImageMatches:
    rows = np.tile(np.array(correct, np.bool_), (9, 1))
    return ImageMatches(np.array(labels, np.int64), np.array(scores, np.float64), rows, np.array(truth_counts))


@st.composite
def outcomes(draw: st.DrawFn) -> list[ImageMatches]:
    """One to four images of two classes; at most one correct detection per truth; scores in four levels."""
    result = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 5))
        labels = draw(st.lists(st.integers(1, 2), min_size=count, max_size=count))
        scores = [draw(st.integers(0, 3)) for _ in range(count)]
        correct = np.array(draw(st.lists(st.booleans(), min_size=9 * count, max_size=9 * count)), np.bool_)
        correct = correct.reshape(9, count)
        needed = [int(correct[:, [of == label for of in labels]].sum(1).max(initial=0)) for label in (1, 2)]
        truth_counts = np.array([number + draw(st.integers(0, 2)) for number in needed])
        result.append(ImageMatches(np.array(labels, np.int64), np.array(scores, np.float64), correct, truth_counts))
    return result


def written_out(matches: list[ImageMatches], counts: np.ndarray) -> ImageMatches:
    """Every image as often as it was drawn, copies side by side: one long image."""
    drawn = [match for match, count in zip(matches, counts, strict=True) for _ in range(count)]
    empty = image([], [], [], [0, 0])
    labels, scores = (np.concatenate([getattr(m, n) for m in (empty, *drawn)]) for n in ("labels", "scores"))
    correct = np.concatenate([match.correct for match in (empty, *drawn)], axis=1)
    return ImageMatches(labels, scores, correct, sum(match.truth_counts for match in (empty, *drawn)))


def apr(matches: list[ImageMatches], variant: Variant, classes: int) -> Measure:
    """AP^r at the nine thresholds ("10" ... "90") and AP^r_vol ("vol")."""
    names = [str(number + 1) for number in range(classes)]

    def measure(counts: np.ndarray) -> dict[str, np.ndarray]:
        found = voc_apr.measure(matches, counts, variant, names)
        return {name.removeprefix("ap_r_"): values for name, values in found.items()}

    return measure


def resampled(matches: list[ImageMatches], variant: Variant, classes: int, **settings: int) -> Bootstrap:
    return statistics.bootstrap(apr(matches, variant, classes), len(matches), **settings)


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


def test_copies_of_an_image_keep_its_order_among_equal_scores() -> None:
    # One image of 1 truth, two equal scores, right then wrong, drawn twice: right wrong right wrong of 2 truths.
    # Precision 1 at recall 1/2 and 2/3 at recall 1: AP 5/6. Side by side (right right wrong wrong) it would be 1.
    match = image([1, 1], [0.5, 0.5], [1, 0], [1])
    assert voc_apr.weighted_average_precision([match], np.array([[2]]), AREA, 1)[0, 4, 0] == pytest.approx(5 / 6)


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
    result = resampled(matches, AREA, 1, resamples=500, seed=7)
    expected = statistics.draws(2, 500, seed=7)[:, 0] / 2
    assert np.array_equal(result.samples["50"], expected)
    assert np.array_equal(result.samples["vol"], expected)
    assert result.values["50"] == result.values["50/1"] == 0.5
    assert result.interval("50") == (0.0, 1.0)  # a quarter of the resamples lies at either end
    assert result.interval("vol", confidence=0.4) == (0.5, 0.5)  # the middle 40 % lie in the middle half


def test_a_class_that_was_not_drawn_is_skipped() -> None:
    # Image 0 holds class 1, found; image 1 holds class 2, missed. (2, 0): class 1 alone, mean 1; (1, 1): (1 + 0) / 2;
    # (0, 2): class 2 alone, mean 0. Under "zero" the missing class counts as 0: 1/2, 1/2, 0.
    matches = [image([1], [0.9], [1], [1, 0]), image([], [], [], [0, 1])]
    first = statistics.draws(2, 300, seed=0)[:, 0]
    skipped = resampled(matches, AREA, 2, resamples=300)
    assert np.array_equal(skipped.samples["10"], np.choose(first, [0.0, 0.5, 1.0]))
    counted = resampled(matches, Variant(absent="zero"), 2, resamples=300)
    assert np.array_equal(counted.samples["10"], np.choose(first, [0.0, 0.5, 0.5]))


def test_a_resample_without_any_instance_is_left_out() -> None:
    # Image 1 has no truth: drawn twice there is no AP. Otherwise the one class is found at precision 1.
    matches = [image([1], [0.9], [1], [1]), image([], [], [], [0])]
    result = resampled(matches, AREA, 1, resamples=300)
    assert np.isnan(result.samples["10"]).sum() == (statistics.draws(2, 300, seed=0)[:, 0] == 0).sum() > 0
    assert result.interval("10") == result.interval("vol") == (1.0, 1.0)


def test_no_instance_in_any_image_gives_nan() -> None:
    result = resampled([image([1], [0.9], [0], [0])], AREA, 1, resamples=10)
    assert np.isnan([result.values["50"], *result.interval("50"), *result.interval("vol")]).all()


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
    result = resampled(matches, AREA, 3, resamples=400)
    assert result.values["vol"] == value.vol
    for row, percent in enumerate(range(10, 100, 10)):
        assert result.values[str(percent)] == value.mean[row]
        assert result.values[f"{percent}/2"] == value.per_class[row, 1]
    for name, samples in result.samples.items():
        low, high = result.interval(name)
        wide_low, wide_high = result.interval(name, confidence=0.99)
        assert wide_low <= low < result.values[name] < high <= wide_high
        assert ((samples >= 0) & (samples <= 1)).all()


def test_two_methods_are_compared_on_the_same_images() -> None:
    # The second method has the first one's detections and loses some of the correct ones: worse in every resample.
    better, worse = many(3, 1.0), many(3, 0.6)
    one, two = (resampled(matches, AREA, 3, resamples=300, seed=5).samples["vol"] for matches in (better, worse))
    assert (one > two).all()
    # Paired, the difference is surer than two methods on draws of their own.
    other = resampled(worse, AREA, 3, resamples=300, seed=6).samples["vol"]
    assert np.std(one - two) < np.std(one - other)


def test_the_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampled(many(2), POINTS, 3, resamples=50)
    entries = sum(len(match.scores) for match in many(2))
    monkeypatch.setattr(statistics, "_CHUNK", 7 * entries)
    parts = resampled(many(2), POINTS, 3, resamples=50, entries=entries)
    for name, samples in whole.samples.items():
        assert np.array_equal(parts.samples[name], samples)


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
        resampled([], AREA, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.percentiles(np.zeros(3), confidence=95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.t_interval([1.0, 2.0], confidence=95)
