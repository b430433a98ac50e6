"""What a table's cells say: intervals, what papers report, verdicts; worked on records made by hand."""

from __future__ import annotations

import math

import pytest

from harness.names import UsageError
from harness.record import Environment, Evaluation, Metric, PredictCost, Provenance, Record, TrainCost, Verdict
from harness.suite import (
    Column,
    Data,
    EvaluateSettings,
    PredictSettings,
    Preset,
    Reported,
    ReportedRow,
    Row,
    Settings,
    Table,
    TrainSettings,
    load_suite,
    suite_names,
)
from harness.tables import Measured, draw, judge, measured, reported_value

AP = Column(metric="ap_r_50", title="AP", scale=100)
PAPER = Reported(
    file="instancenet",
    where={"table": "1", "system": "InstanceNet, semantics=DeepLabv3+", "setting": "center-shift"},
    caption="COCO AP",
)
HERE = Environment(
    commit="abc", dirty=False, python="3", packages={"torch": "2"}, machine="m", processor="p", cores=2, gpu=""
)
PRESET = Preset(description="quick", data={"easy": Data(dataset="shapes")})


def record(row: str, value: float, low: float = 0.4, high: float = 0.6, seed: int = 0, status: str = "ok") -> Record:
    settings = Settings(
        "shapes", "quick", row, "pull_push", {}, "easy", "shapes", {}, seed,
        TrainSettings(), PredictSettings(), EvaluateSettings(),
    )  # fmt: skip
    metric = Metric(value=value, low=low, high=high)
    return Record(
        cell=settings.cell,
        status=status,
        reason="" if status == "ok" else "out of " + "luck " * 30,
        settings=settings,
        evaluation=Evaluation(
            images=4, confidence=0.95,
            verdicts={
                "voc": Verdict(version="1", variant="area/mnc/count/nan", instances=9, metrics={"ap_r_50": metric}),
            },
        ),
        train=TrainCost(
            seconds=12.4, steps=3, parameters=10, peak_memory=10**9, losses={}, weights_digest="", environment=HERE
        ),
        predict=PredictCost(
            seconds=1.0, images=4, network_ms=5.0, grouping_ms=float("nan"), scoring_ms=0.1, peak_memory=1,
            environment=HERE,
        ),
        provenance=Provenance(
            environment=HERE, train_fingerprint="t", val_fingerprint="v", keys={}, finished="",
        ),
    )  # fmt: skip


def body(rows: dict[str, Row], records: list[Record], **table: object) -> dict[str, tuple[str, ...]]:
    drawn = draw(Table(title="T", columns=(AP,), **table), rows, PRESET, records)
    return {line[0]: line[1:] for line in drawn.body}


def test_one_seed_shows_the_interval_over_images() -> None:
    cells = body({"a": Row(method="pull_push", title="A")}, [record("a", 0.5)])
    assert cells["A"] == ("50.0 ± 10.0", "1", "n/a", "no reported value")


def test_several_seeds_show_the_interval_over_seeds() -> None:
    # 0.4, 0.5, 0.6: mean 0.5, deviation 0.1; t for 95 % with 2 degrees of freedom is 4.3027; 4.3027 x 0.1 / sqrt(3).
    found = measured([record("a", value, seed=seed) for seed, value in enumerate((0.4, 0.5, 0.6))], "ap_r_50")
    assert found.value == pytest.approx(0.5)
    assert found.half == pytest.approx(0.24841, abs=1e-5)


def test_paper_stands_beside_and_is_judged() -> None:
    rows = {"a": Row(method="pull_push", title="A", reported=PAPER)}  # the report has 24.9
    assert body(rows, [record("a", 0.26)])["A"][2:] == ("24.9 COCO AP", "reproduced (+1.1)")
    assert body(rows, [record("a", 0.36)])["A"][2:] == ("24.9 COCO AP", "not reproduced (+11.1)")
    other = {"a": Row(method="pull_push", title="A", reported=PAPER, not_comparable="other data")}
    assert body(other, [record("a", 0.26)])["A"][3] == "not comparable: other data"


def test_other_images_than_the_official_split_are_not_comparable() -> None:
    rows = {"a": Row(method="pull_push", title="A", reported=PAPER)}
    preset = Preset(description="quick", data={"easy": Data(dataset="voc", official_images=1449)})
    drawn = draw(Table(title="T", columns=(AP,)), rows, preset, [record("a", 0.249)])
    assert drawn.body[0][-1] == "not comparable: 4 images, not the official 1449"


def test_numbers_that_do_not_exist_are_null_in_the_file() -> None:
    one = record("a", math.nan)
    text = one.model_dump_json()
    assert "NaN" not in text
    read = Record.model_validate_json(text)
    assert math.isnan(read.evaluation.find("ap_r_50")[1].value)
    assert math.isnan(read.predict.grouping_ms)


def test_a_difference_within_the_interval_is_reproduced() -> None:
    # 24.9 against 26.0 +- 1.0 differs by 1.1, against 26.0 +- 1.2 it is within.
    assert judge(Measured(0.26, 0.010), 24.9, "", AP) == "not reproduced (+1.1)"
    assert judge(Measured(0.26, 0.012), 24.9, "", AP) == "reproduced (+1.1)"
    assert judge(Measured(0.26, math.nan), 24.9, "", AP) == "not reproduced (+1.1)"


def test_confidence_and_machines_are_those_of_the_records() -> None:
    here = record("a", 0.5)
    there = here.model_copy(
        update={
            "evaluation": here.evaluation.model_copy(update={"confidence": 0.5}),
            "train": here.train.model_copy(update={"environment": HERE.model_copy(update={"gpu": "a GPU"})}),
        }
    )
    drawn = draw(Table(title="T", columns=(AP,)), {}, PRESET, [here, there])
    notes = "\n".join(drawn.footnotes)
    assert "half of the 95 % interval" in notes
    assert "half of the 50 % interval" in notes
    assert "ran on p, 2 cores; torch 2; commit abc" in notes
    assert "ran on a GPU; torch 2; commit abc" in notes


def test_failed_and_missing_cells_are_rows() -> None:
    rows = {"a": Row(method="pull_push", title="A"), "b": Row(method="pull_push", title="B")}
    cells = body(rows, [record("a", 0.5, status="failed")])
    assert cells["A"][0] == ""
    assert cells["A"][3].startswith("failed: out of luck")
    assert len(cells["A"][3]) < 80
    assert cells["B"] == ("", "0", "n/a", "not run")
    cells = body(rows, [record("a", 0.5, status="failed")], compare="none")
    assert cells["A"][0].startswith("failed: out of luck")
    assert cells["B"] == ("not run",)


def test_rows_of_papers_take_each_columns_class() -> None:
    reported = Reported(file="rpe", where={"table": "semantic instance AP^r (poster)", "system": "SDS"})
    columns = (
        Column(metric="ap_r_50/bicycle", title="bike", reported_class="bike"),
        Column(metric="ap_r_50/none", title="none", reported_class="no such class"),
    )
    table = Table(
        title="T", columns=columns, compare="verdict", reported_rows=(ReportedRow(title="SDS", reported=reported),)
    )
    drawn = draw(table, {}, PRESET, [])
    assert drawn.body == (("SDS", "0.5", "n/a", "reported"),)  # 0.5 per cent: SDS's bicycles
    assert drawn.frame["ap_r_50/bicycle"].tolist() == [0.5]


def test_a_selection_of_several_reported_values_is_an_error() -> None:
    with pytest.raises(UsageError, match="has 8 values for"):
        reported_value(Reported(file="instancenet", where={"table": "2"}), {})


def test_markdown_and_csv_hold_the_same_numbers() -> None:
    drawn = draw(Table(title="T", columns=(AP,)), {"a": Row(method="m", title="a|b")}, PRESET, [record("a", 0.5)])
    assert "a\\|b" in drawn.markdown()
    assert "50.0 ± 10.0" in drawn.markdown()
    assert drawn.frame.loc[0, "ap_r_50"] == pytest.approx(50.0)
    assert drawn.csv().splitlines()[0].startswith("method,data,status,ap_r_50,ap_r_50 half-width")


@pytest.mark.parametrize("name", suite_names())
def test_every_reported_value_of_every_suite_exists(name: str) -> None:
    suite = load_suite(name)
    for row in suite.rows.values():
        if row.reported:
            assert not math.isnan(reported_value(row.reported, {}))
    for table in suite.tables.values():
        for reported in table.reported_rows:
            values = [reported_value(reported.reported, {"class": column.reported_class}) for column in table.columns]
            assert any(not math.isnan(value) for value in values), f"{reported.title} reports nothing"
