"""How sure a number is: bootstrap over images (one trained network), t-interval over seeds (a method)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# Every metric of this folder gives its numbers as such a function of image weights: for ``counts`` (B, images) int64,
# as if image i were present ``counts[b, i]`` times, an array (B,) float64 by name; NaN where a number does not exist.
Measure = Callable[[np.ndarray], Mapping[str, np.ndarray]]

_CHUNK = 1 << 21  # resamples x entries held at a time: 16 MiB for each integer array


@dataclass(frozen=True)
class Bootstrap:
    """A metric's numbers on all images, and on resamples of them.

    ``values``: by name, on the images as they are. ``samples``: by name, (B,), one entry per resample; resample b
    draws the same images whatever is measured, so two methods are compared on ``a.samples[n] - b.samples[n]``.
    """

    values: Mapping[str, float]
    samples: Mapping[str, np.ndarray]

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of a number (Efron 1979); see `percentiles`."""
        return percentiles(self.samples[name], confidence)


def whole(measure: Measure, images: int) -> dict[str, float]:
    """The metric's numbers on all ``images``, each present once."""
    found = measure(np.ones((1, images), dtype=np.int64))
    return {name: float(values[0]) for name, values in found.items()}


def draws(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each image occurs in each resample with replacement: (resamples, images) int64, rows sum to ``images``.

    Depends on the three arguments only.
    """
    if images < 1 or resamples < 1:
        raise ValueError(f"a bootstrap needs at least one image and one resample, not {images} and {resamples}")
    picked = np.random.default_rng(seed).integers(images, size=(resamples, images))
    picked += images * np.arange(resamples)[:, None]
    return np.bincount(picked.ravel(), minlength=resamples * images).reshape(resamples, images)


def bootstrap(measure: Measure, images: int, *, entries: int = 0, resamples: int = 1000, seed: int = 0) -> Bootstrap:
    """Measure when the ``images`` are drawn again with replacement. Nothing is matched again: weights do it exactly.

    ``entries`` is how many numbers the measure holds for one resample, such as its detections: resamples go to it in
    parts of a bounded size. ValueError without an image or a resample.
    """
    counts = draws(images, resamples, seed)
    rows = max(1, _CHUNK // max(1, images, entries))
    parts = [measure(counts[start : start + rows]) for start in range(0, resamples, rows)]
    samples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Bootstrap(whole(measure, images), samples)


def percentiles(samples: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The middle ``confidence`` of (B,) resampled values, without the NaN among them (a resample without a single
    instance has no AP); NaN if all are. ValueError for a confidence outside (0, 1).
    """
    _check(confidence)
    known = samples[~np.isnan(samples)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return float(low), float(high)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half width of Student's t-interval for the mean of ``values``, such as one metric over seeds.

    The half width is NaN for a single value: one seed says nothing about the spread. ValueError for no value.
    """
    _check(confidence)
    number = len(values)
    if not number:
        raise ValueError("an interval needs at least one value")
    mean = float(np.mean(values))
    if number == 1:
        return mean, float("nan")
    error = float(np.std(values, ddof=1)) / number**0.5
    return mean, float(stats.t.ppf((1 + confidence) / 2, number - 1)) * error


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
