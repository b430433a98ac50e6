"""A cell's numbers on resamples of its images, as its evaluate step stores them: tables compare rows by them.

Two files: samples.npy, (numbers, resamples) float32, and samples.json, which says what its lines are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from evaluation.statistics import Bootstrap
from harness.judged import KINDS, Judged
from harness.names import UsageError
from harness.store import write_file, write_text

VALUES, ABOUT = "samples.npy", "samples.json"


class _Kind(BaseModel):
    """One kind of metric: `judged_key`, and the names of its lines, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judged: str
    numbers: tuple[str, ...]


class _About(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: dict[str, _Kind]


@dataclass(frozen=True)
class Samples:
    """Resampled numbers of one cell.

    ``judged``: `judged_key` by kind. ``lines``: the line of each number in ``values`` (N, B) float32; B is 0 where
    nothing was resampled. Resample b draws the same images in every cell with the same key.
    """

    judged: Mapping[str, str]
    lines: Mapping[str, int]
    values: np.ndarray

    def of(self, number: str) -> np.ndarray:
        """(B,) float64. KeyError for a number that is not stored."""
        return self.values[self.lines[number]].astype(np.float64)


def judged_key(judged: Judged) -> str:
    """Equal for two results that were judged on the same images, by the same annotation and convention."""
    kind = KINDS[judged.kind]
    about = [judged.kind, kind.version, judged.variant, dict(judged.options), list(judged.image_ids), judged.instances]
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    for array in (np.ascontiguousarray(getattr(match, name)) for name in kind.truth for match in judged.matches):
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def stored(kind: str, names: Sequence[str]) -> list[str]:
    """Of a kind's numbers those that tables show: its short table's, and theirs by class if it has those."""
    by_class = KINDS[kind].by_class
    main = {*KINDS[kind].shown, by_class}
    return [name for name in names if name in main or (by_class and name.partition("/")[0] in main)]


def save(folder: Path, judged: Sequence[Judged], resampled: Sequence[Bootstrap | None]) -> None:
    """Write the samples of all kinds that a cell was judged by; all resampled equally often, or not at all (None)."""
    kinds, parts = {}, []
    for one, found in zip(judged, resampled, strict=True):
        names = stored(one.kind, list(found.samples)) if found else []
        kinds[one.kind] = _Kind(judged=judged_key(one), numbers=tuple(names))
        parts += [found.samples[name] for name in names]
    values = np.array(parts, np.float32) if parts else np.zeros((0, 0), np.float32)
    write_file(folder / VALUES, lambda file: np.save(file, values, allow_pickle=False))
    write_text(folder / ABOUT, _About(kinds=kinds).model_dump_json(indent=1) + "\n")


def load(folder: Path) -> Samples:
    """What `save` wrote; lines are read from the disk when they are asked for. `UsageError` where that is not there."""
    try:
        about = _About.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
        values = np.load(folder / VALUES, mmap_mode="r", allow_pickle=False)
        names = [name for kind in about.kinds.values() for name in kind.numbers]
        whole = values.ndim == 2 and values.dtype == np.float32 and len(values) == len(names) == len(set(names))
    except Exception as error:  # readers raise whatever the bytes lead them to
        raise UsageError(_damaged(folder, type(error).__name__)) from error
    if not whole:
        raise UsageError(_damaged(folder, "they do not fit together"))
    return Samples({kind: one.judged for kind, one in about.kinds.items()}, {n: i for i, n in enumerate(names)}, values)


def _damaged(folder: Path, why: str) -> str:
    # Tables print it, and are published: no path of this machine.
    return f"{ABOUT} or {VALUES} missing or damaged ({why}); delete steps/evaluate/{folder.name} and run again"
