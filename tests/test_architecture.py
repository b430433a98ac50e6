"""The arrows between the folders, and what must stay importable beside our own package names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("methods", "datasets", "evaluation")
ALLOWED = {
    "methods": {"methods"},
    "datasets": {"datasets"},
    "evaluation": {"evaluation"},
    "harness": {"harness", *WINGS},
    "run_all": {"harness"},
}
# Inside a wing a file imports its base and pure helpers, never a sibling with a method, layout or metric of its own.
HELPERS = {
    "methods": {
        "methods",
        "methods.base",
        "methods.backbones",
        "methods.erfnet",
        "methods.grouping",
        # Mask R-CNN is one plugin over two makers.
        "methods.rcnn",
        "methods.rcnn_detectron2",
        "methods.rcnn_torchvision",
        "methods.regroup",
        "methods.scoring",
        "methods.weights",
    },
    # coco_json is what coco reads its annotation with.
    "datasets": {
        "datasets",
        "datasets.base",
        "datasets.coco_json",
        "datasets.files",
        "datasets.mat_files",
        "datasets.transforms",
    },
    # voc_apr is what its errors and breakdowns explain, coco_ap what the engine computes a second time.
    "evaluation": {
        "evaluation",
        "evaluation.base",
        "evaluation.masks",
        "evaluation.statistics",
        "evaluation.voc_apr",
        "evaluation.coco_ap",
    },
}


def sources() -> list[Path]:
    files = [ROOT / "run_all.py"]
    for folder in ("harness", *WINGS):
        files += sorted((ROOT / folder).glob("**/*.py"))
    return files


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            if node.module in WINGS:  # `from methods import pull_push` imports a file, too
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name for name in names if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        first = name.split(".")[0]
        if first in ALLOWED:
            assert first in ALLOWED[room], f"{room} must not import {name}"
        if first == "torch":
            assert room in ("methods", "harness"), f"{room} must not know torch"
        if room in WINGS and first == room and path.name != "__init__.py":
            assert name in HELPERS[room], f"{path.name} must not import its sibling {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    # One paper is one file, with its loss, its grouping and their variants: those may be a little longer.
    longest = 480 if path.parent.name == "methods" else 350
    assert len(path.read_text(encoding="utf-8").splitlines()) <= longest


def test_dependencies_import_after_our_own_packages() -> None:
    """Our `datasets` shadows the package of that name on the index: nothing that we depend on may need it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=!]", line)[0].strip() for line in project["dependencies"]]
    modules = {
        "pillow": "PIL",
        "scikit-image": "skimage",
        "lightning-fabric": "lightning_fabric",
        "segmentation-models-pytorch": "segmentation_models_pytorch",
    }
    code = "import datasets, methods, evaluation, harness\n" + "\n".join(f"import {modules.get(n, n)}" for n in names)
    code += "\nimport torchvision.models.detection, pathlib\n"
    code += f"assert pathlib.Path(datasets.__file__).parent == pathlib.Path({str(ROOT / 'datasets')!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=200)


def test_start_up_imports_no_torch() -> None:
    """`--help` and a wrong flag answer at once."""
    code = "import run_all, sys; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
