"""Writes mini data sets in COCO's layout, as the archives of COCO 2017 unpack."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = {1: "person", 3: "car", 90: "toothbrush"}  # with gaps, as COCO's ids


def rectangle(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """The polygon of the pixels ``left <= x < right``, ``top <= y < bottom``."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A bool mask (H, W) as COCO stores a crowd: uncompressed runs down the columns, background first."""
    edges = np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def annotation(image_id: int | str, category_id: int, segmentation: object, **more: object) -> dict[str, Any]:
    entry = {"image_id": image_id, "category_id": category_id, "segmentation": segmentation}
    return {**entry, "iscrowd": 0, "area": 5.5, "bbox": [0, 0, 1, 1], **more}


def write_json(
    path: Path,
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
    categories: Mapping[int, str] = CATEGORIES,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "info": {"year": 2017},
        "images": list(images),
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_images(folder: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """A JPEG of a single colour for each entry of a JSON's images."""
    for number, entry in enumerate(images):
        path = folder / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (40 + 9 * number % 200, 60, 200)
        Image.new("RGB", (entry["width"], entry["height"]), colour).save(path, quality=95)


def image_entry(image_id: int | str, height: int = 4, width: int = 6) -> dict[str, Any]:
    name = f"{image_id:012d}.jpg" if isinstance(image_id, int) else f"{image_id}.jpg"
    return {"id": image_id, "file_name": name, "height": height, "width": width}


def write_split(
    root: Path, name: str, image_ids: Iterable[int | str], annotations: Iterable[Mapping[str, Any]]
) -> Path:
    """ROOT/NAME with images 4 pixels high and 6 wide, and ROOT/annotations/instances_NAME.json, which is returned."""
    images = [image_entry(image_id) for image_id in image_ids]
    write_images(root / name, images)
    return write_json(root / "annotations" / f"instances_{name}.json", images, annotations)


def crowd_row() -> dict[str, Any]:
    """The lowest row of a 4 x 6 image, as a crowd's run lengths."""
    mask = np.zeros((4, 6), np.bool_)
    mask[3] = True
    return run_lengths(mask)


def write_mini_coco(root: Path) -> Path:
    """COCO 2017 under ``root``: train2017 of 4 images, one of them empty and one with a crowd only; val2017 of 3."""
    for name, image_ids in (("train2017", (9, 25, 30, 34)), ("val2017", (139, 285, 632))):
        first, second, third = image_ids[:3]
        entries = [
            annotation(second, 90, rectangle(0, 0, 3, 2), area=6.0),
            annotation(first, 3, rectangle(0, 0, 4, 3), area=12.0),
            annotation(first, 1, rectangle(2, 1, 5, 3), area=6.0),
            annotation(first, 1, crowd_row(), iscrowd=1, area=6.0),
            annotation(third, 1, crowd_row(), iscrowd=1, area=6.0),
        ]
        write_split(root, name, image_ids, entries)
    return root
