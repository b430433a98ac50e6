"""What a comparison of rows comes to: the two rows that decide it, the effect, its interval over seeds and images.

Every kind of claim ends in one contrast of two rows:

| kind | first row | second row | effect | the claim holds for an effect |
| --- | --- | --- | --- | --- |
| greater | best of all but the last | last | second - first | above 0 |
| at_least | best of all but the last | last | second - first | above -tolerance |
| difference | first | last | second - first | within tolerance of the paper's |
| ratio | first | last | second / first | within tolerance of the paper's |
| peak_inside | better of the two ends | best of the others | second - first | above 0 |
| insensitive | worst | best | second - first | below tolerance |
| faster | first | slowest of the others | first / second, of a cost | above 1 |

Rows are picked by their mean over seeds. Which of several rows is best is partly luck, so the error that an interval
may make is divided by the number of pairs that could have been picked (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from evaluation.statistics import percentiles, t_interval

Kind = Literal["greater", "at_least", "difference", "ratio", "peak_inside", "insensitive", "faster"]
Verdict = Literal["replicated", "not replicated", "undecided"]
KINDS: tuple[str, ...] = get_args(Kind)

# One machine's times wander with its other work: a ratio of two is trusted to this factor, whatever the seeds say.
TIMES_WITHIN = 1.5


@dataclass(frozen=True)
class Contrast:
    """Indices of the two rows that decide, and the number of pairs that they were picked from."""

    first: int
    second: int
    pairs: int


@dataclass(frozen=True)
class Effect:
    """``value`` is the mean over seeds; ``low`` and ``high`` its interval, NaN where nothing tells the spread."""

    value: float
    low: float
    high: float


UNKNOWN = Effect(math.nan, math.nan, math.nan)


def decisive(kind: Kind, values: Sequence[float]) -> Contrast:
    """The rows that decide, from each row's value (R,), rows in the claim's order. At least 2, for a peak 3."""
    numbers, last = np.asarray(values, dtype=float), len(values) - 1
    if kind == "peak_inside":
        ends = 0 if numbers[0] >= numbers[last] else last
        return Contrast(ends, 1 + int(numbers[1:last].argmax()), 2 * (last - 1))
    if kind == "insensitive":
        return Contrast(int(numbers.argmin()), int(numbers.argmax()), last * (last + 1) // 2)
    if kind == "faster":
        return Contrast(0, 1 + int(numbers[1:].argmax()), last)
    return Contrast(int(numbers[:last].argmax()), last, last)


def contrast(kind: Kind, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The effect of two rows' values, elementwise; NaN where a ratio has nothing to divide by."""
    if kind == "faster":
        first, second = second, first
    elif kind != "ratio":
        return second - first
    return np.where(first > 0, second / np.where(first > 0, first, 1.0), np.nan)


def holds_for(kind: Kind, tolerance: float, paper: float) -> tuple[float, float]:
    """The open interval of effects for which a claim holds; ``paper`` is the effect that the paper reports."""
    if kind in ("difference", "ratio"):
        return paper - tolerance, paper + tolerance
    if kind == "insensitive":
        return -math.inf, tolerance
    return {"at_least": -tolerance, "faster": 1.0}.get(kind, 0.0), math.inf


def decide(effect: Effect, holds: tuple[float, float]) -> Verdict:
    """replicated: the whole interval lies where the claim holds; not replicated: none of it does."""
    if holds[0] < effect.low and effect.high < holds[1]:
        return "replicated"
    return "not replicated" if effect.high <= holds[0] or effect.low >= holds[1] else "undecided"


def estimate(kind: Kind, values: np.ndarray, samples: np.ndarray | None, confidence: float, pairs: int = 1) -> Effect:
    """The effect of two rows with its interval.

    ``values`` (2, S): both rows, over the seeds. ``samples`` (2, S, B): on B resamples of the test images, the same
    images for every row and seed; None where there are none. ``pairs``: see `Contrast`.

    The effect is taken seed by seed, so that what two rows share (a training, or its seed) drops out. Its error has
    two parts. The images: percentiles of the resampled effect, mean over seeds. The trainings: Student's t-interval
    over seeds; none for one seed. Their half widths add as squares, each side on its own, since images and seeds are
    drawn independently of each other. That errs on the wide side: an error of both, of one seed on one image, counts
    twice. A bootstrap over seeds would be far too narrow for the three that there are.
    """
    sure = 1.0 - (1.0 - confidence) / pairs
    by_seed = contrast(kind, values[0], values[1])
    value, trainings = t_interval(by_seed.tolist(), sure)
    low = high = math.nan
    if kind == "faster":
        low, high = value / TIMES_WITHIN, value * TIMES_WITHIN
    elif samples is not None:
        low, high = percentiles(contrast(kind, samples[0], samples[1]).mean(axis=0), sure)
    sides = []
    if not math.isnan(low):
        sides.append((max(0.0, value - low), max(0.0, high - value)))
    if not math.isnan(trainings):
        sides.append((trainings, trainings))
    if not sides:
        return Effect(value, math.nan, math.nan)
    below, above = (math.hypot(*halves) for halves in zip(*sides, strict=True))
    return Effect(value, value - below, value + above)
