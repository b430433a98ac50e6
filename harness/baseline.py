"""A baseline of the regression check: results/baselines/SUITE-PRESET.json, committed, and read by people in diffs.

It holds of every row and data set what was measured, seed by seed, how far a later run may be away from it, and all
that must be the same for the two to be compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from scipy import stats

from harness.judged import KINDS
from harness.names import UsageError
from harness.plan import Cell
from harness.record import Record
from harness.settings import WITHOUT_EFFECT, Settings, Spec, TrainSettings
from harness.store import write_text
from harness.suite import ROOT

BASELINES = ROOT / "results" / "baselines"
FORMAT = 1
CONFIDENCE = 0.99  # two-sided, that a delta which is noise stays within the tolerance
SHARE_FLOOR = {False: 0.0002, True: 0.005}  # by whether the row trains: 0.02 and 0.5 points of AP
RELATIVE_FLOOR = {False: 1e-3, True: 0.05}  # of what is no share: losses, gradients, counts; our choice
ABSOLUTE_FLOOR = 1e-6  # of these, where the baseline is 0
# A row that trains is judged by the first number of these kinds: each of many more would leave its tolerance by chance
# once in a hundred times, and say the same.
MAIN = frozenset(
    KINDS[kind].shown[0] for kind in ("voc", "coco", "boxes", "cityscapes", "proposals", "semantic", "boundary")
)
_STILL = 1e-9  # a training whose steps x rate are no more than this moves no weight that float32 can tell
OF_TRAINING = ("loss/", "train/")  # what the train step measures
_NO_SHARES = ("proposals@", "ods_threshold", *OF_TRAINING)
LEAST_SEEDS = 3  # of a row that trains: two differences do not show a spread
_ONE_LINE = 4  # levels of the file above the objects that stand on one line


class Value(Spec):
    """One number. ``seeds`` holds it by seed (null: it does not exist); ``tolerance`` is for one seed against one."""

    seeds: dict[str, float | None] = Field(min_length=1)
    tolerance: float = Field(ge=0)
    origin: Literal["floor", "spread"]


class Judgement(Spec):
    """How a kind of metric judged; numbers under another version or convention are other numbers."""

    version: str
    variant: str
    instances: int


class Line(Spec):
    """One row on one data set. ``trained``: whether its seeds differ by a training, or all it does is to predict.

    ``settings`` are flat, by section and name, without those of the data, which ``data`` has; ``fingerprints`` are
    those of the data and, where a training starts from a file of weights, of that file.
    """

    row: str
    data_name: str
    method: str
    implementation: str
    trained: bool
    images: int
    fingerprints: dict[str, str]
    data: dict[str, Any]
    settings: dict[str, Any]
    kinds: dict[str, Judgement]
    metrics: dict[str, Value]


class Made(Spec):
    """Where some of the records were made."""

    commit: str
    dirty: bool
    python: str
    machine: str
    processor: str
    cores: int
    packages: dict[str, str]


class Baseline(Spec):
    format: Literal[1]
    suite: str
    preset: str
    command: str
    made: dict[str, Made]
    rows: dict[str, Line]


def default_path(suite: str, preset: str) -> Path:
    return BASELINES / f"{suite}-{preset}.json"


def read_baseline(path: Path, suite: str, preset: str) -> Baseline:
    """The baseline in ``path``. Raises `UsageError` where it is missing, damaged, or of another suite or preset."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"there is no baseline {path}; `run_all.py check --suite {suite} --preset {preset} --update` writes one "
            "from finished cells, and --baseline names another file"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"the baseline {path} cannot be read: {error}") from error
    try:
        baseline = Baseline.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path} is no valid baseline: {place}: {first['msg']}") from error
    wrong = [key for key, line in baseline.rows.items() if key != line_key(line.row, line.data_name)]
    if wrong:
        raise UsageError(f"{path} is no valid baseline: rows.{wrong[0]} holds another row")
    if (baseline.suite, baseline.preset) != (suite, preset):
        named = f"suite {baseline.suite}, preset {baseline.preset}"
        raise UsageError(f"the baseline {path} is of {named}, not of suite {suite}, preset {preset}")
    return baseline


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the whole file or nothing; sorted, one setting or metric a line, so that diffs are short."""
    write_text(path, _text(baseline.model_dump(mode="json"), 0) + "\n")


def make_baseline(
    suite: str, preset: str, command: str, records: Mapping[str, Sequence[tuple[Cell, Record]]]
) -> Baseline:
    """A baseline of finished ``records``, each with its cell, by `line_key`."""
    found = dict.fromkeys(made_of(record).model_dump_json() for pairs in records.values() for _, record in pairs)
    made = {str(number): Made.model_validate_json(text) for number, text in enumerate(found, 1)}
    rows = {key: make_line(pairs) for key, pairs in sorted(records.items())}
    return Baseline(format=FORMAT, suite=suite, preset=preset, command=command, made=made, rows=rows)


def made_of(record: Record) -> Made:
    """Code and machine of the prediction, or else of the driver."""
    ran = record.predict.environment if record.predict else record.provenance.environment
    return Made(**{name: getattr(ran, name) for name in Made.model_fields})


def make_line(pairs: Sequence[tuple[Cell, Record]]) -> Line:
    """What the records of one row on one data set come to; one for each seed."""
    cell, first = pairs[0]
    trained = trains(cell.settings.train)
    numbers = {record.settings.seed: numbers_of(record) for _, record in pairs}
    names = sorted({name for found in numbers.values() for name in found})
    metrics = {}
    for name in names:
        values = {seed: found[name] for seed, found in sorted(numbers.items()) if name in found}
        allowed, origin = tolerance(name, list(values.values()), trained)
        stored = {str(seed): None if math.isnan(value) else value for seed, value in values.items()}
        metrics[name] = Value(seeds=stored, tolerance=allowed, origin=origin)
    return Line(
        row=cell.settings.row,
        data_name=cell.settings.data_name,
        method=cell.settings.method,
        implementation=cell.implementation,
        trained=trained,
        images=first.evaluation.images,
        fingerprints=fingerprints_of(cell),
        data=data_of(cell),
        settings=settings_of(cell),
        kinds={
            kind: Judgement(version=one.version, variant=one.variant, instances=one.instances)
            for kind, one in sorted(first.evaluation.verdicts.items())
        },
        metrics=metrics,
    )


def line_key(row: str, data_name: str) -> str:
    return f"{row}.{data_name}"


def trains(recipe: TrainSettings) -> bool:
    """Whether a training moves any weight: not without steps, nor where all steps' rates add up to nothing.

    One step at a rate of 1e-12 measures the loss of given weights and leaves them as they are.
    """
    return sum(stage.steps * stage.learning_rate for stage in recipe.stages()) > _STILL


def numbers_of(record: Record) -> dict[str, float]:
    """What is compared (NaN: does not exist): the numbers of a short table, the last loss terms, and of the training
    the last gradient's norm ("train/gradient_norm") and how far it moved the weights ("train/moved").

    Of a row that trains, only what `is_compared` names.
    """
    found, trained = {}, trains(record.settings.train)
    for kind, verdict in record.evaluation.verdicts.items():
        shown = KINDS[kind].shown if kind in KINDS else ()
        found |= {name: verdict.metrics[name].value for name in shown if name in verdict.metrics}
    if cost := record.train:
        found |= {f"loss/{term}": value for term, value in cost.losses.items()}
        of_training = {"train/gradient_norm": cost.gradient_norm, "train/moved": cost.moved if trained else math.nan}
        found |= {name: value for name, value in of_training.items() if not math.isnan(value)}
    return {name: value for name, value in found.items() if is_compared(name, trained)}


def is_compared(metric: str, trained: bool) -> bool:
    """Rows that train nothing are exact, so that every number counts; of the others, what the training shows."""
    return not trained or metric in MAIN or metric.startswith(OF_TRAINING)


def is_share(metric: str) -> bool:
    """Whether a number lies in 0..1, so that its differences are told in points."""
    return not metric.startswith(_NO_SHARES)


def tolerance(metric: str, values: Sequence[float], trained: bool) -> tuple[float, Literal["floor", "spread"]]:
    """How far one seed's new number may be from its old one, and whether the seeds' spread says so or the floor.

    Where runs differ by chance alone, the difference of two has the deviation s sqrt(2), and s comes from the n
    ``values``: t s sqrt(2), t being Student's for n - 1 degrees of freedom at `CONFIDENCE`, two-sided.
    """
    least, known = floor(metric, values, trained), [value for value in values if not math.isnan(value)]
    if trained and len(known) >= LEAST_SEEDS:
        spread = float(np.std(known, ddof=1)) * math.sqrt(2.0)
        allowed = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1)) * spread
        if allowed > least:
            return allowed, "spread"
    return least, "floor"


def floor(metric: str, values: Sequence[float], trained: bool) -> float:
    """The smallest tolerance: other processors round differently."""
    if is_share(metric):
        return SHARE_FLOOR[trained]
    known = [abs(value) for value in values if not math.isnan(value)]
    mean = sum(known) / len(known) if known else math.nan
    if mean == 0.0:
        return ABSOLUTE_FLOOR
    return RELATIVE_FLOOR[trained] * mean if known else 0.0


def for_seeds(metric: str, value: Value, trained: bool, seeds: int) -> float:
    """The tolerance for means over ``seeds`` seeds: a spread shrinks by the root of their number, a floor stays."""
    if value.origin == "floor":
        return value.tolerance
    known = [one for one in value.seeds.values() if one is not None]
    return max(floor(metric, known, trained), value.tolerance / math.sqrt(seeds))


def fingerprints_of(cell: Cell) -> dict[str, str]:
    found = {"training data": cell.train_fingerprint, "judged data": cell.val_fingerprint}
    if weights := cell.inputs["train"]["train"].get("weights"):
        found["train.weights"] = ",".join(weights)
    return found


def data_of(cell: Cell) -> dict[str, Any]:
    """The data's options; of a path that only this machine has, the name."""
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in cell.settings.data.items()
    }


def settings_of(cell: Cell) -> dict[str, Any]:
    """Every setting but the data's, as "train.steps": JSON values; files stand by their content."""
    settings: Settings = cell.settings
    config = {**cell.inputs["train"]["setting"], **cell.inputs["predict"]["setting"]}
    train = settings.train.model_dump(mode="json", exclude={"weights", *WITHOUT_EFFECT})
    sections = {
        "config": config,
        "train": train,
        "predict": settings.predict.model_dump(mode="json"),
        "evaluate": settings.evaluate.model_dump(mode="json"),
    }
    flat = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return json.loads(json.dumps(flat, sort_keys=True))


def _text(value: Any, depth: int) -> str:
    """JSON, sorted; objects below `_ONE_LINE` levels on one line."""
    if not isinstance(value, Mapping) or not value or depth >= _ONE_LINE:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    indent = " " * (depth + 1)
    lines = [f"{indent}{json.dumps(key)}: {_text(value[key], depth + 1)}" for key in sorted(value)]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
