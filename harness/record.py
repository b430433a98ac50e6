"""The record of one cell: what was measured, what it cost, and where it came from."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from harness.suite import Settings

# JSON has no NaN: a number that does not exist (a class without instances) is stored as null and read back as NaN.
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: None if math.isnan(value) else value, when_used="json"),
]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(Frozen):
    """A value with its bootstrap interval over images; ``low`` and ``high`` are None where none was computed."""

    value: Number
    low: float | None = None
    high: float | None = None


class Evaluation(Frozen):
    """What the evaluate step writes: metrics by name (for example ``ap_r_50`` and ``ap_r_50/person``)."""

    protocol: str
    version: str
    variant: str
    images: int
    instances: int
    metrics: dict[str, Metric]
    variants: dict[str, Number]


class TrainCost(Frozen):
    """What the train step writes. Memory is the process's peak resident size in bytes; ``commit`` is what trained."""

    seconds: float
    steps: int
    parameters: int
    peak_memory: int
    device: str
    losses: dict[str, float]
    weights_digest: str
    commit: str


class PredictCost(Frozen):
    """What the predict step writes; milliseconds per image, medians over images."""

    seconds: float
    images: int
    network_ms: Number
    grouping_ms: Number
    scoring_ms: Number
    peak_memory: int


class Provenance(Frozen):
    """Enough to run the cell again, and to see why two records differ."""

    commit: str
    dirty: bool
    python: str
    packages: dict[str, str]
    machine: str
    processor: str
    cores: int
    gpu: str
    train_fingerprint: str
    val_fingerprint: str
    keys: dict[str, str]
    finished: str


class Record(Frozen):
    """One cell, finished or not; ``reason`` and ``log`` (its last lines) say why when ``status`` is not ok."""

    cell: str
    status: Literal["ok", "failed", "timeout"]
    reason: str = ""
    log: str = ""
    settings: Settings
    evaluation: Evaluation | None = None
    train: TrainCost | None = None
    predict: PredictCost | None = None
    provenance: Provenance
