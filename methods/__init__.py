"""Methods: one paper, one file. The registry is a plain table of names; nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path

METHODS = {
    "mask2former": "methods.mask2former:Mask2Former",
    "mask_rcnn": "methods.mask_rcnn:MaskRCNN",
    "pull_push": "methods.pull_push:PullPush",
    "recurrent_mean_shift": "methods.recurrent_mean_shift:RecurrentMeanShift",
    "spatial_embeddings": "methods.spatial_embeddings:SpatialEmbeddings",
    "segsort": "methods.segsort:SegSort",
}
ENTRY_POINTS = "groupbench.methods"  # the group under which an installed package may offer a method


def available() -> list[str]:
    """All names: the table's, then those of installed packages."""
    return sorted({*METHODS, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))})


def load(name: str) -> type:
    """The class for a name of the table, an entry point's name, or "path/to/file.py:Class".

    Raises KeyError for an unknown name, and what the import raises for a file that cannot be loaded.
    """
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return getattr(_load_file(Path(path)), attribute)
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.load()
    raise KeyError(name)


def _load_file(path: Path) -> object:
    module_name = f"groupbench_plugin_{path.stem}"
    if module_name in sys.modules and sys.modules[module_name].__file__ == str(path.resolve()):
        return sys.modules[module_name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module
