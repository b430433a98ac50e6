"""Kill a run at random moments of every step, again and again, and see what comes of it: `python kills.py FOLDER SEED`.

Driver and cell are one process here, forked from one that has imported everything, so that a kill costs a fraction of
a second; `test_faults` kills real drivers. What is printed is JSON: how often each step was killed, at how many of its
training's steps, and whether every run came to what the one came to that nobody disturbed.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import lightning_fabric  # noqa: F401  what a cell imports when it needs it: not in every child anew
import torch
import torch._dynamo
from rich.console import Console

import harness.evaluate
import harness.train  # noqa: F401
from harness import sweep
from harness.cell import Reporter, run_cell
from harness.job import make_job
from harness.launch import Outcome
from harness.plan import Request
from harness.record import Record
from harness.store import STEPS

torch.set_num_threads(1)
PLUGIN = f"{Path(__file__).resolve().parent / 'faulty.py'}:Faulty"
SETTINGS = {
    "train.steps": 14,
    "train.batch_size": 2,
    "train.checkpoint_seconds": 0,
    "train.then": [{"steps": 6, "batch_size": 1, "learning_rate": 1e-4}],
    "data.train_images": 6,
    "data.val_images": 12,
    "data.size": 32,
    "evaluate.resamples": 100,
}
REQUEST = Request(methods=[PLUGIN], seeds=[0], overrides=SETTINGS)
KILLS, AT_A_TIME = 10, 4  # of every step, in all and in one folder


def child(output: Path, stream: int) -> None:
    """A whole run, as `run_all.py` does it, but for the process that a cell usually has."""
    os.setsid()
    reporter = Reporter(os.fdopen(stream, "w"))

    def in_process(plan, folder, limits, follow, locks) -> Outcome:
        folder.mkdir(parents=True, exist_ok=True)
        run_cell(plan, reporter)
        return Outcome("ok", "", "")

    sweep.launch = in_process
    with open(os.devnull, "w") as nothing:
        status = sweep.run(make_job("shapes", REQUEST, output), Console(file=nothing))
    os._exit(status)


class Run:
    """A forked run and the messages that it has sent."""

    def __init__(self, output: Path) -> None:
        receive, send = os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(receive)
            try:
                child(output, send)
            finally:
                os._exit(70)
        os.close(send)
        self.receive, self.messages, self.buffer, self.closed = receive, [], b"", False

    def listen(self, seconds: float) -> None:
        """Take messages for so long, or until the run ends."""
        end = time.monotonic() + seconds
        while not self.closed and (left := end - time.monotonic()) > 0:
            if select.select([self.receive], [], [], left)[0]:
                data = os.read(self.receive, 65536)
                self.closed = not data
                *lines, self.buffer = (self.buffer + data).split(b"\n")
                self.messages += [(time.monotonic(), json.loads(line)) for line in lines]
                if lines:
                    return

    def end(self) -> int:
        os.close(self.receive)
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def undisturbed(output: Path) -> dict[str, float]:
    """Run to the end; the seconds that each step took."""
    start, run = time.monotonic(), Run(output)
    while not run.closed:
        run.listen(100.0)
    assert run.end() == 0
    ends = [start, *(when for when, message in run.messages if "finished" in message)]
    return {step: after - before for step, (before, after) in zip(STEPS, itertools.pairwise(ends), strict=False)}


def killed(output: Path, step: str, after: float) -> str | None:
    """Wait until ``step`` begins, and kill the run ``after`` seconds; the step that it was in, None if it had ended."""
    run = Run(output)
    before = STEPS[: STEPS.index(step)]
    while not run.closed and not all(list((output / "steps" / one).glob("*")) for one in before):
        run.listen(0.01)
    end = time.monotonic() + after
    while not run.closed and (left := end - time.monotonic()) > 0:
        run.listen(left)
    os.kill(run.process, signal.SIGKILL)
    status = run.end()
    left = [one for one in STEPS if not list((output / "steps" / one).glob("*"))]
    return (left or ["tables"])[0] if status == -signal.SIGKILL else None


def outcome(output: Path) -> tuple:
    """Weights, predictions, numbers and table: what must be the same to the last bit."""
    (path,) = (output / "records").glob("*.json")
    record = Record.model_validate_json(path.read_text())
    (predictions,) = (output / "steps" / "predict").glob("*/predictions.jsonl.gz")
    (table,) = (output / "tables").glob("*/instances.csv")
    lost = [str(one) for name in ("drafts", "unfinished") for one in (output / name).glob("*")]
    assert not lost, lost
    assert record.status == "ok"
    lines = gzip.decompress(predictions.read_bytes())
    return record.train.weights_digest, lines, record.evaluation.model_dump_json(), table.read_bytes()


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    make_job("shapes", REQUEST, folder / "whole")  # what planning remembers, every child remembers
    seconds = undisturbed(folder / "whole")
    expected = outcome(folder / "whole")
    kills: dict[str, int] = dict.fromkeys([*STEPS, "tables"], 0)
    resumed: list[int] = []
    equal, rounds = True, 0
    while min(kills[step] for step in STEPS) < KILLS:
        rounds += 1
        output = folder / f"round{rounds}"
        for step in STEPS:
            for _ in range(min(AT_A_TIME, KILLS - kills[step])):
                at = killed(output, step, chance.uniform(0.0, seconds[step]))
                if at:
                    kills[at] += 1
                if at != step:
                    break
        undisturbed(output)
        equal &= outcome(output) == expected
        (path,) = (output / "records").glob("*.json")
        resumed += Record.model_validate_json(path.read_text()).train.resumed
        assert rounds < 40, kills
    print(json.dumps({"equal": equal, "kills": kills, "rounds": rounds, "resumed": resumed}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
