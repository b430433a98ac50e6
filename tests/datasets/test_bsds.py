"""BSDS500 on mini layouts: samples by annotator and by image, what the fingerprint notices, each error's message."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from voc_layout import check, message, write_jpg

from datasets.base import DatasetError
from datasets.bsds import Bsds

ORIGIN = ("BSR_bsds500.tgz", "eecs.berkeley.edu", "BSR/BSDS500/data", "`--suite shapes` needs no files")
FIRST = np.array([[1, 1, 2], [3, 3, 2]])
SECOND = np.array([[7, 7, 7], [4, 7, 9]])  # numbers with gaps
THIRD = np.array([[2, 1, 2], [1, 2, 1]])  # segments of several parts


def boundaries(segments: np.ndarray) -> np.ndarray:
    """1 where the right or lower neighbour is of another segment."""
    drawn = np.zeros(segments.shape, np.uint8)
    drawn[:, :-1] |= segments[:, 1:] != segments[:, :-1]
    drawn[:-1] |= segments[1:] != segments[:-1]
    return drawn


def save_truth(path: Path, *annotators: dict[str, np.ndarray], name: str = "groundTruth") -> None:
    cell = np.empty((1, len(annotators)), dtype=object)
    cell[0, :] = annotators
    savemat(path, {name: cell}, do_compression=True)


def write_image(data: Path, folder: str, image_id: str, *segments: np.ndarray) -> tuple[Path, Path]:
    """Image and .mat as the archive unpacks them; returns their paths."""
    image, truth = data / "images" / folder / f"{image_id}.jpg", data / "groundTruth" / folder / f"{image_id}.mat"
    for path in (image, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_jpg(image, (120, 60, 200), segments[0].shape)
    structs = [{"Segmentation": one.astype(np.uint16), "Boundaries": boundaries(one)} for one in segments]
    save_truth(truth, *structs)
    (image.parent / "Thumbs.db").write_bytes(b"")  # as in the archive
    return image, truth


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: 300 with three annotators, 20 with one; val: 1 with two; test: 5 with two."""
    data = tmp_path / "root" / "BSR" / "BSDS500" / "data"
    write_image(data, "train", "300", FIRST, SECOND, THIRD)
    write_image(data, "train", "20", THIRD)
    write_image(data, "val", "1", SECOND, FIRST)
    write_image(data, "test", "5", FIRST, THIRD)
    return tmp_path / "root"


@pytest.fixture
def data(root: Path) -> Path:
    return root / "BSR" / "BSDS500" / "data"


def ids(split: Bsds) -> list[str]:
    return [split[index].image_id for index in range(len(split))]


class TestSamples:
    def test_training_has_one_for_each_annotation(self, root: Path) -> None:
        split = Bsds(root, "train", training=True)
        assert ids(split) == ["20-1", "300-1", "300-2", "300-3"]
        expected = ([[2, 1, 2], [1, 2, 1]], [[1, 1, 2], [3, 3, 2]], [[2, 2, 2], [1, 2, 3]], [[2, 1, 2], [1, 2, 1]])
        for index, instances in enumerate(expected):
            sample = split[index]
            check(sample, (2, 3))
            assert (np.abs(sample.image.astype(int) - (120, 60, 200)) <= 3).all()
            assert (sample.semantic == 1).all()
            assert sample.instances.tolist() == instances
            assert sample.labels().tolist() == [1] * np.max(instances)
            assert sample.contours is None

    def test_judging_has_one_for_each_image_with_all_contours(self, root: Path) -> None:
        split = Bsds(root, "train", training=False)
        assert ids(split) == ["20", "300"]
        sample = split[1]
        check(sample, (2, 3))
        assert sample.instances.tolist() == FIRST.tolist()
        assert (sample.semantic == 1).all()
        assert (sample.contours.dtype, sample.contours.shape) == (np.bool_, (3, 2, 3))
        np.testing.assert_array_equal(sample.contours, [boundaries(one) for one in (FIRST, SECOND, THIRD)])

    def test_splits(self, root: Path) -> None:
        assert ids(Bsds(root, "trainval", training=False)) == ["20", "300", "1"]
        assert ids(Bsds(root, "trainval", training=True)) == ["20-1", "300-1", "300-2", "300-3", "1-1", "1-2"]
        assert ids(Bsds(root, "test", training=False)) == ["5"]

    def test_info_range_and_pickling(self, root: Path) -> None:
        split = Bsds(root, "train", training=True)
        info = split.info
        assert (info.name, info.split, info.categories, info.background) == ("bsds", "train", ("segment",), False)
        for index in (-1, 4):
            with pytest.raises(IndexError):
                split[index]
        assert pickle.loads(pickle.dumps(split))[2].image_id == "300-2"  # loader processes get the data set pickled

    def test_logical_boundaries_and_real_numbers(self, data: Path, root: Path) -> None:
        one = {"Segmentation": FIRST.astype(np.float64), "Boundaries": boundaries(FIRST).astype(np.bool_)}
        save_truth(data / "groundTruth" / "test" / "5.mat", one)
        sample = Bsds(root, "test", training=False)[0]
        assert sample.instances.tolist() == FIRST.tolist()
        np.testing.assert_array_equal(sample.contours, [boundaries(FIRST)])

    @given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_ranks_of_the_numbers(self, height: int, width: int, annotators: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        drawn = rng.choice(rng.integers(1, 65536, 5), (annotators, height, width))
        with tempfile.TemporaryDirectory() as folder:
            write_image(Path(folder), "", "8", *drawn)
            split = Bsds(Path(folder), "all", training=True)
            found = [split[index].instances for index in range(len(split))]
        assert len(found) == annotators
        for segments, instances in zip(drawn, found, strict=True):
            np.testing.assert_array_equal(np.unique(segments)[instances - 1], segments)
            assert np.unique(instances).tolist() == list(range(1, len(np.unique(segments)) + 1))


class TestOpening:
    @pytest.mark.parametrize("place", ["BSR", "BSR/BSDS500", "BSR/BSDS500/data"])
    def test_the_accepted_roots(self, root: Path, place: str) -> None:
        assert ids(Bsds(root / place, "val", training=False)) == ["1"]

    def test_a_flat_folder(self, tmp_path: Path) -> None:
        write_image(tmp_path, "", "300", FIRST, SECOND)
        write_image(tmp_path, "", "20", FIRST)
        assert ids(Bsds(tmp_path, "all", training=True)) == ["20-1", "300-1", "300-2"]
        assert message(lambda: Bsds(tmp_path, "val", training=False)) == (
            f"BSDS500 in {tmp_path} is incomplete: images/val and groundTruth/val missing. It is a flat folder: choose "
            "the split all."
        )

    def test_all_of_a_divided_folder(self, root: Path, data: Path) -> None:
        assert message(lambda: Bsds(root, "all", training=False)) == (
            f"bsds: no image in {data / 'images'}. It is divided: choose one of the splits train, val, test, trainval."
        )

    def test_opens_no_file(self, root: Path, data: Path) -> None:
        for file in data.glob("*/*/*.*"):
            file.write_bytes(b"")
        assert len(Bsds(root, "trainval", training=False)) == 3
        training = Bsds(root, "trainval", training=True)
        assert "20.mat: cannot be read as BSDS500's MATLAB cell" in message(lambda: len(training))

    def test_companions_of_files_are_passed_over(self, root: Path, data: Path) -> None:
        (data / "images" / "val" / "._1.jpg").write_bytes(b"x")
        assert len(Bsds(root, "val", training=False)) == 1

    def test_unknown_split(self, root: Path) -> None:
        text = message(lambda: Bsds(root, "tset", training=False))
        assert text == "bsds: unknown split 'tset'; available: train, val, test, trainval, all"

    @pytest.mark.parametrize("place", [None, "nowhere", "file", "."])
    def test_without_files(self, tmp_path: Path, place: str | None) -> None:
        (tmp_path / "file").write_text("")
        text = message(lambda: Bsds(place and tmp_path / place, "val", training=False))
        for part in ORIGIN:
            assert part in text
        assert ("--data-root" if place is None else str(tmp_path / place)) in text

    @pytest.mark.parametrize("part", ["images", "groundTruth"])
    def test_half_of_the_data_set(self, root: Path, data: Path, part: str) -> None:
        shutil.rmtree(data / part)
        text = message(lambda: Bsds(root, "val", training=False))
        assert text.startswith(f"BSDS500 in {data} is incomplete: {part}/val missing. ")
        for name in ORIGIN:
            assert name in text

    def test_the_first_five_missing_files(self, root: Path, data: Path) -> None:
        for number in range(6):
            write_image(data, "val", f"9{number}", FIRST)[1].unlink()
        (data / "images" / "val" / "1.jpg").unlink()
        text = message(lambda: Bsds(root, "trainval", training=True))
        assert f"BSDS500 in {data}: 7 files of the split 'trainval' are missing: images/val/1.jpg, groundTruth" in text
        assert "groundTruth/val/93.mat and 2 more. " in text
        for part in ORIGIN:
            assert part in text


class TestFingerprint:
    def test_is_of_the_files_and_not_of_their_place(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root, tmp_path / "copy")
        for training in (True, False):
            first = Bsds(root, "train", training).info.fingerprint
            assert Bsds(tmp_path / "copy", "train", training).info.fingerprint == first
        assert Bsds(root, "train", training=True).info.fingerprint != first  # other samples of the same files

    @pytest.mark.parametrize("name", ["images/train/20.jpg", "groundTruth/train/20.mat"])
    def test_notices_every_file_of_the_split(self, root: Path, data: Path, name: str) -> None:
        train, val = (Bsds(root, split, training=False).info.fingerprint for split in ("train", "val"))
        (data / name).write_bytes((data / name).read_bytes() + b"x")
        assert Bsds(root, "train", training=False).info.fingerprint != train
        assert Bsds(root, "val", training=False).info.fingerprint == val

    def test_a_cache_changes_no_fingerprint(self, root: Path, tmp_path: Path) -> None:
        cache, first = tmp_path / "run" / "digests.json", Bsds(root, "train", training=True).info.fingerprint
        for _ in range(2):
            assert Bsds(root, "train", training=True, cache=cache).info.fingerprint == first
        assert cache.is_file()


@pytest.mark.parametrize("training", [True, False])
class TestVerify:
    """Each broken file is named by `verify`, and reading the sample raises the same error."""

    def expect(self, root: Path, training: bool, *parts: object) -> None:
        split = Bsds(root, "test", training)
        text = message(lambda: split.verify(0))
        assert text.startswith("bsds test, image 5: ")
        for part in parts:
            assert str(part) in text
        assert message(lambda: split[0]) == text

    @pytest.fixture
    def truth(self, data: Path) -> Path:
        return data / "groundTruth" / "test" / "5.mat"

    def test_good_samples_pass(self, root: Path, training: bool) -> None:
        for split in (Bsds(root, "trainval", training), Bsds(root, "test", training)):
            for index in range(len(split)):
                split.verify(index)

    @pytest.mark.parametrize("name", ["images/test/5.jpg", "groundTruth/test/5.mat"])
    @pytest.mark.parametrize("damage", ["empty", "text", "cut off"])
    def test_broken_files(self, root: Path, data: Path, training: bool, name: str, damage: str) -> None:
        content = (data / name).read_bytes()
        broken = {"empty": b"", "text": b"<html>404</html>" * 20, "cut off": content[: len(content) * 2 // 3]}
        (data / name).write_bytes(broken[damage])
        self.expect(root, training, data / name, "broken or was not copied completely")

    def test_every_damaged_byte_is_noticed_or_does_not_matter(self, root: Path, truth: Path, training: bool) -> None:
        content, noticed = truth.read_bytes(), 0
        for position in range(len(content)):
            truth.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
            try:
                split = Bsds(root, "test", training)
                assert (len(split), split[0].instances.tolist()) == (1 + training, FIRST.tolist())
            except DatasetError:
                noticed += 1
        assert noticed >= len(content) - 128  # the first 124 bytes are free text

    def test_another_size(self, root: Path, data: Path, truth: Path, training: bool) -> None:
        write_jpg(data / "images" / "test" / "5.jpg", (1, 2, 3), (3, 2))
        size = "is 3 pixels wide and 2 high, but its image"
        self.expect(root, training, truth, size, "5.jpg is 2 pixels wide and 3 high")

    def test_annotators_of_different_sizes(self, root: Path, truth: Path, training: bool) -> None:
        save_truth(truth, *({"Segmentation": one, "Boundaries": boundaries(one)} for one in (FIRST, FIRST.T)))
        sizes = "differ in size: 2 pixels wide and 3 high; 3 pixels wide and 2 high"
        self.expect(root, training, truth, "the annotators' Segmentation", sizes)

    def test_another_variable(self, root: Path, truth: Path, training: bool) -> None:
        save_truth(truth, {"Segmentation": FIRST}, name="segs")
        self.expect(root, training, truth, "groundTruth")

    def test_another_field(self, root: Path, truth: Path, training: bool) -> None:
        save_truth(truth, {"Segments": FIRST, "Boundaries": boundaries(FIRST)})
        self.expect(root, training, truth, "cannot be read as BSDS500's MATLAB cell groundTruth with the field Segm")

    @pytest.mark.parametrize("value", [0.5, -1, 65536, np.nan])
    def test_numbers_that_are_none(self, root: Path, truth: Path, training: bool, value: float) -> None:
        segments = FIRST.astype(np.float64)
        segments[0, 0] = value
        save_truth(truth, {"Segmentation": segments, "Boundaries": boundaries(FIRST)})
        wanted = "Segmentation of annotator 1 must be a matrix of whole numbers in 0..65535"
        self.expect(root, training, truth, wanted)


def test_boundaries_hold_0_and_1(root: Path, data: Path) -> None:
    save_truth(data / "groundTruth" / "test" / "5.mat", {"Segmentation": FIRST, "Boundaries": FIRST})
    split = Bsds(root, "test", training=False)
    assert message(lambda: split.verify(0)).endswith("5.mat: Boundaries holds 3; a map of boundaries holds 0 and 1")


@pytest.mark.parametrize("training", [True, False])
def test_a_cell_without_annotators(root: Path, data: Path, training: bool) -> None:
    save_truth(data / "groundTruth" / "test" / "5.mat")
    split = Bsds(root, "test", training)
    text = message(lambda: split[0])
    assert text.startswith("bsds test, image 5: ")
    assert text.endswith("5.mat: groundTruth is empty; it must hold a struct for each annotator")
