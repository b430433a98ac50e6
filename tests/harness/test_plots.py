"""Plots: which points there are, that names lie beside them, and that a picture comes out."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import PRESET, metric, record
from PIL import Image

from harness.measured import Measured
from harness.plots import _darker, _points, _text, place, plot
from harness.suite import Axis, Data, Plot, Row

SPEED = Plot(
    title="AP^r for $1",
    x=Axis(metric="cost.predict.milliseconds", title="ms", log=True),
    y=Axis(metric="ap_r_50", title="AP^r", scale=100),
)
ROWS = {name: Row(method="pull_push", title=name.upper()) for name in "abcd"}
FRAME = (0.0, 0.0, 1000.0, 600.0)


def test_points_are_finished_rows_with_both_numbers() -> None:
    records = [
        record("a", 0.5, milliseconds=(8.0, 1.0, 1.0)),
        record("b", 0.5, status="failed"),
        record("c", math.nan, half=math.nan, metrics={"ap_r_50": metric(math.nan)}),
        record("d", 0.5, milliseconds=(0.0, 0.0, 0.0)),  # has no place on a logarithmic axis
    ]
    (point,) = _points(SPEED, ROWS, PRESET, records)
    assert (point.label, point.method, point.data) == ("A", "pull_push", "easy")
    assert point.x.value == 10.0
    assert (point.y.low, point.y.value, point.y.high) == pytest.approx((40, 50, 60))
    linear = SPEED.model_copy(update={"x": SPEED.x.model_copy(update={"log": False})})
    assert [one.label for one in _points(linear, ROWS, PRESET, records)] == ["A", "D"]


def test_rows_and_data_are_those_of_the_plot() -> None:
    preset = PRESET.model_copy(update={"data": {"easy": Data(dataset="shapes"), "hard": Data(dataset="shapes")}})
    records = [record(name, data=data) for name in "ab" for data in ("easy", "hard")]
    chosen = SPEED.model_copy(update={"rows": ("b", "c"), "data": ("hard",)})
    assert [(one.label, one.data) for one in _points(chosen, ROWS, preset, records)] == [("B", "hard")]
    assert len(_points(SPEED, ROWS, preset, records)) == 4


def test_one_point_is_no_plot() -> None:
    assert plot(SPEED, ROWS, PRESET, []) is None
    assert plot(SPEED, ROWS, PRESET, [record("a")]) is None


@pytest.mark.parametrize("number", [2, 20])
def test_a_picture_comes_out(number: int) -> None:
    """With names at the points, and, with many points, with numbers; equal values must not break the axes."""
    rows = {f"r{i}": Row(method=f"m{i % 3}", title=f"row^{i} $") for i in range(number)}
    preset = PRESET.model_copy(update={"data": {"easy": Data(dataset="shapes"), "hard": Data(dataset="shapes")}})
    records = [record(name, 0.5, data=data) for name in rows for data in preset.data]
    beside = record("r0", metrics={"ap_r_50": metric(0.5, 0.6, 0.7)})  # a percentile interval that misses its value
    records = [beside, *records[1:]]
    picture = Image.open(io.BytesIO(plot(SPEED, rows, preset, records)))
    assert picture.format == "PNG"
    assert picture.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert picture.width > picture.height > 700
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_intervals_are_drawn() -> None:
    times = {"a": 5.0, "b": 50.0}

    def blue(half: float) -> int:
        records = [record(name, 0.5, half=half, milliseconds=(time, 0.0, 0.0)) for name, time in times.items()]
        pixels = np.asarray(Image.open(io.BytesIO(plot(SPEED, ROWS, PRESET, records))).convert("RGB")).astype(int)
        return int((abs(pixels - (0x00, 0x72, 0xB2)).max(axis=-1) < 30).sum())

    assert blue(0.2) > blue(math.nan) + 500
    assert blue(math.nan) > 100


def test_labels_take_the_first_free_place() -> None:
    size = (100.0, 10.0)
    ((left, bottom),) = place([(500.0, 300.0)], [size], [], FRAME)
    assert left > 500
    assert bottom == 295  # right of the point, at its height
    ((left, _),) = place([(500.0, 300.0)], [size], [(520.0, 200.0, 530.0, 400.0)], FRAME)
    assert left + 100 < 500  # something stands on the right
    ((left, _),) = place([(950.0, 300.0)], [size], [], FRAME)
    assert left + 100 < 950  # the frame ends on the right


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(300, 700), st.floats(200, 400)), min_size=2, max_size=5))
def test_few_labels_never_overlap_or_leave_the_frame(points: list[tuple[float, float]]) -> None:
    sizes = [(90.0, 12.0)] * len(points)
    corners = place(points, sizes, [], FRAME)
    for (x, y), (u, v) in itertools.combinations(corners, 2):
        assert abs(x - u) >= 90 - 1e-9 or abs(y - v) >= 12 - 1e-9
    assert all(0 <= x <= 910 and 0 <= y <= 588 for x, y in corners)


def test_text_is_no_formula_but_for_its_index() -> None:
    assert _text("AP^r for $1") == r"AP$^{r}$ for \$1"


def test_letters_are_darker_than_markers() -> None:
    assert _darker("#FF8000") == pytest.approx((0.7, 0.7 * 128 / 255, 0.0))


def test_measured_values_scale_with_their_intervals() -> None:
    assert Measured(0.5, 0.25, 1.0).scaled(100) == Measured(50, 25, 100)
