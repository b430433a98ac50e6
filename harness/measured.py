"""Numbers of records, as tables and plots show them: over seeds, with an interval, and derived costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.statistics import t_interval
from harness.names import look_up
from harness.record import PredictCost, Record, TrainCost
from harness.suite import Preset, Row


@dataclass(frozen=True)
class Measured:
    """A metric of one row, in the record's unit.

    ``low`` and ``high`` are its interval, NaN where there is none; ``deviation`` is the standard deviation over seeds
    (of a sample: n - 1), NaN for one seed.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    deviation: float = math.nan

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return 0.5 * (self.high - self.low)

    @property
    def lopsided(self) -> bool:
        """Whether "value ± half" would say something else than the interval: one side is half as long again."""
        below, above = self.value - self.low, self.high - self.value
        return max(below, above) > 1.5 * min(below, above)

    def scaled(self, scale: float) -> Measured:
        deviation = self.deviation if math.isnan(self.deviation) else scale * self.deviation
        return Measured(scale * self.value, scale * self.low, scale * self.high, deviation)


UNMEASURED = Measured(math.nan)


def lines(
    rows: Mapping[str, Row], row_names: Sequence[str], preset: Preset, data_names: Sequence[str]
) -> Iterator[tuple[str, Row, list[str]]]:
    """Each row of ``row_names`` (empty: all of ``rows``) with its data among ``data_names`` (empty: the preset's)."""
    shown = [name for name in preset.data if not data_names or name in data_names]
    for name in row_names or rows:
        found = [one for one in shown if not rows[name].data or one in rows[name].data]
        if found:
            yield name, rows[name], found


def of_cell(records: Sequence[Record], row_name: str, data_name: str) -> list[Record]:
    """The records of one row on one data set: one for each seed."""
    return [one for one in records if one.settings.row == row_name and one.settings.data_name == data_name]


def finished(records: Sequence[Record]) -> list[Record]:
    return [one for one in records if one.status == "ok" and one.evaluation is not None]


def measured(records: Sequence[Record], metric: str) -> Measured:
    """One seed: its value and bootstrap interval over images. More: the seeds' mean, t-interval and deviation.

    Costs have no interval: machines vary more than seeds. ``records`` are finished, at least one. `UsageError` for a
    cost that does not exist.
    """
    found = [_one(record, metric) for record in records]
    if len(found) == 1:
        return found[0]
    values = [one.value for one in found]
    mean, half = t_interval(values, records[0].evaluation.confidence)
    if is_cost(metric):
        half = math.nan
    return Measured(mean, mean - half, mean + half, float(np.std(values, ddof=1)))


def is_cost(metric: str) -> bool:
    return metric.startswith("cost.")


def _one(record: Record, metric: str) -> Measured:
    if is_cost(metric):
        return Measured(cost(record, metric))
    found = record.evaluation.find(metric)
    if found is None:
        return UNMEASURED
    _, number = found
    if number.low is None or number.high is None:
        return Measured(number.value)
    return Measured(number.value, number.low, number.high)


def milliseconds(predict: PredictCost) -> float:
    """Network, grouping and scoring of one image; a stage that a method lacks takes none. NaN without any stage."""
    parts = [one for one in (predict.network_ms, predict.grouping_ms, predict.scoring_ms) if not math.isnan(one)]
    return sum(parts) if parts else math.nan


def fps(predict: PredictCost) -> float:
    """Images in a second at `milliseconds`: one image after the other, without reading, resizing and writing it."""
    time = milliseconds(predict)
    return 1000.0 / time if time > 0 else math.nan


def step_seconds(train: TrainCost) -> float:
    """Seconds of a training step, all of the training's over its steps: loading and preparing included."""
    return train.seconds / train.steps if train.steps else math.nan


_PARTS = {"train": TrainCost, "predict": PredictCost}
_DERIVED = {
    "cost.predict.milliseconds": milliseconds,
    "cost.predict.fps": fps,
    "cost.train.step_seconds": step_seconds,
}
# Every cost by its name in a suite: the numbers of the record, and those made of them.
COSTS = (
    *(
        f"cost.{part}.{name}"
        for part, model in _PARTS.items()
        for name in model.model_fields
        if name
        not in ("losses", "weights_digest", "environment", "implementation", "resumed", "gradient_norm", "moved")
    ),
    *_DERIVED,
)


def cost(record: Record, metric: str) -> float:
    """``cost.train.NAME`` or ``cost.predict.NAME`` of a record; derived from medians over images where it is derived.

    NaN where the step left nothing, or nothing was trained; `UsageError` for a name not in `COSTS`.
    """
    look_up("cost", metric, dict.fromkeys(COSTS))
    _, part, name = metric.split(".")
    summary = getattr(record, part)
    if summary is None or (part == "train" and name != "parameters" and not summary.steps):
        return math.nan
    return float(_DERIVED[metric](summary) if metric in _DERIVED else getattr(summary, name))
