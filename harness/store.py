"""Files of a results folder: finished steps by key, records, and atomic writing.

A step's folder appears under its final name only when it is complete (one rename), so what exists can be trusted:

    OUTPUT/steps/{train,predict,evaluate}/NAME-KEY/    OUTPUT/records/CELL-KEY.json    OUTPUT/tables/SUITE-PRESET/
    OUTPUT/unfinished/NAME-KEY/: checkpoints           OUTPUT/locks/, OUTPUT/drafts/: while something runs
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from harness.locks import Busy, hold

STEPS = ("train", "predict", "evaluate")
SUMMARY = "summary.json"  # every finished step has one: its cost, or its metrics
INPUTS = "inputs.json"  # what its outcome depends on, by name: `harness.keys.step_inputs`


class DamagedStep(Exception):
    """A file of a finished step is missing or broken; the message says which folder to delete."""

    def __init__(self, path: Path, folder: Path, error: Exception) -> None:
        super().__init__(f"{path} is damaged ({error}); delete the folder {folder} and run again")


def digest(*parts: Any) -> str:
    """A 16-digit key of JSON-able values, equal exactly when they are."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def code_digests(files: Iterable[Path], root: Path = Path("/")) -> dict[str, str]:
    """A key of each Python source that ignores comments, layout and docstrings: only what runs counts.

    Sources below ``root`` by their place in it, others by folder and name.
    """
    names = {
        path: str(path.relative_to(root)) if path.is_relative_to(root) else f".../{path.parent.name}/{path.name}"
        for path in sorted(files)
    }
    return {name: _running_code(path, path.stat().st_mtime_ns) for path, name in names.items()}


@functools.lru_cache(maxsize=256)
def _running_code(path: Path, _: int) -> str:
    """The syntax tree without docstrings, in one key; parsing anew for every cell would take a minute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del body[0]
    return digest(ast.dump(tree))


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    write_file(path, lambda file: file.write(text.encode()))


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a whole file or nothing: to a temporary neighbour, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # a machine that loses its power must not leave an empty file under the final name
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _to_disk(path: Path) -> None:
    """What is renamed next must not turn out empty after a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Store:
    """One results folder."""

    def __init__(self, output: Path) -> None:
        self.output = output

    @property
    def file_digests(self) -> Path:
        """Remembered digests of data files; see `datasets.voc`."""
        return self.output / "cache" / "file_digests.json"

    def step(self, step: str, name: str, key: str) -> Path:
        """Where a finished step lies, or will lie."""
        return self.output / "steps" / step / f"{name}-{key}"

    def tables(self, suite: str, preset: str) -> Path:
        return self.output / "tables" / f"{suite}-{preset}"

    def record(self, cell: str, key: str) -> Path:
        return self.output / "records" / f"{cell}-{key}.json"

    def verified(self, fingerprint: str) -> Path:
        """A marker: every sample of the split with this fingerprint has been checked."""
        return self.output / "cache" / f"verified-{fingerprint}"

    def unfinished(self, name: str) -> Path:
        """Checkpoints of a training, by the name of its folder, until it is finished; see `harness.checkpoint`."""
        return self.output / "unfinished" / name

    def lock(self, step: Path) -> Path:
        """The lock of a step's folder, finished or not; see `harness.locks`."""
        return self.output / "locks" / f"{step.parent.name}.{step.name}.lock"

    @contextmanager
    def drafts(self, name: str) -> Iterator[Path]:
        """A folder for the drafts of one cell, whose locks the caller holds: what a killed process left there goes."""
        folder = self.output / "drafts" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder.resolve()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def tidy(self) -> None:
        """Remove drafts of processes that are no more."""
        for folder in (self.output / "drafts").glob("*"):
            with suppress(Busy, OSError), hold([self.lock(self.output / "steps" / "evaluate" / folder.name)]) as held:
                if held:  # else the file system has no locks, and nobody knows whose they are
                    shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def create(self, final: Path, drafts: Path) -> Iterator[Path]:
        """A fresh folder in ``drafts`` that takes the place of ``final`` when the block ends without an error."""
        final.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=drafts))
        os.chmod(draft, 0o755)
        yield draft
        for path in (*(one for one in draft.iterdir() if one.is_file()), draft):
            _to_disk(path)
        with suppress(FileNotFoundError):  # a damaged step
            os.rename(final, Path(tempfile.mkdtemp(dir=drafts)) / "old")
        os.rename(draft, final)
