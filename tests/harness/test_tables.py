"""What a table's cells say: intervals, what papers report, verdicts; worked on records made by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest
from made_records import AP, HERE, PAPER, PRESET, metric, record

from harness.compared import CRITERION, Entry, judge
from harness.drawn import Drawn
from harness.measured import UNMEASURED, Measured
from harness.record import Record
from harness.reported import NOTHING, ReportedValue
from harness.samples import Samples
from harness.standings import GROUND_TRUTH
from harness.suite import Column, Data, Preset, Reported, ReportedRow, Row, Table
from harness.tables import draw

A = Row(method="pull_push", title="A")
B = Row(method="pull_push", title="B")
CLASSES = Reported(file="rpe", where={"table": "semantic instance AP^r (poster)", "system": "RPE (ours)"})


def drawn(rows: dict[str, Row], records: list[Record], /, preset: Preset = PRESET, **table: object) -> Drawn:
    return draw(Table(**{"title": "T", "columns": (AP,), **table}), rows, preset, records)


def body(rows: dict[str, Row], records: list[Record], **table: object) -> dict[str, tuple[str, ...]]:
    return {line[0]: line[1:] for line in drawn(rows, records, **table).body}


def numbers(found: Drawn) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(found.csv())))


def entry(value: Measured, paper: float, digits: int = 1, title: str = "AP", name: str = "ap_r_50") -> Entry:
    column = Column(metric=name, title=title, digits=digits)
    return Entry(column, ReportedValue(str(paper), paper), value, comparable=True)


# One number against a paper's.


def test_a_number_is_reproduced_when_the_papers_lies_in_its_interval() -> None:
    assert judge([entry(Measured(26.0, 25.0, 27.0), 24.9)], "", "") == "not reproduced (+1.1)"
    assert judge([entry(Measured(26.0, 24.8, 27.2), 24.9)], "", "") == "reproduced (+1.1)"
    # The interval need not be symmetric: half of it is 1.2, but it reaches 0.2 down.
    assert judge([entry(Measured(26.0, 25.8, 28.2), 24.9)], "", "") == "not reproduced (+1.1)"


def test_the_same_printed_digits_are_reproduced_whatever_the_interval() -> None:
    assert judge([entry(Measured(24.94, 24.93, 24.95), 24.9)], "", "") == "reproduced (+0.0)"
    assert judge([entry(Measured(24.96, 24.93, 24.99), 24.9)], "", "") == "not reproduced (+0.1)"


def test_without_an_interval_the_printed_digits_decide() -> None:
    assert judge([entry(Measured(24.94), 24.9)], "", "") == "reproduced (+0.0)"
    assert judge([entry(Measured(24.96), 24.9)], "", "") == "no interval (+0.1)"
    assert judge([entry(Measured(24.86), 24.9)], "", "") == "reproduced (+0.0)"


def test_the_difference_is_that_of_the_printed_number_and_never_minus_nought() -> None:
    assert entry(Measured(55.84), 55.86).delta == pytest.approx(-0.06)  # 55.8 is printed
    assert entry(Measured(55.88), 55.86).text() == "55.9 (+0.0)"
    assert entry(Measured(24.9), 24.94).text() == "24.9 (+0.0)"
    assert entry(Measured(-0.01), 1.0).text() == "0.0 (-1.0)"


def test_costs_are_shown_and_never_judged() -> None:
    speed = entry(Measured(12.0), 11.0, name="cost.predict.fps")
    assert (speed.text(), speed.word, speed.reproduced) == ("12.0", "", False)
    assert judge([speed], "", "") == "no reported value"


def test_several_numbers_are_counted_and_the_few_that_fail_named() -> None:
    good, bad = Measured(1.0, 0.0, 2.0), Measured(9.0, 8.0, 10.0)
    titles = "abcdef"

    def verdict(values: list[Measured]) -> str:
        return judge([entry(v, 1.0, title=t) for v, t in zip(values, titles, strict=False)], "", "")

    assert verdict([good, good]) == "2 of 2 reproduced"
    assert verdict([good, bad, good]) == "2 of 3 reproduced, not b"
    assert verdict([bad, bad]) == "0 of 2 reproduced"
    assert verdict([good, bad, bad, bad, bad]) == "1 of 5 reproduced"
    assert verdict([good, UNMEASURED, bad]) == "1 of 3 reproduced, not c, not measured: b"
    assert verdict([UNMEASURED]) == "not measured"


def test_why_a_row_is_not_comparable_is_told_where_there_is_something_to_compare() -> None:
    one = entry(Measured(1.0), 1.0)
    nothing = Entry(AP, NOTHING, Measured(1.0))
    text = Entry(AP, ReportedValue(">10"), Measured(1.0))
    assert judge([one], "a quick preset", "") == "not comparable: a quick preset"
    assert judge([nothing], "a quick preset", "") == "no reported value"
    assert judge([text], "", "") == "no reported value"
    assert judge([nothing], "a quick preset", "no paper has it") == "not comparable: no paper has it"


# Rows.


def test_one_seed_shows_the_interval_over_images_and_no_column_for_seeds() -> None:
    found = drawn({"a": A}, [record("a", 0.5)])
    assert found.head == ("method", "AP", "verdict")
    assert found.body == (("A", "50.0 ± 10.0", "no reported value"),)
    assert "± is half of the 95 % interval: over images for one seed, over seeds for several" in found.footnotes
    assert CRITERION not in found.footnotes


def test_the_paper_stands_above_and_never_in_the_measured_line() -> None:
    found = drawn({"a": A, "b": B}, [record("a", 0.26), record("b", 0.36)], reported={"a": PAPER, "b": PAPER})
    assert found.body == (
        ("A (paper)", "24.9", "reported"),
        ("A", "26.0 ± 10.0 (+1.1)", "reproduced (+1.1)"),
        ("B (paper)", "24.9", "reported"),
        ("B", "36.0 ± 10.0 (+11.1)", "not reproduced (+11.1)"),
    )
    assert CRITERION in found.footnotes
    source = "reported: InstanceNet (Gao 2020), 1, MS COCO val2017: project report (Gao 2020) (confidence high; "
    assert [note.startswith(source) for note in found.footnotes].count(True) == 1  # once, whatever the number of rows


def test_a_caption_says_what_of_the_paper_it_is() -> None:
    captioned = PAPER.model_copy(update={"caption": "test split"})
    found = drawn({"a": A}, [], reported={"a": captioned})
    assert [line[0] for line in found.body] == ["A (paper, test split)", "A"]


@pytest.mark.parametrize(
    ("preset", "row", "why"),
    [
        (PRESET, {"not_comparable": "other data"}, "other data"),
        (PRESET.model_copy(update={"not_comparable": "quick"}), {"not_comparable": "other data"}, "quick"),
        (
            Preset(description="", not_comparable="quick", data={"easy": Data(dataset="voc", official_images=1449)}),
            {},
            "4 images, not the official 1449",
        ),
    ],
)
def test_rows_that_are_not_comparable_have_no_difference(preset: Preset, row: dict, why: str) -> None:
    rows = {"a": A.model_copy(update=row)}
    found = drawn(rows, [record("a", 0.249)], preset=preset, reported={"a": PAPER})
    assert found.body[1] == ("A", "24.9 ± 10.0", f"not comparable: {why}")
    assert numbers(found)[1]["delta"] == ""
    assert numbers(found)[1]["column_verdict"] == "not comparable"


def test_a_papers_value_may_not_fit_a_row_unless_the_data_have_what_it_needs() -> None:
    strict = PAPER.model_copy(update={"not_comparable": "other regions", "unless": {"regions": "hed"}})
    plain = record("a", 0.249)
    with_regions = plain.model_copy(update={"settings": dataclasses.replace(plain.settings, data={"regions": "hed"})})
    verdicts = [drawn({"a": A}, [one], reported={"a": strict}).body[1][-1] for one in (plain, with_regions)]
    assert verdicts == ["not comparable: other regions", "reproduced (+0.0)"]


def test_nothing_of_a_run_with_changed_settings_is_held_against_a_paper() -> None:
    table = Table(title="T", columns=[AP], reported={"a": PAPER})
    found = draw(table, {"a": A}, PRESET, [record("a", 0.249)], reason="settings changed with --set")
    assert found.body[1] == ("A", "24.9 ± 10.0", "not comparable: settings changed with --set")


def test_the_official_number_of_images_is_comparable() -> None:
    preset = Preset(description="", data={"easy": Data(dataset="voc", official_images=4)})
    assert (
        drawn({"a": A}, [record("a", 0.249)], preset=preset, reported={"a": PAPER}).body[1][-1] == "reproduced (+0.0)"
    )


def test_failed_and_missing_cells_are_rows() -> None:
    failed = [record("a", status="failed", reason="out of\nluck " + "again " * 30)]
    cells = body({"a": A, "b": B}, failed)
    assert cells["A"][0] == ""
    assert cells["A"][1].startswith("failed: out of luck again")
    assert len(cells["A"][1]) == 60
    assert cells["B"] == ("", "not run")
    two = (AP, AP)
    assert body({"a": A, "b": B}, failed, compare="none", columns=two)["B"] == ("not run", "")
    lines = numbers(drawn({"a": A, "b": B}, failed, reported={"a": PAPER}))
    assert [line["status"] for line in lines] == ["reported", "failed", "not run"]
    assert [line["value"] for line in lines] == ["", "", ""]


def test_a_cell_without_its_evaluation_was_not_run() -> None:
    lost = record("a").model_copy(update={"evaluation": None})
    assert body({"a": A}, [lost])["A"] == ("", "not run")


def test_seeds_are_counted_where_there_are_several() -> None:
    three = [record("a", 0.4 + 0.1 * seed, seed=seed) for seed in range(3)]
    some = [record("b", 0.5, seed=0), record("b", seed=1, status="timeout")]
    found = drawn({"a": A, "b": B, "c": A.model_copy(update={"title": "C"})}, [*three, *some], reported={"c": PAPER})
    assert found.head == ("method", "AP", "seeds", "verdict")
    assert [line[2] for line in found.body] == ["3", "1 of 3", "", "0 of 3"]
    assert found.body[0][1] == "50.0 ± 24.8"
    assert found.body[1][1] == "50.0 ± 10.0"


def test_rows_and_data_are_those_of_the_table() -> None:
    rows = {"a": A, "b": B.model_copy(update={"data": ("hard",)}), "c": A}
    preset = Preset(description="", data={"easy": Data(dataset="shapes"), "hard": Data(dataset="shapes")})
    records = [record("a", 0.1), record("a", 0.2, data="hard"), record("b", 0.3, data="hard")]
    found = drawn(rows, records, preset=preset, rows=("b", "a"), reported={"a": PAPER})
    assert [line[:2] for line in found.body] == [
        ("B, hard", "30.0 ± 10.0"),
        ("A (paper)", "24.9"),
        ("A, easy", "10.0 ± 10.0 (-14.9)"),
        ("A, hard", "20.0 ± 10.0 (-4.9)"),
    ]
    assert [line["data"] for line in numbers(found)] == ["hard", "", "easy", "hard"]
    one = drawn(rows, records, preset=preset, rows=("a", "b"), data=("easy",), reported={"b": PAPER})
    assert [line[0] for line in one.body] == ["A"]  # B does not run on easy, so nor does its paper stand there


def test_rows_that_only_papers_have_take_each_columns_selection() -> None:
    columns = (
        Column(metric="ap_r_50/bicycle", title="bike", reported={"class": "bike"}),
        Column(metric="ap_r_50/none", title="none", reported={"class": "no such class"}),
        Column(metric="ap_r_70", title="AP 0.7"),
    )
    found = drawn({}, [], columns=columns, reported_rows=(ReportedRow(title="RPE", reported=CLASSES),))
    assert found.body == (("RPE", "10.0", "not available", "", "reported"),)
    assert "not available: the value is in no source of results/reported" in found.footnotes
    first, second, third = numbers(found)
    assert (first["paper"], first["value"], first["status"], first["seeds"]) == ("10", "", "reported", "")
    assert first["source"].startswith("RPE (Kong & Fowlkes CVPR2018), ")
    assert (second["paper"], third["paper"]) == ("not available", "")


def test_csv_has_every_number_of_every_column() -> None:
    columns = (AP, Column(metric="ap_r_70", title="AP 0.7", scale=100), Column(metric="cost.predict.fps", title="fps"))
    one = record("a", 0.26, metrics={"ap_r_70": metric(0.125)}, milliseconds=(8.0, 1.0, 1.0))
    lines = numbers(drawn({"a": A}, [one], columns=columns, reported={"a": PAPER}))
    assert lines[3] == {
        "method": "A", "data": "easy", "status": "ok", "seeds": "1", "metric": "ap_r_50", "column": "AP",
        "value": "26", "low": "16", "high": "36", "half_width": "10", "std": "", "difference_to_best": "",
        "difference_low": "", "difference_high": "", "significant": "", "paper": "24.9", "delta": "1.1",
        "column_verdict": "reproduced", "verdict": "reproduced (+1.1)",
        "source": "InstanceNet (Gao 2020), 1, MS COCO val2017: project report (Gao 2020) "
        "(confidence high; results/reported/instancenet.csv)",
    }  # fmt: skip
    assert [(line["metric"], line["value"], line["half_width"], line["paper"]) for line in lines[4:]] == [
        ("ap_r_70", "12.5", "", ""),
        ("cost.predict.fps", "100", "", ""),
    ]


def compared(**table: object) -> Drawn:
    """B is surely worse than A on every image, C is A with other luck; O uses the ground truth."""
    rows = {name: Row(method="pull_push", title=name.upper()) for name in "abco"}
    records = [record("a", 0.5), record("b", 0.4), record("c", 0.49), record("o", 0.9)]
    known = dataclasses.replace(records[-1].settings, config={"oracle": "semantic"})
    records[-1] = records[-1].model_copy(update={"settings": known})
    around = {"a": 0.5, "b": 0.4, "c": np.linspace(0.4, 0.6, 1000), "o": 0.9}

    def read(one: Record) -> Samples:
        values = np.zeros((1, 1000), np.float32) + around[one.settings.row]
        return Samples({"voc": "key"}, {"ap_r_50": 0}, values.astype(np.float32))

    return draw(Table(**{"title": "T", "columns": (AP,), **table}), rows, PRESET, records, samples=read)


def test_rows_are_marked_that_are_not_told_apart_from_the_best() -> None:
    found = compared(reported={"b": PAPER}, compare="none")
    assert [line[:2] for line in found.body] == [
        ("A", "50.0 ± 10.0 best"),
        ("B (paper)", "24.9"),
        ("B", "40.0 ± 10.0 (+15.1)"),
        ("C", "49.0 ± 10.0 ~"),
        ("O", "90.0 ± 10.0"),
    ]
    notes = "\n".join(found.footnotes)
    assert "best: the best mean of its column, of the rows compared; ~: not significantly different" in notes
    assert "one seed: the interval is over images alone" in notes
    assert GROUND_TRUTH in notes
    by_title = {line["method"]: line for line in numbers(found)}
    assert [by_title[title]["significant"] for title in ("A", "B", "C", "O", "B (paper)")] == ["", "yes", "no", "", ""]
    assert [by_title[title]["difference_to_best"] for title in ("A", "B", "C", "O")] == ["0", "-10", "-1", ""]
    assert float(by_title["C"]["difference_low"]) == pytest.approx(-9.8, abs=0.1)
    assert float(by_title["C"]["difference_high"]) == pytest.approx(9.8, abs=0.1)


def test_the_signs_survive_every_form() -> None:
    found = compared()
    assert "│ 50.0 ± 10.0 best │" in found.terminal()
    assert "| 49.0 ± 10.0 ~ " in found.markdown()
    assert all(note.count("~") <= 1 for note in found.footnotes)  # Markdown strikes out what stands between two
    assert r"49.0 $\pm$ 10.0 \textasciitilde{}" in found.latex("t")


def test_without_samples_or_without_a_best_value_nothing_is_marked() -> None:
    plain = drawn({"a": A, "b": B}, [record("a", 0.5), record("b", 0.5)])
    none = compared(columns=(AP.model_copy(update={"best": ""}),))
    for found in (plain, none):
        assert not [cell for line in found.body for cell in line if cell.endswith((" best", " ~"))]
        assert not [note for note in found.footnotes if "best" in note]


def test_several_seeds_have_a_deviation_in_the_csv() -> None:
    (line,) = numbers(drawn({"a": A}, [record("a", 0.4 + 0.1 * seed, seed=seed) for seed in range(3)]))
    assert float(line["std"]) == pytest.approx(10.0)


def test_a_table_without_verdicts_has_none_in_its_csv_either() -> None:
    found = drawn({"a": A}, [record("a", 0.5)], compare="none")
    assert found.head == ("method", "AP")
    assert numbers(found)[0]["verdict"] == ""


def test_speed_stands_beside_the_papers_text() -> None:
    fps = Column(metric="cost.predict.fps", title="fps", reported={"metric": "speed"})
    paper = Reported(file="spatial_embeddings", where={"table": "abstract"})
    found = drawn({"a": A}, [record("a", milliseconds=(8.0, 1.0, 1.0))], columns=(fps,), reported={"a": paper})
    assert found.body == (("A (paper)", ">10", "reported"), ("A", "100.0", "no reported value"))
    assert "costs are shown beside the paper's and not judged: the machines differ" in found.footnotes


def test_what_is_not_measured_is_a_dash_with_its_meaning() -> None:
    found = drawn({"a": A}, [record("a", math.nan, half=math.nan, metrics={"ap_r_50": metric(math.nan)})])
    assert found.body[0][1] == "-"
    assert found.footnotes[-1].startswith("-: not measured")


def test_confidence_and_machines_are_those_of_the_tables_records() -> None:
    here = record("a", 0.5)
    there = record("b", 0.5).model_copy(
        update={
            "evaluation": here.evaluation.model_copy(update={"confidence": 0.5}),
            "train": here.train.model_copy(update={"environment": HERE.model_copy(update={"gpu": "a GPU"})}),
        }
    )
    notes = "\n".join(drawn({"a": A, "b": B}, [here, there]).footnotes)
    assert "half of the 95 % interval" in notes
    assert "half of the 50 % interval" in notes
    assert "ran on p, 2 cores; torch 2; commit abc" in notes
    assert "ran on a GPU; torch 2; commit abc" in notes
    assert "VOC AP^r: area/mnc/count/nan (metric version 1), on 4 images with 9 instances" in notes
    assert "GPU" not in "\n".join(drawn({"a": A, "b": B}, [here, there], rows=("a",)).footnotes)


def test_notes_of_the_run_and_of_the_table_come_first() -> None:
    found = draw(Table(title="T", columns=(AP,), footnotes=("of the table",)), {"a": A}, PRESET, [], ["of the run"])
    assert found.footnotes[:3] == ("quick", "of the run", "of the table")


def test_numbers_that_do_not_exist_are_null_in_the_record() -> None:
    one = record("a", metrics={"ap_r_50": metric(math.nan)})
    text = one.model_dump_json()
    assert "NaN" not in text
    read = Record.model_validate_json(text)
    assert math.isnan(read.evaluation.find("ap_r_50")[1].value)
    assert math.isnan(read.predict.grouping_ms)
