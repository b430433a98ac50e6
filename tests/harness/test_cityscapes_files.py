"""Cityscapes' layout as truth and as results: what is read and written, and what is said of a folder that is not right.

That the official evaluator reads the same from it is tested in tests/evaluation/test_cityscapes_ap_official.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import masks
from evaluation.cityscapes_ap import ImageDetections, ImageTruth
from harness.cityscapes_files import TRUTH, Pairs, open_pairs, write_image
from harness.names import UsageError

IDS = np.array([[7, 7, 26001, 26001], [7, 26, 26001, 0], [24000, 24000, 0, 3]], np.uint16)
SIZE = IDS.shape
CAR = IDS == 26001
IMAGE = "bonn_000001_000019"
LIST = f"{IMAGE}.txt"


def write_truth(folder: Path, *image_ids: str, ids: np.ndarray = IDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        Image.fromarray(ids).save(folder / f"{image_id}{TRUTH}")
    return folder


def write_list(folder: Path, *lines: str, name: str = LIST) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def write_mask(path: Path, mask: np.ndarray = CAR, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(path)


def found(*dense: np.ndarray, labels: list[int], scores: list[float]) -> ImageDetections:
    return ImageDetections(masks.encode(np.array(dense, np.bool_)), np.array(labels), np.array(scores))


def only(pairs: Pairs) -> tuple[ImageTruth, ImageDetections]:
    ((_, truth, detections),) = pairs
    return truth, detections


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_truth(tmp_path / "gt", IMAGE)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One car, in a picture of its own folder."""
    write_mask(tmp_path / "results" / "masks" / "a.png")
    return write_list(tmp_path / "results", "masks/a.png 26 0.5")


def test_what_is_written_is_read(tmp_path: Path, truth: Path) -> None:
    full, nothing = np.ones(SIZE, np.bool_), np.zeros(SIZE, np.bool_)
    detections = found(CAR, full, nothing, ~CAR, labels=[26, 24, 33, 26], scores=[0.1 + 0.2, 1e-9, 5, -3])
    path = write_image(tmp_path / "results", IMAGE, detections)
    assert path == tmp_path / "results" / LIST
    assert path.read_text().splitlines()[0] == f"masks/{IMAGE}_0000.png 26 0.30000000000000004"
    image, read = only(open_pairs(truth, tmp_path / "results"))
    assert np.array_equal(image.ids, IDS)
    assert image.distances is None
    assert list(read.masks) == list(detections.masks)
    assert read.label_ids.tolist() == [26, 24, 33, 26]
    assert read.scores.tolist() == detections.scores.tolist()


def test_nothing_found_is_an_empty_file(tmp_path: Path, truth: Path) -> None:
    empty = ImageDetections([], np.zeros(0, np.int64), np.zeros(0))
    assert write_image(tmp_path / "results", IMAGE, empty).read_text() == ""
    _, read = only(open_pairs(truth, tmp_path / "results"))
    assert (len(read.masks), read.label_ids.shape, read.scores.shape) == (0, (0,), (0,))


@pytest.mark.parametrize("image_id", ["bonn_1", "bonn_1_2_3", "a/b_1_2", "a b_1_2", "bonn__2", ""])
def test_image_ids_that_the_official_code_would_not_find(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(UsageError, match="not an image id of Cityscapes"):
        write_image(tmp_path, image_id, found(CAR, labels=[26], scores=[1]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_any_kind(truth: Path, results: Path, mode: str) -> None:
    write_mask(results / "masks" / "a.png", mode=mode)
    assert only(open_pairs(truth, results))[1].masks == masks.encode(CAR[None])


def test_any_pixel_but_black_belongs_to_the_instance(truth: Path, results: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2, 0], [0, 0, 255, 0], [9, 0, 0, 0]], np.uint8)).save(results / "masks" / "a.png")
    expected = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0]], np.bool_)
    assert only(open_pairs(truth, results))[1].masks == masks.encode(expected[None])


def test_colours_count_by_their_brightness(truth: Path, results: Path) -> None:
    # As in the official code: pure blue of 1 has a brightness of 0.114, which rounds to black.
    colours = np.zeros((*SIZE, 3), np.uint8)
    colours[CAR], colours[~CAR] = (200, 0, 0), (0, 0, 1)
    Image.fromarray(colours).save(results / "masks" / "a.png")
    assert only(open_pairs(truth, results))[1].masks == masks.encode(CAR[None])


def test_lists_may_lie_anywhere_and_be_called_something_more(truth: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_mask(results / "shared" / "a.png")
    write_list(results, "../shared/a.png 26.0 1e-3", name=f"bonn/{IMAGE}_leftImg8bit_pred.txt")
    _, read = only(open_pairs(truth, results))
    assert (read.label_ids.tolist(), read.scores.tolist()) == ([26], [0.001])


def test_labels_without_instances_are_passed_over_unseen(truth: Path, results: Path) -> None:
    write_list(results, "none.png 7 0.9", "none.png 29 0.9", "none.png -1 0.9", "masks/a.png 26 0.5")
    assert only(open_pairs(truth, results))[1].scores.tolist() == [0.5]


def test_of_two_lines_of_one_mask_the_last_counts(truth: Path, results: Path) -> None:
    write_mask(results / "b.png")
    write_list(results, "masks/a.png 26 0.5", "b.png 24 0.7", "./masks/a.png 33 0.9")
    _, read = only(open_pairs(truth, results))
    assert (read.label_ids.tolist(), read.scores.tolist()) == ([33, 24], [0.9, 0.7])


def test_images_come_in_the_order_of_the_truth(tmp_path: Path) -> None:
    for city in ("b", "a"):
        write_truth(tmp_path / "gt" / city, f"{city}_2_2", f"{city}_1_1")
    for name in ("b_1_1", "b_2_2", "a_1_1", "a_2_2"):
        write_list(tmp_path / "results", name=f"{name}.txt")
    pairs = open_pairs(tmp_path / "gt", tmp_path / "results")
    assert pairs.image_ids == [image_id for image_id, *_ in pairs] == ["a_1_1", "a_2_2", "b_1_1", "b_2_2"]


@pytest.mark.parametrize("start", ["", "gtFine"])
def test_the_split_decides_what_is_judged(tmp_path: Path, start: str) -> None:
    root = tmp_path / "cityscapes"
    for split in ("train", "val"):
        write_truth(root / start / split / "bonn", f"bonn_{split}_1")
        write_list(tmp_path / split, name=f"bonn_{split}_1.txt")
    assert open_pairs(root, tmp_path / "val").image_ids == ["bonn_val_1"]
    assert open_pairs(root, tmp_path / "train", "train").image_ids == ["bonn_train_1"]
    assert open_pairs(root / start / "train", tmp_path / "train", "train").image_ids == ["bonn_train_1"]
    with pytest.raises(UsageError, match=r"cityscapes/test holds no truth \*_gtFine_instanceIds\.png"):
        open_pairs(root, tmp_path / "val", "test")


BAD_LINES = {
    "masks/a.png 26": "is not `PATH LABEL_ID SCORE` with one space between",
    "masks/a.png 26 0.5 1": "is not `PATH LABEL_ID SCORE`",
    "masks/a.png  0.5": "is not `PATH LABEL_ID SCORE`",
    "masks/a.png\t26\t0.5": "is not `PATH LABEL_ID SCORE`",
    "": "'' is not `PATH LABEL_ID SCORE`",
    "masks/a.png car 0.5": "the label id 'car' is not a finite number",
    "masks/a.png nan 0.5": "the label id 'nan' is not a finite number",
    "masks/a.png 26.5 0.5": "26.5 is not a label id of Cityscapes, -1 ... 33",
    "masks/a.png 34 0.5": "34 is not a label id",
    "masks/a.png 26 high": "the score 'high' is not a finite number",
    "masks/a.png 26 nan": "the score 'nan' is not a finite number",
    "masks/a.png 26 -inf": "the score '-inf' is not a finite number",
    "masks/b.png 26 0.5": "there is no mask",
    "masks 26 0.5": "there is no mask",
    "../secret.png 26 0.5": "../secret.png is absolute or leads out of",
    "../results-too/a.png 26 0.5": "is absolute or leads out of",
    "/etc/passwd 26 0.5": "/etc/passwd is absolute or leads out of",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lines(truth: Path, results: Path, line: str) -> None:
    for place in ("secret.png", "results-too/a.png"):
        write_mask(results.parent / place)
    write_list(results, "masks/a.png 26 0.5", line)
    with pytest.raises(UsageError, match=re.escape(f"{LIST}, line 2: ") + ".*" + re.escape(BAD_LINES[line])):
        open_pairs(truth, results)


def other_size(path: Path) -> None:
    write_mask(path, CAR.T)


def no_picture(path: Path) -> None:
    path.write_bytes(b"no picture")


def cut_off(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:50])


def one_bit_wrong(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    path.write_bytes(content)


BAD_PICTURES: list[tuple[Callable[[Path], None], str]] = [
    (other_size, r"a\.png is 3 x 4 pixels, its image 4 x 3 \(width x height\)"),
    (no_picture, r"a\.png cannot be decoded \(UnidentifiedImageError"),
    (cut_off, r"a\.png cannot be decoded"),
    (one_bit_wrong, r"a\.png cannot be decoded"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_PICTURES)
def test_bad_masks(truth: Path, results: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(results / "masks" / "a.png")
    with pytest.raises(UsageError, match=rf"{IMAGE}\.txt, line 1: .*{message}"):
        list(open_pairs(truth, results))


@pytest.mark.parametrize("spoil", [no_picture, cut_off, one_bit_wrong])
def test_bad_truths(truth: Path, results: Path, spoil: Callable[[Path], None]) -> None:
    spoil(truth / f"{IMAGE}{TRUTH}")
    with pytest.raises(UsageError, match=rf"{IMAGE}_gtFine_instanceIds\.png cannot be decoded"):
        list(open_pairs(truth, results))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.where(CAR, 34, IDS), "34 is not an id of Cityscapes"),
        (np.where(CAR, 40000, IDS), "40000 is not an id"),
        (np.zeros((*SIZE, 3), np.uint8), r"one whole number a pixel, not uint8 of shape \(3, 4, 3\)"),
    ],
)
def test_truths_with_something_else(tmp_path: Path, results: Path, ids: np.ndarray, message: str) -> None:
    narrow = ids.astype(np.uint16) if ids.ndim == 2 else ids
    truth = write_truth(tmp_path / "other", IMAGE, ids=narrow)
    with pytest.raises(UsageError, match=rf"{IMAGE}_gtFine_instanceIds\.png: .*{message}"):
        list(open_pairs(truth, results))


def test_images_and_lists_must_pair(tmp_path: Path, truth: Path, results: Path) -> None:
    with pytest.raises(UsageError, match="holds no truth"):
        open_pairs(results, results)
    with pytest.raises(UsageError, match="nowhere is not a folder of results"):
        open_pairs(truth, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no results file"):
        open_pairs(truth, truth)
    write_list(results, name="bonn_000002_000019.txt")
    with pytest.raises(UsageError, match=r"1 results files belong to no image of .*: bonn_000002_000019\.txt"):
        open_pairs(truth, results)
    write_truth(truth, "bonn_000002_000019", "bonn_000003_000019")
    with pytest.raises(UsageError, match="image bonn_000003_000019 has no results file"):
        open_pairs(truth, results)
    write_list(results, name=f"{IMAGE}_again.txt")
    with pytest.raises(UsageError, match=f"image {IMAGE} has several results files: .*{IMAGE}.txt, .*_again.txt"):
        open_pairs(truth, results)


def test_truths_that_are_not_named_as_cityscapes(tmp_path: Path, results: Path) -> None:
    with pytest.raises(UsageError, match=r"the name is not CITY_SEQUENCE_FRAME_gtFine_instanceIds\.png"):
        open_pairs(write_truth(tmp_path / "long", "bonn_1_2_3"), results)
    for part in ("a", "b"):
        write_truth(tmp_path / "twice" / part, IMAGE)
    with pytest.raises(UsageError, match="are truths of one image"):
        open_pairs(tmp_path / "twice", results)


def test_distances_of_the_official_form(tmp_path: Path, truth: Path, results: Path) -> None:
    path = tmp_path / "gtInstances.json"
    entries = [{"instID": 26001, "medDist": 41.5, "distConf": 0.75, "labelID": 26, "pixelCount": 3}]
    road = [{"instID": 7, "medDist": -1, "distConf": 0.0}]
    content = {f"/elsewhere/{IMAGE}{TRUTH}": {"car": entries, "road": road, "person": []}}
    path.write_text(json.dumps(content))
    image, _ = only(open_pairs(truth, results, distances=path))
    assert image.distances.ids.tolist() == [26001, 7]
    assert image.distances.metres.tolist() == [41.5, -1.0]
    assert image.distances.confidences.tolist() == [0.75, 0.0]

    for broken, message in (
        ({}, f"has no distances for 1 images: {IMAGE}"),
        ([], "is not a gtInstances.json"),
        ({IMAGE: {"car": [{"instID": 26001, "medDist": 3}]}}, "is not a gtInstances.json: KeyError: 'distConf'"),
        ({IMAGE: {"car": entries * 2}}, "two of one object"),
        ({IMAGE: {"car": [{**entries[0], "medDist": float("nan")}]}}, "a distance that is no number"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(UsageError, match=message):
            open_pairs(truth, results, distances=path)
