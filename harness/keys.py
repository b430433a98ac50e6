"""The keys of a cell's steps, and the code that they depend on.

A step's key is a hash of what its outcome depends on: code (comments and docstrings aside), settings, data, seed, and
the key of the step before. Equal key, equal outcome: the step is re-used.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.base import Dataset
from datasets.files import file_digests
from harness.settings import WITHOUT_EFFECT, Settings
from harness.store import STEPS, code_digests, digest
from harness.suite import ROOT
from methods.base import Method
from methods.regroup import ALGORITHMS

_LONGEST = 60  # characters of a value that a difference tells
_PREDICTION_ONLY = {ROOT / "methods" / name for name in ("scoring.py", "regroup.py")}
_STEP_CODE = {
    "train": ("harness/train.py", "harness/batches.py", "datasets/transforms.py", "evaluation/masks.py"),
    "predict": ("harness/predict.py", "harness/batches.py", "datasets/transforms.py", "evaluation/masks.py"),
    "evaluate": (
        *(f"harness/{name}.py" for name in ("evaluate", "judges", "judged", "samples")),
        *(f"evaluation/{path.name}" for path in (ROOT / "evaluation").glob("*.py")),
    ),
}


@dataclass(frozen=True)
class Splits:
    """The two opened splits of one data setting."""

    train: Dataset
    val: Dataset


def step_inputs(
    settings: Settings,
    method: type[Method],
    implementation: str,
    splits: Splits,
    others: Mapping[str, Dataset],
    cache: Path,
) -> dict[str, dict[str, Any]]:
    """What the outcome of train, predict and evaluate depends on, by name: JSON-able, and kept with every result.

    ``implementation`` is whose code a method runs, ``others`` are the splits of later stages, ``cache`` keeps files'
    digests. Code stands as one digest a file, so that a difference can be named.
    """
    config = stage_config(method, _by_content(method, settings.config, cache))
    source = method_files(method)
    borrowed = ALGORITHMS.get(settings.config.get("regroup", "own"))
    grouping_source = _with_imports(ROOT / f"{borrowed.replace('.', '/')}.py") if borrowed else ()
    recipe = settings.train.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    if settings.train.weights:
        recipe["weights"] = file_digests([ROOT / settings.train.weights], cache)
    stages = [stage.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "weights"}) for stage in settings.train.stages()]
    train = {
        "method": f"{method.__module__}:{method.__qualname__}",
        "implementation": implementation,
        "method's code": code_digests((path for path in source if path not in _PREDICTION_ONLY), ROOT),
        "trainer's code": _code("train"),
        "data set's code": _data_code(settings.dataset),
        "setting": config["train"],
        "train": {**recipe, "later stages": stages[1:]},
        "seed": settings.seed,
        "training data": splits.train.info.fingerprint,
        "categories": list(splits.train.info.categories),
        "data of later stages": {name: data.info.fingerprint for name, data in others.items()},
    }
    predict = {
        "weights": digest("train", train),
        "method's code": code_digests({*source, *grouping_source}, ROOT),
        "prediction's code": _code("predict"),
        "setting": config["predict"],
        "predict": settings.predict.model_dump(mode="json"),
        "judged data": splits.val.info.fingerprint,
    }
    evaluate = {
        "predictions": digest("predict", predict),
        "evaluation's code": _code("evaluate"),
        "evaluate": settings.evaluate.model_dump(mode="json"),
    }
    return {"train": train, "predict": predict, "evaluate": evaluate}


def step_keys(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The key of every step's result, a digest of its inputs."""
    return {step: digest(step, found) for step, found in inputs.items()}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In words, what differs between two steps' inputs, as `step_inputs` has them."""
    found = []
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name in ("weights", "predictions"):
            found.append(f"other {name}")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            names = [one for one in dict.fromkeys((*new, *old)) if old.get(one) != new.get(one)]
            dot = "." if name in STEPS else " "  # settings by the names that --set knows
            found += [_difference(f"{name}{dot}{one}", old.get(one), new.get(one)) for one in names]
        else:
            found.append(_difference(name, old, new))
    return found


def _difference(name: str, old: Any, new: Any) -> str:
    """Values are told where a person could have chosen them: not digests, and nothing long."""
    texts = [json.dumps(value, default=str) for value in (old, new)]
    shown = "code" not in name and "data" not in name and max(map(len, texts)) <= _LONGEST
    return f"{name}: {texts[0]} -> {texts[1]}" if shown else name


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
def _code(step: str) -> dict[str, str]:
    return code_digests((ROOT / name for name in _STEP_CODE[step]), ROOT)


@functools.cache
def _data_code(dataset: str) -> dict[str, str]:
    """What turns files into samples: fingerprints see the files only."""
    own = sorted((ROOT / "datasets").glob(f"{dataset}*.py"))  # coco_json.py reads what coco.py offers
    return code_digests([*own, *(ROOT / "datasets" / name for name in ("files.py", "mat_files.py", "base.py"))], ROOT)


def method_files(method: type[Method]) -> tuple[Path, ...]:
    """The method's own file and what it imports, directly or not, of methods/, of its folder, or of its package."""
    return _with_imports(Path(inspect.getfile(method)))


@functools.cache
def _with_imports(start: Path) -> tuple[Path, ...]:
    found: set[Path] = set()
    waiting = [start.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            top = _top(path)
            places = (folder / name for name in imported_files(path) for folder in (ROOT, path.parent, top.parent))
            files = {place.resolve() for place in places if place.is_file() and place.name != "__init__.py"}
            waiting += [file for file in files if {ROOT / "methods", top} & set(file.parents)]
    return tuple(sorted(found))


def _top(path: Path) -> Path:
    """The folder of the outermost package that a source lies in; its own folder where it is in none."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def imported_files(path: Path) -> list[str]:
    """Relative names of the files that a source may import: "a/b.py" for ``import a.b`` and ``from a import b``, and
    "../b.py" for ``from ..b import c``."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = "../" * (node.level - 1)
            names = [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
            modules += [up + name.strip(".") for name in names]
    return [
        f"{module[: len(module) - len(module.lstrip('./'))]}{module.lstrip('./').replace('.', '/')}.py"
        for module in modules
    ]
