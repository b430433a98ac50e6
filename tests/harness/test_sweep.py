"""The driver: what it does when another run, the disk or an editor comes in between."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from harness import sweep
from harness.cell import InputsChanged, Reporter, run_cell
from harness.checkpoint import Checkpoints, State
from harness.estimate import _left
from harness.job import Job, make_job
from harness.keys import _STEP_CODE
from harness.launch import Outcome
from harness.locks import hold
from harness.plan import Request
from harness.record import read_record
from harness.settings import TrainSettings
from harness.store import STEPS, DamagedStep, write_text
from harness.suite import parse_overrides
from harness.sweep import cell_plan

TINY = ["train.steps=1", "train.batch_size=2", "data.train_images=2", "data.val_images=2", "data.size=32"]


class Waited(Exception):
    pass


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copy(Path(__file__).resolve().parent / "faulty.py", tmp_path / "mine.py"))


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def job(source: Path, seeds: tuple[int, ...] = (0,)) -> Job:
    settings = parse_overrides([*TINY, "evaluate.resamples=5"])
    return make_job(
        "shapes", Request(methods=[f"{source}:Faulty"], seeds=seeds, overrides=settings), source.parent / "o"
    )


def in_process(plan, folder, limits, follow, locks) -> Outcome:
    try:
        run_cell(plan, Reporter(io.StringIO()))
    except DamagedStep as error:
        return Outcome("failed", str(error), "")
    return Outcome("ok", "", "")


def test_damaged_files_are_made_anew_or_named(source: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = job(source)
    (cell,) = planned.cells
    monkeypatch.setattr(sweep, "launch", in_process)
    (whole,) = sweep.run_cells(planned, console)
    # A damaged record and a deleted training: both are made anew, and all that follows from the training.
    cell.record.write_text("{")
    shutil.rmtree(cell.folders["train"])
    (again,) = sweep.run_cells(planned, console)
    assert "faulty.easy.s0: train, predict, evaluate\n" in console.file.getvalue()
    assert again.evaluation == whole.evaluation == read_record(cell.record).evaluation
    # Predictions that were cut off while their summary is whole: the file is named, with what to do.
    predictions = cell.folders["predict"] / "predictions.jsonl.gz"
    predictions.write_bytes(predictions.read_bytes()[:60])
    shutil.rmtree(cell.folders["evaluate"])
    (failed,) = sweep.run_cells(planned, console)
    assert failed.status == "failed"
    assert "predictions.jsonl.gz is damaged" in failed.reason
    assert failed.reason.endswith(f"delete the folder {predictions.parent.resolve()} and run again")


@pytest.mark.parametrize("step", STEPS)
def test_a_cell_is_put_off_while_another_run_makes_any_of_its_steps(
    step: str, source: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training may be another row's, too."""
    planned = job(source)
    (cell,) = planned.cells
    monkeypatch.setattr(sweep, "launch", in_process)

    def wait(_: float) -> None:
        raise Waited

    with monkeypatch.context() as patched, hold([planned.store.lock(cell.folders[step])]):
        patched.setattr(sweep.time, "sleep", wait)
        with pytest.raises(Waited):
            sweep.run_cells(planned, console)
    assert "another run is at work on it (process" in console.file.getvalue()
    assert [record.status for record in sweep.run_cells(planned, console)] == ["ok"]


def test_what_another_run_has_just_failed_at_is_not_tried_again(
    source: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the same command, later, tries it: a record counts that came while this run waited."""
    planned = job(source)
    (cell,) = planned.cells
    failed = sweep.make_record(cell, Outcome("failed", "out of luck", ""))
    monkeypatch.setattr(sweep, "launch", in_process)
    write_text(cell.record, failed.model_dump_json())
    lock = hold([planned.store.lock(cell.folders["train"])])
    lock.__enter__()

    def other_run(_: float) -> None:
        write_text(cell.record, failed.model_dump_json(indent=1))
        lock.__exit__(None, None, None)

    with monkeypatch.context() as patched:
        patched.setattr(sweep.time, "sleep", other_run)
        assert [record.reason for record in sweep.run_cells(planned, console)] == ["out of luck"]
    assert [record.status for record in sweep.run_cells(planned, console)] == ["ok"]


def test_a_disk_that_is_full_for_one_cell_is_a_row(
    source: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = job(source, (0, 1))

    def full_at_first(plan, *rest) -> Outcome:
        if plan.settings.seed == 0:
            raise OSError(28, "No space left on device")
        return in_process(plan, *rest)

    monkeypatch.setattr(sweep, "launch", full_at_first)
    assert sweep.run(planned, console) == 1
    assert "faulty.easy.s0 failed: the driver cannot run it: [Errno 28] No space left" in console.file.getvalue()
    assert read_record(planned.cells[1].record).status == "ok"


def test_tables_that_cannot_be_written_are_printed(
    source: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = job(source)
    monkeypatch.setattr(sweep, "launch", in_process)
    (planned.store.output).mkdir()
    (planned.store.output / "tables").write_text("in the way")
    assert sweep.run(planned, console) == 1
    assert "│ faulty" in console.file.getvalue()
    assert "cannot be written: " in console.file.getvalue()


def test_code_that_changes_while_a_sweep_runs_is_noticed(source: Path) -> None:
    """Or new results would lie under the old key."""
    planned = job(source)
    (cell,) = planned.cells
    source.write_text(source.read_text().replace("nn.Dropout(0.3)", "nn.Dropout(0.5)"))
    with planned.store.drafts("x") as drafts:
        handed = cell_plan(cell, planned.store, None, drafts, STEPS)
        with pytest.raises(InputsChanged, match=r"changed since this run began: method's code .*/mine.py; the same"):
            run_cell(handed, Reporter(io.StringIO()))
    assert cell.finished() == []


def test_keys_know_the_code_that_numbers_come_from() -> None:
    """A file that is missing here could change and leave every result as it is."""
    wanted = {
        "train": {"train", "batches"},
        "predict": {"predict", "batches"},
        "evaluate": {"evaluate", "judges", "judged", "samples"},
    }
    for step, names in wanted.items():
        assert {f"harness/{name}.py" for name in names} <= set(_STEP_CODE[step])
    assert {f"evaluation/{name}.py" for name in ("voc_apr", "coco_ap", "statistics")} <= set(_STEP_CODE["evaluate"])


def test_a_scale_of_half_precision_survives_its_checkpoint(tmp_path: Path) -> None:
    """What Fabric hands over of a GPU's scaler: plain numbers."""
    scale = {
        "scale": 2.0**14,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 7,
    }
    assert set(torch.amp.GradScaler("cpu").state_dict()) == set(scale)
    kept = Checkpoints(tmp_path, 0)
    kept.save(State(1, 0, 1, {}, {}, {}, scale, {}, 0.0, 0.0, 0, []))
    assert kept.latest().precision == scale


def test_what_is_left_of_a_half_done_training() -> None:
    recipe = TrainSettings(steps=10, then=({"steps": 5},))
    assert [_left(recipe, done) for done in (0, 4, 10, 12, 15)] == [[10, 5], [6, 5], [0, 5], [0, 3], [0, 0]]
