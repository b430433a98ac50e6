"""The split train_aug on mini layouts: VOC 2012 train with SBD, without VOC 2012 val.

VOC: train t1, t2, t3, val val1, val2. SBD: t2 and val2 (with another class than VOC's), and its own s9, s1, s5.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from voc_layout import Picture, check, message, picture, write_mat, write_mini_voc, write_sbd

from datasets.voc import Voc


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mini_voc(tmp_path / "data")


@pytest.fixture
def sbd(root: Path) -> Path:
    def own(class_value: int) -> Picture:
        objects = np.zeros((3, 5), np.uint8)
        objects[0, :2], objects[2, 3:] = 1, 2
        return Picture(np.where(objects > 0, class_value, 0).astype(np.uint8), objects, (10, 200, 30))

    train, val = {"s9": own(9), "val2": own(7), "t2": own(7)}, {"s5": own(5), "s1": own(1)}
    return write_sbd(root / "benchmark_RELEASE" / "dataset", train, val)


def test_both_sources_without_voc_val(root: Path, sbd: Path) -> None:
    data = Voc(root, "train_aug")
    samples = [data[index] for index in range(len(data))]
    assert [sample.image_id for sample in samples] == ["t1", "t2", "t3", "s1", "s5", "s9"]
    np.testing.assert_array_equal(samples[1].semantic, picture(2).classes)  # VOC's own, with its void
    check(samples[5], (3, 5))
    np.testing.assert_array_equal(samples[5].semantic, [[9, 9, 0, 0, 0], [0] * 5, [0, 0, 0, 9, 9]])
    np.testing.assert_array_equal(samples[5].instances, [[1, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 2, 2]])
    assert np.abs(samples[5].image.astype(int) - (10, 200, 30)).max() <= 3
    for index in range(len(data)):
        data.verify(index)


def test_fingerprint_covers_both_sources_and_nothing_unused(root: Path, sbd: Path) -> None:
    first = Voc(root, "train_aug").info.fingerprint
    (sbd / "inst" / "val2.mat").write_bytes(b"")  # held out
    (sbd / "inst" / "t2.mat").write_bytes(b"")  # VOC's own is used
    (sbd / "train.txt").write_text("t2\nval2\ns9\n")  # SBD's order does not matter
    assert Voc(root, "train_aug").info.fingerprint == first
    (sbd / "inst" / "s9.mat").write_bytes(b"")
    assert Voc(root, "train_aug").info.fingerprint != first


@pytest.mark.parametrize("name", ["SBD/dataset", "sbd/dataset", "SBD", "sbd"])
def test_other_names_of_the_folder(root: Path, sbd: Path, name: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    sbd.rename(root / name)
    for place in (root, root / "VOCdevkit", root / "VOCdevkit" / "VOC2012"):
        assert len(Voc(place, "train_aug")) == 6


def test_without_sbd(root: Path) -> None:
    text = message(lambda: Voc(root, "train_aug"))
    assert "looked for benchmark_RELEASE/dataset, SBD/dataset, sbd/dataset, SBD, sbd in" in text
    assert f"{root}, {root / 'VOCdevkit'}." in text
    assert "benchmark.tgz" in text
    assert "`--suite shapes` needs no files" in text


def test_half_of_sbd(root: Path, sbd: Path) -> None:
    shutil.rmtree(sbd / "inst")
    (sbd / "val.txt").unlink()
    assert f"SBD in {sbd} is incomplete: inst, val.txt missing." in message(lambda: Voc(root, "train_aug"))


def test_listed_images_without_files(root: Path, sbd: Path) -> None:
    (sbd / "cls" / "s9.mat").unlink()
    text = message(lambda: Voc(root, "train_aug"))
    assert f"SBD in {sbd}: 1 files of the split 'train_aug' are missing: cls/s9.mat. SBD is benchmark.tgz" in text


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "other struct", "fractions", "three axes"])
def test_broken_mat_files(root: Path, sbd: Path, damage: str) -> None:
    file = sbd / "inst" / "s9.mat"
    if damage == "other struct":
        write_mat(file, "GTcls", np.zeros((3, 5), np.uint8))
    elif damage == "fractions":
        write_mat(file, "GTinst", np.array([[0.5, np.nan]]))
    elif damage == "three axes":
        write_mat(file, "GTinst", np.zeros((3, 5, 2), np.uint8))
    else:
        content = file.read_bytes()
        file.write_bytes({"empty": b"", "text": b"no MATLAB file" * 20, "cut off": content[:-40]}[damage])
    data = Voc(root, "train_aug")
    text = message(lambda: data.verify(5))
    assert text.startswith(f"voc train_aug, image s9: {file}: ")
    assert "GTinst" in text
    assert message(lambda: data[5]) == text


def test_matlab_doubles_are_read(root: Path, sbd: Path) -> None:
    write_mat(sbd / "inst" / "s9.mat", "GTinst", np.array([[1.0, 1, 0, 0, 0], [0] * 5, [0, 0, 0, 7, 7]]))
    np.testing.assert_array_equal(Voc(root, "train_aug")[5].instances[[0, 2]], [[1, 1, 0, 0, 0], [0, 0, 0, 2, 2]])
