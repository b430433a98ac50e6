"""`run_all.py evaluate`: anybody's results against an annotation; `compare`: two sets of results, paired."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from tabulate import tabulate

from evaluation import statistics
from harness.judged import KINDS, Judged, load, save
from harness.names import UsageError, look_up
from harness.printed import printable
from harness.protocols import OPTIONS, PROTOCOLS, Task
from harness.provenance import environment
from harness.record import Verdict
from harness.store import write_text

_NAMED = 40  # classes in a printed table; files hold all


def run(protocol: str, task: Task, resamples: int, confidence: float, output: Path, console: Console) -> int:
    """Judge, print the table, and write JSON, CSV and matches to the folder ``output``. Exit status 0."""
    judge = look_up("protocol", protocol, PROTOCOLS)
    for option, owners in OPTIONS.items():
        if getattr(task, option) is not None and protocol not in owners:
            raise UsageError(f"--{option.replace('_', '-')} belongs to {', '.join(owners)}, not to {protocol}")
    _check_confidence(confidence)
    for path, option in ((task.truth, "--ground-truth"), (task.predictions, "--predictions")):
        if not path.exists():
            raise UsageError(f"{option} {path}: no such file or folder")
    about = {name: _plain(value) for name, value in dataclasses.asdict(task).items() if value is not None}
    _check_output(output, protocol, about)
    judged = judge(task, Console(stderr=True) if console.file is sys.stdout else console)
    verdicts = {one.kind: one.verdict(resamples, confidence) for one in judged}
    content = {
        "protocol": protocol,
        **about,
        "resamples": resamples,
        "confidence": confidence,
        "images": len(judged[0].matches),
        "environment": environment(on_gpu=False).model_dump(mode="json"),
        "verdicts": {kind: verdict.model_dump(mode="json") for kind, verdict in verdicts.items()},
        "curves": {name: list(map(_known, values)) for one in judged for name, values in one.curves.items()},
    }
    texts = {"csv": _csv(verdicts), "json": json.dumps(content, indent=1, allow_nan=False) + "\n"}
    for one in judged:
        save(output / f"{one.kind}.npz", one)
    for suffix, text in texts.items():
        write_text(output / f"{protocol}.{suffix}", text)
    for one in judged:
        _print(console, _summary(one, verdicts[one.kind], confidence))
    matches = ", ".join(f"{one.kind}.npz" for one in judged)
    _print(console, f"written to {output}: {protocol}.json, {protocol}.csv; for `compare`: {matches}")
    return 0


def _plain(value: object) -> object:
    return str(value.resolve()) if isinstance(value, Path) else value


def _check_output(output: Path, protocol: str, about: Mapping[str, object]) -> None:
    """`UsageError` if ``output`` cannot be written to, or holds anything but what the same task wrote."""
    anchor = next(path for path in (output, *output.parents) if path.exists())
    if not anchor.is_dir() or not os.access(anchor, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: {anchor} is not a folder that can be written to")
    path = output / f"{protocol}.json"
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = {name: before.get(name) for name in about} == dict(about)
    except (OSError, ValueError, AttributeError, RecursionError):
        same = False
    if not same:
        raise UsageError(f"{path} is there, and of another task: give another folder with --output, or delete it")


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
    return _shown(metric.value), "-" if metric.low is None else f"{metric.low:.4f} .. {metric.high:.4f}"


def _shown(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.4f}"


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
    for what, differs in (
        ("of one metric", one.kind != two.kind),
        ("of one variant", one.variant != two.variant),
        ("of the same images", list(one.image_ids) != list(two.image_ids)),
    ):
        if differs:
            raise UsageError(f"{first} and {second} are not {what}")
    if not one.same_truth(two):
        raise UsageError(f"{first} and {second} were not judged by the same annotation")
    a, b = one.bootstrap(resamples), two.bootstrap(resamples)
    rows = []
    for name in (name for name in a.values if name in b.values):
        low, high = statistics.percentiles(a.samples[name] - b.samples[name], confidence)
        interval = "-" if math.isnan(low) else f"{low:+.4f} .. {high:+.4f}"
        sure = "yes" if low > 0 or high < 0 else "no"
        numbers = [_shown(value) for value in (a.values[name], b.values[name])]
        rows.append((name, *numbers, _shown(a.values[name] - b.values[name], "+"), interval, sure))
    shown = [row for row in rows if row[0] in KINDS[one.kind].shown]
    head = ("number", "first", "second", "first - second", f"{100 * confidence:g} % interval", "differ")
    title = f"{KINDS[one.kind].title}: {one.variant}; {len(one.matches)} images"
    _print(console, f"{title}, drawn again {resamples} times, the same images for both")
    _print(console, tabulate(shown, head, tablefmt="rounded_outline", disable_numparse=True))
    return 0


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: it lies between 0 and 1, as in 0.95")


def _print(console: Console, text: str) -> None:
    console.print(printable(text, lines=True), markup=False, emoji=False, soft_wrap=True)
