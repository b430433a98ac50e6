"""The sample workflow for forks: it parses, is careful, and asks for nothing that is not there."""

from __future__ import annotations

import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # timm needs it, so that it is always there

import run_all

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "ci" / "github-actions.yml"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
RUNS = [step["run"] for step in STEPS if "run" in step]
PATHS = [path for step in STEPS for path in step.get("with", {}).get("path", "").split()]


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    asked = {word for run in RUNS for line in re.findall(r"\bmake ([^;&|\n]+)", run) for word in shlex.split(line)}
    assert asked == {"install", "test", "lint", "check"}
    assert asked <= targets


@pytest.mark.parametrize("run", [run for run in RUNS if "run_all.py" in run])
def test_every_command_and_option_of_run_all_is_there(run: str) -> None:
    command = typer.main.get_command(run_all.app)
    words = shlex.split(run.partition("run_all.py")[2])
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    options = {name: option for option in command.params for name in option.opts}
    while words:
        word = words.pop(0)
        assert word in options, f"{word} in: {run}"
        if not getattr(options[word], "is_flag", False):
            assert words.pop(0)


def test_the_checks_report_is_where_the_makefile_writes_it() -> None:
    reports = {name for run in RUNS for name in re.findall(r"build/\S+\.md", run)}
    assert reports == {"build/check/check.md"}
    assert f"--markdown {reports.pop()}" in MAKEFILE
    assert "--output build/check" in MAKEFILE
    assert {"build/check/records", "results/runs/records"} <= set(PATHS)
    assert str(run_all.DEFAULT_OUTPUT) == "results/runs"


def test_the_report_and_the_records_come_also_where_a_step_failed() -> None:
    late = [step for step in STEPS if step.get("name") in ("Summary", "Records")]
    assert len(late) == 2 * len(WORKFLOW["jobs"])
    assert {step["if"] for step in late} == {"${{ !cancelled() }}"}


def test_it_may_do_little_and_not_for_long() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True
    for job in WORKFLOW["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 120
    assert all(step["with"]["persist-credentials"] is False for step in STEPS if "checkout" in step.get("uses", ""))
    assert "pull_request_target" not in WORKFLOW["on"]


def test_a_machine_of_ones_own_is_used_by_hand_alone() -> None:
    for job in WORKFLOW["jobs"].values():
        if "self-hosted" in job["runs-on"]:
            assert "github.event_name == 'workflow_dispatch'" in job["if"]


def test_packages_are_kept_by_what_pins_them() -> None:
    (setup,) = [step["with"] for step in STEPS if "setup-python" in step.get("uses", "")]
    assert setup["cache"] == "pip"
    assert (ROOT / setup["cache-dependency-path"]).is_file()
    assert WORKFLOW["jobs"]["check"]["env"]["PYTHON"] == f"python{setup['python-version']}"


def test_how_to_install_it() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert f"cp {FILE.relative_to(ROOT)} .github/workflows/" in text
    assert ".ci/run" in text
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
