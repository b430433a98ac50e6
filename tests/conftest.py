"""What many tests share: one thread for each process, and small scenes."""

from __future__ import annotations

import pytest
import torch

from datasets.shapes import Shapes
from harness.batches import collate
from methods.base import Batch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Test processes run side by side: more threads than cores would only slow them down.
    torch.set_num_threads(1)


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
