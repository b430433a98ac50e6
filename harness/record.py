"""The record of one cell: what was measured, what it cost, and where it came from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from harness.settings import Settings
from harness.store import SUMMARY


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("a measured number is finite")
    return value


Bound = Annotated[float, AfterValidator(_not_infinite)]
# JSON has no NaN: a number that does not exist (a class without instances) is stored as null and read back as NaN.
Number = Annotated[
    Bound,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value, when_used="json"),
]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Frozen):
    """A value with its bootstrap interval over images; ``low`` and ``high`` are None where none was computed."""

    value: Number
    low: Bound | None = None
    high: Bound | None = None


class Verdict(Frozen):
    """One metric's numbers by name (for example ``ap_r_50`` and ``ap_r_50/person``).

    ``variant`` says under which convention, ``variants`` holds main numbers under other ones; ``instances`` is how
    many truths were judged.
    """

    version: str
    variant: str
    instances: int
    metrics: dict[str, Metric]
    variants: dict[str, Number] = {}


class Evaluation(Frozen):
    """What the evaluate step writes: verdicts by kind of metric; the names of their numbers do not overlap."""

    images: int
    confidence: float = Field(gt=0, lt=1)
    verdicts: dict[str, Verdict]

    def find(self, metric: str) -> tuple[str, Metric] | None:
        """The kind that has the number ``metric``, and the number; None where it was not measured."""
        for kind, verdict in self.verdicts.items():
            if metric in verdict.metrics:
                return kind, verdict.metrics[metric]
        return None


class Environment(Frozen):
    """Code and machine that a step ran on; ``gpu`` is empty where it ran on the processor."""

    commit: str
    dirty: bool
    python: str
    packages: dict[str, str]
    machine: str
    processor: str
    cores: int
    gpu: str


class TrainCost(Frozen):
    """What the train step writes. ``peak_memory`` in bytes: resident size, or the GPU's; without loader processes.

    ``implementation``: whose code ran, with version and commit, where it is not this project's. ``resumed``: the steps
    that it went on from after it had been stopped; ``seconds`` leaves out what was lost. ``losses`` and
    ``gradient_norm`` (before clipping) are the last step's; ``moved``: how far the weights are from where they began,
    |end - begin| / |begin| over all that may learn.
    """

    seconds: float
    steps: int
    parameters: int
    peak_memory: int
    losses: dict[str, float]
    weights_digest: str
    environment: Environment
    implementation: str = ""
    resumed: tuple[int, ...] = ()
    gradient_norm: Number = math.nan
    moved: Number = math.nan


class PredictCost(Frozen):
    """What the predict step writes; milliseconds per image, medians over images.

    ``peak_memory`` is the process's: it contains the training where both ran in one process.
    """

    seconds: float
    images: int
    network_ms: Number
    grouping_ms: Number
    scoring_ms: Number
    peak_memory: int
    environment: Environment
    implementation: str = ""


class Provenance(Frozen):
    """What the numbers depend on: data, keys of the steps, and where the record was put together and when.

    ``implementation`` is whose code was to run, where it is not this project's: a failed cell names it, too.
    """

    environment: Environment
    train_fingerprint: str
    val_fingerprint: str
    keys: dict[str, str]
    implementation: str = ""
    finished: str


class Record(Frozen):
    """One cell, finished or not; ``reason`` and ``log`` (its last lines) say why when ``status`` is not ok."""

    cell: str
    status: Literal["ok", "failed", "timeout", "memory"]
    reason: str = ""
    log: str = ""
    settings: Settings
    evaluation: Evaluation | None = None
    train: TrainCost | None = None
    predict: PredictCost | None = None
    provenance: Provenance


Summary = TypeVar("Summary", TrainCost, PredictCost, Evaluation)
SUMMARIES = {"train": TrainCost, "predict": PredictCost, "evaluate": Evaluation}


def read_summary(folder: Path, model: type[Summary]) -> Summary | None:
    """The summary of the step in ``folder``; None where the step is missing or its summary damaged."""
    try:
        return model.model_validate_json((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_record(path: Path) -> Record | None:
    """The record at ``path``; None where there is none or it is damaged: it is then made anew from the steps.

    One of another cell than its name says counts as damaged.
    """
    try:
        record = Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if path.name.startswith(f"{record.cell}-") and record.cell == record.settings.cell else None
