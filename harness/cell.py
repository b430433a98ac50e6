"""One cell in a process of its own: `python -m harness.cell PLAN.json` runs the steps that are missing.

Standard output carries one JSON object a line for the driver: {"step", "done", "total"} while working,
{"finished": step} after each. Everything else goes to standard error, which is the cell's log. A cell that fails
exits with status 1 and a last line "ERROR: ...".
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.settings import Settings


class CellPlan(BaseModel):
    """What the driver hands to a cell's process: ``missing`` are the steps to run, in order."""

    model_config = ConfigDict(frozen=True)

    settings: Settings
    output: Path
    data_root: Path | None
    folders: Mapping[str, Path]
    drafts: Path
    missing: tuple[str, ...]


WEIGHTS = "weights.safetensors"


def run_cell(plan: CellPlan, report: Reporter) -> None:
    """Run the missing steps in order; each writes a draft folder that appears when complete."""
    from harness.evaluate import evaluate
    from harness.plan import load_method, open_data, stage_data
    from harness.predict import predict
    from harness.settings import build_config
    from harness.store import SUMMARY, Store, write_text
    from harness.train import build_method, load_weights, save_weights, train

    settings, store = plan.settings, Store(plan.output)
    options = tuple(sorted(settings.data.items()))
    splits = open_data(settings.dataset, options, plan.data_root, store.file_digests)
    method_class = load_method(settings.method)
    config = build_config(method_class.Config, settings.config, settings.row)
    method = None
    if {"train", "predict"} & set(plan.missing):
        method = build_method(method_class, config, len(splits.train.info.categories), settings.seed)
        method.class_names = tuple(splits.train.info.categories)
    for step in plan.missing:
        with store.create(plan.folders[step], plan.drafts) as draft:
            if step == "train":
                others = stage_data(settings, plan.data_root, store.file_digests)
                summary = train(method, splits.train, settings.train, settings.seed, report.of(step), others)
                save_weights(method, draft / WEIGHTS)
            elif step == "predict":
                load_weights(method, plan.folders["train"] / WEIGHTS)
                summary = predict(method, splits.val, settings.predict, draft, report.of(step))
            else:
                summary = evaluate(splits.val, plan.folders["predict"], settings.evaluate, draft, report.of(step))
            write_text(draft / SUMMARY, summary.model_dump_json(indent=1))
        report.finished(step)


class Reporter:
    """Writes progress lines to a stream that nothing else writes to."""

    def __init__(self, stream: object) -> None:
        self.stream = stream

    def of(self, step: str):
        return lambda done, total: self._write({"step": step, "done": done, "total": total})

    def finished(self, step: str) -> None:
        self._write({"finished": step})

    def _write(self, message: dict[str, object]) -> None:
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()


def main() -> int:
    # Libraries print; the driver's stream must stay clean, so file descriptor 1 joins the log.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        plan = CellPlan.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
        run_cell(plan, Reporter(stream))
    except KeyboardInterrupt:
        return 1
    except Exception as error:  # the last stop: whatever it is becomes the cell's reason
        traceback.print_exc()
        print(f"ERROR: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
