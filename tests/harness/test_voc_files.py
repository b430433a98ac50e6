"""VOC's layout as truth and as results: what is read, and what is said of a folder that is not right."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.label_maps import open_pairs
from harness.names import UsageError
from harness.voc_files import open_results, open_truth

CLASSES = np.array([[3, 3, 255, 7, 0], [3, 3, 255, 7, 3]], np.uint8)
OBJECTS = np.array([[4, 4, 255, 9, 0], [4, 4, 9, 9, 6]], np.uint8)  # object 9 has a pixel in the void


def write(folder: Path, *image_ids: str, classes: np.ndarray = CLASSES, objects: np.ndarray = OBJECTS) -> Path:
    for name, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image_id in image_ids:
            Image.fromarray(values).save(folder / name / f"{image_id}.png")
    return folder


def lists(folder: Path, **splits: str) -> None:
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, text in splits.items():
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)


def test_objects_are_numbered_and_void_belongs_to_none(tmp_path: Path) -> None:
    image = open_truth(write(tmp_path, "a"), None)["a"]
    assert image.instances.tolist() == [[1, 1, 0, 3, 0], [1, 1, 0, 3, 2]]
    assert image.labels.tolist() == [3, 3, 7]
    assert image.void.tolist() == [[False, False, True, False, False]] * 2
    assert image.scores.tolist() == [1.0, 1.0, 1.0]


def test_the_split_decides_what_is_judged(tmp_path: Path) -> None:
    write(tmp_path / "VOCdevkit" / "VOC2012", "a", "b", "c")
    lists(tmp_path / "VOCdevkit" / "VOC2012", val="c\na\n", train="b\n")
    assert open_truth(tmp_path, None).image_ids == ["c", "a"]
    assert open_truth(tmp_path, "train").image_ids == ["b"]
    with pytest.raises(UsageError, match=r"test\.txt: no such file"):
        open_truth(tmp_path, "test")


def test_without_lists_every_map_is_judged(tmp_path: Path) -> None:
    assert open_truth(write(tmp_path, "b", "a"), None).image_ids == ["a", "b"]


def test_scores_belong_to_objects(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "scores.txt").write_text("a 9 0.25\n\na 4 1e-3\na 6 -2\n")
    assert open_results(tmp_path, ["a"])["a"].scores.tolist() == [0.001, -2.0, 0.25]  # objects 4, 6, 9


BAD_SCORES = {
    "a 4\n": "scores.txt, line 1: 'a 4' is not `ID OBJECT SCORE`",
    "a 4 x\n": "line 1: 'a 4 x' is not `ID OBJECT SCORE`",
    "a 4 1\nb 4 1\n": "line 2: unknown image id 'b'",
    "a 4 nan\n": "line 1: 'a 4 nan': the score is not finite",
    "a 4 1\na 4 1\n": "line 2: 'a 4 1': the score is not finite, or the object occurs twice",
    "a 4 1\na 6 1\n": "scores.txt: no score for object 9 of image a",
    "a 4 1\na 6 1\na 9 1\na 200 1\n": "scores.txt: a score for object 200 of image a, which the map does not have",
}


@pytest.mark.parametrize("text", BAD_SCORES)
def test_broken_scores(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a")
    (tmp_path / "scores.txt").write_text(text)
    with pytest.raises(UsageError, match=re.escape(BAD_SCORES[text])):
        open_results(tmp_path, ["a"])["a"]


def test_images_must_be_those_of_the_truth(tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    with pytest.raises(UsageError, match="1 unknown image ids: b"):
        open_results(tmp_path, ["a"])
    with pytest.raises(UsageError, match="1 of 3 images are missing: c"):
        open_results(tmp_path, ["a", "b", "c"])
    (tmp_path / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(UsageError, match="SegmentationClass: 1 of 2 images are missing: b"):
        open_results(tmp_path, ["a", "b"])


def test_folders_that_are_not_voc(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not in VOC's layout"):
        open_truth(tmp_path, None)
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationObject").mkdir()
    with pytest.raises(UsageError, match="SegmentationObject holds no PNG"):
        open_truth(tmp_path, None)


def test_maps_that_cannot_be_used(tmp_path: Path) -> None:
    write(tmp_path, "a", classes=CLASSES[:, :4])
    with pytest.raises(UsageError, match=r"a\.png is 5 pixels wide and 2 high, but .*a\.png is 4 pixels wide"):
        open_truth(tmp_path, None)["a"]
    write(tmp_path, "a", classes=np.where(OBJECTS == 4, 0, CLASSES).astype(np.uint8))
    with pytest.raises(UsageError, match="object 4 has 4 pixels without a class"):
        open_truth(tmp_path, None)["a"]
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"SegmentationClass/a\.png: cannot be decoded"):
        open_truth(tmp_path, None)["a"]


def maps(folder: Path, **values: np.ndarray) -> Path:
    for name, one in values.items():
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(path)
    return folder


def test_class_maps_pair_by_name(tmp_path: Path) -> None:
    truth = maps(tmp_path / "truth", a=CLASSES, town__b=OBJECTS)
    found = maps(tmp_path / "found", a=OBJECTS, town__b=CLASSES)
    pairs = open_pairs(truth, found, None)
    assert [(name, one.tolist(), two.tolist()) for name, one, two in pairs] == [
        ("a.png", CLASSES.tolist(), OBJECTS.tolist()),
        ("town/b.png", OBJECTS.tolist(), CLASSES.tolist()),
    ]
    assert pairs.categories is None


def test_voc_names_the_classes_and_our_predict_step_is_read(tmp_path: Path) -> None:
    write(tmp_path / "voc", "a", "b")
    lists(tmp_path / "voc", val="b\n")
    pairs = open_pairs(tmp_path / "voc", maps(tmp_path / "found", semantic__b=CLASSES).resolve(), None)
    assert pairs.names == ["b.png"]
    assert pairs.categories[:2] == ("background", "aeroplane")
    assert len(list(pairs)) == 1


def test_class_maps_that_do_not_pair(tmp_path: Path) -> None:
    truth = maps(tmp_path / "truth", a=CLASSES, b=CLASSES)
    with pytest.raises(UsageError, match=r"found: 1 of 2 class maps are missing: b\.png"):
        open_pairs(truth, maps(tmp_path / "found", a=CLASSES), None)
    with pytest.raises(UsageError, match=r"more: 1 class maps have no truth in .*: c\.png"):
        open_pairs(truth, maps(tmp_path / "more", a=CLASSES, b=CLASSES, c=CLASSES), None)
    small = open_pairs(truth, maps(tmp_path / "small", a=CLASSES[:1], b=CLASSES), None)
    with pytest.raises(UsageError, match=r"a\.png is 5 x 1 pixels, .*a\.png is 5 x 2"):
        list(small)
    with pytest.raises(UsageError, match="none is not a folder of class maps"):
        open_pairs(truth, tmp_path / "none", None)
