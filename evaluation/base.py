"""What several metrics share: conventions with a printed tag, quotients and means that may not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np


class Convention:
    """Base of a frozen dataclass whose fields are switches; ``CHOICES`` names their values. ValueError for another."""

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]]

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")

    @property
    def tag(self) -> str:
        """What is printed beside every number, such as "area/mnc/count/nan"."""
        return "/".join(getattr(self, name) for name in self.CHOICES)


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN and no warning where ``below``, which is 0 or at least 1, is 0."""
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the NaN entries; NaN, and no warning, where all are NaN."""
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0.0).sum(-1), known.sum(-1))
