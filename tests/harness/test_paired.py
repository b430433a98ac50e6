"""Resampled numbers of two rows, from their matches or from stored samples: the same draws, or a reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_records import metric, record

from evaluation import semantic_iou
from harness import paired, samples
from harness.judged import Judged, save
from harness.paired import Unpaired, from_matches, from_samples
from harness.record import Record, Verdict

RESAMPLES = 30


def cell(folder: Path, row: str, correct: Sequence[int], seed: int = 0, truth: int = 100) -> tuple[Record, Path]:
    """One class, of which ``correct`` of ``truth`` pixels of each image were named; matches and samples are stored."""
    matches = [semantic_iou.ImageMatches(*(np.array([n], np.int64) for n in (one, truth, one))) for one in correct]
    judged = Judged("semantic", "v", {"categories": ["class"]}, [str(i) for i in range(len(correct))], matches, 0)
    place = folder / f"{row}.s{seed}"
    save(place / "semantic.npz", judged)
    samples.save(place, [judged], [judged.resampled(RESAMPLES)])
    one = record(row, seed=seed)
    verdicts = {"semantic": Verdict(version="1", variant="v", instances=0, metrics={"miou": metric(0.5)})}
    return one.model_copy(update={"evaluation": one.evaluation.model_copy(update={"verdicts": verdicts})}), place


def both(*lines: Sequence[tuple[Record, Path]]) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of rows and seeds by either way."""
    places = {one.cell: place for line in lines for one, place in line}
    matches = from_matches([[place / "semantic.npz" for _, place in line] for line in lines], "miou", RESAMPLES)
    cells = [[one for one, _ in line] for line in lines]
    return matches, from_samples(cells, "miou", lambda one: samples.load(places[one.cell]))


def test_both_ways_give_the_same_numbers(tmp_path: Path) -> None:
    first = [cell(tmp_path, "a", (50, 60, 70, 40), seed) for seed in range(2)]
    second = [cell(tmp_path, "b", (55, 65, 75, 45 + seed), seed) for seed in range(2)]
    matches, stored = both(first, second)
    assert matches.shape == stored.shape == (2, 2, RESAMPLES)
    np.testing.assert_allclose(stored, matches, rtol=0, atol=1e-7)
    # The same images in every resample: five pixels of a hundred more, whatever was drawn.
    np.testing.assert_allclose(matches[1, 0] - matches[0, 0], 0.05, atol=1e-12)
    assert np.ptp(matches[0, 0]) > 0


def test_one_image_has_no_spread(tmp_path: Path) -> None:
    matches, stored = both([cell(tmp_path, "a", (50,))], [cell(tmp_path, "b", (60,))])
    assert np.isnan(matches).all()
    assert stored is None


@pytest.mark.parametrize("change", [{"truth": 99}, {"correct": (10, 10)}])
def test_other_images_are_no_pair_by_either_way(tmp_path: Path, change: dict) -> None:
    first, second = cell(tmp_path, "a", (10,) * 4), cell(tmp_path, "b", **{"correct": (10,) * 4, **change})
    with pytest.raises(Unpaired, match=paired.OTHER_IMAGES):
        from_matches([[first[1] / "semantic.npz"], [second[1] / "semantic.npz"]], "miou", RESAMPLES)
    places = {one.cell: place for one, place in (first, second)}
    with pytest.raises(Unpaired, match=paired.OTHER_IMAGES):
        from_samples([[first[0]], [second[0]]], "miou", lambda one: samples.load(places[one.cell]))


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    one, place = cell(tmp_path, "a", (10,) * 4)
    with pytest.raises(Unpaired, match="no such file"):
        from_matches([[place / "semantic.npz"], [tmp_path / "semantic.npz"]], "miou", RESAMPLES)
    with pytest.raises(Unpaired, match="missing or damaged"):
        from_samples([[one], [one]], "miou", lambda _: samples.load(tmp_path))
