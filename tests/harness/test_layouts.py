"""Cells of every suite from end to end, in this process, on scenes that are written in each official layout."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_layout import run_lengths, write_json
from PIL import Image
from test_bsds import write_image
from test_cityscapes import write_city

from datasets.base import Sample
from datasets.shapes import Shapes
from harness.cell import Reporter, run_cell
from harness.plan import Request, plan, resolve
from harness.record import Evaluation, TrainCost, read_summary
from harness.store import STEPS, Store
from harness.suite import load_suite, parse_overrides
from harness.sweep import cell_plan

SIZE = 64
TINY = ["train.steps=2", "train.batch_size=2", "train.crop=48", "train.long_side=0", "train.prepare_images=2"]
TINY += ["train.prepare_side=64", "predict.long_side=64", "evaluate.resamples=5"]


def scenes(split: str, count: int) -> list[Sample]:
    data = Shapes(split, count, "easy", SIZE, seed=3)
    return [data[index] for index in range(count)]


def write_coco(root: Path) -> None:
    """Every scene's instances, each whole in its mask's box: so that objects overlap."""
    for name, split in (("train2017", "train"), ("val2017", "val")):
        images, annotations = [], []
        for number, sample in enumerate(scenes(split, 3), 1):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(file)
            images.append({"id": number, "file_name": file.name, "height": SIZE, "width": SIZE})
            for index, label in enumerate(sample.labels().tolist(), 1):
                rows, columns = np.nonzero(sample.instances == index)
                mask = np.zeros((SIZE, SIZE), np.bool_)
                mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
                entry = {"image_id": number, "category_id": label, "segmentation": run_lengths(mask)}
                annotations.append({**entry, "iscrowd": int(index == 3), "area": float(mask.sum())})
        categories = dict(enumerate(Shapes("val", 1, "easy", SIZE, 0).info.categories, 1))
        write_json(root / "annotations" / f"instances_{name}.json", images, annotations, categories)


def write_cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        for number, sample in enumerate(scenes(split, 2)):
            labels = np.concatenate([[7], 1000 * (23 + sample.labels()) + np.arange(len(sample.labels()))])
            image, _ = write_city(root, split, f"ulm_{number:06d}_000019", labels[sample.instances])
            Image.fromarray(sample.image).save(image)


def write_bsds(root: Path) -> None:
    for folder, split in (("train", "train"), ("test", "val")):
        for number, sample in enumerate(scenes(split, 2)):
            image, _ = write_image(root, folder, str(number), sample.instances + 1, (sample.instances > 0) + 1)
            Image.fromarray(sample.image).save(image)


def write_voc(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    for path in (lists, *(folder / part for part in ("JPEGImages", "SegmentationClass", "SegmentationObject"))):
        path.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        names = []
        for number, sample in enumerate(scenes(split, 2)):
            names.append(f"{split}{number}")
            Image.fromarray(sample.image).save(folder / "JPEGImages" / f"{names[-1]}.jpg")
            Image.fromarray(sample.semantic).save(folder / "SegmentationClass" / f"{names[-1]}.png")
            Image.fromarray(sample.instances.astype(np.uint8)).save(folder / "SegmentationObject" / f"{names[-1]}.png")
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (lists / "trainval.txt").write_text("train0\ntrain1\nval0\nval1\n", encoding="utf-8")


WRITERS: dict[str, Callable[[Path], None]] = {
    "voc": write_voc,
    "coco": write_coco,
    "cityscapes": write_cityscapes,
    "boundaries": write_bsds,
    "nuclei": write_coco,
}


def run(folder: Path, suite: str, row: str, data: str, *overrides: str) -> tuple[TrainCost, Evaluation]:
    """The cell of ``row`` on ``data`` with the suite's quick preset, made tiny."""
    root, output = folder / "data", folder / "output"
    if not root.exists():
        WRITERS[suite](root)
    request = Request(methods=[row], data_root=root, overrides=parse_overrides([*TINY, *overrides]))
    _, _, settings = resolve(load_suite(suite), request)
    store = Store(output)
    (cell,) = plan([pair for pair in settings if pair[1].data_name == data], store, root)
    with store.drafts("cell") as drafts:
        run_cell(cell_plan(cell, store, root, drafts, STEPS), Reporter(io.StringIO()))
    return read_summary(cell.folders["train"], TrainCost), read_summary(cell.folders["evaluate"], Evaluation)


@pytest.mark.parametrize(
    ("suite", "row", "data", "metrics"),
    [
        ("voc", "recurrent_mean_shift", "voc", ["ap_r_50", "recall_50@10", "miou"]),
        ("coco", "mask_rcnn", "coco", ["coco_ap", "box_ap"]),
        ("coco", "pull_push_shift", "coco", ["coco_ap", "miou"]),
        ("cityscapes", "spatial_embeddings", "instances", ["cs_ap", "cs_ap_50", "coco_ap"]),
        ("cityscapes", "segsort", "semantic", ["miou", "iou/road"]),
        ("boundaries", "recurrent_mean_shift", "bsds", ["ods", "ois", "boundary_ap"]),
        ("boundaries", "segsort_unsupervised", "bsds", ["ods"]),
    ],
)
def test_a_cell_of_every_layout(tmp_path: Path, suite: str, row: str, data: str, metrics: list[str]) -> None:
    cost, found = run(tmp_path, suite, row, data)
    assert cost.steps == 2
    for metric in metrics:
        assert 0.0 <= found.find(metric)[1].value <= 1.0, metric


def test_data_of_ones_own_by_two_files(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    (tmp_path / "data" / "annotations").rename(tmp_path / "data" / "mine")
    names = [f'data.{split}_annotations="mine/instances_{split}2017.json"' for split in ("train", "val")]
    folders = [f'data.{split}_images="{split}2017"' for split in ("train", "val")]
    _, found = run(tmp_path, "nuclei", "pull_push_shift", "nuclei", *names, *folders)
    assert found.images == 3


def test_a_later_stage_trains_on_another_split(tmp_path: Path) -> None:
    both = ["data.train_split=trainval", 'train.then=[{steps = 3, split = "train"}]']
    same = ["data.train_split=trainval", "train.then=[{steps = 3}]"]
    staged, _ = run(tmp_path, "voc", "pull_push_shift", "voc", *both)
    plain, _ = run(tmp_path, "voc", "pull_push_shift", "voc", *same)
    assert staged.steps == plain.steps == 5
    assert staged.weights_digest != plain.weights_digest
