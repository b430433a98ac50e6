"""The state of a running training, kept so that the very same training goes on after a crash.

A checkpoint is one file, STEP-DIGEST.pt: whole or not there, its content's digest in its name, and tensors and plain
values inside, which are read without running anything. The last two are kept, in case the last one is damaged.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

_FORMAT = 1
_KEPT = 2
_SHARE = 0.05  # of the time that writing may take: large states on slow disks are written less often
_NAME = re.compile(r"(\d{9})-([0-9a-f]{32})\.pt")


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's and torch's global generators, on every device."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@dataclass(frozen=True)
class State:
    """All that the rest of a training depends on, after ``done`` steps in all and ``step`` of the stage ``stage``.

    The samplers' position follows from the steps: `harness.batches.TrainStream` is a function of the position.
    """

    done: int
    stage: int
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    precision: dict[str, Any]
    losses: dict[str, float]
    gradient_norm: float
    seconds: float  # that the training has taken
    peak_memory: int  # bytes
    resumed: list[int]  # the steps that it went on from before
    random: dict[str, Any] = field(default_factory=random_state)


class Checkpoints:
    """The folder of one training's checkpoints; a new one is ``due`` every ``seconds`` (0: after every step).

    One process at a time may write: the driver holds the training's lock.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def save(self, state: State) -> None:
        """Write a checkpoint. One that cannot be written, on a full disk for example, is told to the log, no more:
        the training itself is not harmed."""
        start = time.monotonic()
        new = self.folder / "new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)  # of a process that was killed
            with new.open("wb") as file:
                torch.save({"format": _FORMAT, **{f.name: getattr(state, f.name) for f in fields(state)}}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.folder / f"{state.done:09d}-{_digest(new)}.pt")
            for _, old in self._found()[_KEPT:]:
                old.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # torch turns some of the system's errors into RuntimeError
            print(f"no checkpoint written after step {state.done}: {error}", file=sys.stderr)
            with suppress(OSError):
                new.unlink()
        now = time.monotonic()
        self._next = now + max(self.seconds, (now - start) / _SHARE if self.seconds else 0.0)

    def latest(self) -> State | None:
        """The newest checkpoint that is whole; None where there is none. Damaged ones are removed; the log says so."""
        for _, path in self._found():
            try:
                if _digest(path) != _NAME.fullmatch(path.name)[2]:
                    raise ValueError("its content is not what was written")
                found = torch.load(path, map_location="cpu", weights_only=True)
                if found.pop("format") != _FORMAT:
                    raise ValueError("another version of this program wrote it")
                return State(**found)
            except Exception as error:  # a damaged file may raise anything; the one before is as good
                print(f"checkpoint {path} is removed: {type(error).__name__}: {error}", file=sys.stderr)
                path.unlink(missing_ok=True)  # or it would count as newer than those to come
        return None

    def step(self) -> int:
        """How many steps the newest checkpoint is worth, by its name; 0 without one."""
        found = self._found()
        return found[0][0] if found else 0

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[tuple[int, Path]]:
        """Steps and files, newest first."""
        try:
            named = [(_NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        except OSError:  # none yet, or none any more: another run has just finished the training
            return []
        return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
