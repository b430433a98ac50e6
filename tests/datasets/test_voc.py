"""VOC 2012 on mini layouts: what a sample holds, what the fingerprint notices, and every error's message."""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_layout import Picture, check, message, picture, write_jpg, write_mini_voc, write_png, write_voc

from datasets.base import DatasetError
from datasets.voc import CATEGORIES, Voc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mini_voc(tmp_path / "data")


@pytest.fixture
def voc(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012"


def test_indices_not_colours_void_kept_and_ids_consecutive(tmp_path: Path) -> None:
    classes = np.array([[15, 15, 255, 9], [0, 255, 9, 9], [0, 0, 0, 4]], np.uint8)
    objects = np.array([[7, 7, 255, 3], [0, 255, 3, 3], [0, 0, 0, 12]], np.uint8)
    write_voc(tmp_path / "VOC2012", {"a": Picture(classes, objects, (250, 10, 40))}, {})
    sample = Voc(tmp_path, "train")[0]
    check(sample, (3, 4))
    assert sample.image_id == "a"
    assert np.abs(sample.image.astype(int) - (250, 10, 40)).max() <= 3  # RGB order, up to JPEG's rounding
    np.testing.assert_array_equal(sample.semantic, classes)
    np.testing.assert_array_equal(sample.instances, [[2, 2, 0, 1], [0, 0, 1, 1], [0, 0, 0, 3]])
    np.testing.assert_array_equal(sample.labels(), [9, 15, 4])


def test_an_object_that_is_all_void_is_no_instance(tmp_path: Path) -> None:
    classes, objects = np.array([[255, 255, 3]], np.uint8), np.array([[1, 255, 2]], np.uint8)
    write_voc(tmp_path, {"a": Picture(classes, objects)}, {})
    np.testing.assert_array_equal(Voc(tmp_path, "train")[0].instances, [[0, 0, 1]])


@pytest.mark.parametrize("place", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_three_accepted_roots(root: Path, place: str) -> None:
    assert [sample.image_id for sample in map(Voc(root / place, "val").__getitem__, range(2))] == ["val1", "val2"]


def test_splits_follow_their_lists(root: Path, voc: Path) -> None:
    assert [len(Voc(root, split)) for split in ("train", "val", "trainval")] == [3, 2, 5]
    (voc / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xef\xbb\xbft3\r\n\r\n  t1  ")
    assert [Voc(root, "train")[index].image_id for index in range(2)] == ["t3", "t1"]


def test_categories_in_the_official_order() -> None:
    assert len(CATEGORIES) == 20
    assert (CATEGORIES[0], CATEGORIES[10], CATEGORIES[14], CATEGORIES[19]) == (
        "aeroplane", "diningtable", "person", "tvmonitor",
    )  # fmt: skip
    assert list(CATEGORIES) == sorted(CATEGORIES)


def test_info_length_and_range(root: Path) -> None:
    data = Voc(root, "val")
    assert (data.info.name, data.info.split, data.info.categories) == ("voc", "val", CATEGORIES)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            data[index]
    assert pickle.loads(pickle.dumps(data))[1].image_id == "val2"  # loader processes get the data set pickled


def test_grey_images_and_grey_maps_are_read(root: Path, voc: Path) -> None:
    Image.new("L", (6, 4), 90).save(voc / "JPEGImages" / "val1.jpg")
    Image.fromarray(picture(15).classes).save(voc / "SegmentationClass" / "val1.png")  # mode L
    sample = Voc(root, "val")[0]
    assert (sample.image == 90).all()
    np.testing.assert_array_equal(sample.semantic, picture(15).classes)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_random_maps_survive_the_round_trip(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.choice(254, size=4, replace=False) + 1
    classes_of = np.zeros(256, np.uint8)
    classes_of[ids], classes_of[255] = rng.integers(1, 21, 4), 255
    objects = rng.choice([0, 255, *ids], (height, width)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_voc(Path(folder), {"a": Picture(classes_of[objects], objects)}, {})
        sample = Voc(folder, "train")[0]
    check(sample, (height, width))
    np.testing.assert_array_equal(sample.semantic, classes_of[objects])
    visible = [number for number in sorted(ids) if (objects == number).any()]
    for instance, number in enumerate(visible, 1):
        np.testing.assert_array_equal(sample.instances == instance, objects == number)
    np.testing.assert_array_equal(sample.labels(), classes_of[visible])


class TestFingerprint:
    def test_independent_of_the_place(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "VOCdevkit" / "VOC2012", tmp_path / "elsewhere")
        first = Voc(root, "val").info.fingerprint
        assert re.fullmatch("[0-9a-f]{16}", first)
        assert Voc(tmp_path / "elsewhere", "val").info.fingerprint == first
        assert Voc(root, "train").info.fingerprint != first

    @pytest.mark.parametrize("name", ["JPEGImages/t2.jpg", "SegmentationClass/t2.png", "SegmentationObject/t2.png"])
    def test_notices_every_file_of_the_split(self, root: Path, voc: Path, name: str) -> None:
        train, val = Voc(root, "train").info.fingerprint, Voc(root, "val").info.fingerprint
        content = bytearray((voc / name).read_bytes())
        content[-1] ^= 1
        (voc / name).write_bytes(content)
        assert Voc(root, "train").info.fingerprint != train
        assert Voc(root, "val").info.fingerprint == val

    def test_notices_the_order_of_the_list_but_not_its_line_ends(self, root: Path, voc: Path) -> None:
        list_file, first = voc / "ImageSets" / "Segmentation" / "train.txt", Voc(root, "train").info.fingerprint
        list_file.write_bytes(b"t1\r\nt2\r\nt3")
        assert Voc(root, "train").info.fingerprint == first
        list_file.write_text("t2\nt1\nt3\n")
        assert Voc(root, "train").info.fingerprint != first

    def test_a_cache_changes_no_fingerprint(self, root: Path, tmp_path: Path) -> None:
        cache, first = tmp_path / "run" / "digests.json", Voc(root, "val").info.fingerprint
        assert Voc(root, "val", cache).info.fingerprint == first
        assert cache.is_file()
        assert Voc(root, "val", cache).info.fingerprint == first

    def test_a_file_that_vanished_is_named(self, root: Path, voc: Path) -> None:
        data = Voc(root, "val")
        (voc / "JPEGImages" / "val1.jpg").unlink()
        assert str(voc / "JPEGImages" / "val1.jpg") in message(lambda: data.info)


class TestOpening:
    def test_reads_no_pixels(self, root: Path, voc: Path) -> None:
        for file in voc.glob("*/*.*g"):
            file.write_bytes(b"")
        assert len(Voc(root, "trainval")) == 5

    def test_unknown_split_lists_the_known_ones(self, root: Path) -> None:
        assert message(lambda: Voc(root, "test")) == (
            "voc: unknown split 'test'; available: train, val, trainval, train_aug"
        )

    @pytest.mark.parametrize("place", [None, "nowhere", "empty", "file"])
    def test_without_files(self, tmp_path: Path, place: str | None) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("")
        text = message(lambda: Voc(place and tmp_path / place, "val"))
        for part in (
            "VOCtrainval_11-May-2012.tar",
            "host.robots.ox.ac.uk/pascal/VOC",
            "`--suite shapes` needs no files",
        ):
            assert part in text
        assert ("--data-root" if place is None else str(tmp_path / place)) in text

    def test_without_the_layout_says_where_it_looked(self, tmp_path: Path) -> None:
        text = message(lambda: Voc(tmp_path, "val"))
        assert f"{tmp_path}/VOCdevkit/VOC2012, {tmp_path}/VOC2012, {tmp_path}." in text
        assert "ImageSets, JPEGImages, SegmentationClass, SegmentationObject" in text

    @pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass", "SegmentationObject"])
    def test_half_of_the_data_set(self, root: Path, voc: Path, folder: str) -> None:
        shutil.rmtree(voc / folder)
        (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
        text = message(lambda: Voc(root, "val"))
        assert f"VOC 2012 in {voc} is incomplete: {folder}, ImageSets/Segmentation/val.txt missing." in text
        assert "VOCtrainval_11-May-2012.tar" in text
        assert "`--suite shapes` needs no files" in text

    def test_listed_images_without_files(self, root: Path, voc: Path) -> None:
        (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("val1\nx1\nx2\nx3\n")
        (voc / "SegmentationObject" / "val1.png").unlink()
        text = message(lambda: Voc(root, "val"))
        assert f"VOC 2012 in {voc}: 10 files of the split 'val' are missing: " in text
        assert "JPEGImages/x1.jpg, JPEGImages/x2.jpg, JPEGImages/x3.jpg, SegmentationClass/x1.png" in text
        assert "SegmentationClass/x2.png and 5 more." in text
        assert "`--suite shapes` needs no files" in text

    def test_a_broken_list(self, root: Path, voc: Path) -> None:
        list_file = voc / "ImageSets" / "Segmentation" / "val.txt"
        list_file.write_text("val1\n../val2\n")
        assert message(lambda: Voc(root, "val")).startswith(f"{list_file}, line 2: '../val2' is not an image id")


class TestVerify:
    """Each broken file is named by `verify`, and reading the sample raises the same error."""

    def expect(self, root: Path, file: Path, *parts: str) -> None:
        data = Voc(root, "val")
        text = message(lambda: data.verify(0))
        assert text.startswith("voc val, image val1: ")
        for part in (str(file), *parts):
            assert part in text
        assert message(lambda: data[0]) == text
        data.verify(1)

    def test_good_samples_pass(self, root: Path) -> None:
        for index in range(2):
            Voc(root, "val").verify(index)

    @pytest.mark.parametrize(
        "name", ["JPEGImages/val1.jpg", "SegmentationClass/val1.png", "SegmentationObject/val1.png"]
    )
    @pytest.mark.parametrize("damage", ["empty", "text", "cut off"])
    def test_broken_files(self, root: Path, voc: Path, name: str, damage: str) -> None:
        file = voc / name
        content = file.read_bytes()
        file.write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "cut off": content[: len(content) * 2 // 3]}[damage]
        )
        self.expect(root, file, "cannot be decoded", "broken or was not copied completely")

    def test_a_file_that_vanished(self, root: Path, voc: Path) -> None:
        data = Voc(root, "val")
        (voc / "JPEGImages" / "val1.jpg").unlink()
        assert message(lambda: data[0]) == f"voc val, image val1: {voc}/JPEGImages/val1.jpg: no such file"

    @pytest.mark.parametrize("folder", ["SegmentationClass", "SegmentationObject"])
    def test_another_size(self, root: Path, voc: Path, folder: str) -> None:
        file = voc / folder / "val1.png"
        write_png(file, np.zeros((6, 4), np.uint8))
        image = voc / "JPEGImages" / "val1.jpg"
        self.expect(root, file, f"is 4 pixels wide and 6 high, but its image {image} is 6 pixels wide and 4 high")

    def test_unknown_class_values(self, root: Path, voc: Path) -> None:
        file = voc / "SegmentationClass" / "val1.png"
        write_png(file, np.array([[0, 1, 2, 20, 21, 255]] * 3 + [[254, 21, 0, 0, 0, 0]], np.uint8))
        self.expect(root, file, "class values 21, 254; a class map holds 0 (background), 1..20 and 255 (void)")

    def test_an_object_without_a_class(self, root: Path, voc: Path) -> None:
        file, objects = voc / "SegmentationObject" / "val1.png", picture().objects
        objects[3, :2] = 1
        write_png(file, objects)
        self.expect(root, file, "object 1 has 2 pixels without a class in", str(voc / "SegmentationClass" / "val1.png"))

    def test_an_object_of_two_classes(self, root: Path, voc: Path) -> None:
        classes = picture(15).classes
        classes[0, 0] = 3
        write_png(voc / "SegmentationClass" / "val1.png", classes)
        self.expect(root, voc / "SegmentationObject" / "val1.png", "object 1 spans the classes 3 and 15 in")

    def test_a_map_of_colours(self, root: Path, voc: Path) -> None:
        file = voc / "SegmentationClass" / "val1.png"
        Image.new("RGB", (6, 4)).save(file)
        self.expect(root, file, "PNG of mode RGB; the raw palette PNG of the official archive is needed")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_an_image_bomb(self, root: Path, voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_jpg(voc / "JPEGImages" / "val1.jpg", (1, 2, 3), (5, 6))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)  # the other files have exactly 24 pixels
        self.expect(root, voc / "JPEGImages" / "val1.jpg", "too large to be genuine (6 x 5 pixels, the limit is 24)")


def test_regions_come_with_the_samples_and_change_the_fingerprint(tmp_path: Path) -> None:
    root = write_mini_voc(tmp_path)
    folder = root / "VOCdevkit" / "VOC2012" / "hed"
    folder.mkdir()
    with pytest.raises(DatasetError, match=r"hed lacks ID.png for t1, t2, t3"):
        Voc(root, "train", regions="hed")
    for number, name in enumerate(("t1", "t2", "t3")):
        Image.fromarray(np.full((4, 6), 50 * number, np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(np.array([[9] * 3 + [4] * 3] * 4, np.uint8)).save(folder / "t2.png")
    data, plain = Voc(root, "train", regions="hed"), Voc(root, "train")
    assert data[1].regions.tolist() == [[1] * 3 + [0] * 3] * 4
    assert plain[1].regions is None
    assert data.info.fingerprint != plain.info.fingerprint
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "t3.png")
    assert Voc(root, "train", regions="hed").info.fingerprint != data.info.fingerprint
    with pytest.raises(DatasetError, match=r"t3\.png is 5 pixels wide and 4 high, but its image"):
        Voc(root, "train", regions="hed").verify(2)
