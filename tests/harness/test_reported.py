"""What the papers report: selections of one value, of none, and wrong ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_records import AP, PAPER

from harness import reported
from harness.names import UsageError
from harness.reported import MISSING, NOTHING, check_reported, reported_value
from harness.suite import Column, Reported, ReportedRow, Suite, Table, load_suite, suite_names

HEADER = "paper,table,dataset,split,system,setting,metric,value,unit,class,source,confidence\n"


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one paper, "mine"."""
    (tmp_path / "mine.csv").write_text(
        HEADER
        + "Mine,1,COCO,val,A,,AR,0.814,fraction,all,poster,high\n"
        + "Mine,1,COCO,val,B,,AR,,fraction,all,poster,high\n"
        + "Mine,1,COCO,val,A,,speed,>10,fps,all,abstract,medium\n"
        + "Mine,1,COCO,val,A,,mIoU,55.86,%,all,poster,low\n"
        + "Mine,1,COCO,val,C,,mIoU,nan,%,all,poster,low\n"
        + "Mine,1,COCO,val,A,one,twice,1,%,all,poster,low\n"
        + "Mine,1,COCO,val,A,two,twice,2,%,all,poster,low\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(reported, "REPORTED", tmp_path)
    reported._read.cache_clear()
    yield
    reported._read.cache_clear()


def mine(metric: str, system: str = "A", **column: object) -> reported.ReportedValue:
    one = Column(metric="m", title="T", reported={"metric": metric}, **column)
    return reported_value(Reported(file="mine", where={"system": system}), one)


@pytest.mark.usefixtures("papers")
def test_a_value_prints_as_the_paper_prints_it() -> None:
    assert mine("mIoU").text == "55.86"  # although the column shows one digit
    assert mine("mIoU").number == 55.86
    assert mine("mIoU").source == "Mine, 1, COCO val: poster (confidence low; results/reported/mine.csv)"


@pytest.mark.usefixtures("papers")
def test_another_unit_takes_the_columns_digits() -> None:
    assert mine("AR", reported_scale=100.0).text == "81.4"
    assert mine("AR", reported_scale=100.0).number == pytest.approx(81.4)


@pytest.mark.usefixtures("papers")
def test_what_is_no_number_stands_as_it_is() -> None:
    assert mine("speed").text == ">10"
    assert math.isnan(mine("speed").number)
    assert mine("speed", reported_scale=2.0).text == ">10 fps"  # in the paper's unit, so the unit is named
    assert math.isnan(mine("mIoU", system="C").number)


@pytest.mark.usefixtures("papers")
def test_no_line_or_no_value_is_missing_and_no_selection_is_nothing() -> None:
    assert mine("AR", system="none of theirs") is MISSING
    assert mine("AR", system="B") is MISSING
    assert reported_value(None, AP) is NOTHING
    assert reported_value(PAPER, AP.model_copy(update={"reported": None})) is NOTHING


@pytest.mark.usefixtures("papers")
@pytest.mark.parametrize(
    ("file", "where", "message"),
    [
        ("mine", {"metric": "twice"}, r"mine\.csv has 2 values for \{'metric': 'twice'\}, not one"),
        ("mine", {"sytem": "A"}, r"unknown column of results/reported/mine\.csv 'sytem'\. Did you mean system"),
        ("mein", {}, r"unknown file in results/reported 'mein'\. Did you mean mine"),
    ],
)
def test_a_wrong_selection_is_found_when_the_suite_is_checked(file: str, where: dict, message: str) -> None:
    wrong = Reported(file=file, where=where)
    for part in ({"reported": {"a": wrong}}, {"reported_rows": (ReportedRow(title="a", reported=wrong),)}):
        suite = Suite.model_construct(name="s", tables={"t": Table(title="T", columns=(AP,), **part)})
        with pytest.raises(UsageError, match=rf"suites/s\.toml, table t, row a, column AP: .*{message}"):
            check_reported(suite)


def test_a_column_narrows_its_row() -> None:
    sds = Reported(file="rpe", where={"table": "semantic instance AP^r (poster)", "system": "SDS"})
    bike = Column(metric="ap_r_50/bicycle", title="bike", reported={"class": "bike"})
    assert reported_value(sds, bike).text == "0.5"  # per cent: SDS finds no bicycles
    assert reported_value(PAPER, AP).number == 24.9


@pytest.mark.parametrize("name", suite_names())
def test_every_selection_of_every_suite_is_one_value_or_none(name: str) -> None:
    suite = load_suite(name)
    check_reported(suite)
    for table in suite.tables.values():
        for row in table.reported_rows:
            values = [reported_value(row.reported, column) for column in table.columns]
            assert any(value is not NOTHING for value in values), f"{row.title}: no column says what the paper reports"
