"""The regression check on records made by hand: every verdict, the tolerances, and the baseline's file."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
from made_records import HERE, metric, record
from rich.console import Console

from harness import baseline as baselines
from harness import check, regression
from harness.baseline import Baseline, floor, for_seeds, make_baseline, read_baseline, tolerance, trains, write_baseline
from harness.job import Job
from harness.measured import Measured
from harness.names import UsageError
from harness.plan import Cell, Request
from harness.record import Record
from harness.regression import Finding, State, compare, judge, state_of
from harness.settings import Stage, TrainSettings
from harness.store import Store, write_text
from harness.suite import Row, load_suite

STILL = TrainSettings(steps=1, learning_rate=1e-12)  # no weight moves
NAN = float("nan")


def pair(
    value: float = 0.5, seed: int = 0, row: str = "one", train: TrainSettings = STILL, **more: object
) -> tuple[Cell, Record]:
    """A cell and its finished record. ``losses``, ``metrics``, ``config``, ``weights``, ``implementation``, ``data``
    (fingerprint), ``version``, ``gradient_norm``, ``moved`` and ``environment`` as given."""
    cost = {name: more.pop(name) for name in ("gradient_norm", "moved") if name in more}
    ran = more.pop("environment", HERE)
    losses, config = more.pop("losses", {}), more.pop("config", {"threshold": 3.0})
    weights, implementation = more.pop("weights", None), str(more.pop("implementation", ""))
    fingerprint, version = str(more.pop("data", "v")), str(more.pop("version", "2"))
    made = record(row, value, seed, **more)
    settings = dataclasses.replace(made.settings, train=train, config=config, data={"size": 64})
    voc = made.evaluation.verdicts["voc"].model_copy(update={"version": version})
    evaluation = made.evaluation.model_copy(update={"verdicts": {"voc": voc}})
    made = made.model_copy(
        update={
            "settings": settings,
            "evaluation": evaluation,
            "train": made.train.model_copy(update={"losses": losses, **cost}),
            "predict": made.predict.model_copy(update={"environment": ran}),
        }
    )
    recipe = {"weights": weights} if weights else {}
    inputs = {"train": {"setting": {}, "train": recipe}, "predict": {"setting": config}, "evaluate": {}}
    folders = {step: Path("/nowhere") / step / f"{settings.cell}-k" for step in ("train", "predict", "evaluate")}
    path = Path("/nowhere") / f"{settings.cell}-k.json"
    cell = Cell(
        settings, Row(method="pull_push", title=row), implementation, inputs, {}, folders, path, "t", fingerprint
    )
    return cell, made


def baseline(*pairs: tuple[Cell, Record]) -> Baseline:
    rows: dict[str, list[tuple[Cell, Record]]] = {}
    for cell, made in pairs:
        rows.setdefault(f"{cell.settings.row}.easy", []).append((cell, made))
    return make_baseline("shapes", "quick", "a command", rows)


def findings(old: Baseline, *pairs: tuple[Cell, Record], whole: bool = True) -> list[Finding]:
    return compare(old, [State(*one) for one in pairs], {}, whole)


def verdicts(old: Baseline, *pairs: tuple[Cell, Record]) -> dict[str, str]:
    return {one.metric: one.verdict for one in findings(old, *pairs)}


# Tolerances, by hand.


def test_floors_are_those_of_the_issue() -> None:
    assert floor("ap_r_50", [0.3], trained=False) == 0.0002
    assert floor("coco_ap", [0.3], trained=True) == 0.005
    assert floor("loss/pull", [2.0, 4.0], trained=False) == pytest.approx(0.003)
    assert floor("loss/pull", [-2.0], trained=True) == pytest.approx(0.1)
    assert floor("proposals@10", [50.0], trained=False) == pytest.approx(0.05)
    assert floor("loss/pull", [NAN], trained=True) == 0.0
    assert floor("loss/pull", [0.0], trained=False) == floor("train/moved", [0.0, 0.0], trained=True) == 1e-6
    assert floor("train/gradient_norm", [5.0], trained=False) == pytest.approx(0.005)


def test_the_seeds_spread_by_hand() -> None:
    """0.40, 0.50, 0.60: s = 0.1; t(2 degrees, 99 %) = 9.92484; times sqrt(2)."""
    allowed, origin = tolerance("ap_r_50", [0.4, 0.5, 0.6], trained=True)
    assert origin == "spread"
    assert allowed == pytest.approx(9.92484 * 0.1 * math.sqrt(2), rel=1e-5)
    # Four seeds against four: half of it; never less than the floor.
    line = baselines.Value(seeds={"0": 0.4, "1": 0.5, "2": 0.6}, tolerance=allowed, origin="spread")
    assert for_seeds("ap_r_50", line, True, 4) == pytest.approx(allowed / 2)
    assert for_seeds("ap_r_50", line, True, 10**8) == 0.005


def test_a_spread_needs_three_seeds_and_a_training() -> None:
    assert tolerance("ap_r_50", [0.4, 0.6], trained=True) == (0.005, "floor")
    assert tolerance("ap_r_50", [0.4, 0.5, 0.6], trained=False) == (0.0002, "floor")
    assert tolerance("ap_r_50", [0.5, 0.5, 0.5], trained=True) == (0.005, "floor")
    assert tolerance("ap_r_50", [0.4, NAN, 0.6], trained=True) == (0.005, "floor")


@pytest.mark.parametrize(
    ("recipe", "moves"),
    [
        (TrainSettings(), True),
        (TrainSettings(steps=0), False),
        (STILL, False),
        (TrainSettings(steps=1, learning_rate=1e-12, then=(Stage(steps=5, learning_rate=0.1),)), True),
        (TrainSettings(steps=10_000, learning_rate=1e-12), True),
    ],
)
def test_what_counts_as_a_training(recipe: TrainSettings, moves: bool) -> None:
    assert trains(recipe) is moves


# Verdicts.


@pytest.mark.parametrize(
    ("metric_name", "delta", "verdict"),
    [
        ("ap_r_50", -0.1, "ok"),
        ("ap_r_50", -0.11, "regression"),
        ("ap_r_50", 0.11, "improvement"),
        ("lost_merge", 0.11, "regression"),
        ("lost_merge", -0.11, "improvement"),
        ("loss/pull", 0.11, "changed"),
        ("loss/pull", -0.11, "changed"),
        ("proposals@10", 0.11, "changed"),
        ("train/gradient_norm", -0.11, "changed"),
        ("train/moved", 0.11, "changed"),
    ],
)
def test_better_worse_and_other(metric_name: str, delta: float, verdict: str) -> None:
    assert judge(metric_name, delta, 0.1) == verdict


def test_every_metric_that_is_shown_has_a_side() -> None:
    """A new metric must be thought about here: is more better?"""
    names = {name for kind in baselines.KINDS.values() for name in kind.shown}
    known = ("ap", "ar", "coco_", "box_", "boxes_", "recall", "miou", "pixel", "mean_accuracy", "fwiou", "lost_")
    known += ("proposals@", "ods", "ois", "boundary_ap", "cs_ap", "agnostic")
    assert [name for name in sorted(names) if not name.startswith(known)] == []


def test_the_same_records_are_ok_and_exact() -> None:
    one = pair(losses={"pull": 2.0})
    (ap, loss) = findings(baseline(one), one)
    assert (ap.verdict, ap.exact, ap.delta, ap.seeds) == ("ok", True, 0.0, 1)
    assert (loss.metric, loss.verdict) == ("loss/pull", "ok")
    assert (ap.now.low, ap.now.high) == (0.4, 0.6)  # over images


def test_a_row_that_trains_nothing_has_all_numbers_and_its_gradient() -> None:
    one = pair(metrics={"ap_r_70": metric(0.2)}, losses={"pull": 2.0}, gradient_norm=3.0, moved=0.0)
    assert set(verdicts(baseline(one), one)) == {"ap_r_50", "ap_r_70", "loss/pull", "train/gradient_norm"}
    other = pair(metrics={"ap_r_70": metric(0.2)}, losses={"pull": 2.0}, gradient_norm=3.1)
    assert {name for name, verdict in verdicts(baseline(one), other).items() if verdict != "ok"} == {
        "train/gradient_norm"
    }


def test_a_row_that_trains_has_main_numbers_and_what_its_training_shows() -> None:
    more = {"train": TrainSettings(), "losses": {"pull": 2.0}, "metrics": {"ap_r_70": metric(0.2)}}
    one = pair(**more, gradient_norm=3.0, moved=0.1)
    assert set(verdicts(baseline(one), one)) == {"ap_r_50", "loss/pull", "train/gradient_norm", "train/moved"}
    still = pair(**more, gradient_norm=3.0, moved=0.0)
    assert verdicts(baseline(one), still)["train/moved"] == "changed"
    assert verdicts(baseline(pair(**more)), one)["train/moved"] == "new"  # of a baseline from before


def test_more_numbers_of_a_trained_row_in_an_older_baseline_do_not_matter() -> None:
    one = pair(train=TrainSettings())
    old = baseline(one)
    metrics = old.rows["one.easy"].metrics
    metrics["lost_merge"] = metrics["ap_r_50"]
    assert verdicts(old, one) == {"ap_r_50": "ok"}


def test_the_main_numbers() -> None:
    expected = {"ap_r_50", "coco_ap", "box_ap", "cs_ap", "recall_50@10", "miou", "ods"}
    assert expected == baselines.MAIN


def test_less_than_the_tolerance_is_ok_and_said_not_to_be_exact() -> None:
    (ap,) = findings(baseline(pair(0.5)), pair(0.5001))
    assert (ap.verdict, ap.exact) == ("ok", False)


def test_means_are_over_the_seeds_that_both_have() -> None:
    recipe = TrainSettings()
    old = baseline(*(pair(value, seed, train=recipe) for seed, value in enumerate((0.4, 0.5, 0.6))))
    further, ap = findings(old, pair(0.45, 1, train=recipe), pair(0.55, 2, train=recipe), pair(0.0, 7, train=recipe))
    assert (further.verdict, further.reason) == ("new", "seed 7: the baseline has no such seed")
    assert (ap.before, ap.now.value, ap.seeds) == (pytest.approx(0.55), pytest.approx(0.5), 2)
    assert ap.tolerance == pytest.approx(9.92484 * 0.1, rel=1e-5)
    assert ap.now.low < 0.45 < 0.55 < ap.now.high  # Student's, over two seeds


def test_regression_improvement_and_change() -> None:
    old = baseline(pair(losses={"pull": 2.0}))
    assert verdicts(old, pair(0.49, losses={"pull": 2.001})) == {"ap_r_50": "regression", "loss/pull": "ok"}
    assert verdicts(old, pair(0.51, losses={"pull": 1.9})) == {"ap_r_50": "improvement", "loss/pull": "changed"}


def test_missing_new_and_not_a_number() -> None:
    old = baseline(pair(metrics={"ap_r_70": metric(0.2)}, losses={"pull": 2.0}))
    now = pair(metrics={"ap_r_vol": metric(0.2)})
    assert verdicts(old, now) == {"ap_r_50": "ok", "ap_r_70": "missing", "loss/pull": "missing", "ap_r_vol": "new"}
    assert verdicts(old, pair(NAN, metrics={"ap_r_70": metric(0.2)}, losses={"pull": 2.0}))["ap_r_50"] == "not a number"


def test_what_did_not_exist_before_need_not_exist() -> None:
    old = baseline(pair(NAN))
    assert verdicts(old, pair(NAN)) == {"ap_r_50": "ok"}
    (found,) = findings(old, pair(0.3))
    assert (found.verdict, found.fails) == ("new", False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": "w"}, "other judged data (the content is another one)"),
        ({"config": {"threshold": 2.0}}, "other settings: config.threshold 3.0 -> 2.0"),
        ({"config": {"threshold": 3.0, "more": True}}, "config.more none -> True"),
        ({"train": TrainSettings(steps=2, learning_rate=1e-12)}, "train.steps 1 -> 2"),
        ({"implementation": "torchvision 9"}, "other implementation: ours -> torchvision 9"),
        ({"weights": ["abc"]}, "other train.weights"),
        ({"version": "3"}, "voc: other metric: version 2 -> 3"),
    ],
)
def test_what_cannot_be_compared_is_named(change: dict, reason: str) -> None:
    (found,) = findings(baseline(pair()), pair(0.1, **change))
    assert found.verdict == "incomparable"
    assert reason in found.reason


def test_loader_processes_do_not_matter() -> None:
    assert verdicts(baseline(pair()), pair(train=STILL.model_copy(update={"workers": 4}))) == {"ap_r_50": "ok"}


def test_rows_that_only_one_side_has() -> None:
    old = baseline(pair(row="one"), pair(row="two"))
    found = {one.line: one for one in findings(old, pair(row="one"), pair(row="three"))}
    assert (found["three.easy"].verdict, found["three.easy"].fails) == ("new", False)
    assert (found["two.easy"].verdict, found["two.easy"].fails) == ("missing", True)
    asked = findings(old, pair(row="one"), whole=False)  # --methods one
    assert [one.line for one in asked] == ["one.easy"]
    (_, left_out) = compare(old, [State(*pair(row="one"))], {"two": "no library"}, True)
    assert (left_out.verdict, left_out.reason) == ("missing", "no library")


def test_a_new_row_that_failed_is_not_merely_new() -> None:
    cell, _ = pair(row="three")
    (_, found) = compare(baseline(pair()), [State(*pair()), State(cell, None, "failed", "out of luck")], {}, True)
    assert (found.verdict, found.reason) == ("failed", "seed 0: out of luck")


def test_seeds_without_a_partner() -> None:
    trained = TrainSettings()
    (found,) = findings(baseline(pair(train=trained)), pair(seed=3, train=trained))
    assert (found.verdict, found.reason) == ("incomparable", "no seed in common: 0 -> 3")
    (found,) = findings(baseline(pair()), pair(seed=3))  # it trains nothing: its first seed is enough
    assert (found.verdict, found.seeds) == ("ok", 0)


@pytest.mark.parametrize("verdict", ["failed", "stale", "missing"])
def test_a_cell_without_a_record_fails_whatever_its_seed(verdict: str) -> None:
    recipe = TrainSettings()
    cell, _ = pair(seed=9, train=recipe)
    found = compare(
        baseline(pair(train=recipe)), [State(*pair(train=recipe)), State(cell, None, verdict, "why")], {}, True
    )
    assert [(one.verdict, one.reason) for one in found if one.fails] == [(verdict, "seed 9: why")]
    assert sum(one.seeds for one in found) == 1


def test_further_seeds_of_a_row_that_trains_nothing_need_not_run_but_may_not_fail() -> None:
    cell, _ = pair(seed=1)
    for verdict, fails in (("missing", []), ("failed", ["failed"]), ("stale", ["stale"])):
        found = compare(baseline(pair()), [State(*pair()), State(cell, None, verdict, "why")], {}, True)
        assert [one.verdict for one in found if one.fails] == fails
    found = compare(baseline(pair()), [State(cell, None, "missing", "why")], {}, True)
    assert [one.verdict for one in found] == ["missing"]  # nothing of the row was run


def test_every_seed_must_be_comparable() -> None:
    """Each record stands with its own cell, and what differs is told once."""
    recipe = TrainSettings()
    old = baseline(*(pair(0.5, seed, train=recipe) for seed in range(3)))
    other = [pair(0.5, seed, train=recipe, data="w", version="3") for seed in (1, 2)]
    (found,) = findings(old, pair(0.5, 0, train=recipe), *other)
    assert found.verdict == "incomparable"
    assert found.reason.count("other judged data") == 1
    judged = [pair(0.5, seed, train=recipe, version="3") for seed in (1, 2)]
    (found,) = findings(old, pair(0.5, 0, train=recipe), *judged)
    assert (found.verdict, found.reason) == ("incomparable", "voc: other metric: version 2 -> 3")
    failed = State(pair(0.5, 0, train=recipe)[0], None, "failed", "why")
    found = compare(old, [failed, *(State(*one) for one in other)], {}, True)
    assert [one.verdict for one in found] == ["failed", "incomparable"]


# States of cells.


def on_disk(folder: Path, status: str = "ok") -> tuple[Cell, Record]:
    cell, made = pair()
    folders = {step: folder / "steps" / step / f"{cell.settings.cell}-new" for step in cell.folders}
    cell = dataclasses.replace(cell, folders=folders, record=folder / "records" / f"{cell.settings.cell}-new.json")
    return cell, made.model_copy(update={"status": status, "reason": "" if status == "ok" else "out of luck"})


def test_a_cell_without_a_record_is_missing(tmp_path: Path) -> None:
    cell, _ = on_disk(tmp_path)
    assert (state_of(cell).verdict, state_of(cell).record) == ("missing", None)


def test_a_failed_cell_says_why(tmp_path: Path) -> None:
    cell, made = on_disk(tmp_path, "failed")
    write_text(cell.record, made.model_dump_json())
    assert (state_of(cell).verdict, state_of(cell).reason) == ("failed", "failed: out of luck")


def test_a_record_of_other_settings_is_stale_and_says_of_which(tmp_path: Path) -> None:
    cell, made = on_disk(tmp_path)
    write_text(cell.record.with_name(f"{cell.settings.cell}-old.json"), made.model_dump_json())
    old = cell.folders["predict"].with_name(f"{cell.settings.cell}-old")
    cell.folders["train"].mkdir(parents=True)
    write_text(old / "inputs.json", json.dumps({"setting": {"threshold": 2.0}}))
    state = state_of(cell)
    assert state.verdict == "stale"
    assert "threshold: 2.0 -> 3.0" in state.reason


def test_a_finished_cell_is_read(tmp_path: Path) -> None:
    cell, made = on_disk(tmp_path)
    write_text(cell.record, made.model_dump_json())
    assert state_of(cell).record.model_dump_json() == made.model_dump_json()


# The file.


def test_the_file_comes_back_sorted_with_a_number_on_a_line(tmp_path: Path) -> None:
    old = baseline(pair(losses={"pull": 2.0, "a": NAN}), pair(row="another"))
    write_baseline(tmp_path / "b.json", old)
    assert read_baseline(tmp_path / "b.json", "shapes", "quick") == old
    text = (tmp_path / "b.json").read_text()
    assert '\n    "ap_r_50": {"origin": "floor", "seeds": {"0": 0.5}, "tolerance": 0.0002}' in text
    assert '"loss/a": {"origin": "floor", "seeds": {"0": null}' in text
    assert '\n    "config.threshold": 3.0,\n' in text
    assert text.index('"another.easy"') < text.index('"one.easy"')
    assert max(map(len, text.splitlines())) < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=2), "format"),
        (lambda content: content.update(more=1), "more: Extra inputs"),
        (lambda content: content["rows"]["one.easy"].pop("images"), "rows.one.easy.images: Field required"),
        (lambda content: content["rows"]["one.easy"]["metrics"]["ap_r_50"].update(tolerance=-1), "tolerance"),
        (lambda content: content["rows"]["one.easy"]["metrics"]["ap_r_50"].update(seeds={}), "seeds"),
        (lambda content: content["rows"]["one.easy"]["metrics"]["ap_r_50"].update(seeds={"0": "x"}), "seeds"),
        (lambda content: content["rows"].update({"two.easy": content["rows"]["one.easy"]}), "rows.two.easy"),
        (lambda content: content.update(preset="full"), "is of suite shapes, preset full, not of suite shapes"),
    ],
)
def test_a_baseline_that_was_altered_is_refused(tmp_path: Path, change: object, message: str) -> None:
    content = baseline(pair()).model_dump(mode="json")
    change(content)
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        read_baseline(tmp_path / "b.json", "shapes", "quick")


@pytest.mark.parametrize("text", ["", "{", '{"rows": NaN}', "[" * 100_000])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UsageError, match=r"b\.json"):
        read_baseline(tmp_path / "b.json", "shapes", "quick")
    with pytest.raises(UsageError, match="--update"):
        read_baseline(tmp_path / "none.json", "shapes", "quick")


def test_infinite_numbers_are_refused(tmp_path: Path) -> None:
    text = json.dumps(baseline(pair()).model_dump(mode="json")).replace("0.0002", "1e999")
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UsageError, match="tolerance"):
        read_baseline(tmp_path / "b.json", "shapes", "quick")


# The command, on a job made by hand.


def job(cells: list[Cell], folder: Path) -> Job:
    values = {field.name: None for field in dataclasses.fields(Job)}
    suite = load_suite("shapes")
    values |= {"suite": suite, "preset_name": "quick", "preset": suite.presets["quick"], "cells": cells, "others": []}
    return Job(**{**values, "store": Store(folder), "overrides": {}, "tables": (), "left_out": {}})


def command(
    monkeypatch: pytest.MonkeyPatch, folder: Path, pairs: list[tuple[Cell, Record | None]], **options: object
) -> tuple[int, str]:
    """Exit status and terminal text of the check of these records; the baseline is ``folder``/b.json."""
    cells = [dataclasses.replace(cell, record=folder / f"{cell.settings.cell}-k.json") for cell, _ in pairs]
    for cell, (_, made) in zip(cells, pairs, strict=True):
        cell.record.unlink(missing_ok=True)
        if made is not None:
            write_text(cell.record, made.model_dump_json())
    request = options.pop("request", Request())
    monkeypatch.setattr(check, "make_job", lambda *_: job(cells, folder))
    console = Console(file=io.StringIO(), width=200, highlight=False)
    status = check.run("shapes", request, folder, console, folder / "b.json", folder / "b.md", **options)
    return status, console.file.getvalue()


def test_update_then_check_then_a_regression_then_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, text = command(monkeypatch, tmp_path, [pair(0.5)], update=True)
    assert (status, "1 numbers of 1 rows" in text) == (0, True)
    status, text = command(monkeypatch, tmp_path, [pair(0.5)])
    assert (status, text.splitlines()[-1]) == (0, "passed: 1 numbers compared")
    assert "1/1" in text  # bit-equal
    status, text = command(monkeypatch, tmp_path, [pair(0.4)])
    assert (status, text.splitlines()[-1]) == (1, "FAILED: 1 regression; 1 numbers compared")
    assert "-10.00" in text
    before = (tmp_path / "b.json").read_text()
    status, text = command(monkeypatch, tmp_path, [pair(0.4)], update=True)
    assert status == 0
    assert "the old baseline against these records: FAILED: 1 regression" in text
    assert (tmp_path / "b.json").read_text() != before
    assert command(monkeypatch, tmp_path, [pair(0.4)])[0] == 0


def test_an_improvement_passes_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, tmp_path, [pair(0.5)], update=True)
    before = (tmp_path / "b.json").read_text()
    status, text = command(monkeypatch, tmp_path, [pair(0.6)])
    assert (status, text.splitlines()[-1]) == (0, "passed: 1 numbers compared, 1 improvement")
    assert "check --update" in text
    assert (tmp_path / "b.json").read_text() == before


def test_nothing_to_compare_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, tmp_path, [pair(row="two")], update=True)
    status, text = command(monkeypatch, tmp_path, [pair()], request=Request(methods=["one"]))
    assert (status, text.splitlines()[-1]) == (1, "FAILED: nothing to compare; 0 numbers compared, 1 new")


def test_a_missing_cell_fails_and_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, tmp_path, [pair()], update=True)
    status, text = command(monkeypatch, tmp_path, [(pair()[0], None)])
    assert status == 1
    assert "python run_all.py --suite shapes --preset quick" in text


def test_update_wants_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [pair(row="one"), (pair(row="two")[0], None)]
    status, text = command(monkeypatch, tmp_path, cells, update=True)
    assert status == 1
    assert "two.easy.s0 missing" in text
    assert "--methods two --seeds 0" in text
    assert not (tmp_path / "b.json").exists()
    with pytest.raises(UsageError, match="leave --methods"):
        command(monkeypatch, tmp_path, cells, update=True, request=Request(methods=["one"]))


def test_update_takes_one_seed_of_a_row_that_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = TrainSettings()
    cells = [pair(0.1 * seed, seed, "two", trained) for seed in range(3)]
    cells += [pair(0.3), (pair(seed=1)[0], None), (pair(seed=2)[0], None)]
    assert command(monkeypatch, tmp_path, cells, update=True)[0] == 0
    rows = read_baseline(tmp_path / "b.json", "shapes", "quick").rows
    assert list(rows["one.easy"].metrics["ap_r_50"].seeds) == ["0"]
    assert list(rows["two.easy"].metrics["ap_r_50"].seeds) == ["0", "1", "2"]
    assert rows["two.easy"].metrics["ap_r_50"].origin == "spread"


@pytest.mark.parametrize(("before", "now", "wanted"), [(0, 1, "0,1,2,3,4"), (0, 2, "0,1,2,3,4"), (5, 4, "0,1,2,3,4")])
def test_update_wants_the_seeds_of_a_row_that_trains(
    before: int, now: int, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [pair(0.1 * seed, seed, "two", TrainSettings()) for seed in range(5)]
    if before:
        assert command(monkeypatch, tmp_path, cells[:before], update=True)[0] == 0
    with pytest.raises(UsageError, match=rf"two\.easy trains and has {now} of .* --seeds {wanted}"):
        command(monkeypatch, tmp_path, cells[:now], update=True)
    assert command(monkeypatch, tmp_path, cells, update=True)[0] == 0


def test_advice_names_the_seeds_of_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [pair(0.5, seed, train=TrainSettings()) for seed in range(3)]
    command(monkeypatch, tmp_path, cells, update=True)
    _, text = command(monkeypatch, tmp_path, [pair(0.6, train=TrainSettings())])
    assert "`python run_all.py check --suite shapes --preset quick --seeds 0,1,2 --update`" in text


def test_update_warns_of_records_of_changed_or_mixed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = [pair(row="one"), pair(row="two")]
    assert "warning" not in command(monkeypatch, tmp_path, clean, update=True)[1]
    mixed = [pair(row="one"), pair(row="two", environment=HERE.model_copy(update={"commit": "def"}))]
    assert "several commits (abc, def)" in command(monkeypatch, tmp_path, mixed, update=True)[1]
    dirty = [pair(row="one"), pair(row="two", environment=HERE.model_copy(update={"dirty": True}))]
    assert "not committed" in command(monkeypatch, tmp_path, dirty, update=True)[1]


def test_small_differences_are_seen() -> None:
    """A digit more where two decimals, or four digits, would show two equal numbers."""

    def cells(name: str, before: float, now: float, tolerance: float) -> tuple[str, ...]:
        return check._cells(Finding("r", name, "ok", "", before, Measured(now), tolerance, seeds=1))[2:6]

    assert cells("ap_r_50", 0.5, 0.51, 0.0002) == ("50.00", "51.00", "+1.00", "0.02")
    assert cells("ap_r_50", 0.5, 0.50004, 0.0002) == ("50.000", "50.004", "+0.004", "0.020")
    assert cells("loss/pull", 5.0, 5.1, 0.005) == ("5", "5.1", "+0.1", "0.005")
    assert cells("loss/pull", 5.2476, 5.2477, 0.0052) == ("5.2476", "5.2477", "+0.0001", "0.0052")
    assert cells("loss/pull", 0.0, 1e-7, 1e-6) == ("0", "1e-07", "+1e-07", "1e-06")


def test_markdown_stays_short() -> None:
    """Hundreds of numbers that are off: a pull request takes 65,536 characters."""
    off = [Finding(f"row_{n}.tiny", "ap_r_50", "regression", "x" * 2000, 0.5, Measured(0.4), 0.1) for n in range(700)]
    near = [Finding(f"row_{n}.tiny", "loss/a", "ok", "", 0.5, Measured(0.4), 0.1, seeds=1) for n in range(700)]
    text = check.as_markdown(check.Checked(False, "FAILED", tuple(one for one in off[:5] + near), ()))
    assert "580 more are not listed" in text
    assert "  " not in "".join(line for line in text.splitlines() if line.startswith("|"))
    rows = [line for line in text.splitlines() if line.startswith("| row_1.tiny")]
    assert max(map(len, rows)) < 600


def test_markdown_of_hostile_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "<img src=x>|\x1b[31m\n# no"
    finding = Finding(f"{row}.easy", "ap_r_50", "failed", "failed: <script>alert(1)</script> | [a](http://b)")
    text = check.as_markdown(check.Checked(False, "FAILED: 1 failed", (finding,), (f"a {row}",)))
    assert "<img" not in text
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\n# no" not in text
    assert "](http" not in text
    rows = [line for line in text.splitlines() if line.startswith("|") and "ap" in line]
    assert rows
    assert all(line.replace("\\|", "").count("|") == 9 for line in rows)


def test_markdown_has_verdict_table_and_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = {"metrics": {"ap_r_70": metric(0.3)}}
    command(monkeypatch, tmp_path, [pair(0.5, losses={"pull": 2.0}, **equal)], update=True)
    command(monkeypatch, tmp_path, [pair(0.4, losses={"pull": 2.0001}, **equal)])
    text = (tmp_path / "b.md").read_text()
    assert "1 numbers are bit-equal to the baseline's, 1 others are ok" in text
    assert "ap_r_70" not in text
    head, details = text.split("<details>")
    assert head.startswith("# Regression check: failed")
    assert "regression" in head
    assert "loss/pull" not in head
    assert "loss/pull" in details
    assert HERE.commit in head
    assert regression.FAILING
