"""COCO's layout on mini data: what a sample holds, which images count, the cache, and every error's message."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_layout import (
    annotation,
    crowd_row,
    image_entry,
    rectangle,
    run_lengths,
    write_images,
    write_json,
    write_mini_coco,
    write_split,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from voc_layout import check, message

from datasets import coco_json, open_split
from datasets.base import DatasetError, Objects
from datasets.coco import Coco, paint
from datasets.coco_json import runs

TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mini_coco(tmp_path / "data")


def train(root: Path, cache: Path | None = None) -> Coco:
    return Coco(root, TRAIN, "", training=True, cache=cache)


def one(root: Path, *annotations: dict[str, Any]) -> Coco:
    """A split of the single image 1, 4 pixels high and 6 wide."""
    return Coco(None, str(write_split(root, "val2017", [1], annotations)), "", training=False)


def says(action: Callable[[], object], *parts: str) -> None:
    """Assert that ``action`` raises a `DatasetError` with these parts in its text."""
    text = message(action)
    for part in parts:
        assert part in text


def objects_of(masks: np.ndarray, labels: object, crowd: object) -> Objects:
    """``masks``: (N, H, W) bool."""
    packed = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))) if len(masks) else []
    return Objects(tuple(packed), np.array(labels, np.int64), np.array(crowd, np.bool_), None)


def test_the_smaller_object_is_in_front_and_crowds_are_ignored(root: Path) -> None:
    sample = train(root)[0]
    check(sample, (4, 6))
    assert sample.image_id == "9"
    assert np.abs(sample.image.astype(int) - (40, 60, 200)).max() <= 3
    np.testing.assert_array_equal(
        sample.semantic,
        [[2, 2, 2, 2, 0, 0], [2, 2, 1, 1, 1, 0], [2, 2, 1, 1, 1, 0], [255] * 6],
    )
    np.testing.assert_array_equal(
        sample.instances,
        [[1, 1, 1, 1, 0, 0], [1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 0], [0] * 6],
    )
    np.testing.assert_array_equal(sample.labels(), [2, 1])


def test_the_objects_are_kept_whole_crowd_and_all(root: Path) -> None:
    objects = train(root)[0].objects
    car, person, crowd = coco_mask.decode(list(objects.masks)).transpose(2, 0, 1)
    np.testing.assert_array_equal(car, [[1, 1, 1, 1, 0, 0]] * 3 + [[0] * 6])
    np.testing.assert_array_equal(person, [[0] * 6, [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0] * 6])
    np.testing.assert_array_equal(crowd, [[0] * 6] * 3 + [[1] * 6])
    assert (objects.labels.tolist(), objects.crowd.tolist()) == ([2, 1, 1], [False, False, True])
    assert (objects.areas.tolist(), objects.areas.dtype, objects.labels.dtype) == ([12.0, 6.0, 6.0], "f8", "i8")
    assert all(mask["size"] == [4, 6] and isinstance(mask["counts"], bytes) for mask in objects.masks)


def test_a_hidden_object_has_no_id_but_stays_an_object(tmp_path: Path) -> None:
    left, right, both = rectangle(0, 0, 2, 4), rectangle(2, 0, 4, 4), rectangle(0, 0, 4, 4)
    sample = one(tmp_path, annotation(1, 3, both), annotation(1, 1, left), annotation(1, 90, right))[0]
    np.testing.assert_array_equal(sample.instances, [[1, 1, 2, 2, 0, 0]] * 4)
    np.testing.assert_array_equal(sample.labels(), [1, 3])
    assert len(sample.objects.masks) == 3


def test_of_two_objects_of_one_size_the_later_is_in_front(tmp_path: Path) -> None:
    sample = one(tmp_path, annotation(1, 1, rectangle(0, 0, 2, 1)), annotation(1, 3, rectangle(1, 0, 3, 1)))[0]
    np.testing.assert_array_equal(sample.instances[0], [1, 2, 2, 0, 0, 0])


def test_the_area_that_orders_is_the_masks_not_the_files(tmp_path: Path) -> None:
    small, big = rectangle(0, 0, 2, 1), rectangle(0, 0, 6, 1)
    sample = one(tmp_path, annotation(1, 1, small, area=99), annotation(1, 3, big, area=1))[0]
    np.testing.assert_array_equal(sample.instances[0], [1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(sample.objects.areas, [99, 1])


def test_an_image_without_annotations(root: Path) -> None:
    sample = Coco(root, TRAIN, "", training=False)[3]
    assert (sample.image_id, sample.semantic.any(), sample.instances.any()) == ("34", False, False)
    assert (len(sample.objects.masks), sample.objects.labels.shape, sample.labels().shape) == (0, (0,), (0,))


@given(st.data(), st.integers(0, 6), st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_maps_equal_masks_painted_one_by_one(data: st.DataObject, count: int, height: int, width: int) -> None:
    masks = data.draw(arrays.arrays(np.bool_, (count, height, width)))
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(1, 254)))
    crowd = data.draw(arrays.arrays(np.bool_, count))
    semantic, instances = paint(objects_of(masks, labels, crowd), (height, width))
    owner = np.full((height, width), -1)
    ignored = masks[crowd].any(axis=0)
    for number in sorted(np.flatnonzero(~crowd), key=lambda n: (-masks[n].sum(), n)):
        owner[masks[number]] = number
    kept = [number for number in range(count) if (owner == number).any()]
    expected = np.zeros_like(owner)
    for new, number in enumerate(kept, 1):
        expected[owner == number] = new
    np.testing.assert_array_equal(instances, expected)
    classes = np.where(owner >= 0, labels[owner] if count else 0, np.where(ignored, 255, 0))
    np.testing.assert_array_equal(semantic, classes)
    assert (semantic.dtype, instances.dtype) == (np.uint8, np.int32)
    assert (semantic.flags.c_contiguous, instances.flags.c_contiguous) == (True, True)


def test_more_objects_than_a_byte_counts() -> None:
    masks = np.eye(300, dtype=np.bool_)[:, None]
    semantic, instances = paint(objects_of(masks, np.full(300, 7), np.zeros(300)), (1, 300))
    np.testing.assert_array_equal(instances[0], np.arange(1, 301))
    assert (semantic == 7).all()


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@settings(max_examples=100, deadline=None)
def test_runs_of_compressed_text(mask: np.ndarray) -> None:
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert runs(packed["counts"]).tolist() == run_lengths(mask)["counts"]


def test_runs_of_long_numbers_and_damaged_text() -> None:
    tall = coco_mask.frPyObjects({"size": [3000, 1000], "counts": [5, 2_000_000, 7, 999_000, 988]}, 3000, 1000)
    assert runs(tall["counts"]).tolist() == [5, 2_000_000, 7, 999_000, 988]
    for text in (b"", b"X", b"0X", b"5\x10", b"5\xff", b"oooooooo0"):
        with pytest.raises(ValueError, match="its counts"):
            runs(text)


def test_masks_equal_those_of_pycocotools(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size, entries = (30, 40), []
    for _ in range(40):
        parts = [
            rng.uniform(-5, 45, 2 * corners).round(2).tolist() for corners in rng.integers(3, 9, rng.integers(1, 4))
        ]
        entries.append(annotation(1, 1, [*parts, [3.0, 4.0], [1.0, 2.0, 20.0, 25.5]]))
        mask = rng.random(size) < 0.5
        packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        entries.append(annotation(1, 1, {"size": list(size), "counts": packed["counts"].decode()}))
        entries.append(annotation(1, 1, run_lengths(mask), iscrowd=1))
    path = tmp_path / "annotations" / "any.json"
    image = image_entry(1, *size)
    write_images(tmp_path, [image])
    write_json(path, [image], entries)
    official = COCO(str(path))
    masks = Coco(tmp_path, str(path), "", training=True)[0].objects.masks
    assert len(masks) == len(entries)
    for mask, entry in zip(masks, official.imgToAnns[1], strict=True):
        np.testing.assert_array_equal(coco_mask.decode(mask), official.annToMask(entry))


def test_area_and_iscrowd_may_be_missing(tmp_path: Path) -> None:
    entry = annotation(1, 1, rectangle(0, 0, 3, 2))
    del entry["area"], entry["iscrowd"]
    objects = one(tmp_path, entry)[0].objects
    assert (objects.areas.tolist(), objects.crowd.tolist()) == ([6.0], [False])


def test_boxes_are_the_annotated_ones_or_those_around_the_masks(tmp_path: Path) -> None:
    stated = annotation(1, 1, rectangle(0, 0, 3, 2), bbox=[0.5, 0, 2.25, 2])
    bare = {key: value for key, value in annotation(1, 1, rectangle(1, 1, 4, 3)).items() if key != "bbox"}
    objects = one(tmp_path, stated, bare)[0].objects
    np.testing.assert_array_equal(objects.boxes, [[0.5, 0, 2.25, 2], [1, 1, 3, 2]])


def test_null_is_as_good_as_nothing(tmp_path: Path) -> None:
    objects = one(tmp_path, annotation(1, 1, rectangle(1, 1, 4, 3), bbox=None, area=None))[0].objects
    assert (objects.boxes.tolist(), objects.areas.tolist()) == ([[1, 1, 3, 2]], [6])


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, -1, 2], [0, 0, 1, float("nan")], "box", [0, 0, True, 1]])
def test_a_box_that_is_none_is_named(tmp_path: Path, box: object) -> None:
    with pytest.raises(DatasetError, match="bbox is"):
        one(tmp_path, annotation(1, 1, rectangle(0, 0, 3, 2), bbox=box))


def test_training_leaves_out_images_without_an_object(root: Path) -> None:
    assert [train(root)[index].image_id for index in range(2)] == ["9", "25"]
    assert [len(Coco(root, TRAIN, "", training=training)) for training in (True, False)] == [2, 4]


def test_images_and_annotations_in_order(tmp_path: Path) -> None:
    entries = [annotation(image_id, 1, rectangle(0, 0, 1 + n, 1), id=0) for n, image_id in enumerate(["b", 10, 2, 10])]
    path = write_split(tmp_path, "val2017", ["b", 10, 2], entries)
    data = Coco(None, str(path), "", training=False)
    samples = [data[index] for index in range(3)]
    assert [sample.image_id for sample in samples] == ["2", "10", "b"]
    pixels = [coco_mask.area(list(sample.objects.masks)).tolist() for sample in samples]
    assert pixels == [[3], [2, 4], [1]]


def test_categories_by_ascending_id(tmp_path: Path) -> None:
    image = image_entry(1)
    write_images(tmp_path / "images", [image])
    entries = [annotation(1, 40, rectangle(0, 0, 2, 2))]
    write_json(tmp_path / "annotations" / "instances_x.json", [image], entries, {40: "b", -2: "c", 7: "a"})
    data = Coco(tmp_path, "annotations/instances_x.json", "", training=True)
    assert data.info.categories == ("c", "a", "b")
    assert data.category_ids.tolist() == [-2, 7, 40]
    assert data[0].labels().tolist() == [3]


def test_info_length_range_and_pickle(root: Path) -> None:
    data = Coco(root, VAL, "", training=False)
    assert (data.info.name, data.info.split, data.info.background) == ("coco", "val2017", True)
    assert data.info.categories == ("person", "car", "toothbrush")
    for index in (-1, 3):
        with pytest.raises(IndexError):
            data[index]
    assert pickle.loads(pickle.dumps(data))[2].image_id == "632"


def test_the_table_of_names_opens_it(root: Path) -> None:
    options = {"train_annotations": TRAIN, "val_annotations": VAL, "train_images": "", "val_images": "val2017"}
    assert [len(open_split("coco", split, options, root, None)) for split in ("train", "val")] == [2, 3]


def test_the_index_holds_no_python_objects(root: Path) -> None:
    for name, array in vars(train(root)._index).items():
        assert array.dtype.kind in "bfiuU", name


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(root: Path, mode: str) -> None:
    path = root / "val2017" / "000000000139.jpg"
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path, "PNG" if mode in "P1" else "JPEG")
    image = Coco(root, VAL, "", training=False)[0].image
    assert (image.shape, image.dtype) == ((4, 6, 3), np.uint8)
    assert image.min() > 250


def test_exif_does_not_turn_an_image(root: Path) -> None:
    path = root / "val2017" / "000000000139.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert Coco(root, VAL, "", training=False)[0].image.shape == (4, 6, 3)
    Image.new("RGB", (4, 6)).save(path)
    says(lambda: Coco(root, VAL, "", training=False).verify(0), "image 139", "EXIF")


@pytest.mark.parametrize(
    "place",
    [
        "D/NAME", "D/images/NAME", "D/images", "D",
        "D/annotations/NAME", "D/annotations/images/NAME", "D/annotations/images", "D/annotations",
    ],
)  # fmt: skip
def test_images_are_found_beside_the_json(tmp_path: Path, place: str) -> None:
    image = image_entry(1)
    path = write_json(
        tmp_path / "D/annotations/instances_NAME.json", [image], [annotation(1, 1, rectangle(0, 0, 2, 2))]
    )
    (tmp_path / "D/NAME").mkdir()  # an empty folder of the right name does not win
    write_images(tmp_path / place, [image])
    Coco(tmp_path, "D/annotations/instances_NAME.json", "", training=True).verify(0)
    Coco(None, str(path), str(tmp_path / place), training=True).verify(0)
    Coco(tmp_path, str(path), place, training=True).verify(0)


def test_file_names_with_folders(tmp_path: Path) -> None:
    images = [{**image_entry(n), "file_name": f"./{'ab'[n]}//{n}.jpg"} for n in range(2)]
    write_images(tmp_path / "images", images)
    write_json(tmp_path / "x.json", images, [annotation(n, 1, rectangle(0, 0, 1, 1)) for n in range(2)])
    data = Coco(tmp_path, "x.json", "images", training=True)
    assert [data[index].image_id for index in range(2)] == ["0", "1"]
    (tmp_path / "images/b/1.jpg").unlink()
    says(lambda: Coco(tmp_path, "x.json", "images", training=True), "images lacks 1 images", "b/1.jpg")


def test_missing_folders_files_and_images(root: Path, tmp_path: Path) -> None:
    says(lambda: Coco(None, TRAIN, "", training=True), "--data-root")
    says(lambda: Coco(root, "no2017.json", "", training=True), "no2017.json is not a file", "cocodataset.org")
    assert "cocodataset.org" not in message(lambda: Coco(root, "mine.json", "", training=True))  # nobody asked for COCO
    says(lambda: Coco(root, TRAIN, "nowhere", training=True), "nowhere", "is not a folder")
    for number in (9, 25):
        (root / f"train2017/{number:012d}.jpg").rename(tmp_path / f"{number}.jpg")
    says(lambda: train(root), "000000000009.jpg", str(root / "images" / "train2017"), "train_images")
    names = "000000000009.jpg, 000000000025.jpg"
    says(lambda: Coco(root, TRAIN, "train2017", training=True), "lacks 2 images", names)


def test_opening_lists_a_folder_once_and_opens_no_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path).name) or listdir(path))
    monkeypatch.setattr(Image, "open", None)
    assert len(Coco(root, TRAIN, "", training=False)) == 4
    assert listed == ["train2017"]


def test_verify_names_a_broken_image(root: Path) -> None:
    path = root / "val2017" / "000000000285.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    data = Coco(root, VAL, "", training=False)
    data.verify(0)
    says(lambda: data.verify(1), "coco val2017, image 285", str(path))
    Image.new("RGB", (6, 5)).save(path)
    says(lambda: data.verify(1), "6 pixels wide and 5 high", "says 6 and 4")
    assert "EXIF" not in message(lambda: data.verify(1))


def test_fingerprint_changes_with_an_image_or_the_json(root: Path) -> None:
    def fingerprint() -> str:
        return train(root).info.fingerprint

    before = fingerprint()
    assert before == fingerprint() != Coco(root, TRAIN, "", training=False).info.fingerprint
    Image.new("RGB", (6, 4), (1, 2, 3)).save(root / "train2017" / "000000000034.jpg")  # not among these
    assert fingerprint() == before
    Image.new("RGB", (6, 4), (1, 2, 3)).save(root / "train2017" / "000000000025.jpg")
    changed = fingerprint()
    assert changed != before
    edit(root / TRAIN, lambda content: content["annotations"][0].update(category_id=1))
    assert fingerprint() not in (before, changed)


def same(first: Coco, second: Coco) -> bool:
    pairs = zip(vars(first._index).values(), vars(second._index).values(), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_the_second_opening_does_not_parse(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "file_digests.json"
    first = train(root, cache)
    assert len(list(cache.parent.glob("coco-*.npz"))) == 1
    assert sorted(path.suffix for path in cache.parent.iterdir()) == [".json", ".npz"]
    with monkeypatch.context() as patch:
        patch.setattr(coco_json, "_parse", None)
        assert same(train(root, cache), first)
        assert train(root, cache).info == first.info == train(root, cache).info
    edit(root / TRAIN, lambda content: content["annotations"][1].update(category_id=90))
    assert train(root, cache)[0].labels().tolist() == [3, 1]
    assert len(list(cache.parent.glob("coco-*.npz"))) == 2


def flip_byte(content: bytes) -> bytes:
    at = content.index(b"counts.npy") + 200  # inside the run lengths
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-30], lambda c: c[: len(c) // 2], flip_byte])
def test_a_damaged_cache_is_written_anew(root: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = tmp_path / "cache" / "file_digests.json"
    first = train(root, cache)
    (stored,) = cache.parent.glob("coco-*.npz")
    good = stored.read_bytes()
    stored.write_bytes(damage(good))
    assert coco_json._read_index(stored) is None
    assert same(train(root, cache), first)
    assert coco_json._read_index(stored) is not None


def test_a_cache_of_another_format_is_written_anew(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "file_digests.json"
    train(root, cache)
    monkeypatch.setattr(coco_json, "_FORMAT", coco_json._FORMAT + 1)
    (stored,) = tmp_path.glob("coco-*.npz")
    assert coco_json._read_index(stored) is None
    train(root, cache)
    assert coco_json._read_index(stored) is not None


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert same(train(root, tmp_path / "file" / "file_digests.json"), train(root))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def annotated(**values: object) -> Callable[[dict[str, Any]], None]:
    """Change the first annotation: id 1, of image 25."""
    return lambda content: content["annotations"][0].update(values)


def imaged(**values: object) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["images"][0].update(values)


def shaped(segmentation: object) -> Callable[[dict[str, Any]], None]:
    return annotated(segmentation=segmentation)


UNUSABLE = [
    (annotated(image_id=26), "unknown image_id 26"),
    (annotated(image_id="25"), "unknown image_id '25'"),
    (annotated(image_id=[25]), "unknown image_id [25]"),
    (annotated(category_id=2), "unknown category_id 2; there are 1, 3, 90"),
    (annotated(iscrowd=2), "iscrowd is 2"),
    (annotated(area="5"), "area is '5'"),
    (annotated(area=-1), "area is -1"),
    (annotated(area=float("nan")), "area is nan"),
    (lambda content: content["annotations"][0].pop("segmentation"), "it has no mask"),
    (shaped([]), "it has no mask"),
    (shaped([[]]), "it has no mask"),
    (shaped([[0, 0, 2, 2]]), "it has no mask"),
    (shaped([[0, 0, 2, 2, 3, 0, 1]]), "x and y of each point"),
    (shaped([0, 0, 2, 2, 3, 0]), "must be polygons"),
    (shaped([["0", 0, 2, 2, 3, 0]]), "must be polygons"),
    (shaped([[None, 0, 2, 2, 3, 0]]), "must be polygons"),
    (shaped([[[0, 0], [2, 2], [3, 0]]]), "must be polygons"),
    (shaped([[0, 0, 2, 1e9, 3, 0]]), "far outside"),
    (shaped([[0, 0, 2, float("nan"), 3, 0]]), "far outside"),
    (shaped({"size": [4, 6]}), "must be polygons"),
    (shaped({"size": [6, 4], "counts": [24]}), "of size [6, 4]"),
    (shaped({"size": 4, "counts": [24]}), "of size 4"),
    (shaped({"size": [4, 6], "counts": [20, 5]}), "do not add up to the image's 24"),
    (shaped({"size": [4, 6], "counts": [30, -6]}), "do not add up"),
    (shaped({"size": [4, 6], "counts": [20.5, 3.5]}), "no whole numbers"),
    (shaped({"size": [4, 6], "counts": ""}), "not compressed run lengths"),
    (shaped({"size": [4, 6], "counts": "\ud800é"}), "not compressed run lengths"),
    (shaped({"size": [4, 6], "counts": "5"}), "do not add up"),
    (shaped({"size": [4, 6], "counts": "oooooooo0"}), "no image reaches"),
]


@pytest.mark.parametrize(("change", "expected"), UNUSABLE, ids=[text for _, text in UNUSABLE])
def test_an_annotation_that_cannot_be_used_is_named(
    root: Path, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    edit(root / TRAIN, change)
    says(lambda: train(root), str(root / TRAIN), "1 annotations cannot be used: annotation 1 (image ", expected)


def numbered(count: int) -> list[dict[str, Any]]:
    """Categories beside the three of the mini data."""
    return [{"id": number, "name": str(number)} for number in range(100, 100 + count)]


WRONG = [
    (lambda content: content.pop("categories"), "it needs the lists images, annotations, categories"),
    (lambda content: content.update(annotations={}), "it needs the lists"),
    (lambda content: content.update(images=[]), "holds no images"),
    (lambda content: content.update(categories=[]), "has 0 categories"),
    (lambda content: content["images"].append(content["images"][0]), "no other image may have it"),
    (lambda content: content["images"].append({**image_entry(7), "id": "9"}), "no other image may have it"),
    (imaged(id=None), "image 0 (id None): the id must be"),
    (imaged(id="\ud800"), "the id must be"),
    (imaged(id="../x"), "the id must be"),
    (imaged(id="a/b"), "the id must be"),
    (imaged(id=""), "the id must be"),
    (lambda content: content["images"].append(5), "image 4 (id None)"),
    (imaged(height=0), "height 0 and width 6"),
    (imaged(width="6"), "width '6'"),
    (imaged(width=2**40), "must be those of the image"),
    (imaged(file_name=None), "file_name is None"),
    (imaged(file_name="/etc/a.jpg"), "below the folder"),
    (imaged(file_name="../a.jpg"), "below the folder"),
    (imaged(file_name="a\0.jpg"), "below the folder"),
    (imaged(file_name=""), "below the folder"),
    (lambda content: content["categories"].append({"id": 1, "name": "x"}), "category 3: id 1"),
    (lambda content: content["categories"].append({"id": 4, "name": "car"}), "name 'car'"),
    (lambda content: content["categories"].append({"id": "4", "name": "x"}), "id '4'"),
    (lambda content: content["categories"].append({"id": 4, "name": "x\n"}), "cannot be printed"),
    (lambda content: content["categories"].extend(numbered(252)), "255 categories"),
    (lambda content: content["annotations"].append(5), "annotation 5: it is no object"),
    (lambda content: content.update(annotations=[]), "nothing to train on"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), WRONG, ids=[text for _, text in WRONG])
def test_a_json_of_another_form_is_refused(root: Path, change: Callable[[dict[str, Any]], None], expected: str) -> None:
    edit(root / TRAIN, change)
    says(lambda: train(root), str(root / TRAIN), expected)


def test_254_categories_are_the_most(root: Path) -> None:
    edit(root / TRAIN, lambda content: content["categories"].extend(numbered(251)))
    assert len(train(root).info.categories) == 254


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\x1f\x8b\x08", b"[" * 100_000])
def test_a_file_that_is_no_json(root: Path, content: bytes) -> None:
    (root / TRAIN).write_bytes(content)
    says(lambda: train(root), str(root / TRAIN), "not valid JSON")


@pytest.mark.parametrize("content", ["[1]", "null", "{}"])
def test_a_json_of_something_else(root: Path, content: str) -> None:
    (root / TRAIN).write_text(content)
    says(lambda: train(root), str(root / TRAIN), "not a COCO annotation file")


def test_a_byte_order_mark_is_no_error(root: Path) -> None:
    path = root / TRAIN
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(train(root)) == 2


def test_the_first_five_of_many_bad_annotations(root: Path) -> None:
    bad = [annotation(9, 1, [], id=n) for n in range(100, 107)]
    edit(root / TRAIN, lambda content: content["annotations"].extend(bad))
    says(lambda: train(root), "7 annotations cannot be used: annotation 100", "annotation 104", "and 2 more")


def test_a_crowd_may_be_a_polygon_and_lies_behind(tmp_path: Path) -> None:
    crowd = annotation(1, 1, rectangle(0, 0, 1, 1), iscrowd=1)  # smaller than the object, and still behind it
    sample = one(tmp_path, annotation(1, 3, rectangle(0, 0, 2, 1)), crowd, annotation(1, 1, crowd_row(), iscrowd=1))[0]
    np.testing.assert_array_equal(sample.semantic[[0, 3]], [[2, 2, 0, 0, 0, 0], [255] * 6])


def test_masks_in_shares_of_the_image_are_refused(tmp_path: Path) -> None:
    """Normalised polygons are valid ones that cover nothing: every number would be 0 without a word."""
    tiny = [[0.1, 0.1, 0.4, 0.1, 0.4, 0.3]]
    with pytest.raises(DatasetError, match="2 of 3 masks cover no pixel; polygons must be in pixels"):
        one(tmp_path, annotation(1, 1, tiny), annotation(1, 1, tiny), annotation(1, 1, rectangle(0, 0, 3, 2)))
