"""Small scenes that many tests share."""

from __future__ import annotations

from datasets.shapes import Shapes
from harness.batches import collate
from methods.base import Batch


def scenes(count: int, size: int = 64, level: str = "easy", seed: int = 3) -> Batch:
    """``count`` generated scenes that hold at least one instance each."""
    data = Shapes("train", 50 * count, level, size, seed)
    found = []
    for index in range(len(data)):
        sample = data[index]
        if sample.instances.any():
            found.append(sample)
        if len(found) == count:
            return collate(found)
    raise AssertionError("not enough scenes with instances")
