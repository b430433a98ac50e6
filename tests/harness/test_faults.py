"""What a cell can do to a sweep: nothing. Real processes, really killed; `test_launch` has more, on small ones."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.cell import Reporter, run_cell
from harness.plan import Request, plan, resolve
from harness.record import Evaluation, TrainCost, read_record, read_summary
from harness.store import STEPS, Store
from harness.suite import load_suite
from harness.sweep import cell_plan

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = f"{ROOT / 'tests' / 'harness' / 'faulty.py'}:Faulty"
TINY = {
    "train.steps": 12,
    "train.batch_size": 2,
    "train.checkpoint_seconds": 0,
    "data.train_images": 6,
    "data.val_images": 4,
    "data.size": 32,
    "evaluate.resamples": 10,
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


def words(output: Path, *more: str, **settings: object) -> list[str]:
    values = {**TINY, **{f"faulty.{key}": value for key, value in settings.items()}}
    set_ = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "run_all.py", "--methods", PLUGIN, "--seeds", "0", "--output", str(output), *set_, *more]


def run(output: Path, *more: str, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        words(output, *more, **settings), cwd=ROOT, capture_output=True, text=True, timeout=200, env=ENVIRONMENT
    )


def start(output: Path, *more: str, **settings: object) -> subprocess.Popen:
    return subprocess.Popen(
        words(output, *more, **settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )


def records(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((output / "records").glob("*.json"))]


def alive(output: Path) -> list[str]:
    """Command lines of processes that work on ``output``, or were left by the fault that leaves some with its mark."""
    found = []
    for one in psutil.process_iter():
        try:
            line = " ".join(one.cmdline())
        except psutil.Error:
            continue
        if one.pid != os.getpid() and str(output) in line:
            found.append(line)
    return found


@pytest.mark.parametrize("seed", [0])
def test_kills_at_random_moments_of_every_step_change_nothing(seed: int, tmp_path: Path) -> None:
    """Ten and more in each of training, prediction and evaluation; see `kills`."""
    script = [sys.executable, str(ROOT / "tests" / "harness" / "kills.py"), str(tmp_path), str(seed)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=230, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"], "a run that was killed came to something else"
    assert min(found["kills"][step] for step in ("train", "predict", "evaluate")) >= 10
    assert len(found["resumed"]) >= 3, "trainings went on from their middle"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "part", "status", "reason"),
    [
        ("raises", "predict", "failed", "ValueError: no such luck"),
        ("segfault", "loss", "failed", "killed by SIGSEGV"),
        ("killed", "predict", "failed", "killed by SIGKILL (by the system, for lack of memory?)"),
        ("cannot_allocate", "loss", "memory", "RuntimeError"),
        ("full_disk", "predict", "failed", "OSError"),
        ("exits", "loss", "failed", "the process ended early and said nothing"),
        ("leaves_processes", "loss", "failed", "ValueError: left"),
    ],
)
def test_a_fault_is_a_row_with_its_reason(fault: str, part: str, status: str, reason: str, tmp_path: Path) -> None:
    done = run(tmp_path, fault=fault, part=part, mark=tmp_path / "mark")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (record,) = records(tmp_path)
    assert record["status"] == status
    assert reason in record["reason"]
    assert f"faulty.easy.s0 {status}: " in done.stdout
    assert alive(tmp_path) == []
    failed = "evaluate" if fault == "full_disk" else "predict"  # the disk has room for a few predictions
    assert not list((tmp_path / "steps" / failed).glob("*")), "a step that failed was left"
    assert not list((tmp_path / "drafts").glob("*"))
    if fault == "segfault":
        assert "faulty.py" in record["log"], "the log says where"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "hang_in_library"])
def test_a_cell_that_hangs_is_stopped_and_says_where(fault: str, tmp_path: Path) -> None:
    done = run(tmp_path, "--timeout", "25", fault=fault)
    assert done.returncode == 1
    (record,) = records(tmp_path)
    assert record["status"] == "timeout"
    assert record["reason"].startswith("stopped at its limit of 25 s")
    assert "_call" in record["log"], "the log has the place of every thread"
    assert alive(tmp_path) == []


@pytest.mark.slow
def test_a_cell_that_grows_is_stopped_at_its_limit(tmp_path: Path) -> None:
    done = run(tmp_path, "--memory", "2.5", fault="grows")
    assert done.returncode == 1
    (record,) = records(tmp_path)
    assert record["status"] == "memory"
    assert "GB of memory, the limit is 2.5 GB" in record["reason"]
    assert alive(tmp_path) == []


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_driver_too_is_said(tmp_path: Path) -> None:
    """Records and tables cannot be written either; the sweep still ends in order."""
    command = " ".join(f"'{word}'" for word in words(tmp_path))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 2; exec {command}"], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "File too large" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert alive(tmp_path) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What a run comes to that nobody disturbs: weights and numbers."""
    request = Request(methods=[PLUGIN], seeds=[0], overrides=TINY)
    _, _, settings = resolve(load_suite("shapes"), request)
    store = Store(tmp_path_factory.mktemp("whole"))
    (cell,) = plan(settings, store, None)
    with store.drafts("cell") as drafts:
        run_cell(cell_plan(cell, store, None, drafts, STEPS), Reporter(io.StringIO()))
    weights = read_summary(cell.folders["train"], TrainCost).weights_digest
    return weights, read_summary(cell.folders["evaluate"], Evaluation).model_dump_json()


def result(output: Path) -> tuple[str, str]:
    (path,) = (output / "records").glob("*.json")
    record = read_record(path)
    assert record.status == "ok", record.reason
    return record.train.weights_digest, record.evaluation.model_dump_json()


def test_a_stopped_run_goes_on_and_a_killed_driver_takes_its_cell_along(tmp_path: Path, whole) -> None:
    """SIGTERM, as schedulers send it, then kill -9, both in the middle of the training; then the same command."""
    unfinished = tmp_path / "unfinished"

    def at(step: int) -> bool:
        return any(int(one.name[:9]) >= step for one in unfinished.glob("*/0*.pt"))

    driver = start(tmp_path, pause=0.3)
    until(lambda: at(2), driver)
    driver.send_signal(signal.SIGTERM)
    text = driver.communicate(timeout=100)[0]
    assert driver.returncode == 1
    assert "the same command goes on" in text
    assert alive(tmp_path) == []
    driver = start(tmp_path, pause=0.3)
    until(lambda: at(6), driver)
    assert len(alive(tmp_path)) >= 3, "the driver, the cell and its guardian"
    driver.kill()
    driver.wait()
    until(lambda: not alive(tmp_path))
    assert list(unfinished.glob("*/0*.pt")), "the half-trained state was kept"
    done = run(tmp_path, pause=0.3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train from step" in done.stdout
    assert result(tmp_path) == whole
    (record,) = records(tmp_path)
    assert [step >= least for step, least in zip(record["train"]["resumed"], (2, 6), strict=True)] == [True, True]
    assert not list(unfinished.glob("*"))
    assert not list((tmp_path / "drafts").glob("*"))


@pytest.mark.slow
def test_a_training_that_was_stopped_at_its_time_limit_goes_on(tmp_path: Path, whole) -> None:
    seen = []
    for _ in range(6):
        done = run(tmp_path, "--timeout", "14", pause=0.6)
        seen.append(records(tmp_path)[0]["status"])
        if done.returncode == 0:
            break
    assert seen[-1] == "ok", seen
    assert result(tmp_path) == whole


def test_two_runs_in_one_folder_share_the_work(tmp_path: Path) -> None:
    """Every training starts once, whoever does it; both print the whole table."""
    mark = tmp_path / "mark"
    both = [start(tmp_path / "out", "--seeds", "0,1", mark=mark, pause=0.1) for _ in range(2)]
    texts = [one.communicate(timeout=200)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], texts
    assert len(mark.read_text().splitlines()) == 2, texts
    assert len(records(tmp_path / "out")) == 2
    assert all(one["train"]["resumed"] == [] for one in records(tmp_path / "out"))
    tables = [text[text.index("Instances found") :].split("\n\n")[0] for text in texts]
    assert tables[0] == tables[1]
    assert any("another run is at work on it" in text or "reused" in text for text in texts)


def until(condition, process: subprocess.Popen | None = None, seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.05)
