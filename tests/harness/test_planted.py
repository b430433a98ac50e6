"""Faults planted into every method, one at a time: the regression check with the committed baseline must find them.

A fault is a change of the source text. The cells run in this process, with the changed source executed in place of the
module's own, and are written, recorded and checked as by `run_all.py`. What is on disk stays as it is, and so do the
cells' keys: to the check they are records of the present code.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness import check, sweep
from harness.baseline import read_baseline
from harness.cell import Reporter, run_cell
from harness.job import make_job
from harness.launch import Outcome
from harness.plan import Request
from harness.suite import ROOT, load_suite

METHODS = ("pull_push", "recurrent_mean_shift", "spatial_embeddings", "segsort", "mask_rcnn", "mask2former")
BASELINE = ROOT / "results" / "baselines" / "tiny-tiny.json"


@dataclass(frozen=True)
class Fault:
    """In the module ``file`` of ``folder``/, ``old`` becomes ``new``; the check finds one of the numbers ``shows``."""

    method: str
    kind: str
    file: str
    old: str
    new: str
    shows: tuple[str, ...]
    folder: str = "methods"

    @property
    def name(self) -> str:
        return f"{self.method}-{self.kind}"

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.file}.py"


FOUND = ("ap_r_50", "coco_ap", "recall_50@10")  # what a method finds: one of them must show it
FAULTS = (
    Fault(
        "pull_push", "sign in the loss", "pull_push",
        "_hinge(2.0 * push_margin - spread, squared)", "_hinge(2.0 * push_margin + spread, squared)",
        ("loss/push",),
    ),
    Fault(
        "pull_push", "threshold of the grouping", "pull_push",
        "threshold=config.threshold,", "threshold=0.25 * config.threshold,",
        FOUND,
    ),
    Fault(
        "pull_push", "labels off by one", "pull_push",
        "labels = semantic.flatten()[found.seeds]", "labels = semantic.flatten()[found.seeds] % 6 + 1",
        FOUND,
    ),
    Fault(
        "recurrent_mean_shift", "sign in the loss", "recurrent_mean_shift",
        "positive = every - sum(", "positive = every + sum(",
        ("loss/positive",),
    ),
    Fault(
        "recurrent_mean_shift", "threshold of the grouping", "recurrent_mean_shift",
        "minlength=len(modes)), config.threshold)", "minlength=len(modes)), 0.6 * config.threshold)",
        FOUND,
    ),
    Fault(
        "recurrent_mean_shift", "labels off by one", "recurrent_mean_shift",
        "inside = semantic > 0", "inside = semantic > 1",
        FOUND,
    ),
    Fault(
        "spatial_embeddings", "sign in the loss", "spatial_embeddings",
        "errors = torch.where(labels, 1.0 - logits, 1.0 + logits)",
        "errors = torch.where(labels, 1.0 + logits, 1.0 - logits)",
        ("loss/instance",),
    ),
    Fault(
        "spatial_embeddings", "threshold of the grouping", "spatial_embeddings",
        "threshold=config.threshold,", "threshold=2.0 * config.threshold,",
        FOUND,
    ),
    Fault(
        "spatial_embeddings", "labels off by one", "spatial_embeddings",
        "labels += [label] * len(proposals)", "labels += [label % 6 + 1] * len(proposals)",
        FOUND,
    ),
    Fault(
        "segsort", "sign in the loss", "segsort",
        "logits = concentration * embeddings @ prototypes.t()", "logits = -concentration * embeddings @ prototypes.t()",
        ("loss/segments",),
    ),
    Fault(
        "segsort", "neighbours that vote", "segsort",
        "nearest(directions, bank.directions, self.config.neighbours)", "nearest(directions, bank.directions, 1)",
        FOUND,
    ),
    Fault(
        "segsort", "labels off by one", "segsort",
        "return Prototypes(directions, majority,", "return Prototypes(directions, (majority + 1) % 7,",
        FOUND,
    ),
    Fault(
        "mask_rcnn", "sign in the boxes that are learned", "rcnn",
        "width - columns.flip(1).argmax(1)", "width + columns.flip(1).argmax(1)",
        ("loss/loss_rpn_box_reg",),
    ),
    Fault(
        "mask_rcnn", "threshold of the masks", "rcnn_torchvision",
        ">= self.config.mask_threshold", ">= self.config.mask_threshold + 0.2",
        FOUND,
    ),
    Fault(
        "mask_rcnn", "labels off by one", "rcnn_torchvision",
        "torch.arange(1, len(self.ids) + 1, device=index.device)",
        "torch.arange(0, len(self.ids), device=index.device)",
        FOUND,
    ),
    Fault(
        "mask_rcnn", "labels off by one in training", "rcnn_torchvision",
        'ids[one["labels"]]', 'ids[one["labels"] - 1]',
        ("loss/loss_classifier",),
    ),
    Fault(
        "mask2former", "sign in the loss", "mask2former",
        "name: sum(term for key, term in terms.items()", "name: sum(-term for key, term in terms.items()",
        ("loss/mask",),
    ),
    Fault(
        "mask2former", "threshold of the masks", "mask2former",
        "positive = logits > 0", "positive = logits > 1",
        FOUND,
    ),
    Fault(
        "mask2former", "labels off by one", "mask2former",
        "labels = best.indices[kept] % probabilities.shape[1] + 1",
        "labels = (best.indices[kept] + 1) % probabilities.shape[1] + 1",
        FOUND,
    ),
    Fault(
        "mask2former", "labels off by one in training", "mask2former",
        "objects.labels[seen] - 1", "objects.labels[seen]",
        ("loss/class",),
    ),
    Fault(
        "pull_push", "scores upside down", "scoring",
        "scores = _sums(group, own, count) / sizes.clamp(min=1)",
        "scores = 1.0 - _sums(group, own, count) / sizes.clamp(min=1)",
        FOUND,
    ),
)  # fmt: skip

# The loss is right, its gradient is not: every loss term is the baseline's, to the last bit.
GRADIENTS = (
    Fault(
        "pull_push", "a term without gradient", "pull_push",
        '"pull": config.pull_weight * pull,', '"pull": config.pull_weight * pull.detach(),',
        ("train/gradient_norm",),
    ),
    Fault(
        "recurrent_mean_shift", "sign of a gradient", "recurrent_mean_shift",
        "return upstream * ctx.saved_tensors[0]", "return -upstream * ctx.saved_tensors[0]",
        ("train/gradient_norm",),
    ),
    Fault(
        "spatial_embeddings", "a term without gradient", "spatial_embeddings",
        '"instance": config.instance_weight * instance,', '"instance": config.instance_weight * instance.detach(),',
        ("train/gradient_norm",),
    ),
    Fault(
        "segsort", "prototypes without gradient", "segsort",
        "own.detach() if config.detach else own", "own.detach()",
        ("train/gradient_norm",),
    ),
    Fault(
        "mask_rcnn", "a term without gradient", "rcnn_torchvision",
        'return self.model(list(images), [{**one, "labels": ids[one["labels"]]} for one in targets])',
        'terms = self.model(list(images), [{**one, "labels": ids[one["labels"]]} for one in targets])\n'
        '        return {name: term.detach() if name == "loss_mask" else term for name, term in terms.items()}',
        ("train/gradient_norm",),
    ),
    Fault(
        "mask2former", "sign of a gradient", "mask2former",
        "name: sum(term for key, term in terms.items()",
        'name: sum(2 * term.detach() - term if name == "dice" else term for key, term in terms.items()',
        ("train/gradient_norm",),
    ),
)  # fmt: skip
NO_STEP = Fault(
    "mask_rcnn", "weights that stay", "train", "            optimizer.step()\n", "", ("train/moved",), "harness"
)  # fmt: skip


def source(fault: Fault) -> str:
    """The module's text with the fault in it."""
    text = (ROOT / fault.path).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, f"{fault.name}: {fault.path} has changed; plant the fault anew"
    return text.replace(fault.old, fault.new)


@contextlib.contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The module as its faulty source makes it, for all modules of methods/ and harness/ that have names from it."""
    module = importlib.import_module(f"{fault.folder}.{fault.file}")
    before = {one: dict(vars(one)) for one in list(sys.modules.values()) if _ours(one)}
    own = {id(value): name for name, value in vars(module).items() if _made_in(value, module)}
    try:
        exec(compile(source(fault), module.__file__, "exec"), vars(module))
        for other, names in before.items():
            for name, value in names.items():
                if other is not module and id(value) in own:
                    setattr(other, name, getattr(module, own[id(value)]))
        yield
    finally:
        for one, names in before.items():
            vars(one).clear()
            vars(one).update(names)


def _ours(module: object) -> bool:
    return isinstance(module, ModuleType) and module.__name__.partition(".")[0] in ("methods", "harness")


def _made_in(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def here(plan, folder, limits, follow, locks=()) -> Outcome:
    """Runs a cell in this process."""
    try:
        run_cell(plan, Reporter(io.StringIO()))
    except Exception as error:
        traceback.print_exc()
        return Outcome("failed", f"{type(error).__name__}: {error}", "")
    return Outcome("ok", "", "")


def checked(folder: Path, row: str, monkeypatch: pytest.MonkeyPatch) -> check.Checked:
    """Run the row and hold it against the committed baseline."""
    monkeypatch.setattr(sweep, "launch", here)
    request = Request(methods=[row], overrides={"evaluate.resamples": 0})
    job = make_job("tiny", request, folder)
    sweep.run_cells(job, Console(file=io.StringIO()))
    return check.check(job, request, read_baseline(BASELINE, "tiny", "tiny"), BASELINE.name)


def test_every_method_of_the_suite_has_faults() -> None:
    assert {row.method for row in load_suite("tiny").rows.values()} == set(METHODS)
    for method in METHODS:
        assert sum(fault.method == method for fault in FAULTS) >= 3


@pytest.mark.parametrize("method", METHODS)
def test_the_present_code_passes(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checked(tmp_path, f"{method}_weights", monkeypatch)
    assert found.passed, check.as_markdown(found)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_found(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(fault):
        found = checked(tmp_path, f"{fault.method}_weights", monkeypatch)
    assert not found.passed
    worse = {one.metric for one in found.findings if one.verdict in ("regression", "changed")}
    assert worse & set(fault.shows), check.as_markdown(found)
    assert {one.line for one in found.findings if one.fails} == {f"{fault.method}_weights.tiny"}


def in_baseline(row: str, metric: str) -> None:
    """A baseline from before the number came cannot tell of it."""
    if metric not in read_baseline(BASELINE, "tiny", "tiny").rows[f"{row}.tiny"].metrics:
        pytest.fail(f"the committed baseline has no {metric} of {row}: make a new one (results/baselines/README.md)")


def test_every_method_has_a_fault_in_its_gradient() -> None:
    assert {fault.method for fault in GRADIENTS} == set(METHODS)


@pytest.mark.parametrize("fault", GRADIENTS, ids=[fault.name for fault in GRADIENTS])
def test_a_wrong_gradient_of_a_right_loss_is_found(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_baseline(f"{fault.method}_weights", "train/gradient_norm")
    with planted(fault):
        found = checked(tmp_path, f"{fault.method}_weights", monkeypatch)
    # Only the gradient shows it: what the weights find and their losses are what they were.
    assert {one.metric for one in found.findings if one.fails} == {"train/gradient_norm"}, check.as_markdown(found)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_training_that_moves_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_baseline(NO_STEP.method, "train/moved")
    with planted(NO_STEP):
        found = checked(tmp_path, NO_STEP.method, monkeypatch)
    worse = {one.metric: one for one in found.findings if one.fails}
    assert worse["train/moved"].now.value == 0.0


def test_what_was_planted_is_gone_afterwards() -> None:
    from methods import mask_rcnn, rcnn, rcnn_torchvision

    fault = next(fault for fault in FAULTS if fault.file == "rcnn")
    before = (rcnn.object_targets, rcnn_torchvision.object_targets, mask_rcnn.MaskRCNNConfig)
    with planted(fault):
        assert rcnn.object_targets is not before[0]
        assert rcnn_torchvision.object_targets is rcnn.object_targets
    assert (rcnn.object_targets, rcnn_torchvision.object_targets, mask_rcnn.MaskRCNNConfig) == before


# Of the last one the loss is right, its gradient is not.
IN_TRAINING = (
    *(fault for fault in FAULTS if fault.name in ("pull_push-sign in the loss", "segsort-sign in the loss")),
    *(fault for fault in GRADIENTS if fault.method == "recurrent_mean_shift"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", IN_TRAINING, ids=[fault.name for fault in IN_TRAINING])
def test_a_fault_in_a_copy_fails_the_commands(fault: Fault, tmp_path: Path) -> None:
    """By a real edit and `run_all.py`: the row that trains shows it, and passes without it."""
    tree = tmp_path / "tree"
    left = shutil.ignore_patterns(".git", ".venv", "runs", "build", "__pycache__", "*.egg-info", "tests")
    shutil.copytree(ROOT, tree, ignore=left)
    assert commands(tree, fault.method) == 0
    (tree / fault.path).write_text(source(fault), encoding="utf-8")
    assert commands(tree, fault.method) == 1


def commands(tree: Path, row: str) -> int:
    words = ["--suite", "tiny", "--methods", row, "--output", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "run_all.py", *words], cwd=tree, env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    done = subprocess.run([sys.executable, "run_all.py", "check", *words], cwd=tree, env=environment)
    return done.returncode
