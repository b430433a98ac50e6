"""Numbers of records: over seeds, with intervals, and costs; worked on records made by hand."""

from __future__ import annotations

import math

import pytest
from made_records import PRESET, metric, record

from harness.measured import COSTS, Measured, cost, lines, measured
from harness.names import UsageError
from harness.suite import Data, Row


def test_one_seed_has_the_interval_over_images_as_it_is() -> None:
    lopsided = record("a", metrics={"ap_r_50": metric(0.5, 0.3, 0.55)})
    assert measured([lopsided], "ap_r_50") == Measured(0.5, 0.3, 0.55)
    assert measured([lopsided], "ap_r_50").half == pytest.approx(0.125)


def test_several_seeds_have_the_interval_over_seeds() -> None:
    # 0.4, 0.5, 0.6: mean 0.5, deviation 0.1; t for 95 % with 2 degrees of freedom is 4.3027; 4.3027 x 0.1 / sqrt(3).
    found = measured([record("a", value, seed=seed) for seed, value in enumerate((0.4, 0.5, 0.6))], "ap_r_50")
    assert (found.low, found.value, found.high) == pytest.approx((0.25159, 0.5, 0.74841), abs=1e-5)
    assert found.deviation == pytest.approx(0.1)
    assert found.scaled(100).deviation == pytest.approx(10.0)
    assert math.isnan(measured([record("a")], "ap_r_50").deviation)


def test_a_number_without_interval_or_without_value() -> None:
    one = record("a", metrics={"ap_r_50/cat": metric(0.3), "ap_r_50/dog": metric(math.nan)})
    assert measured([one], "ap_r_50/cat").value == 0.3
    assert math.isnan(measured([one], "ap_r_50/cat").half)
    assert math.isnan(measured([one], "ap_r_50/dog").value)
    assert math.isnan(measured([one], "ap_r_50/cow").value)
    assert math.isnan(measured([one, one], "ap_r_50/cow").value)


@pytest.mark.parametrize(
    ("parts", "milliseconds"),
    [
        ((5.0, 3.0, 2.0), 10.0),
        ((5.0, math.nan, 0.0), 5.0),  # no grouping: Mask R-CNN
        ((math.nan, math.nan, math.nan), math.nan),
    ],
)
def test_milliseconds_add_up_and_fps_are_their_inverse(parts: tuple[float, ...], milliseconds: float) -> None:
    one = record("a", milliseconds=parts)
    assert cost(one, "cost.predict.milliseconds") == pytest.approx(milliseconds, nan_ok=True)
    assert cost(one, "cost.predict.fps") == pytest.approx(1000 / milliseconds, nan_ok=True)


def test_no_time_at_all_is_no_speed() -> None:
    assert math.isnan(cost(record("a", milliseconds=(0.0, 0.0, 0.0)), "cost.predict.fps"))


def test_costs_of_several_seeds_are_their_mean_without_interval() -> None:
    found = measured(
        [record("a", seed=i, milliseconds=(t, 0.0, 0.0)) for i, t in enumerate((10.0, 20.0))], "cost.predict.fps"
    )
    assert found.value == pytest.approx(75)  # of 100 and 50 images a second
    assert math.isnan(found.half)


def test_every_cost_is_a_number_and_others_are_named() -> None:
    one = record("a", milliseconds=(5.0, 3.0, 2.0))
    assert all(math.isfinite(cost(one, name)) for name in COSTS)
    assert {"cost.train.seconds", "cost.train.parameters", "cost.predict.network_ms"} <= set(COSTS)
    with pytest.raises(UsageError, match=r"unknown cost 'cost.predict.fsp'. Did you mean cost.predict.fps"):
        cost(one, "cost.predict.fsp")
    assert math.isnan(cost(one.model_copy(update={"train": None}), "cost.train.seconds"))


def test_lines_are_rows_with_the_data_that_are_shown() -> None:
    everywhere, hard = Row(method="m", title="A"), Row(method="m", title="B", data=("hard",))
    rows = {"a": everywhere, "b": hard}
    preset = PRESET.model_copy(update={"data": {"easy": Data(dataset="shapes"), "hard": Data(dataset="shapes")}})
    assert list(lines(rows, (), preset, ())) == [("a", everywhere, ["easy", "hard"]), ("b", hard, ["hard"])]
    assert list(lines(rows, ("b", "a"), preset, ("hard",))) == [("b", hard, ["hard"]), ("a", everywhere, ["hard"])]
    assert list(lines(rows, (), preset, ("easy",))) == [("a", everywhere, ["easy"])]
    assert list(lines(rows, (), preset, ("another preset's",))) == []
