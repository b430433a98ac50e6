"""What makes a result stale, what does not, and that `list` says why."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from harness.cell import Reporter, run_cell
from harness.job import make_job
from harness.keys import differences
from harness.listing import show_plan, why_stale
from harness.plan import Cell, Request, plan, resolve
from harness.store import INPUTS, STEPS, Store
from harness.suite import load_suite, parse_overrides
from harness.sweep import cell_plan

FAULTY = Path(__file__).resolve().parent / "faulty.py"
TINY = ["train.steps=1", "train.batch_size=2", "data.train_images=2", "data.val_images=2", "data.size=32"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A method of one's own, to be changed."""
    return Path(shutil.copy(FAULTY, tmp_path / "mine.py"))


def cell(source: Path, output: Path, *overrides: str) -> Cell:
    settings = parse_overrides([*TINY, "evaluate.resamples=5", *overrides])
    request = Request(methods=[f"{source}:Faulty"], seeds=[0], overrides=settings)
    (found,) = plan(resolve(load_suite("shapes"), request)[2], Store(output), None)
    return found


def finished(source: Path, output: Path) -> Cell:
    found, store = cell(source, output), Store(output)
    with store.drafts("cell") as drafts:
        run_cell(cell_plan(found, store, None, drafts, STEPS), Reporter(io.StringIO()))
    return found


@pytest.mark.parametrize(
    ("override", "missing", "why"),
    [
        ("train.steps=2", STEPS, "train: train.steps: 1 -> 2"),
        ("faulty.fault=raises", STEPS, 'train: setting fault: "none" -> "raises"'),
        ("data.train_images=3", STEPS, "train: training data"),
        ("data.val_images=3", STEPS[1:], "predict: judged data"),
        ("predict.long_side=64", STEPS[1:], "predict: predict.long_side: 0 -> 64"),
        ("evaluate.resamples=6", STEPS[2:], "evaluate: evaluate.resamples: 5 -> 6"),
        ("train.workers=2", (), ""),
        ("train.checkpoint_seconds=5", (), ""),
    ],
)
def test_a_setting_makes_stale_what_depends_on_it(
    override: str, missing: tuple[str, ...], why: str, source: Path, tmp_path: Path
) -> None:
    before = finished(source, tmp_path / "out")
    after = cell(source, tmp_path / "out", override)
    assert tuple(step for step in STEPS if step not in after.finished()) == missing
    assert why_stale(after).startswith(why)
    assert bool(why_stale(after)) == bool(why)
    assert why_stale(before) == ""


def change(source: Path, old: str, new: str) -> None:
    text = source.read_text()
    assert old in text
    source.write_text(text.replace(old, new))


def test_code_makes_stale_and_is_named_but_words_do_not(source: Path, tmp_path: Path) -> None:
    before = finished(source, tmp_path / "out")
    change(source, '"""A method for tests of faults', '# a remark\n"""Another docstring')
    assert cell(source, tmp_path / "out").keys == before.keys
    change(source, "nn.Dropout(0.3)", "nn.Dropout(0.4)")
    after = cell(source, tmp_path / "out")
    assert after.finished() == []
    assert why_stale(after) == f"train: method's code .../{tmp_path.name}/mine.py"


def test_another_seed_is_another_result_not_a_stale_one(source: Path, tmp_path: Path) -> None:
    finished(source, tmp_path / "out")
    request = Request(methods=[f"{source}:Faulty"], seeds=[1], overrides=parse_overrides(TINY))
    (other,) = plan(resolve(load_suite("shapes"), request)[2], Store(tmp_path / "out"), None)
    assert (other.finished(), why_stale(other)) == ([], "")


def test_reports_and_tables_are_part_of_no_key(source: Path, tmp_path: Path) -> None:
    """Nor is whatever only runs, shows or checks: it changes no number."""
    found = cell(source, tmp_path)
    code = {
        name for inputs in found.inputs.values() for part in inputs.values() if isinstance(part, dict) for name in part
    }
    without = ("tables", "drawn", "plots", "shown", "sweep", "launch", "checkpoint", "listing", "regression", "doctor")
    assert "harness/train.py" in code
    assert not code & {f"harness/{name}.py" for name in without}


def test_every_result_says_what_it_was_made_of(source: Path, tmp_path: Path) -> None:
    before = finished(source, tmp_path / "out")
    (before.folders["train"] / INPUTS).write_text("{")
    after = cell(source, tmp_path / "out", "train.steps=2")
    assert why_stale(after) == "train: the result there is does not say what it was made of"


def test_the_plan_says_why_and_how_far_a_training_came(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    half = cell(source, tmp_path / "out")
    folder = store.unfinished(half.folders["train"].name)
    folder.mkdir(parents=True)
    (folder / f"000000007-{'0' * 32}.pt").touch()
    text = io.StringIO()
    settings = parse_overrides([*TINY, "evaluate.resamples=5"])
    request = Request(methods=[f"{source}:Faulty"], seeds=[0], overrides=settings)
    show_plan(make_job("shapes", request, tmp_path / "out"), Console(file=text, width=200))
    (line,) = [line for line in text.getvalue().splitlines() if line.startswith("faulty.easy.s0") and "at step" in line]
    assert line.split()[2:][:3] == ["at", "step", "7"]


def test_differences_in_words() -> None:
    old = {
        "weights": "a",
        "train": {"steps": 3},
        "setting": {"margin": 0.5, "same": 1, "long": "x" * 100},
        "method's code": {"m/a.py": "1"},
    }
    new = {
        "weights": "b",
        "train": {"steps": 4},
        "setting": {"margin": 0.7, "same": 1, "long": "y" * 100, "new": True},
        "method's code": {},
    }
    assert differences(old, new) == [
        "other weights",
        "train.steps: 3 -> 4",
        "setting margin: 0.5 -> 0.7",
        "setting long",
        "setting new: null -> true",
        "method's code m/a.py",
    ]
    assert differences(old, old) == []
