"""The keys of a cell's steps, and the code that they depend on.

A step's key is a hash of what its outcome depends on: code (comments and docstrings aside), settings, data, seed, and
the key of the step before. Equal key, equal outcome: the step is re-used.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.base import Dataset
from datasets.files import file_digests
from harness.settings import Settings
from harness.store import code_digest, digest
from harness.suite import ROOT
from methods.base import Method
from methods.regroup import ALGORITHMS

_PREDICTION_ONLY = {ROOT / "methods" / name for name in ("scoring.py", "regroup.py")}
_STEP_CODE = {
    "train": ("harness/train.py", "harness/batches.py", "datasets/transforms.py", "evaluation/masks.py"),
    "predict": ("harness/predict.py", "harness/batches.py", "datasets/transforms.py", "evaluation/masks.py"),
    "evaluate": (
        *(f"harness/{name}.py" for name in ("evaluate", "judges", "judged")),
        *(f"evaluation/{path.name}" for path in (ROOT / "evaluation").glob("*.py")),
    ),
}


@dataclass(frozen=True)
class Splits:
    """The two opened splits of one data setting."""

    train: Dataset
    val: Dataset


def step_keys(
    settings: Settings,
    method: type[Method],
    implementation: str,
    splits: Splits,
    others: Mapping[str, Dataset],
    cache: Path,
) -> dict[str, str]:
    """The keys of train, predict and evaluate.

    ``implementation`` is whose code a method runs, ``others`` are the splits of later stages, ``cache`` keeps files'
    digests.
    """
    config = stage_config(method, _by_content(method, settings.config, cache))
    library = [implementation] if implementation else []
    source = method_files(method)
    training_source = [path for path in source if path not in _PREDICTION_ONLY]
    borrowed = ALGORITHMS.get(settings.config.get("regroup", "own"))
    grouping_source = _with_imports(ROOT / f"{borrowed.replace('.', '/')}.py") if borrowed else ()
    train = digest(
        "train", method.__module__, method.__qualname__, code_digest(training_source), _code("train"),
        _data_code(settings.dataset), config["train"], settings.train.model_dump(exclude={"workers"}), settings.seed,
        [stage.model_dump(exclude={"workers"}) for stage in settings.train.stages()],
        splits.train.info.fingerprint, splits.train.info.categories,
        {name: data.info.fingerprint for name, data in others.items()}, *library,
    )  # fmt: skip
    predict = digest(
        "predict", train, code_digest({*source, *grouping_source}), _code("predict"), config["predict"],
        settings.predict.model_dump(), splits.val.info.fingerprint,
    )  # fmt: skip
    evaluate = digest("evaluate", predict, _code("evaluate"), settings.evaluate.model_dump())
    return {"train": train, "predict": predict, "evaluate": evaluate}


def _by_content(method: type[Method], config: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Settings that name a file, with the file's content in place of its name."""
    files = {field.name for field in dataclasses.fields(method.Config) if field.metadata.get("file")}
    return {name: _content(Path(value), cache) if name in files and value else value for name, value in config.items()}


def _content(path: Path, cache: Path) -> Any:
    """A key of the file's content, or of all files of a folder; the name itself where there is neither."""
    inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    if not (path.is_absolute() or path.suffix) or not all(one.is_file() for one in inside):
        return str(path)  # a name such as "download", whatever lies about in the current folder
    return file_digests(inside, cache)


def stage_config(method: type[Method], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A method's settings by what depends on them: the training ("train"), or the prediction alone ("predict")."""
    stages = {field.name: field.metadata.get("stage", "train") for field in dataclasses.fields(method.Config)}
    return {stage: {n: v for n, v in config.items() if stages[n] == stage} for stage in ("train", "predict")}


@functools.cache
def _code(step: str) -> str:
    return code_digest(ROOT / name for name in _STEP_CODE[step])


@functools.cache
def _data_code(dataset: str) -> str:
    """What turns files into samples: fingerprints see the files only."""
    own = sorted((ROOT / "datasets").glob(f"{dataset}*.py"))  # coco_json.py reads what coco.py offers
    return code_digest([*own, *(ROOT / "datasets" / name for name in ("files.py", "base.py"))])


def method_files(method: type[Method]) -> tuple[Path, ...]:
    """The method's own file and all files of methods/, or beside a plugin, that it imports, directly or not."""
    return _with_imports(Path(inspect.getfile(method)))


@functools.cache
def _with_imports(start: Path) -> tuple[Path, ...]:
    found: set[Path] = set()
    waiting = [start.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            candidates = (folder / name for name in imported_files(path) for folder in (ROOT, path.parent))
            waiting += [file.resolve() for file in candidates if file.is_file() and _is_method_code(file, path)]
    return tuple(sorted(found))


def _is_method_code(file: Path, importer: Path) -> bool:
    return file.parent in (ROOT / "methods", importer.parent) and file.name != "__init__.py"


def imported_files(path: Path) -> list[str]:
    """Relative names of the files that a source may import: "a/b.py" for ``import a.b`` and ``from a import b``."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
    return [f"{module.strip('.').replace('.', '/')}.py" for module in modules]
