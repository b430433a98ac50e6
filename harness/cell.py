"""One cell in a process of its own: `python -m harness.cell PLAN.json` runs the steps that are missing.

Standard output carries one JSON object a line for the driver: {"step", "done", "total"} while working,
{"finished": step} after each, {"failed": reason} before it exits with status 1. Everything else goes to standard error,
which is the cell's log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.processes import guard
from harness.settings import Settings


class CellPlan(BaseModel):
    """What the driver hands to a cell's process: ``missing`` are the steps to run, in order.

    ``inputs`` are what each step depends on, kept with its result; ``checkpoints`` is the training's folder of them.
    """

    model_config = ConfigDict(frozen=True)

    settings: Settings
    output: Path
    data_root: Path | None
    folders: Mapping[str, Path]
    inputs: Mapping[str, Mapping[str, Any]]
    checkpoints: Path
    drafts: Path
    missing: tuple[str, ...]


WEIGHTS = "weights.safetensors"
_LEAST_FREE = 1_000_000  # bytes of a disk; below, an error of any kind may come from it


def run_cell(plan: CellPlan, report: Reporter) -> None:
    """Run the missing steps in order; each writes a draft folder that appears when complete."""
    from harness.checkpoint import Checkpoints
    from harness.evaluate import evaluate
    from harness.keys import step_inputs
    from harness.plan import load_method, open_data, stage_data
    from harness.predict import predict
    from harness.settings import build_config
    from harness.store import INPUTS, SUMMARY, Store, write_text
    from harness.train import build_method, load_weights, save_weights, seed_everything, train

    settings, store = plan.settings, Store(plan.output)
    options = tuple(sorted(settings.data.items()))
    splits = open_data(settings.dataset, options, plan.data_root, store.file_digests)
    others = stage_data(settings, plan.data_root, store.file_digests)
    method_class = load_method(settings.method)
    config = build_config(method_class.Config, settings.config, settings.row)
    _check_inputs(
        plan,
        step_inputs(settings, method_class, method_class.implementation(config), splits, others, store.file_digests),
    )
    method = None
    if {"train", "predict"} & set(plan.missing):
        method = build_method(method_class, config, len(splits.train.info.categories), settings.seed)
        method.class_names = tuple(splits.train.info.categories)
    checkpoints = Checkpoints(plan.checkpoints, settings.train.checkpoint_seconds)
    for step in plan.missing:
        with store.create(plan.folders[step], plan.drafts) as draft:
            if step == "train":
                summary = train(
                    method, splits.train, settings.train, settings.seed, report.of(step), others, checkpoints
                )
                save_weights(method, draft / WEIGHTS)
            elif step == "predict":
                load_weights(method, plan.folders["train"] / WEIGHTS)
                seed_everything(settings.seed)  # whether or not this process has trained before
                summary = predict(method, splits.val, settings.predict, draft, report.of(step))
            else:
                summary = evaluate(splits.val, plan.folders["predict"], settings.evaluate, draft, report.of(step))
            write_text(draft / INPUTS, json.dumps(plan.inputs[step], indent=1))
            write_text(draft / SUMMARY, summary.model_dump_json(indent=1))
        if step == "train":
            checkpoints.remove()
        report.finished(step)


class InputsChanged(Exception):
    """Code or data are not those any more that the run was planned with; results would lie under a wrong key."""


def _check_inputs(plan: CellPlan, now: Mapping[str, Mapping[str, Any]]) -> None:
    """Whoever edits a method while a sweep of days runs must not get its new results under the old key."""
    from harness.keys import differences

    for step in plan.missing:
        if found := differences(plan.inputs[step], json.loads(json.dumps(now[step]))):
            raise InputsChanged(f"changed since this run began: {'; '.join(found)}; the same command plans anew")


class Reporter:
    """Writes progress lines to a stream that nothing else writes to."""

    def __init__(self, stream: object, output: Path = Path()) -> None:
        self.stream, self.output = stream, output

    def of(self, step: str):
        return lambda done, total: self._write({"step": step, "done": done, "total": total})

    def finished(self, step: str) -> None:
        self._write({"finished": step})

    def failed(self, error: BaseException) -> None:
        full = self.output.exists() and shutil.disk_usage(self.output).free < _LEAST_FREE
        reason = f"{type(error).__name__}: {error}{f' (the disk of {self.output} is full)' if full else ''}"
        self._write({"failed": reason, "memory": _lacked_memory(error)})

    def _write(self, message: dict[str, object]) -> None:
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()


def _lacked_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch tells of the processor's memory in a RuntimeError, of a GPU's in its own."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            "out of memory" in str(error) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
        )
    )


def main() -> int:
    guard()
    # Libraries print; the driver's stream must stay clean, so file descriptor 1 joins the log.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the driver asks before it stops a cell that hangs
    plan = CellPlan.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reporter = Reporter(stream, plan.output)
    try:
        run_cell(plan, reporter)
    except KeyboardInterrupt:
        return 1
    except Exception as error:  # the last stop: whatever it is becomes the cell's reason
        reporter.failed(error)  # before the log: a full disk takes no log
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)  # at once: a method's threads and children would be waited for, and the driver ends them
