"""Datasets: one on-disk layout, one file. `open_split` is the table of names."""

from __future__ import annotations

from pathlib import Path

from datasets.base import Dataset, Subset

DATASETS = {
    "shapes": "generated scenes; needs no files (options: level, size, seed, train_images, val_images, val_split)",
    "voc": "PASCAL VOC 2012 in its VOCdevkit layout, with SBD for train_aug "
    "(options: train_split, val_split, regions, val_limit)",
    "coco": "anything in COCO's layout "
    "(options: train_annotations, val_annotations, train_images, val_images, val_limit)",
    "cityscapes": "Cityscapes fine, in its official layout (options: train_split, val_split, task, val_limit)",
    "bsds": "BSDS500 in its official layout (options: train_split, val_split, val_limit)",
}


def open_split(name: str, split: str, options: dict[str, object], root: Path | None, cache: Path | None) -> Dataset:
    """One split ("train" or "val") of the dataset ``name``, see `_open`; of ``val_limit`` images if that is not 0."""
    whole = _open(name, split, options, root, cache)
    limit = int(options.get("val_limit", 0)) if split == "val" else 0
    return Subset(whole, limit) if 0 < limit < len(whole) else whole


def _open(name: str, split: str, options: dict[str, object], root: Path | None, cache: Path | None) -> Dataset:
    """Open one split ("train" or "val") of the dataset ``name``; reads no pixels.

    ``options`` are the dataset's own (see `DATASETS`); ``root`` the folder that holds its files; ``cache`` a file that
    may remember digests of files between runs. Raises `DatasetError` when the data cannot be used, KeyError for
    an unknown name.
    """
    if name == "shapes":
        from datasets.shapes import Shapes

        return Shapes(
            str(options[f"{split}_split"]),
            count=int(options[f"{split}_images"]),
            level=str(options["level"]),
            size=int(options["size"]),
            seed=int(options["seed"]),
        )
    if name == "voc":
        from datasets.voc import Voc

        regions = str(options.get("regions", "")) if split == "train" else None
        return Voc(root, str(options[f"{split}_split"]), cache=cache, regions=regions)
    if name == "coco":
        from datasets.coco import Coco

        annotations, images = str(options[f"{split}_annotations"]), str(options[f"{split}_images"])
        return Coco(root, annotations, images, training=split == "train", cache=cache)
    if name == "cityscapes":
        from datasets.cityscapes import Cityscapes

        return Cityscapes(root, str(options[f"{split}_split"]), str(options["task"]), cache=cache)
    if name == "bsds":
        from datasets.bsds import Bsds

        return Bsds(root, str(options[f"{split}_split"]), training=split == "train", cache=cache)
    raise KeyError(name)
