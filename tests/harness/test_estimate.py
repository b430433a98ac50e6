"""Estimates: the arithmetic by hand, and one probe of a real method."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import estimate
from harness.estimate import Line, _line, describe, duration
from harness.plan import Cell, Request, plan, resolve
from harness.settings import TrainSettings
from harness.store import Store
from harness.suite import load_suite, parse_overrides

TINY = ["data.train_images=4", "data.val_images=3", "data.size=64", "train.steps=7", "train.batch_size=2"]


def cell(tmp_path: Path, *overrides: str) -> Cell:
    request = Request(methods=["pull_push_shift"], overrides=parse_overrides([*TINY, *overrides]))
    _, _, settings = resolve(load_suite("shapes"), request)
    (one,) = plan(settings, Store(tmp_path), None)
    return one


def test_a_line_goes_through_both_points_and_never_falls() -> None:
    assert _line([10, 20], [3.0, 5.0]) == Line(1.0, 0.2)
    assert _line([10, 20], [5.0, 3.0]) == Line(3.0, 0.0)
    assert _line([10, 20], [1.0, 4.0]) == Line(0.0, 0.2)  # below 0 without a pixel: through the larger point alone


def test_steps_batches_and_stages_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_training", lambda *_: (Line(1.0, 0.001), Line(0.0, 10.0), 4000))
    monkeypatch.setattr(estimate, "_prediction", lambda *_: Line(0.5, 0.0))
    one = cell(tmp_path, "train.crop=32", "train.then=[{steps = 2, crop = 64}]")
    found = estimate.estimate(one, None, Store(tmp_path))
    assert found.train == pytest.approx(7 * (1 + 0.001 * 2 * 32**2) + 2 * (1 + 0.001 * 2 * 64**2))
    assert found.predict == pytest.approx(3 * 0.5)
    assert found.memory == pytest.approx(estimate._PROCESS + 16_000 + 10 * 2 * 64**2)
    text, seconds = describe(one, None, Store(tmp_path))
    assert text == "train 40 s, network 2 s, 0.6 GB"
    assert seconds == pytest.approx(found.train + found.predict)
    assert describe(one, None, Store(tmp_path), shared=True)[1] == pytest.approx(found.predict)


def test_rows_that_share_a_training_share_its_probe(tmp_path: Path) -> None:
    store, before = Store(tmp_path), estimate._training.cache_info().misses
    assert describe(cell(tmp_path), None, store)[0].startswith("train ")
    text, _ = describe(cell(tmp_path, "pull_push.threshold=1"), None, store, shared=True)
    assert text.startswith("train shared, network")
    assert estimate._training.cache_info().misses == before + 1


def test_a_method_that_cannot_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(estimate, "_training", broken)
    assert describe(cell(tmp_path), None, Store(tmp_path)) == ("unknown: RuntimeError: no such layer", 0.0)


def test_pixels_of_a_recipe(tmp_path: Path) -> None:
    from datasets.shapes import Shapes

    data = Shapes("train", 1, "easy", 64, 0)
    for recipe, pixels in (
        ({"crop": 20}, 400),
        ({}, 64 * 64),
        ({"long_side": 32}, 32 * 32),
        ({"scale": (1.0, 3.0)}, 4 * 64 * 64),
        ({"scale": (1.0, 3.0), "longest": 100}, 100 * 100),
    ):
        assert estimate._training_pixels(data, TrainSettings(**recipe)) == pixels


def test_durations_in_the_unit_that_a_person_would_use() -> None:
    texts = {5.0: "5 s", 119.0: "119 s", 300.0: "5 min", 8000.0: "2 h", 200_000.0: "2 d"}
    assert {seconds: duration(seconds) for seconds in texts} == texts
