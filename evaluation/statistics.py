"""How sure a number is: bootstrap over images (one trained network), t-interval over seeds (a method)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation import voc_apr
from evaluation.voc_apr import ImageMatches, Variant

_CHUNK = 1 << 22  # resamples x detections held at a time: 32 MiB for each integer array


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals of mean AP^r, and the resampled values that they were taken from.

    ``thresholds``: T of `voc_apr.THRESHOLDS`. ``low``, ``high``: (T,) interval of AP^r, mean over classes.
    ``vol_low``, ``vol_high``: interval of AP^r_vol; NaN unless all nine thresholds were asked for.
    ``means``: (B, T) and ``vol``: (B,), one entry per resample; resample b draws the same images whatever the method
    is, so two methods are compared on ``a.means - b.means``.
    """

    thresholds: tuple[float, ...]
    low: np.ndarray
    high: np.ndarray
    vol_low: float
    vol_high: float
    means: np.ndarray
    vol: np.ndarray


def draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image occurs in each resample with replacement: (resamples, images) int64, rows sum to ``images``.

    Depends on the three arguments only.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"a bootstrap needs at least one image and one resample, not {images} and {resamples}")
    picked = np.random.default_rng(seed).integers(images, size=(resamples, images))
    picked += images * np.arange(resamples)[:, None]
    return np.bincount(picked.ravel(), minlength=resamples * images).reshape(resamples, images)


def bootstrap(
    matches: Sequence[ImageMatches],
    variant: Variant,
    num_classes: int,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    thresholds: Sequence[float] | None = None,
) -> Bootstrap:
    """Percentile interval of AP^r when the images are drawn again with replacement (Efron 1979).

    Nothing is matched again: a resample is a count per image, and `voc_apr.weighted_average_precision` gives its AP
    exactly. A class that has no instance in a resample is NaN there and the mean over classes skips it (under
    ``absent="zero"`` it is 0, as that convention has it); a resample without any instance is left out of the
    percentiles. ``thresholds`` names some of `voc_apr.THRESHOLDS` to save the others' time. ValueError for an
    unknown threshold, a confidence outside (0, 1), or no image.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    asked = voc_apr.THRESHOLDS if thresholds is None else tuple(thresholds)
    unknown = [threshold for threshold in asked if threshold not in voc_apr.THRESHOLDS]
    if unknown:
        raise ValueError(f"no matches at threshold {unknown[0]}; available: {voc_apr.THRESHOLDS}")
    levels = [voc_apr.THRESHOLDS.index(threshold) for threshold in asked]
    counts = draws(len(matches), resamples, seed)
    rows = max(1, _CHUNK // max(1, sum(len(image.scores) for image in matches)))
    parts = [
        voc_apr.weighted_average_precision(matches, counts[start : start + rows], variant, num_classes, levels)
        for start in range(0, resamples, rows)
    ]
    per_class = np.concatenate(parts)  # (B, T, C)
    means = voc_apr.mean_over_classes(per_class)
    whole = sorted(asked) == list(voc_apr.THRESHOLDS)
    vol = voc_apr.mean_over_classes(per_class.mean(1)) if whole else np.full(resamples, np.nan)
    low, high = _percentiles(means, confidence)
    vol_low, vol_high = _percentiles(vol[:, None], confidence)
    return Bootstrap(asked, low, high, float(vol_low[0]), float(vol_high[0]), means, vol)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper percentile of every column of (B, T) without its NaN entries; NaN for a column of NaN."""
    tail = (1 - confidence) / 2
    low, high = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        known = values[~np.isnan(values[:, column]), column]
        if len(known):
            low[column], high[column] = np.quantile(known, (tail, 1 - tail))
    return low, high


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of Student's t-interval for the mean of ``values``, such as one metric over seeds.

    The half width is NaN for a single value: one seed says nothing about the spread. ValueError for no value.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    number = len(values)
    if not number:
        raise ValueError("an interval needs at least one value")
    mean = float(np.mean(values))
    if number == 1:
        return mean, float("nan")
    error = float(np.std(values, ddof=1)) / number**0.5
    return mean, float(stats.t.ppf((1 + confidence) / 2, number - 1)) * error
