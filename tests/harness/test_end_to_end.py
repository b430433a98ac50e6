"""The command line as a person uses it, in processes of its own, on settings small enough for a test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_all
from harness.suite import load_suite

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("train.steps=4", "train.batch_size=2", "data.train_images=6", "data.val_images=4", "data.size=64")
TINY = [word for setting in (*SETTINGS, "evaluate.resamples=20") for word in ("--set", setting)]
PLUGIN = """
from dataclasses import dataclass
import torch
from harness.suite import load_suite
from methods.base import Instances, Method, Prediction, setting

@dataclass(frozen=True)
class Config:
    answer: str = setting("{answer}", "what to do", source="test")

class Plugin(Method):
    name, paper, tasks, Config = "{name}", "none", frozenset({{"instances"}}), Config

    def __init__(self, config, num_classes):
        super().__init__(config, num_classes)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def loss(self, batch):
        {body}
        return {{"nothing": self.weight.square().sum()}}

    def predict(self, images, sizes, oracle=None):
        height, width = sizes[0].tolist()
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, : height // 2] = True
        return [Prediction(Instances(mask, torch.tensor([1]), torch.tensor([0.5])))]
"""


def plugin(folder: Path, name: str = "plugin", body: str = "pass") -> str:
    (folder / f"{name}.py").write_text(PLUGIN.format(name=name, answer="none", body=body), encoding="utf-8")
    return f"{folder / name}.py:Plugin"


def run(*words: str, timeout: float = 200) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "run_all.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
    )


def records(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((output / "records").glob("*.json"))]


def test_main_job_from_plan_to_table_and_again(tmp_path: Path) -> None:
    chosen = ["pull_push_shift", "pull_push_fixed", "mask_rcnn"]
    words = ["--methods", ",".join(chosen), "--output", str(tmp_path), *TINY]
    first = run(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Instances found in generated scenes" in first.stdout
    found = {record["settings"]["row"]: record for record in records(tmp_path)}
    assert set(found) == set(chosen)
    for record in found.values():
        assert record["status"] == "ok"
        assert 0.0 <= record["evaluation"]["verdicts"]["voc"]["metrics"]["ap_r_50"]["value"] <= 1.0
        assert record["evaluation"]["images"] == 4
        assert record["train"]["steps"] == 4
        assert record["predict"]["network_ms"] > 0
        assert record["train"]["environment"]["packages"]["torch"] != "not installed"
    # Rows of one method that differ only in how they predict share one training.
    assert len({record["train"]["weights_digest"] for name, record in found.items() if "pull" in name}) == 1
    assert len(list((tmp_path / "steps" / "train").iterdir())) == 2
    (folder,) = (tmp_path / "tables").iterdir()
    assert folder.name.startswith("shapes-quick-"), "changed settings would replace the suite's own table"
    table = (folder / "instances.md").read_text()
    assert "changed with --set: data.size = 64" in table
    shown = load_suite("shapes").tables["instances"]
    assert (folder / "instances.csv").read_text().count("\n") == 1 + len(shown.rows) * len(shown.columns)
    assert (folder / "instances.tex").read_text().count("\\begin{tabular}") == 1
    assert (folder / "speed.png").read_bytes().startswith(b"\x89PNG")

    start = time.monotonic()
    again = run(*words)
    assert again.returncode == 0
    assert again.stdout.count("reused train, predict, evaluate") == 3
    assert time.monotonic() - start < 60  # a hang, not a speed, would fail this
    strip = re.compile(r"\[\d/\d\].*\n|  (train|predict|evaluate) \d+/\d+, about .*\n")  # what a slow machine says, too
    assert strip.sub("", again.stdout) == strip.sub("", first.stdout)

    # A setting that only prediction knows keeps the training; listing says what would run.
    changed = run(*words, "--set", "pull_push.threshold=0.9", "--dry-run")
    line = next(line for line in changed.stdout.splitlines() if line.startswith("pull_push_fixed."))
    assert line.split()[2:5] == ["done", "stale", "stale"]


def test_cells_that_fail_are_rows_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """A stranger's method, by its path, after two that die in two ways; `test_launch` has more of them."""
    bodies = {
        "raises": 'raise ValueError("no such luck")',
        "diverges": 'return {"nothing": self.weight.sum() * float("nan")}',
        "healthy": "pass",
    }
    words = ",".join(plugin(tmp_path, name, body) for name, body in bodies.items())
    output = tmp_path / "out"
    result = run("--methods", words, "--seeds", "1", "--output", str(output), *TINY)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    found = {record["settings"]["row"]: record for record in records(output)}
    assert {name: record["status"] for name, record in found.items()} == {
        "raises": "failed",
        "diverges": "failed",
        "healthy": "ok",
    }
    assert found["raises"]["reason"] == "ValueError: no such luck"
    assert "raise ValueError" in found["raises"]["log"]
    assert "the loss is not finite at step 1 of 4: nothing = nan" in found["diverges"]["reason"]
    assert "failed: ValueError: no such luck" in result.stdout
    assert "│ healthy" in result.stdout
    assert found["healthy"]["settings"]["seed"] == 1
    left = [path.name for path in (output / "steps" / "train").iterdir()]
    assert [name.split(".")[0] for name in left] == ["healthy"], "a half-trained folder was left"
    assert list((output / "drafts").iterdir()) == []


def test_interrupt_ends_cleanly_and_keeps_what_is_done(tmp_path: Path) -> None:
    """Ctrl-C; `test_faults` has SIGTERM."""
    quick, slow = plugin(tmp_path, "quick"), plugin(tmp_path, "slow", "import time; time.sleep(100)")
    words = ["--methods", f"{quick},{slow}", "--output", str(tmp_path / "out"), *TINY]
    process = subprocess.Popen(
        [sys.executable, "run_all.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with Ctrl-C ignored, and tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while "slow.easy.s0" not in seen:
        line = process.stdout.readline()
        assert line, seen + process.stderr.read()
        seen += line
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: 1 of 2 cells are done and kept" in out
    assert "Traceback" not in out + errors
    assert [record["status"] for record in records(tmp_path / "out")] == ["ok"]
    pattern = f"harness.cell {tmp_path}"
    assert subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout == b"", "the cell outlived the driver"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "shape"], "unknown suite 'shape'. Did you mean shapes"),
        (["--methods", "pul_push"], "unknown method of suite shapes 'pul_push'"),
        (["--preset", "quik"], "unknown preset of suite shapes 'quik'"),
        (["--set", "train.stepz=3"], "unknown key in train 'stepz'. Did you mean steps"),
        (["--seeds", "a"], "write whole numbers separated by commas"),
        (["--suite", "voc"], "--data-root"),
        (["--suite", "voc", "--data-root", "nowhere"], "nowhere"),
        (["--sweet", "voc"], "No such option"),
        (["--seeds", "99999999999999999999"], "a seed is 0 or more and below 2^32"),
        (["--suite", "voc", "list"], "options of `list` stand behind it"),
    ],
)
def test_wrong_usage_is_status_two_without_a_traceback(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In this process, where an exception would pass through: a start of Python takes seconds."""
    output = [] if words[-1] == "list" else ["--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run_all.py", *words, *output])
    monkeypatch.setattr(run_all.signal, "signal", lambda *_: None)
    try:
        status = run_all.start()
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "something was written"


def test_wrong_usage_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = run("--suite", "shape", "--output", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown suite 'shape'. Did you mean shapes")
    assert result.stderr.count("\n") == 1


def test_list_shows_what_there_is(tmp_path: Path) -> None:
    result = run("list", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    for word in (
        "shapes",
        "voc",
        "pull_push",
        "mask_rcnn",
        "quick",
        "InstanceNet",
        "missing",
        "pull_push_oracle.easy.s0",
    ):
        assert word in result.stdout
    assert "cells unknown" in result.stdout  # voc without its data
