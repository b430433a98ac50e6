"""`run_all.py evaluate`: anybody's results against an annotation; `compare`: two sets of results, paired."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from tabulate import tabulate

from evaluation import statistics
from harness.judged import KINDS, Judged, load, save
from harness.names import UsageError, look_up
from harness.protocols import OPTIONS, PROTOCOLS, Task
from harness.record import Verdict
from harness.store import write_text

_NAMED = 40  # classes in a printed table; files hold all


def run(protocol: str, task: Task, resamples: int, confidence: float, output: Path, console: Console) -> int:
    """Judge, print the table, and write JSON, CSV and matches to the folder ``output``. Exit status 0."""
    judge = look_up("protocol", protocol, PROTOCOLS)
    for option, owner in OPTIONS.items():
        if getattr(task, option) is not None and owner != protocol:
            raise UsageError(f"--{option.replace('_', '-')} belongs to the protocol {owner}, not to {protocol}")
    _check_confidence(confidence)
    for path, option in ((task.truth, "--ground-truth"), (task.predictions, "--predictions")):
        if not path.exists():
            raise UsageError(f"{option} {path}: no such file or folder")
    _keep_others(output / f"{protocol}.json", task)
    judged = judge(task, console)
    verdicts = {one.kind: one.verdict(resamples, confidence) for one in judged}
    for one in judged:
        _print(console, _summary(one, verdicts[one.kind], confidence))
    content = {
        "protocol": protocol,
        **{name: str(value) for name, value in dataclasses.asdict(task).items() if value is not None},
        "resamples": resamples,
        "confidence": confidence,
        "images": len(judged[0].matches),
        "verdicts": {kind: verdict.model_dump(mode="json") for kind, verdict in verdicts.items()},
        "curves": {name: list(map(_known, values)) for one in judged for name, values in one.curves.items()},
    }
    for one in judged:
        save(output / f"{one.kind}.npz", one)
    write_text(output / f"{protocol}.csv", _csv(verdicts))
    write_text(output / f"{protocol}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    _print(console, f"written: {output}/{protocol}.json, .csv and matches for `compare`")
    return 0


def _keep_others(path: Path, task: Task) -> None:
    """`UsageError` if the output folder holds what other results came to."""
    try:
        before = json.loads(path.read_text(encoding="utf-8")).get("predictions")
    except (OSError, ValueError, AttributeError):
        return
    if before != str(task.predictions):
        raise UsageError(f"{path} is of other results ({before}): give another folder with --output, or delete it")


def _summary(judged: Judged, verdict: Verdict, confidence: float) -> str:
    kind = KINDS[judged.kind]
    shown = [name for name in kind.shown if name in verdict.metrics]
    parts = [name for name in verdict.metrics if kind.by_class and name.startswith(f"{kind.by_class}/")]
    shown += parts if len(parts) <= _NAMED else []
    rows = [(name, *_cells(verdict, name)) for name in shown]
    head = ("number", "value", f"{100 * confidence:g} % interval")
    instances = f", {judged.instances} instances" if judged.instances else ""
    title = f"{kind.title}: {judged.variant}; {len(judged.matches)} images{instances}"
    return f"{title}\n{tabulate(rows, head, tablefmt='rounded_outline', disable_numparse=True)}"


def _cells(verdict: Verdict, name: str) -> tuple[str, str]:
    metric = verdict.metrics[name]
    value = "-" if math.isnan(metric.value) else f"{metric.value:.4f}"
    return value, "-" if metric.low is None else f"{metric.low:.4f} .. {metric.high:.4f}"


def _known(value: float | None) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else value


def _csv(verdicts: Mapping[str, Verdict]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("kind", "number", "value", "low", "high"))
    for kind, verdict in verdicts.items():
        for name, metric in verdict.metrics.items():
            numbers = map(_known, (metric.value, metric.low, metric.high))
            writer.writerow((kind, name, *("" if number is None else repr(number) for number in numbers)))
    return table.getvalue()


def compare(first: Path, second: Path, resamples: int, confidence: float, console: Console) -> int:
    """Print, for two files of matches on the same images, every number's paired difference with its interval."""
    _check_confidence(confidence)
    one, two = load(first), load(second)
    if _judged_by(one) != _judged_by(two):
        raise UsageError(f"{first} and {second} are not of one metric, variant, truth and list of images")
    a, b = one.bootstrap(resamples), two.bootstrap(resamples)
    rows = []
    for name in (name for name in a.values if name in b.values):
        low, high = statistics.percentiles(a.samples[name] - b.samples[name], confidence)
        interval = "-" if math.isnan(low) else f"{low:+.4f} .. {high:+.4f}"
        sure = "yes" if low > 0 or high < 0 else "no"
        rows.append((name, a.values[name], b.values[name], a.values[name] - b.values[name], interval, sure))
    shown = [row for row in rows if row[0] in KINDS[one.kind].shown]
    head = ("number", "first", "second", "first - second", f"{100 * confidence:g} % interval", "differ")
    title = f"{KINDS[one.kind].title}: {one.variant}; {len(one.matches)} images"
    _print(console, f"{title}, drawn again {resamples} times, the same images for both")
    _print(console, tabulate(shown, head, tablefmt="rounded_outline", floatfmt=("", ".4f", ".4f", "+.4f", "", "")))
    return 0


def _judged_by(judged: Judged) -> tuple[object, ...]:
    return judged.kind, judged.variant, list(judged.image_ids), judged.instances


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: it lies between 0 and 1, as in 0.95")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
