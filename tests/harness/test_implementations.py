"""Methods whose work is somebody else's code, or starts from somebody's weights: keys, records, tables, messages."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_records import AP, PAPER, PRESET, record
from rich.console import Console
from safetensors.torch import save_file
from torch import ones

from harness import sweep
from harness.job import make_job
from harness.launch import Outcome, _absolute_path
from harness.names import UsageError
from harness.plan import Cell, Request, plan, resolve
from harness.record import Record
from harness.shown import _in_preset, _weights_alone
from harness.store import Store
from harness.suite import Row, RowPreset, Table, load_suite, parse_overrides
from harness.tables import draw, same_images
from methods import rcnn_detectron2, rcnn_torchvision
from methods.base import MethodError
from methods.mask_rcnn import MaskRCNN
from methods.rcnn import check_published

ROOT = Path(__file__).resolve().parents[2]
FEW = ("data.val_images=3", "data.train_images=3", "data.size=64")
PLUGIN = """
from dataclasses import dataclass, replace
import torch
from methods.base import Instances, Method, MethodError, Prediction, setting

@dataclass(frozen=True)
class Config:
    library: str = setting("auto", "whose code", source="test", choices=("auto", "first", "second", "missing"))
    start: str = setting("", "a file to start from", source="test", file=True)
    level: float = setting(0.5, "of the score", source="test", stage="predict")

class Plugin(Method):
    name, paper, tasks, Config = "plugin", "none", frozenset({"instances"}), Config

    @classmethod
    def settled(cls, config):
        return replace(config, library="first") if config.library == "auto" else config

    @classmethod
    def implementation(cls, config):
        assert config.library != "auto", "it was not settled"
        if config.library == "missing":
            raise MethodError("the library is not installed; pip install it")
        return f"{config.library} VERSION"

    def __init__(self, config, num_classes):
        super().__init__(config, num_classes)
        self.weight = torch.nn.Parameter(torch.rand(3))

    def initialise(self):
        with torch.no_grad():
            self.weight.fill_(7.0)

    def loss(self, batch):
        return {"nothing": self.weight.square().sum()}

    def predict(self, images, sizes, oracle=None):
        height, width = sizes[0].tolist()
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, : height // 2] = True
        return [Prediction(Instances(mask, torch.tensor([1]), torch.tensor([self.config.level])))]
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN.replace("VERSION", "1.0"), encoding="utf-8")
    return f"{path}:Plugin"


def cell(tmp_path: Path, method: str, *overrides: str) -> Cell:
    request = Request(methods=[method], seeds=[0], overrides=parse_overrides([*FEW, *overrides]))
    _, _, cells = resolve(load_suite("shapes"), request)
    (one,) = plan(cells, Store(tmp_path / "out"), None)
    return one


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), *words], cwd=cwd, capture_output=True, text=True, timeout=200,
        env=environment,
    )  # fmt: skip


def weights(path: Path, value: float = 1.0) -> Path:
    save_file({"x": value * ones(2)}, path)
    return path


# Keys


def test_what_is_automatic_is_settled_before_anything_else(tmp_path: Path, plugin: str) -> None:
    one = cell(tmp_path, plugin)
    assert one.settings.config["library"] == "first"
    assert one.implementation == "first 1.0"
    assert cell(tmp_path, plugin, "plugin.library=first").keys == one.keys


def test_another_implementation_trains_again(tmp_path: Path, plugin: str) -> None:
    first, second = cell(tmp_path, plugin), cell(tmp_path, plugin, "plugin.library=second")
    assert set(first.keys.values()).isdisjoint(second.keys.values())


def test_another_version_trains_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell(tmp_path, "mask_rcnn", "mask_rcnn.backend=torchvision")
    assert before.implementation == rcnn_torchvision.implementation()
    monkeypatch.setattr(MaskRCNN, "implementation", classmethod(lambda cls, config: "torchvision 99, commit 1"))
    after = cell(tmp_path, "mask_rcnn", "mask_rcnn.backend=torchvision")
    assert set(before.keys.values()).isdisjoint(after.keys.values())


def test_a_method_of_our_own_code_has_no_implementation(tmp_path: Path) -> None:
    assert cell(tmp_path, "pull_push_shift").implementation == ""


@pytest.mark.parametrize("method", ["plugin", "mask_rcnn"])
def test_the_content_of_a_file_decides_not_its_name(tmp_path: Path, plugin: str, method: str) -> None:
    chosen, key = (plugin, "plugin.start") if method == "plugin" else ("mask_rcnn", "mask_rcnn.weights")
    more = [] if method == "plugin" else ["mask_rcnn.backend=torchvision"]
    first, same, other = (
        weights(tmp_path / name, value)
        for name, value in (("a.safetensors", 1.0), ("b.safetensors", 1.0), ("c.safetensors", 2.0))
    )
    keys = [cell(tmp_path, chosen, *more, f"{key}={path}").keys for path in (first, same, other)]
    assert keys[0] == keys[1]
    assert set(keys[0].values()).isdisjoint(keys[2].values())
    assert set(keys[0].values()).isdisjoint(cell(tmp_path, chosen, *more).keys.values())
    weights(first, 2.0)
    os.utime(first, (1, 1))  # another time of change, so that its digest is made anew
    assert cell(tmp_path, chosen, *more, f"{key}={first}").keys == keys[2]


def test_a_relative_name_is_from_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    words = ("mask_rcnn", "mask_rcnn.backend=torchvision")
    one = cell(tmp_path, *words, "mask_rcnn.weights=a.safetensors")
    assert one.settings.config["weights"] == str(path.resolve())
    assert one.keys == cell(tmp_path, *words, f"mask_rcnn.weights={path}").keys


# What is missing


def test_a_missing_file_is_status_two(tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    words = ["--methods", "mask_rcnn", "--output", str(tmp_path / "out")]
    for setting in (*FEW, "mask_rcnn.backend=torchvision", f"mask_rcnn.weights={missing}"):
        words += ["--set", setting]
    result = run(*words)
    assert result.returncode == 2
    assert f"there is no file {missing}" in result.stderr
    assert "docs/baselines.md" in result.stderr
    assert "--set mask_rcnn.weights=PATH" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "steps").exists()


def test_a_missing_library_is_an_error_or_left_out(tmp_path: Path, plugin: str) -> None:
    request = Request(methods=[plugin], seeds=[0], overrides=parse_overrides([*FEW, "plugin.library=missing"]))
    _, _, cells = resolve(load_suite("shapes"), request)
    with pytest.raises(UsageError, match="plugin: the library is not installed; pip install it"):
        plan(cells, Store(tmp_path / "out"), None)
    left_out: dict[str, str] = {}
    assert plan(cells, Store(tmp_path / "out"), None, left_out) == []
    assert left_out == {"plugin": "the library is not installed; pip install it"}


def test_a_failed_cells_record_says_whose_code_was_to_run(tmp_path: Path, plugin: str) -> None:
    record = sweep.make_record(cell(tmp_path, plugin), Outcome("failed", "out of luck", ""))
    assert record.train is None
    assert record.provenance.implementation == "first 1.0"
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_a_broken_torchvision_is_status_two_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise MethodError("torchvision's operators do not load: run `make install`")

    monkeypatch.setattr(rcnn_torchvision, "implementation", broken)
    with pytest.raises(UsageError, match="mask_rcnn: torchvision's operators do not load: run `make install`"):
        cell(tmp_path, "mask_rcnn", "mask_rcnn.backend=torchvision")


# Tables


def made_by(one: Record, train: str, predict: str) -> Record:
    costs = {
        "train": one.train.model_copy(update={"implementation": train}),
        "predict": one.predict.model_copy(update={"implementation": predict}),
    }
    return one.model_copy(update=costs)


@pytest.mark.parametrize(
    ("train", "predict", "title"),
    [
        ("", "", "A"),
        ("torchvision 1", "torchvision 1", "A [torchvision 1]"),
        ("torchvision 1", "torchvision 2", "A [torchvision 1 or torchvision 2]"),
    ],
)
def test_titles_name_whose_code_ran(train: str, predict: str, title: str) -> None:
    one = made_by(record("a"), train, predict)
    found = draw(Table(title="T", columns=(AP,)), {"a": Row(method="pull_push", title="A")}, PRESET, [one])
    assert [line[0] for line in found.body] == [title]
    assert title in found.markdown()
    assert title.replace("[", "").split()[0] in found.csv()


def test_seeds_of_two_implementations_are_both_named() -> None:
    records = [made_by(record("a", seed=0), "x 1", "x 1"), made_by(record("a", seed=1), "y 2", "y 2")]
    found = draw(Table(title="T", columns=(AP,)), {"a": Row(method="pull_push", title="A")}, PRESET, records)
    assert found.body[0][0] == "A [x 1 or y 2]"


def test_a_preset_says_of_a_row_why_no_paper_has_its_numbers() -> None:
    row = Row(method="pull_push", title="A", not_comparable="of the row")
    assert _in_preset(row, None) == row
    assert _in_preset(row, RowPreset()) == row
    changed = _in_preset(row, RowPreset(title="B", not_comparable="of the preset"))
    assert (changed.title, changed.not_comparable) == ("B", "of the preset")
    assert changed.config == row.config


def test_a_presets_reason_reaches_the_verdict() -> None:
    row = Row(method="pull_push", title="A")
    table = Table(title="T", columns=(AP,), reported={"a": PAPER})
    plain = draw(table, {"a": row}, PRESET, [record("a", 0.249)])
    assert plain.body[-1][-1].startswith("reproduced")
    told = draw(table, {"a": _in_preset(row, RowPreset(not_comparable="other zoo"))}, PRESET, [record("a", 0.249)])
    assert "other zoo" in told.body[-1][-1]
    assert "reproduced" not in told.body[-1][-1]


def test_images_are_not_trained_on_where_nothing_is_trained() -> None:
    one = record("a")
    data = {"train_annotations": "val.json", "val_annotations": "val.json"}
    settings = [
        one.settings.__class__(
            **{**vars(one.settings), "data": data, "train": one.settings.train.model_copy(update={"steps": steps})}
        )
        for steps in (3, 0)
    ]
    trained, started = (one.model_copy(update={"settings": setting}) for setting in settings)
    assert same_images(trained)
    assert not same_images(started)


# From end to end


def test_no_steps_keep_the_first_weights_and_are_evaluated(tmp_path: Path, plugin: str) -> None:
    """A plugin of somebody's own with `settled`, `implementation` and a file, from the command to record and table."""
    path = weights(tmp_path / "a.safetensors")
    words = ["--methods", plugin, "--seeds", "0", "--output", str(tmp_path / "out")]
    for setting in (*FEW, "train.steps=0", f"plugin.start={path}", "evaluate.resamples=5"):
        words += ["--set", setting]
    result = run(*words)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "by first 1.0" in result.stdout
    assert "plugin [first 1.0]" in result.stdout
    (file,) = (tmp_path / "out" / "records").glob("*.json")
    one = json.loads(file.read_text())
    assert one["status"] == "ok"
    assert one["settings"]["config"]["library"] == "first"
    assert one["train"]["steps"] == 0
    assert one["train"]["losses"] == {}
    assert one["train"]["implementation"] == one["predict"]["implementation"] == "first 1.0"
    assert one["evaluation"]["images"] == 3
    from safetensors.torch import load_file

    (stored,) = (tmp_path / "out" / "steps" / "train").glob("*/weights.safetensors")
    assert load_file(stored)["weight"].tolist() == [7.0, 7.0, 7.0], "not the weights that it started from"


@pytest.mark.slow
def test_mask_rcnn_starts_from_a_file_and_is_judged(tmp_path: Path) -> None:
    """The zoo's way with a small network: weights of a run, no step, the same numbers again."""
    common = ["mask_rcnn.backend=torchvision", "mask_rcnn.pretrained=false", "evaluate.resamples=5"]

    def go(output: str, *settings: str) -> dict:
        words = ["--methods", "mask_rcnn", "--seeds", "0", "--output", str(tmp_path / output)]
        for setting in (*FEW, *common, *settings):
            words += ["--set", setting]
        result = run(*words)
        assert result.returncode == 0, result.stdout + result.stderr
        (file,) = (tmp_path / output / "records").glob("*.json")
        return json.loads(file.read_text())

    first = go("first", "train.steps=2", "train.batch_size=2")
    (stored,) = (tmp_path / "first" / "steps" / "train").glob("*/weights.safetensors")
    second = go("second", "mask_rcnn.train.steps=0", f"mask_rcnn.weights={stored}")
    assert first["train"]["steps"] == 2
    assert second["train"]["steps"] == 0
    assert second["evaluation"]["verdicts"]["voc"]["metrics"] == first["evaluation"]["verdicts"]["voc"]["metrics"]
    assert second["predict"]["implementation"] == rcnn_torchvision.implementation()


# Whose numbers may be compared


@pytest.mark.parametrize(
    ("by", "implementation", "verdict"),
    [
        ("", "", "reproduced"),
        ("detectron2", "detectron2 0.6, commit 02b5c4e2", "reproduced"),
        ("detectron2", "torchvision 0.29.2, commit f1228151", "another implementation ran"),
        ("detectron2", "", "another implementation ran"),  # a record that does not say who ran
        ("detectron2", "detectron2x 1", "another implementation ran"),
    ],
)
def test_a_makers_number_is_held_against_its_own_library_alone(by: str, implementation: str, verdict: str) -> None:
    table = Table(title="T", columns=(AP,), reported={"a": PAPER.model_copy(update={"by": by, "origin": "the zoo"})})
    one = made_by(record("a", 0.249), implementation, implementation)
    found = draw(table, {"a": Row(method="pull_push", title="A")}, PRESET, [one])
    assert verdict in found.body[-1][-1]
    assert ("reproduced" in found.body[-1][-1]) == (verdict == "reproduced")
    assert found.body[0][0].startswith("A (the zoo")


def test_an_untrained_network_is_compared_with_nothing() -> None:
    def verdict(steps: int, weights: str) -> str:
        one = record("a", 0.249)
        train = one.settings.train.model_copy(update={"steps": steps})
        settings = one.settings.__class__(**{**vars(one.settings), "train": train, "config": {"weights": weights}})
        table = Table(title="T", columns=(AP,), reported={"a": PAPER})
        rows = {"a": Row(method="pull_push", title="A")}
        return draw(table, rows, PRESET, [one.model_copy(update={"settings": settings})]).body[-1][-1]

    assert verdict(3, "").startswith("reproduced")
    assert verdict(0, "zoo.pkl").startswith("reproduced")
    assert "nothing was trained, and no weights were loaded" in verdict(0, "")


@pytest.mark.parametrize(
    ("key", "value", "steps", "harmless"),
    [
        ("a.weights", "/elsewhere/zoo.pkl", 0, True),
        ("a.weights", "/elsewhere/mine.pkl", 0, False),  # another file is another model
        ("a.weights", "/elsewhere/zoo.pkl", 5, False),
        ("c.weights", "/elsewhere/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 0, True),  # what would be downloaded
        ("c.weights", "/elsewhere/mine.pth", 0, False),
        ("b.weights", "/elsewhere/zoo.pkl", 0, False),  # the preset names no file for it
        ("a.nms_threshold", "zoo.pkl", 0, False),
    ],
)
def test_only_the_place_of_the_zoos_file_may_change(key: str, value: str, steps: int, harmless: bool) -> None:
    train = record("a").settings.train.model_copy(update={"steps": steps})
    cells = [SimpleNamespace(settings=SimpleNamespace(row=row, train=train)) for row in "abc"]
    presets = {name: RowPreset(config={"weights": own}) for name, own in (("a", "zoo.pkl"), ("c", "download"))}
    preset = PRESET.model_copy(update={"rows": presets})
    job = SimpleNamespace(overrides={key: value}, preset=preset, cells=cells)
    assert _weights_alone(job) == ({key} if harmless else set())


def test_rows_of_a_table_that_cannot_run_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcnn_detectron2, "problem", lambda: "detectron2 is not installed")
    rcnn_detectron2.implementation.cache_clear()
    overrides = parse_overrides([*FEW, "mask_rcnn.backend=detectron2"])
    by_table = make_job("shapes", Request(tables=["baselines"], overrides=overrides), tmp_path)
    assert set(by_table.left_out) == {"mask_rcnn"}
    assert "detectron2 is not installed" in by_table.left_out["mask_rcnn"]
    assert {one.settings.row for one in by_table.cells} == {"mask_rcnn_torchvision", "mask2former"}
    with pytest.raises(UsageError, match="mask_rcnn: detectron2 is not installed"):
        make_job("shapes", Request(methods=["mask_rcnn"], overrides=overrides), tmp_path)


def test_rows_that_are_left_out_are_said_and_make_the_status_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_records", lambda job, console: iter(()))
    monkeypatch.setattr(sweep, "show_tables", lambda job, records, console: True)
    text = io.StringIO()
    for left_out, status in (({"a": "its library is missing"}, 1), ({}, 0)):
        assert sweep.run(SimpleNamespace(left_out=left_out, cells=[]), Console(file=text)) == status
    assert text.getvalue().count("a is left out: its library is missing") == 2


def test_a_setting_that_every_row_has_of_its_own_changes_nothing_and_is_refused() -> None:
    request = Request(methods=["mask_rcnn_torchvision"], overrides=parse_overrides(["mask_rcnn.backend=detectron2"]))
    with pytest.raises(UsageError, match=r"--set mask_rcnn.backend changes nothing: mask_rcnn_torchvision has its own"):
        resolve(load_suite("shapes"), request)


@pytest.mark.parametrize("name", ["model_final_{}.pkl", "maskrcnn_resnet50_fpn_coco-{}.pth"])
def test_a_file_with_a_makers_name_must_be_the_makers(name: str, tmp_path: Path) -> None:
    content = b"weights"
    digest = hashlib.md5(content).hexdigest()[:6] if name.endswith("pkl") else hashlib.sha256(content).hexdigest()[:8]
    good, other = tmp_path / name.format(digest), tmp_path / name.format("0" * len(digest))
    for path in (good, other, tmp_path / "mine.pkl"):
        path.write_bytes(content)
    check_published(good)
    check_published(tmp_path / "mine.pkl")
    with pytest.raises(MethodError, match="this is not the published file of that name"):
        check_published(other)


def test_a_cell_sees_the_path_that_the_driver_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["clone", "/whole"]))
    assert _absolute_path() == {"PYTHONPATH": os.pathsep.join([str(tmp_path / "clone"), "/whole"])}
    monkeypatch.delenv("PYTHONPATH")
    assert _absolute_path() == {}
