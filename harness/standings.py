"""How the rows of a table stand to the best of each column: paired differences, and which of them are significant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness import effects, paired
from harness.effects import UNKNOWN, Effect
from harness.measured import is_cost
from harness.record import Record
from harness.suite import Column

# Signs that mean nothing to Markdown, LaTeX or a terminal.
BEST, NOT_SIGNIFICANT = "best", "~"
GROUND_TRUTH = "rows that use the ground truth are not compared with those that do not"
_TAIL = 5  # resamples that should lie beyond each end of an interval
_LEAST = 1e-6  # samples are stored in single precision: a smaller difference is none


@dataclass(frozen=True)
class Standing:
    """How a row stands to the best of its column.

    ``difference``: the row minus the best, in the record's unit. ``significant``: whether its interval leaves out 0;
    None for the best itself, and where nothing is known, for the ``reason`` given.
    """

    is_best: bool = False
    difference: Effect = UNKNOWN
    significant: bool | None = None
    reason: str = ""

    @property
    def sign(self) -> str:
        """What stands behind the number in a table."""
        if self.is_best:
            return BEST
        return NOT_SIGNIFICANT if self.significant is False else ""


NOT_COMPARED = Standing()


@dataclass(frozen=True)
class Standings:
    """The ``rows`` of a column that were compared, and ``notes`` on how."""

    rows: Mapping[str, Standing]
    notes: tuple[str, ...] = ()


def ground_truth(record: Record) -> str:
    """Which stages of a method the ground truth stands in for, in words; empty for none."""
    oracle, scorer = (record.settings.config.get(name) for name in ("oracle", "scorer"))
    found = [] if oracle in (None, "", "none") else [str(oracle)]
    return ", ".join([*found, *["scores"] * (scorer == "oracle_iou")])


def competitors(rows: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """The rows that are held against each other: those that use no ground truth.

    A row with, say, the true class map answers another question than a method does, so it is neither the best nor held
    against it. In a table of such rows alone, an ablation, all are compared, if all use the same ground truth.
    """
    used = {row: ground_truth(records[0]) for row, records in rows.items()}
    if "" not in used.values() and len(set(used.values())) > 1:
        return {}
    return {row: records for row, records in rows.items() if "" not in used.values() or not used[row]}


def hold(
    rows: Mapping[str, Mapping[str, Sequence[Record]]], columns: Sequence[Column], read: paired.Read
) -> dict[tuple[str, str], Standings]:
    """By metric and data set, `standings` of each column that has a best. ``rows``: finished records by data, row."""
    return {
        (column.metric, data): standings(found, column, read)
        for data, found in rows.items()
        for column in columns
        if column.best and not is_cost(column.metric)
    }


def standings(rows: Mapping[str, Sequence[Record]], column: Column, read: paired.Read) -> Standings:
    """Hold every row against the best one. ``rows``: their finished records on one data set; ``read`` has the samples.

    The best has the highest (lowest) mean over the seeds that all rows have. Each other row has the paired difference
    to it (`harness.effects.estimate`): seed by seed, images resampled alike. The error that an interval may make is
    divided by the number of other rows (Bonferroni). So the row that is truly the best is told apart from the apparent
    best no more often than this error (Hsu 1984, multiple comparisons with the best). Where the best mean is that of
    several rows, none is called the best; the others are held against the first of them by name, so that nothing
    depends on the order of rows.
    """
    chosen = competitors(rows)
    values = {row: _by_seed(chosen[row], column.metric) for row in sorted(chosen)}
    values = {row: found for row, found in values.items() if found}
    if len(values) < 2:
        return Standings({})
    seeds = sorted(set.intersection(*map(set, values.values())))
    if not seeds:
        return Standings({row: Standing(reason="there is no seed that all rows have") for row in values})
    numbers = {row: np.array([found[seed] for seed in seeds]) for row, found in values.items()}
    means = {row: float(found.mean()) for row, found in numbers.items()}
    top = (max if column.best == "highest" else min)(means, key=means.__getitem__)
    cells = {row: [one for seed in seeds for one in chosen[row] if one.settings.seed == seed] for row in numbers}
    confidence, others = cells[top][0].evaluation.confidence, len(numbers) - 1
    found, resamples = {}, 0
    for row in (row for row in numbers if row != top):
        try:
            samples = paired.from_samples([cells[top], cells[row]], column.metric, read)
        except paired.Unpaired as error:
            found[row] = Standing(reason=str(error))
            continue
        resamples = 0 if samples is None else samples.shape[-1]
        pair = np.array([numbers[top], numbers[row]])
        found[row] = _standing(effects.estimate("greater", pair, samples, confidence, others))
    if all(one.significant is None for one in found.values()):
        return Standings(found)
    alone = list(means.values()).count(means[top]) == 1
    found[top] = Standing(alone, Effect(0.0, math.nan, math.nan), None if alone else False)
    enough = math.ceil(round(2 * _TAIL * others / (1.0 - confidence), 6))
    notes = {
        f"{BEST}: the best mean of its column, of the rows compared; {NOT_SIGNIFICANT}: not significantly different "
        f"from it (0 lies in the {100 * confidence:g} % interval of the difference, paired by seed and by resampled "
        "images; Bonferroni for the number of other rows)": True,
        paired.ONE_SEED: len(seeds) == 1,
        f"compared over the seeds that all rows have: {', '.join(map(str, seeds))}": any(
            set(one) != set(seeds) for one in values.values()
        ),
        f"{others} differences at once: the ends of their intervals have fewer than {_TAIL} of {resamples} resamples "
        f"beyond them, and are rough; evaluate.resamples = {enough} is enough": 0 < resamples < enough,
        GROUND_TRUTH: len(chosen) < len(rows),
    }
    return Standings(found, tuple(note for note, wanted in notes.items() if wanted))


def _standing(difference: Effect) -> Standing:
    if math.isnan(difference.low):
        return Standing(difference=difference, reason=paired.NO_INTERVAL)
    return Standing(difference=difference, significant=difference.low > _LEAST or difference.high < -_LEAST)


def _by_seed(records: Sequence[Record], metric: str) -> dict[int, float]:
    """The number of each seed that has it."""
    found = {one.settings.seed: one.evaluation.find(metric) for one in records}
    return {seed: one[1].value for seed, one in found.items() if one is not None and not math.isnan(one[1].value)}


def notes(compared: Mapping[tuple[str, str], Standings], titles: Mapping[str, str]) -> list[str]:
    """What the signs mean, and what kept rows, by name in ``titles``, from being compared."""
    why: dict[str, dict[str, None]] = {}
    for one in compared.values():
        for row, standing in one.rows.items():
            if standing.reason:
                why.setdefault(standing.reason, {})[titles[row]] = None
    kept = [f"not compared with the best: {', '.join(names)}: {reason}" for reason, names in why.items()]
    return [*dict.fromkeys(note for one in compared.values() for note in one.notes), *kept]
