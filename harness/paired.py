"""A metric of several rows on the same resamples of the images, so that their difference can be taken pair by pair."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from evaluation.statistics import Bootstrap
from harness.judged import Judged
from harness.judged import load as load_matches
from harness.names import UsageError
from harness.record import Record
from harness.samples import Samples

Read = Callable[[Record], Samples]  # the samples of a record's cell; raises `UsageError` where there are none

OTHER_IMAGES = "not judged on the same images by the same annotation"
ONE_SEED = "one seed: the interval is over images alone; another training may come out otherwise"
NO_INTERVAL = "one seed and no resamples of several images: no interval"


class Unpaired(Exception):
    """Two rows cannot be compared; the message says why."""


def from_matches(files: Sequence[Sequence[Path]], metric: str, resamples: int) -> np.ndarray:
    """``metric`` on resamples of the images, (rows, seeds, B), from each row's matches; NaN where there is one image.

    ``files``: the matches of each row, over the same seeds. `Unpaired` where they are missing, or not of one truth.
    """
    first, samples = _load(files[0][0]), []
    for file in (file for line in files for file in line):
        one = _load(file)
        if list(one.image_ids) != list(first.image_ids) or one.variant != first.variant or not one.same_truth(first):
            raise Unpaired(f"its rows were {OTHER_IMAGES}")
        samples.append(_bootstrap(file, resamples).samples[metric])
    if len(first.matches) < 2:  # one image, drawn again and again, says nothing of others
        samples = np.full_like(samples, np.nan)
    return np.reshape(samples, (len(files), len(files[0]), resamples))


@functools.lru_cache(maxsize=4)
def _load(file: Path) -> Judged:
    try:
        return load_matches(file)
    except UsageError as error:
        raise Unpaired(str(error)) from error


@functools.lru_cache(maxsize=64)  # several claims share a cell
def _bootstrap(file: Path, resamples: int) -> Bootstrap:
    return _load(file).bootstrap(resamples)


def from_samples(cells: Sequence[Sequence[Record]], metric: str, read: Read) -> np.ndarray | None:
    """As `from_matches`, from what the evaluate steps of ``cells`` (rows, seeds) stored; None without resamples."""
    found, keys = [], set()
    for record in (record for line in cells for record in line):
        try:
            samples = read(record)
        except UsageError as error:
            raise Unpaired(str(error)) from error
        kind, _ = record.evaluation.find(metric)
        keys.add((samples.judged.get(kind), samples.values.shape[1]))
        if len(keys) > 1 or None in {key for key, _ in keys}:
            raise Unpaired(OTHER_IMAGES)
        if samples.values.shape[1] and metric not in samples.lines:
            raise Unpaired(f"no samples of {metric} are stored")
        found.append(samples.of(metric) if samples.values.shape[1] else None)
    if found[0] is None:
        return None
    return np.reshape(found, (len(cells), len(cells[0]), -1))
