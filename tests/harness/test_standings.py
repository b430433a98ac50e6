"""Which row is the best, and which are significantly different from it; worked on records and samples made by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import AP, metric, record

from harness import paired
from harness.measured import is_cost
from harness.names import UsageError
from harness.record import Record
from harness.samples import Samples
from harness.standings import BEST, GROUND_TRUTH, NOT_SIGNIFICANT, Standing, Standings, hold, notes, standings
from harness.suite import Column, load_suite, suite_names

LOWEST = AP.model_copy(update={"best": "lowest"})
STILL = np.zeros(1000)  # no image matters


class Made:
    """Rows of cells: ``add(row, values, samples, ...)`` by seed; ``read`` gives a record's samples."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Record]] = {}
        self.samples: dict[str, Samples] = {}

    def add(
        self,
        row: str,
        values: Sequence[float],
        samples: Sequence[np.ndarray] | np.ndarray = STILL,
        key: str = "key",
        seeds: Sequence[int] | None = None,
        config: Mapping[str, object] | None = None,
    ) -> Made:
        """``samples``: of each seed, around its value."""
        for place, value in enumerate(values):
            one = record(row, value, seed=place if seeds is None else seeds[place])
            changed = dataclasses.replace(one.settings, config=dict(config or {}))
            self.rows.setdefault(row, []).append(one.model_copy(update={"settings": changed}))
            around = samples[place] if np.ndim(samples) == 2 else samples
            self.samples[one.cell] = Samples({"voc": key}, {"ap_r_50": 0}, (value + around)[None].astype(np.float32))
        return self

    def read(self, one: Record) -> Samples:
        if one.cell not in self.samples:
            raise UsageError("damaged")
        return self.samples[one.cell]

    def found(self, column: Column = AP) -> Standings:
        return standings(self.rows, column, self.read)


def test_three_seeds_by_hand() -> None:
    made = Made().add("a", (0.5, 0.6, 0.7)).add("b", (0.4, 0.55, 0.6))
    found = made.found().rows
    # Differences -0.1, -0.05, -0.1: mean -0.08333, deviation 0.028868; t of 2 degrees at 95 % is 4.30265:
    # 4.30265 x 0.028868 / sqrt(3) = 0.071711.
    effect = found["b"].difference
    assert (effect.low, effect.value, effect.high) == pytest.approx((-0.155044, -0.083333, -0.011622), abs=1e-6)
    assert (found["b"].significant, found["b"].sign) == (True, "")
    assert (found["a"].is_best, found["a"].sign, found["a"].significant) == (True, BEST, None)
    assert found["a"].difference.value == 0.0
    # With a third row the error is halved: t at 97.5 % is 6.20535, and 0.10342 is more than 0.08333.
    found = made.add("c", (0.0, 0.0, 0.0)).found().rows
    assert found["b"].difference.high == pytest.approx(0.020090, abs=1e-6)
    assert (found["b"].significant, found["b"].sign) == (False, NOT_SIGNIFICANT)
    assert found["c"].significant is True


def test_one_seed_has_the_interval_over_images_and_a_warning() -> None:
    spread = np.linspace(-0.1, 0.1, len(STILL))
    found = Made().add("a", [0.5]).add("b", [0.45], spread).found()
    effect = found.rows["b"].difference
    assert (effect.low, effect.value, effect.high) == pytest.approx((-0.145, -0.05, 0.045), abs=1e-3)
    assert found.rows["b"].sign == NOT_SIGNIFICANT
    assert paired.ONE_SEED in found.notes
    assert Made().add("a", [0.5], spread).add("b", [0.45], spread).found().rows["b"].significant is True  # shared


def test_the_lowest_may_be_the_best() -> None:
    found = Made().add("a", [0.5]).add("b", [0.4]).found(LOWEST).rows
    assert (found["a"].difference.value, found["a"].significant) == (pytest.approx(0.1), True)
    assert found["b"].sign == BEST


SHARES = st.floats(0.0, 1.0, width=32)
SEEDS = st.integers(1, 3)


@st.composite
def rows(draw: st.DrawFn, number: int) -> list[tuple[list[float], np.ndarray]]:
    """Values and samples of ``number`` rows over some seeds."""
    seeds, generator = draw(SEEDS), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [
        (draw(st.lists(SHARES, min_size=seeds, max_size=seeds)), generator.normal(0, 0.05, (seeds, 40)))
        for _ in range(number)
    ]


@given(rows(1))
@settings(max_examples=50, deadline=None)
def test_identical_rows_are_never_significant(row: list[tuple[list[float], np.ndarray]]) -> None:
    found = Made().add("a", *row[0]).add("b", *row[0]).found().rows
    assert {one.significant for one in found.values()} == {False}
    assert {one.sign for one in found.values()} == {NOT_SIGNIFICANT}  # nobody is the best


@given(rows(1), st.floats(1e-4, 0.5), SEEDS)
@settings(max_examples=50, deadline=None)
def test_a_constant_shift_is_always_significant(
    row: list[tuple[list[float], np.ndarray]], shift: float, others: int
) -> None:
    values, around = row[0]
    made = Made().add("best", values, around)
    for number in range(others):
        made.add(f"row {number}", [value - shift for value in values], around)
    found = made.found().rows
    assert found["best"].is_best
    assert all(one.significant for name, one in found.items() if name != "best")


@given(rows(2))
@settings(max_examples=50, deadline=None)
def test_the_difference_is_antisymmetric(pair: list[tuple[list[float], np.ndarray]]) -> None:
    made = Made().add("a", *pair[0]).add("b", *pair[1])
    highest, lowest = made.found().rows, made.found(LOWEST).rows
    (one,) = [found.difference for found in highest.values() if not math.isnan(found.difference.low)]
    (two,) = [found.difference for found in lowest.values() if not math.isnan(found.difference.low)]
    if np.mean(pair[0][0]) != np.mean(pair[1][0]):
        assert (one.value, one.low, one.high) == pytest.approx((-two.value, -two.high, -two.low), abs=1e-9)
    assert {found.significant for found in highest.values()} == {found.significant for found in lowest.values()}


@given(rows(4), st.permutations("abcd"))
@settings(max_examples=50, deadline=None)
def test_nothing_depends_on_the_order_of_rows(four: list[tuple[list[float], np.ndarray]], order: Sequence[str]) -> None:
    four[1] = four[0]  # a tie
    made = Made()
    for name, row in zip("abcd", four, strict=True):
        made.add(name, *row)
    expected = made.found()
    made.rows = {name: made.rows[name] for name in order}
    found = made.found()
    assert {name: repr(one) for name, one in found.rows.items()} == {n: repr(o) for n, o in expected.rows.items()}
    assert found.notes == expected.notes


def test_the_row_that_is_truly_best_is_seldom_told_apart() -> None:
    """Of five equal rows one looks best by luck; the first is told apart from it in no more than 5 % of such tables."""
    generator, wrong = np.random.default_rng(0), 0
    for _ in range(300):
        scores = generator.normal(0.5, 0.1, (5, 80)) + generator.normal(0, 0.3, 80)
        counts = generator.multinomial(80, np.full(80, 1 / 80), size=400)
        made = Made()
        for name, row in zip("abcde", scores, strict=True):
            made.add(name, [row.mean()], row @ counts.T / 80 - row.mean())
        wrong += made.found().rows["a"].significant is True
    assert wrong / 300 <= 0.09  # 0.05, and three standard deviations of a share


# Who is compared.


def test_rows_that_use_the_ground_truth_are_neither_the_best_nor_compared() -> None:
    made = Made().add("a", [0.5]).add("b", [0.4]).add("c", [0.9], config={"oracle": "semantic"})
    found = made.add("d", [0.95], config={"oracle": "none", "scorer": "oracle_iou"}).found()
    assert found.rows.keys() == {"a", "b"}
    assert found.rows["a"].sign == BEST
    assert GROUND_TRUTH in found.notes


def test_an_ablation_of_rows_with_one_ground_truth_is_compared() -> None:
    made = Made().add("a", [0.5], config={"oracle": "semantic"}).add("b", [0.4], config={"oracle": "semantic"})
    assert made.found().rows["a"].sign == BEST
    assert GROUND_TRUTH not in made.found().notes
    assert made.add("c", [0.3], config={"oracle": "seeds"}).found().rows == {}
    assert made.add("d", [0.2]).found().rows == {}  # the one row without ground truth has nothing to stand beside


def test_seeds_are_those_that_all_rows_have() -> None:
    made = Made().add("a", (0.5, 0.9), seeds=(0, 1)).add("b", (0.6, 0.1), seeds=(0, 2))
    found = made.found()
    assert found.rows["b"].sign == BEST  # by seed 0, although the mean of all that a has is higher
    assert "compared over the seeds that all rows have: 0" in found.notes
    apart = Made().add("a", [0.5], seeds=[0]).add("b", [0.6], seeds=[1]).found().rows
    assert {one.reason for one in apart.values()} == {"there is no seed that all rows have"}


def test_a_row_without_the_number_and_a_row_alone_are_not_compared() -> None:
    made = Made().add("a", [0.5]).add("b", [math.nan])
    assert made.found().rows == {}
    made.add("c", [0.4])
    assert made.found().rows.keys() == {"a", "c"}


def test_rows_of_other_images_have_no_sign_and_a_reason() -> None:
    made = Made().add("a", [0.5]).add("b", [0.4]).add("c", [0.3], key="other").add("d", [0.2])
    del made.samples[made.rows["d"][0].cell]
    found = made.found().rows
    assert {row: one.sign for row, one in found.items()} == {"a": BEST, "b": "", "c": "", "d": ""}
    assert (found["c"].significant, found["c"].reason) == (None, paired.OTHER_IMAGES)
    assert found["d"].reason == "damaged"
    # Where the best itself cannot be paired, nobody has a sign.
    found = Made().add("a", [0.5], key="other").add("b", [0.4]).add("c", [0.3]).found().rows
    assert "a" not in found
    assert {one.sign for one in found.values()} == {""}


def test_samples_of_another_number_or_of_no_kind_are_no_pair() -> None:
    made = Made().add("a", [0.5]).add("b", [0.4])
    for cell, one in made.samples.items():
        made.samples[cell] = dataclasses.replace(one, lines={"ap_r_70": 0})
    assert made.found().rows["b"].reason == "no samples of ap_r_50 are stored"
    for cell, one in made.samples.items():
        made.samples[cell] = dataclasses.replace(one, judged={})
    assert made.found().rows["b"].reason == paired.OTHER_IMAGES


def test_without_resamples_seeds_alone_decide() -> None:
    none = np.zeros(0)
    made = Made().add("a", (0.5, 0.6, 0.7), none).add("b", (0.1, 0.2, 0.31), none)
    assert made.found().rows["b"].significant is True
    one = Made().add("a", [0.5], none).add("b", [0.1], none).found().rows
    assert (one["b"].significant, one["b"].reason) == (None, paired.NO_INTERVAL)


def test_thin_tails_are_told() -> None:
    made = Made()
    for number in range(6):
        made.add(f"row {number}", [0.1 * number])
    assert not any("rough" in note for note in made.found().notes)  # 5 differences of 1,000 resamples: 5 beyond each
    note = next(note for note in made.add("more", [0.7]).found().notes if "rough" in note)
    assert "6 differences at once" in note
    assert "evaluate.resamples = 1200" in note


def test_differences_below_what_is_stored_are_none() -> None:
    assert Made().add("a", [0.5]).add("b", [0.5 - 1e-8]).found().rows["b"].significant is False


def test_columns_are_held_by_data_where_they_have_a_best() -> None:
    made = Made().add("a", [0.5]).add("b", [0.4])
    plain = AP.model_copy(update={"best": "", "metric": "ap_r_70"})
    columns = [AP, plain, Column(metric="cost.predict.fps", title="fps")]
    assert hold({"easy": made.rows, "hard": {}}, columns, made.read).keys() == {
        ("ap_r_50", "easy"),
        ("ap_r_50", "hard"),
    }


def test_reasons_are_told_once_with_the_rows_titles() -> None:
    failed = Standing(reason="damaged")
    compared = {("x", "easy"): Standings({"a": failed, "b": failed}, ("n",)), ("y", "easy"): Standings({"a": failed})}
    assert notes(compared, {"a": "A", "b": "B"}) == ["n", "not compared with the best: A, B: damaged"]


# The suites.


@pytest.mark.parametrize("name", suite_names())
def test_suites_call_best_only_what_is(name: str) -> None:
    for table in load_suite(name).tables.values():
        for column in table.columns:
            if column.metric.startswith(("lost_", "errors_", "truths_", "proposals@", "ods_")):
                assert column.best == "", column.metric
            elif not is_cost(column.metric):
                assert column.best == "highest", column.metric


def test_a_number_that_another_kind_has_is_paired_by_that_kind() -> None:
    made = Made().add("a", [0.5]).add("b", [0.4])
    for row in made.rows:
        verdict = made.rows[row][0].evaluation.verdicts["voc"]
        other = verdict.model_copy(update={"metrics": {"miou": metric(0.5)}})
        verdicts = {"voc": verdict, "semantic": other}
        evaluation = made.rows[row][0].evaluation.model_copy(update={"verdicts": verdicts})
        made.rows[row][0] = made.rows[row][0].model_copy(update={"evaluation": evaluation})
        cell = made.rows[row][0].cell
        keys = {"voc": row, "semantic": "key"}  # other images by voc
        made.samples[cell] = Samples(keys, {"miou": 0}, np.full((1, 5), 0.5, np.float32))
    column = AP.model_copy(update={"metric": "miou"})
    assert {one.sign for one in made.found(column).rows.values()} == {NOT_SIGNIFICANT}
