"""Writes mini VOC 2012 and SBD folders in the official layouts, as the archives unpack them; checks on samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from datasets.base import DatasetError, Sample


@dataclass(frozen=True)
class Picture:
    """One image of a single colour, with its maps as they stand in the files."""

    classes: np.ndarray  # (H, W) uint8
    objects: np.ndarray  # (H, W) uint8
    colour: tuple[int, int, int] = (120, 60, 200)


def picture(class_value: int = 15, colour: tuple[int, int, int] = (120, 60, 200)) -> Picture:
    """4 pixels high, 6 wide: one object of class ``class_value`` in the upper left, void below it."""
    classes, objects = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    classes[:2, :3], objects[:2, :3] = class_value, 1
    classes[2, :3] = objects[2, :3] = 255
    return Picture(classes, objects, colour)


def write_png(path: Path, values: np.ndarray) -> None:
    """A palette PNG; its colours are such that a reader of colours or grey values gets other numbers."""
    image = Image.frombytes("P", (values.shape[1], values.shape[0]), values.tobytes())
    image.putpalette([channel for value in range(256) for channel in (255 - value, value // 2, 77)])
    image.save(path)


def write_jpg(path: Path, colour: tuple[int, int, int], shape: tuple[int, ...]) -> None:
    Image.new("RGB", (shape[1], shape[0]), colour).save(path, quality=95)


def write_voc(voc: Path, train: Mapping[str, Picture], val: Mapping[str, Picture]) -> Path:
    """The folder VOC2012 itself; returns it."""
    lists = voc / "ImageSets" / "Segmentation"
    for folder in (lists, voc / "JPEGImages", voc / "SegmentationClass", voc / "SegmentationObject"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("train", train), ("val", val), ("trainval", {**train, **val})):
        (lists / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in content))
    for image_id, content in {**train, **val}.items():
        write_jpg(voc / "JPEGImages" / f"{image_id}.jpg", content.colour, content.classes.shape)
        write_png(voc / "SegmentationClass" / f"{image_id}.png", content.classes)
        write_png(voc / "SegmentationObject" / f"{image_id}.png", content.objects)
    return voc


def write_mini_voc(root: Path) -> Path:
    """VOC 2012 under ``root`` with three images in train and two in val, all with the maps of `picture`."""
    train = {"t1": picture(1), "t2": picture(2), "t3": picture(20)}
    write_voc(root / "VOCdevkit" / "VOC2012", train, {"val1": picture(15), "val2": picture(8)})
    return root


def write_sbd(sbd: Path, train: Mapping[str, Picture], val: Mapping[str, Picture]) -> Path:
    """SBD's folder ``dataset`` with its MATLAB structs; returns it."""
    for folder in ("img", "cls", "inst"):
        (sbd / folder).mkdir(parents=True, exist_ok=True)
    for name, content in (("train", train), ("val", val)):
        (sbd / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in content))
    for image_id, content in {**train, **val}.items():
        write_jpg(sbd / "img" / f"{image_id}.jpg", content.colour, content.classes.shape)
        write_mat(sbd / "cls" / f"{image_id}.mat", "GTcls", content.classes, CategoriesPresent=present(content.classes))
        categories = [[content.classes[content.objects == k][0]] for k in present(content.objects).ravel()]
        write_mat(sbd / "inst" / f"{image_id}.mat", "GTinst", content.objects, Categories=np.array(categories))
    return sbd


def present(values: np.ndarray) -> np.ndarray:
    return np.unique(values[values > 0])[:, None]


def write_mat(path: Path, struct: str, segmentation: np.ndarray, **fields: np.ndarray) -> None:
    """The struct with its Segmentation and, as in SBD, a cell array of sparse boundaries that nobody here reads."""
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [csc_matrix(np.eye(*segmentation.shape)) for _ in range(20)]
    savemat(path, {struct: {"Segmentation": segmentation, "Boundaries": boundaries, **fields}}, do_compression=True)


def message(action: Callable[[], object]) -> str:
    """The text of the `DatasetError` that ``action`` raises."""
    with pytest.raises(DatasetError) as caught:
        action()
    return str(caught.value)


def check(sample: Sample, shape: tuple[int, int]) -> None:
    """Assert the sizes and types that `Sample` promises."""
    assert (sample.image.shape, sample.semantic.shape, sample.instances.shape) == ((*shape, 3), shape, shape)
    assert (sample.image.dtype, sample.semantic.dtype, sample.instances.dtype) == (np.uint8, np.uint8, np.int32)
