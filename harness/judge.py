"""`run_all.py evaluate`: anybody's results against an annotation; `compare`: two sets of results, paired."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from tabulate import tabulate

from datasets.voc import CATEGORIES
from evaluation import masks, statistics, voc_apr
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant
from harness import coco_files, voc_files
from harness.judged import KINDS, Judged, load, save
from harness.judges import VocJudge
from harness.names import UsageError, look_up
from harness.progress import bar
from harness.record import Verdict
from harness.store import write_text

_NAMED = 40  # rows of a printed table; files hold the rest


@dataclass(frozen=True)
class Task:
    """What the command line asks for."""

    protocol: str
    truth: Path
    predictions: Path
    split: str | None
    variant: str
    resamples: int
    confidence: float
    output: Path


def run(task: Task, console: Console) -> int:
    """Judge, print the table, and write JSON, CSV and matches to the output folder. Exit status 0."""
    judge = look_up("protocol", task.protocol, PROTOCOLS)
    if not 0 < task.confidence < 1:
        raise UsageError(f"--confidence {task.confidence}: it lies between 0 and 1, as in 0.95")
    for path, option in ((task.truth, "--ground-truth"), (task.predictions, "--predictions")):
        if not path.exists():
            raise UsageError(f"{option} {path}: no such file or folder")
    judged = judge(task, console)
    verdicts = {one.kind: one.verdict(task.resamples, task.confidence) for one in judged}
    for one in judged:
        _print(console, _summary(one, verdicts[one.kind], task))
    _write(task, judged, verdicts)
    _print(console, f"written: {task.output}/{task.protocol}.json, .csv and matches for `compare`")
    return 0


def _summary(judged: Judged, verdict: Verdict, task: Task) -> str:
    kind = KINDS[judged.kind]
    shown = [name for name in kind.shown if name in verdict.metrics]
    parts = [name for name in verdict.metrics if kind.by_class and name.startswith(f"{kind.by_class}/")]
    shown += parts if len(parts) <= _NAMED else []
    rows = [(name, *_cells(verdict, name)) for name in shown]
    head = ("number", "value", f"{100 * task.confidence:g} % interval")
    title = f"{kind.title}: {judged.variant}; {len(judged.matches)} images, {judged.instances} instances"
    return f"{title}\n{tabulate(rows, head, tablefmt='rounded_outline', disable_numparse=True)}"


def _cells(verdict: Verdict, name: str) -> tuple[str, str]:
    metric = verdict.metrics[name]
    value = "-" if np.isnan(metric.value) else f"{metric.value:.4f}"
    return value, "-" if metric.low is None else f"{metric.low:.4f} .. {metric.high:.4f}"


def _write(task: Task, judged: Sequence[Judged], verdicts: Mapping[str, Verdict]) -> None:
    content = {
        "protocol": task.protocol,
        "ground_truth": str(task.truth),
        "predictions": str(task.predictions),
        "confidence": task.confidence,
        "resamples": task.resamples,
        "images": len(judged[0].matches),
        "verdicts": {kind: verdict.model_dump(mode="json") for kind, verdict in verdicts.items()},
        "curves": {name: list(values) for one in judged for name, values in one.curves.items()},
    }
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("kind", "number", "value", "low", "high"))
    for kind, verdict in verdicts.items():
        for name, metric in verdict.metrics.items():
            cells = (
                "" if value is None or np.isnan(value) else repr(value)
                for value in (metric.value, metric.low, metric.high)
            )
            writer.writerow((kind, name, *cells))
    for one in judged:
        save(task.output / f"{one.kind}.npz", one)
    write_text(task.output / f"{task.protocol}.csv", table.getvalue())
    write_text(task.output / f"{task.protocol}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")


def compare(first: Path, second: Path, resamples: int, confidence: float, console: Console) -> int:
    """Print, for two files of matches on the same images, every number's paired difference with its interval."""
    one, two = load(first), load(second)
    if (one.kind, one.variant, list(one.image_ids)) != (two.kind, two.variant, list(two.image_ids)):
        raise UsageError(f"{first} and {second} are not of one metric, variant and list of images")
    a, b = one.bootstrap(resamples), two.bootstrap(resamples)
    rows = []
    for name in a.values:
        low, high = statistics.percentiles(a.samples[name] - b.samples[name], confidence)
        difference = a.values[name] - b.values[name]
        sure = "yes" if low > 0 or high < 0 else "no"
        rows.append((name, a.values[name], b.values[name], difference, f"{low:+.4f} .. {high:+.4f}", sure))
    shown = [row for row in rows if row[0] in KINDS[one.kind].shown] or rows
    head = ("number", "first", "second", "first - second", f"{100 * confidence:g} % interval", "differ")
    title = f"{KINDS[one.kind].title}: {one.variant}; {len(one.matches)} images"
    _print(console, f"{title}, drawn again {resamples} times, the same images for both")
    _print(console, tabulate(shown, head, tablefmt="rounded_outline", floatfmt=("", ".4f", ".4f", "+.4f", "", "")))
    return 0


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _voc(task: Task, console: Console) -> list[Judged]:
    truth = voc_files.open_truth(task.truth, task.split)
    judge = VocJudge(CATEGORIES, _voc_variant(task.variant))
    found = _voc_results(task.predictions, truth)
    for image_id in _images(truth.image_ids, console):
        image = truth[image_id]
        judge.add(
            image_id, ImageTruth(image.instances, image.labels, image.void), found(image_id, image.semantic.shape)
        )
    return judge.finish()


def _voc_variant(text: str) -> Variant:
    if not text:
        return Variant()
    words = text.split("/")
    try:
        return Variant(**dict(zip(voc_apr.CHOICES, words, strict=True)))
    except ValueError as error:
        choices = ", ".join(f"{name} {' or '.join(values)}" for name, values in voc_apr.CHOICES.items())
        raise UsageError(f"--variant {text!r}: {error}; write it as area/mnc/count/nan, of {choices}") from None


def _voc_results(
    path: Path, truth: voc_files.VocFolder, agnostic: bool = False
) -> Callable[[str, tuple[int, int]], ImageDetections]:
    """What gives the detections on an image: a folder of VOC's label maps, or a COCO results file."""
    if path.is_dir():
        folder = voc_files.open_results(path, truth.image_ids)

        def read(image_id: str, size: tuple[int, int]) -> ImageDetections:
            image = folder[image_id]
            if image.semantic.shape != size:
                raise UsageError(
                    f"{folder.path}: the maps of {image_id} are {image.semantic.shape}, the truth's {size}"
                )
            return ImageDetections(masks.encode_ids(image.instances, len(image.labels)), image.labels, image.scores)

        return read
    # 2007_000033 is the number 2007000033 in most conversions of VOC to COCO's form.
    known: dict[int | str, str] = {image_id: image_id for image_id in truth.image_ids}
    known |= {
        int(image_id.replace("_", "")): image_id for image_id in truth.image_ids if image_id.replace("_", "").isdigit()
    }
    labels = None if agnostic else {label: label for label in range(1, len(CATEGORIES) + 1)}
    results = coco_files.read_results(path, known, labels)

    def look(image_id: str, size: tuple[int, int]) -> ImageDetections:
        found = results.found(image_id, size)
        return ImageDetections(found.masks, found.labels, found.scores)

    return look


def _images(image_ids: Sequence[Any], console: Console):
    with bar(console, "judging", len(image_ids)) as advance:
        for number, image_id in enumerate(image_ids, 1):
            yield image_id
            advance(number)


PROTOCOLS: dict[str, Callable[[Task, Console], list[Judged]]] = {"voc": _voc}
