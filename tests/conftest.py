"""What all tests share: one thread for each process."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Test processes run side by side: more threads than cores would only slow them down.
    torch.set_num_threads(1)
