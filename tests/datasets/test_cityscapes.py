"""Cityscapes on mini layouts: what a sample holds for both tasks, what the fingerprint notices, every message."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from voc_layout import check, message

from datasets.cityscapes import STUFF, TASKS, THINGS, Cityscapes

ORIGIN = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip", "csDownload", "`--suite shapes` needs no files")
COLOUR = (30, 90, 200)
# Road, a group of cars, two cars, a person, a caravan, sky and void.
IDS = np.array([[7, 26, 26003, 26001], [7, 24000, 29000, 26001], [23, 23, 0, 4]])


def write_city(root: Path, split: str, name: str, ids: np.ndarray, bits: int = 16) -> tuple[Path, Path]:
    """Image and instanceIds as the archives unpack them; returns their paths. The city is the name's first word."""
    city = name.split("_")[0]
    image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    truth = root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png"
    for path in (image, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", ids.shape[::-1], COLOUR).save(image)
    Image.fromarray(ids.astype(np.uint16 if bits == 16 else np.uint8)).save(truth)
    for other in ("labelIds.png", "color.png", "polygons.json"):  # they lie in the archive, nobody here reads them
        (truth.parent / f"{name}_gtFine_{other}").write_bytes(b"")
    return image, truth


def sample_of(folder: Path, ids: np.ndarray, task: str = "instances", bits: int = 16):
    write_city(folder, "val", "a_000000_000019", np.asarray(ids), bits)
    return Cityscapes(folder, "val", task)[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: bonn 1, aachen 2, aachen 10; val: ulm 1."""
    data = tmp_path / "data"
    for name in ("bonn_000000_000001", "aachen_000000_000010", "aachen_000000_000002"):
        write_city(data, "train", name, IDS)
    write_city(data, "val", "ulm_000000_000001", IDS)
    return data


class TestLabels:
    def test_the_classes_are_the_official_ones_in_the_order_of_train_ids(self) -> None:
        judged = sorted((one for one in official_labels if not one.ignoreInEval), key=lambda one: one.trainId)
        assert [one.trainId for one in judged] == list(range(19))
        assert list(TASKS["semantic"].items()) == [(one.id, one.name) for one in judged]
        assert list(THINGS.items()) == [(one.id, one.name) for one in judged if one.hasInstances]
        assert list(STUFF) == [one.id for one in judged if not one.hasInstances]

    def test_every_official_label_as_pixel_and_as_object(self, tmp_path: Path) -> None:
        known = [one for one in official_labels if one.id >= 0]  # the licence plate, -1, is never drawn
        ids = np.array([[one.id for one in known], [one.id * 1000 + 7 if one.hasInstances else 0 for one in known]])
        sample = sample_of(tmp_path, ids, "semantic")
        expected = [255 if one.ignoreInEval else one.trainId + 1 for one in known]
        assert sample.semantic[0].tolist() == expected
        assert sample.semantic[1].tolist() == [
            value if one.hasInstances else 255 for one, value in zip(known, expected, strict=True)
        ]
        assert sample.instances[0].max() == 0
        assert sample.instances[1, 24:].tolist() == [1, 2, 3, 4, 5, 0, 0, 6, 7, 8]  # 29 and 30: caravan, trailer


class TestSamples:
    def test_instances(self, tmp_path: Path) -> None:
        sample = sample_of(tmp_path, IDS)
        check(sample, (3, 4))
        assert sample.image_id == "a_000000_000019"
        assert (sample.image == COLOUR).all()
        assert sample.semantic.tolist() == [[0, 255, 3, 3], [0, 1, 255, 3], [0, 0, 255, 255]]
        assert sample.instances.tolist() == [[0, 0, 3, 2], [0, 1, 0, 2], [0, 0, 0, 0]]
        assert sample.labels().tolist() == [1, 3, 3]
        assert sample.official_ids.dtype == np.int32
        assert sample.official_ids.tolist() == IDS.tolist()

    def test_semantic_keeps_groups_in_their_class(self, tmp_path: Path) -> None:
        sample = sample_of(tmp_path, IDS, "semantic")
        check(sample, (3, 4))
        assert sample.semantic.tolist() == [[1, 14, 14, 14], [1, 12, 255, 14], [11, 11, 255, 255]]
        assert sample.instances.tolist() == [[0, 0, 3, 2], [0, 1, 0, 2], [0, 0, 0, 0]]
        assert sample.labels().tolist() == [12, 14, 14]
        assert sample.official_ids.tolist() == IDS.tolist()

    @pytest.mark.parametrize("task", TASKS)
    def test_categories_and_background(self, root: Path, task: str) -> None:
        info = Cityscapes(root, "val", task).info
        assert (info.name, info.split, info.categories) == ("cityscapes", "val", tuple(TASKS[task].values()))
        assert info.background == (task == "instances")
        assert len(info.categories) == {"instances": 8, "semantic": 19}[task]

    def test_without_objects_and_in_eight_bits(self, tmp_path: Path) -> None:
        sample = sample_of(tmp_path, [[7, 24, 0]], bits=8)
        assert (sample.semantic.tolist(), sample.instances.tolist()) == ([[0, 255, 255]], [[0, 0, 0]])
        assert len(sample.labels()) == 0

    @given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(sorted(TASKS)), st.integers(0, 2**32 - 1))
    @settings(max_examples=40, deadline=None)
    def test_against_the_definition_pixel_by_pixel(self, height: int, width: int, task: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        choices = [*range(34), *(label * 1000 + number for label in range(24, 34) for number in (0, 1, 999))]
        ids = rng.choice(rng.choice(choices, 6), (height, width))
        with tempfile.TemporaryDirectory() as folder:
            sample = sample_of(Path(folder), ids, task)
        objects = [k for k in sorted(set(ids.ravel().tolist())) if k >= 1000 and k // 1000 in THINGS]
        names = list(TASKS[task])
        for place, value in np.ndenumerate(ids):
            label = value // 1000 if value >= 1000 else value
            group = value < 1000 and label in THINGS
            background = 0 if task == "instances" and label in STUFF else 255
            known = label in names and not (task == "instances" and group)
            assert sample.semantic[place] == (names.index(label) + 1 if known else background)
            assert sample.instances[place] == (objects.index(value) + 1 if value in objects else 0)
        for number, value in enumerate(objects):
            assert sample.labels()[number] == names.index(value // 1000) + 1


class TestOpening:
    def test_order_by_city_and_name(self, root: Path) -> None:
        data = Cityscapes(root, "train")
        assert [data[index].image_id for index in range(len(data))] == [
            "aachen_000000_000002",
            "aachen_000000_000010",
            "bonn_000000_000001",
        ]
        for index in (-1, 3):
            with pytest.raises(IndexError):
                data[index]
        assert pickle.loads(pickle.dumps(data))[2].image_id == "bonn_000000_000001"  # as loader processes get it

    def test_opens_no_file(self, root: Path) -> None:
        for file in root.glob("*/*/*/*.png"):
            file.write_bytes(b"")
        assert len(Cityscapes(root, "train")) == 3

    def test_archives_unpacked_into_folders_of_their_own(self, root: Path) -> None:
        for name in ("leftImg8bit", "gtFine"):
            (root / f"{name}_trainvaltest").mkdir()
            (root / name).rename(root / f"{name}_trainvaltest" / name)
        assert Cityscapes(root, "val")[0].image_id == "ulm_000000_000001"

    def test_companions_of_files_are_passed_over(self, root: Path) -> None:
        city = root / "leftImg8bit" / "val" / "ulm"
        (city / "._ulm_000000_000001_leftImg8bit.png").write_bytes(b"x")
        (city.parent / "ulm.txt").write_bytes(b"x")
        assert len(Cityscapes(root, "val")) == 1

    def test_the_test_split_has_no_annotation(self, root: Path) -> None:
        assert message(lambda: Cityscapes(root, "test")) == (
            "cityscapes: the annotation of the split 'test' is not public, so nothing can be trained or judged on it "
            "here; available: train, val"
        )

    def test_unknown_names(self, root: Path) -> None:
        assert message(lambda: Cityscapes(root, "vall")) == ("cityscapes: unknown split 'vall'; available: train, val")
        assert message(lambda: Cityscapes(root, "val", "panoptic")) == (
            "cityscapes: unknown task 'panoptic'; available: instances, semantic"
        )

    @pytest.mark.parametrize("place", [None, "nowhere", "file", "."])
    def test_without_files(self, tmp_path: Path, place: str | None) -> None:
        (tmp_path / "file").write_text("")
        text = message(lambda: Cityscapes(place and tmp_path / place, "val"))
        for part in ORIGIN:
            assert part in text
        assert ("--data-root" if place is None else str(tmp_path / place)) in text

    @pytest.mark.parametrize("part", ["leftImg8bit", "gtFine"])
    def test_half_of_the_data_set(self, root: Path, part: str) -> None:
        shutil.rmtree(root / part / "val")
        text = message(lambda: Cityscapes(root, "val"))
        assert text.startswith(f"Cityscapes in {root} is incomplete: {part}/val missing. ")
        for name in ORIGIN:
            assert name in text

    def test_empty_folders(self, root: Path) -> None:
        for part in ("leftImg8bit", "gtFine"):
            shutil.rmtree(root / part / "val" / "ulm")
        assert f"no image CITY/*_leftImg8bit.png in {root / 'leftImg8bit' / 'val'}. " in message(
            lambda: Cityscapes(root, "val")
        )

    def test_the_first_five_missing_files(self, root: Path) -> None:
        for number in range(6):
            write_city(root, "val", f"ulm_000001_{number:06d}", IDS)[1].unlink()
        write_city(root, "val", "zug_000000_000000", IDS)[0].unlink()
        text = message(lambda: Cityscapes(root, "val"))
        assert f"Cityscapes in {root}: 7 files of the split 'val' are missing: " in text
        assert ": leftImg8bit/val/zug/zug_000000_000000_leftImg8bit.png, gtFine/val/ulm/ulm_000001_000000_gt" in text
        assert "ulm_000001_000003_gtFine_instanceIds.png and 2 more. " in text
        for part in ORIGIN:
            assert part in text


class TestFingerprint:
    def test_is_of_the_files_and_not_of_their_place(self, root: Path, tmp_path: Path) -> None:
        first = Cityscapes(root, "train").info.fingerprint
        shutil.copytree(root, tmp_path / "copy")
        assert Cityscapes(tmp_path / "copy", "train", "semantic").info.fingerprint == first
        assert Cityscapes(root, "val").info.fingerprint != first

    @pytest.mark.parametrize("kind", [0, 1])
    def test_notices_every_file_of_the_split(self, root: Path, kind: int) -> None:
        train, val = (Cityscapes(root, split).info.fingerprint for split in ("train", "val"))
        file = write_city(root, "train", "aachen_000000_000002", IDS)[kind]
        assert Cityscapes(root, "train").info.fingerprint == train  # the same content again
        file.write_bytes(file.read_bytes() + b"x")
        assert Cityscapes(root, "train").info.fingerprint != train
        assert Cityscapes(root, "val").info.fingerprint == val

    def test_a_cache_changes_no_fingerprint(self, root: Path, tmp_path: Path) -> None:
        cache, first = tmp_path / "run" / "digests.json", Cityscapes(root, "val").info.fingerprint
        for _ in range(2):
            assert Cityscapes(root, "val", cache=cache).info.fingerprint == first
        assert cache.is_file()


class TestVerify:
    """Each broken file is named by `verify`, and reading the sample raises the same error."""

    def expect(self, root: Path, file: Path, *parts: str) -> None:
        data = Cityscapes(root, "train")
        text = message(lambda: data.verify(0))
        assert text.startswith("cityscapes train, image aachen_000000_000002: ")
        for part in (str(file), *parts):
            assert part in text
        assert message(lambda: data[0]) == text
        data.verify(1)

    @pytest.fixture
    def files(self, root: Path) -> tuple[Path, Path]:
        return write_city(root, "train", "aachen_000000_000002", IDS)

    def test_good_samples_pass(self, root: Path) -> None:
        data = Cityscapes(root, "train")
        for index in range(3):
            data.verify(index)

    @pytest.mark.parametrize("kind", [0, 1])
    @pytest.mark.parametrize("damage", ["empty", "text", "cut off"])
    def test_broken_files(self, root: Path, files: tuple[Path, Path], kind: int, damage: str) -> None:
        content = files[kind].read_bytes()
        files[kind].write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "cut off": content[: len(content) * 2 // 3]}[damage]
        )
        self.expect(root, files[kind], "cannot be decoded", "broken or was not copied completely")

    def test_a_flipped_bit_in_any_byte_of_the_ids_is_noticed(self, root: Path, files: tuple[Path, Path]) -> None:
        content, data = files[1].read_bytes(), Cityscapes(root, "train")
        for position in range(len(content) - 12):  # behind it only the mark of the end
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            files[1].write_bytes(damaged)
            assert str(files[1]) in message(lambda: data[0])

    def test_another_size(self, root: Path, files: tuple[Path, Path]) -> None:
        Image.fromarray(IDS.T.astype(np.uint16)).save(files[1])
        parts = "is 3 pixels wide and 4 high, but its image", "is 4 pixels wide and 3 high"
        self.expect(root, files[1], str(files[0]), *parts)

    def test_values_that_are_no_ids(self, root: Path, files: tuple[Path, Path]) -> None:
        ids = np.array([[34, 999, 34000, 65535], [33, 33999, 1000, 0], [26001] * 4])
        Image.fromarray(ids.astype(np.uint16)).save(files[1])
        self.expect(root, files[1], "the values 34, 999, 34000, 65535 are no ids of Cityscapes")

    @pytest.mark.parametrize("mode", ["RGB", "P", "1"])
    def test_a_map_of_another_kind(self, root: Path, files: tuple[Path, Path], mode: str) -> None:
        Image.new(mode, (4, 3)).save(files[1])
        self.expect(root, files[1], f"PNG of mode {mode}; the grey PNG of the official archive is needed")
