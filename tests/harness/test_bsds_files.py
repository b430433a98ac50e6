"""Boundary maps on disk: the forms that are read, and the errors that say which file is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from harness.bsds_files import find_boundaries
from harness.names import UsageError

FIRST = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=np.uint8)
SECOND = np.fliplr(FIRST)


def save_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def save_truth(path: Path, *maps: np.ndarray, field: str = "Boundaries", name: str = "groundTruth") -> None:
    cell = np.empty((1, len(maps)), dtype=object)
    for number, one in enumerate(maps):
        cell[0, number] = {"Segmentation": np.zeros(one.shape, np.uint16), field: one}
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {name: cell}, do_compression=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Image 2018: two annotators in truth/2018.mat, and found/2018.png."""
    save_truth(tmp_path / "truth" / "2018.mat", FIRST, SECOND)
    save_png(tmp_path / "found" / "2018.png", FIRST * np.uint8(51))
    return tmp_path


def read(data: Path) -> tuple[np.ndarray, np.ndarray]:
    (image,) = find_boundaries(data / "truth", data / "found")
    truth, found = image.read()
    return truth.boundaries, found.probability


def test_bsds_own_ground_truth_and_a_grey_png(data: Path) -> None:
    drawn, probability = read(data)
    assert drawn.dtype == np.bool_
    assert np.array_equal(drawn, [FIRST, SECOND])
    assert np.array_equal(probability, FIRST * 0.2)  # 51/255, exactly the threshold 0.2


def test_pngs_of_one_or_several_annotators(data: Path) -> None:
    (data / "truth" / "2018.mat").unlink()
    save_png(data / "truth" / "2018.png", FIRST * np.uint8(255))
    assert np.array_equal(read(data)[0], [FIRST])
    (data / "truth" / "2018.png").unlink()
    save_png(data / "truth" / "2018" / "anna.png", FIRST)
    save_png(data / "truth" / "2018" / "bert.png", SECOND.astype(bool))
    assert np.array_equal(read(data)[0], [FIRST, SECOND])


def test_sixteen_bits_and_one_bit(data: Path) -> None:
    save_png(data / "found" / "2018.png", FIRST.astype(np.uint16) * np.uint16(13107))
    assert np.array_equal(read(data)[1], FIRST * 0.2)
    save_png(data / "found" / "2018.png", FIRST.astype(bool))
    assert np.array_equal(read(data)[1], FIRST)


def test_a_contour_map_of_double_size(data: Path) -> None:
    (data / "found" / "2018.png").unlink()
    values = np.random.default_rng(0).random((7, 9))
    savemat(data / "found" / "2018.mat", {"ucm2": values})
    # MATLAB's ucm2(3:2:end, 3:2:end)
    assert np.array_equal(read(data)[1], values[[2, 4, 6]][:, [2, 4, 6, 8]])


def test_images_come_by_id_and_other_files_are_not_looked_at(data: Path) -> None:
    save_truth(data / "truth" / "100.mat", FIRST)
    save_png(data / "found" / "100.png", FIRST)
    for name in ("README.txt", ".hidden.png", "._2018.mat"):
        (data / "truth" / name).write_text("x")
        (data / "found" / name).write_text("x")
    (data / "found" / "old").mkdir()
    assert [image.image_id for image in find_boundaries(data / "truth", data / "found")] == ["100", "2018"]


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda d: (d / "truth").rename(d / "moved"), r"truth is not a folder; give the folder that"),
    "no truth": (lambda d: (d / "truth" / "2018.mat").unlink(), r"truth holds no ground truth: neither ID.mat nor"),
    "missing": (
        lambda d: save_truth(d / "truth" / "7.mat", FIRST),
        r"found: 1 of 2 predictions are missing: 7; every image of the ground truth needs ID.png",
    ),
    "extra": (
        lambda d: save_png(d / "found" / "7.png", FIRST),
        r"found: 1 predictions have no ground truth in .*truth: 7; remove them",
    ),
    "twice": (
        lambda d: savemat(d / "found" / "2018.mat", {"ucm2": np.zeros((7, 9))}),
        r"found: image 2018 is there twice, as 2018.mat and 2018.png",
    ),
    "size": (
        lambda d: save_png(d / "found" / "2018.png", FIRST.T.copy()),
        r"2018.png: 3 pixels wide and 4 high, but the ground truth .*2018.mat is 4 pixels wide and 3 high",
    ),
    "colour": (
        lambda d: save_png(d / "found" / "2018.png", np.zeros((3, 4, 3), np.uint8)),
        r"2018.png: a boundary map must be a grey PNG of 8 or 16 bits without transparency.* PNG of mode RGB",
    ),
    "damaged png": (lambda d: corrupt(d / "found" / "2018.png"), r"2018.png: cannot be decoded"),
    "cut png": (lambda d: cut(d / "found" / "2018.png"), r"2018.png: cannot be decoded"),
    "damaged mat": (lambda d: corrupt(d / "truth" / "2018.mat"), r"2018.mat cannot be read as a MATLAB file"),
    "cut mat": (lambda d: cut(d / "truth" / "2018.mat"), r"2018.mat cannot be read as a MATLAB file"),
    "no mat": (lambda d: (d / "truth" / "2018.mat").write_bytes(b"x" * 300), r"2018.mat cannot be read as a MATLAB"),
    "hdf5": (
        lambda d: (d / "truth" / "2018.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\0" * 400),
        r"2018.mat cannot be read as a MATLAB file .*save it with -v7",
    ),
    "other mat": (
        lambda d: savemat(d / "truth" / "2018.mat", {"ucm2": np.zeros((7, 9))}),
        r"2018.mat is not BSDS500's ground truth: it has no variable groundTruth",
    ),
    "no cell": (
        lambda d: savemat(d / "truth" / "2018.mat", {"groundTruth": FIRST}),
        r"2018.mat: groundTruth is not a cell with a struct for each annotator, whose matrix Boundaries holds 0 and 1",
    ),
    "no field": (lambda d: save_truth(d / "truth" / "2018.mat", FIRST, field="Edges"), r"whose matrix Boundaries"),
    "no annotator": (lambda d: save_truth(d / "truth" / "2018.mat"), r"groundTruth is not a cell with a struct"),
    "not 0 and 1": (lambda d: save_truth(d / "truth" / "2018.mat", FIRST * 2), r"whose matrix Boundaries holds 0 and"),
    "two sizes": (
        lambda d: save_truth(d / "truth" / "2018.mat", FIRST, FIRST.T),
        r"2018.mat: the annotators' maps differ in size: 3 pixels wide and 4 high; 4 pixels wide and 3 high",
    ),
    "no png": (
        lambda d: ((d / "truth" / "2018.mat").unlink(), (d / "truth" / "2018").mkdir()),
        r"2018 holds no PNG; a folder in the ground truth is one image",
    ),
    "not double": (
        lambda d: ((d / "found" / "2018.png").unlink(), savemat(d / "found" / "2018.mat", {"ucm2": np.zeros((6, 9))})),
        r"2018.mat: ucm2 must be a real matrix of 2H \+ 1 x 2W \+ 1 values, not \(6, 9\)",
    ),
    "not in 0..1": (
        lambda d: (
            (d / "found" / "2018.png").unlink(),
            savemat(d / "found" / "2018.mat", {"ucm2": np.full((7, 9), 2.0)}),
        ),
        r"2018.mat: ucm2 has values outside 0..1 or NaN",
    ),
    "nan": (
        lambda d: (
            (d / "found" / "2018.png").unlink(),
            savemat(d / "found" / "2018.mat", {"ucm2": np.full((7, 9), np.nan)}),
        ),
        r"2018.mat: ucm2 has values outside 0..1 or NaN",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(data: Path, case: str) -> None:
    spoil, message = CASES[case]
    spoil(data)
    with pytest.raises(UsageError, match=message):
        read(data)
