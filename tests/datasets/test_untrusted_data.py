"""Data sets made by an attacker: bombs, pipes, nested files, names that lead elsewhere. All of them are one message."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coco_layout import CATEGORIES, annotation, image_entry, rectangle, run_lengths, write_images, write_json
from PIL import Image

from datasets import mat_files
from datasets.base import DatasetError
from datasets.bsds import _list_ids
from datasets.coco import Coco
from datasets.coco_json import check_outline, open_index
from datasets.files import file_digests, is_image_id, read_ids, read_rgb
from datasets.mat_files import count_annotators, read_annotators


def message(call: Callable[[], object]) -> str:
    with pytest.raises(DatasetError) as error:
        call()
    return str(error.value)


# Images


def test_postscript_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would hand it to Ghostscript, which is a program of its own."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    assert "cannot be decoded" in message(lambda: read_rgb(path))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.gif", "a.webp", "a.ppm", "a.jp2", "a.jpg"])
def test_usual_formats_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (16, 12), (9, 99, 199)).save(tmp_path / name)
    assert read_rgb(tmp_path / name).shape == (12, 16, 3)


def test_a_picture_of_several_pictures_is_read(tmp_path: Path) -> None:
    """Cameras write JPEG with a second picture in it, which Pillow takes for a format of its own."""
    one = Image.new("RGB", (16, 12), (9, 99, 199))
    one.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[one])
    assert read_rgb(tmp_path / "a.jpg").shape == (12, 16, 3)


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "zero.mat").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        assert "is a pipe or a device" in message(lambda name=name: read_rgb(tmp_path / name))
        assert "is not a file" in message(lambda name=name: file_digests([tmp_path / name]))
    assert "is a pipe or a device" in message(lambda: count_annotators(tmp_path / "zero.mat"))


# MATLAB's files


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(kind: int, content: bytes, name: bytes = b"", shape: tuple[int, int] = (1, 1)) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack("<2i", *shape)) + element(1, name)
    return element(14, head + content)


def packed(content: bytes) -> bytes:
    return element(15, zlib.compress(content))


def mat(path: Path, content: bytes) -> Path:
    path.write_bytes(b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + content)
    return path


def nested(depth: int) -> bytes:
    """Cells in cells, from the outermost on: joined once, not copied at every level."""
    innermost = matrix(9, element(2, b"\1"))
    empty = len(matrix(1, b""))
    heads = [
        struct.pack("<II", 14, level * empty + len(innermost) - 8) + matrix(1, b"")[8:] for level in range(depth, 0, -1)
    ]
    return matrix(1, b"".join(heads) + innermost, b"groundTruth")


def test_cells_in_cells_do_not_end_the_process(tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", nested(50_000))
    assert "more parts than any annotation" in message(lambda: read_annotators(path, "Segmentation"))


def test_a_matlab_bomb_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat_files, "_BYTES", 10_000)
    content = matrix(9, element(2, b"\0" * 20_000), b"groundTruth", (100, 200))
    for path in (mat(tmp_path / "a.mat", packed(content)), mat(tmp_path / "b.mat", packed(b"x" * 9_000) * 2)):
        text = message(lambda path=path: count_annotators(path))
        assert "it expands to more than" in text or "holds no matrix" in text
    twice = mat(tmp_path / "c.mat", packed(packed(content)))
    assert "holds no matrix" in message(lambda: count_annotators(twice))


def test_a_claim_of_many_annotators_is_not_believed(tmp_path: Path) -> None:
    path = mat(tmp_path / "a.mat", matrix(1, b"", b"groundTruth", (2**30, 1)))
    assert "has 1073741824 entries" in message(lambda: count_annotators(path))


# Lists and names


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\u202eb", "x" * 201, "é" * 101, "a\x00b", "../a", "a\x07"])
def test_ids_that_no_file_or_terminal_should_get(tmp_path: Path, name: str) -> None:
    assert not is_image_id(name)
    (tmp_path / "list.txt").write_text(f"good\n{name}\n", encoding="utf-8")
    text = message(lambda: read_ids(tmp_path / "list.txt"))
    assert text.isprintable()
    assert len(text) < 400


def test_names_of_files_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jpg").touch()
    assert "cannot be printed" in message(lambda: _list_ids(tmp_path, ".jpg"))
    (tmp_path / "a\nb.jpg").unlink()
    (tmp_path / os.fsdecode(b"a\xff.jpg")).touch()
    assert "cannot be printed" in message(lambda: _list_ids(tmp_path, ".jpg"))


# Annotations in COCO's layout


def opened(folder: Path, entry: dict | None = None, note: dict | None = None, cache: Path | None = None) -> Coco:
    images = [image_entry(9) | (entry or {})]
    notes = [annotation(images[0]["id"], 1, rectangle(1, 1, 4, 3)) | (note or {})]
    path = write_json(folder / "annotations" / "instances_val2017.json", images, notes)
    write_images(folder / "val2017", [image_entry(9)])
    return Coco(folder, str(path), "", training=False, cache=cache)


def zigzag(sides: int, width: int) -> list[float]:
    return [value for side in range(sides) for value in ((side % 2) * width, side)]


@pytest.mark.parametrize(
    ("entry", "note", "text"),
    [
        ({"height": 1, "width": 2**31 - 1}, {}, "must be those of the image"),
        ({"height": 2**20, "width": 2**11}, {}, "must be those of the image"),
        ({"id": 10**300}, {}, "the id must be a number"),
        ({"id": "\x1b[2J"}, {}, "the id must be a number"),
        ({"height": 3000, "width": 3000}, {"segmentation": [zigzag(2000, 3000)]}, "the outline of its polygons"),
        ({}, {"segmentation": [*rectangle(1, 1, 4, 3), [0, 0, float("nan"), 0, 4, 4]]}, "lies far outside"),
        ({}, {"bbox": ["x" * 100] * 100_000}, "bbox is ['xxx"),
        ({}, {"id": [[[[[[[[[[[[0]]]]]]]]]]]], "category_id": 5}, "annotation [[[[[[[...]]]]]]]"),
    ],
)
def test_annotations_that_would_crash_or_flood(tmp_path: Path, entry: dict, note: dict, text: str) -> None:
    said = message(lambda: opened(tmp_path, entry, note))
    assert text in said
    assert said.isprintable()
    assert len(said) < 600


def test_a_category_beyond_64_bits(tmp_path: Path) -> None:
    note = annotation(9, 2**70, rectangle(1, 1, 4, 3))
    path = write_json(tmp_path / "a.json", [image_entry(9)], [note], {2**70: "person"})
    assert "category 0: id 11805" in message(lambda: open_index(path, None))


def test_many_categories_are_counted_before_they_are_compared(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [image_entry(9)], [], {number: str(number) for number in range(100_000)})
    assert "has 100000 categories" in message(lambda: open_index(path, None))


def test_json_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "is not valid JSON" in message(lambda: open_index(path, None))


def test_outlines_as_long_as_objects_have_them() -> None:
    check_outline([[0, 0, 1999, 0, 1999, 1999, 0, 1999]], 2000, 2000)
    check_outline([zigzag(600, 3000)], 3000, 3000)  # 1.8 million pixels
    with pytest.raises(ValueError, match="longer than the 2000000 pixels"):
        check_outline([zigzag(700, 3000)], 3000, 3000)
    with pytest.raises(ValueError, match="longer than"):
        check_outline([zigzag(400, 3000), zigzag(300, 3000)], 3000, 3000)


# What is kept beside the cache


def kept(folder: Path) -> tuple[Path, Path]:
    cache = folder / "cache" / "file_digests.json"
    split = opened(folder, note={"segmentation": run_lengths(np.eye(4, 6, dtype=bool))}, cache=cache)
    (stored,) = cache.parent.glob("coco-*.npz")
    assert split[0].instances.max() == 1
    return cache, stored


@pytest.mark.parametrize(
    "changes",
    [
        {"files": np.array(["../../secret.png"])},
        {"files": np.array(["/etc/secret.png"])},
        {"image_ids": np.array(["../x"])},
        {"image_ids": np.array([7])},
        {"sizes": np.array([[1, 2**31 - 1]])},
        {"labels": np.array([9], np.uint8)},
        {"first": np.array([0, 5])},
        {"begin": np.array([3, 0])},
        {"boxes": np.zeros((2, 4))},
        {"categories": np.array([], "<U1"), "category_ids": np.array([], np.int64)},
    ],
    ids=str,
)
def test_a_false_cache_of_annotations_is_made_anew(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    cache, stored = kept(tmp_path)
    with np.load(stored) as arrays:
        content = dict(arrays)
    np.savez(stored, **{**content, **changes})
    assert Coco(tmp_path, "annotations/instances_val2017.json", "", False, cache)._index.files[0] == "000000000009.jpg"


def test_a_packed_cache_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, stored = kept(tmp_path)
    with np.load(stored) as arrays:
        content = dict(arrays)
    np.savez_compressed(stored, **content)
    Coco(tmp_path, "annotations/instances_val2017.json", "", False, cache)
    assert "it is compressed" in caplog.text


def test_false_masks_of_the_cache_are_one_message(tmp_path: Path) -> None:
    """Runs that do not add up would loop for ever in pycocotools."""
    cache, stored = kept(tmp_path)
    with np.load(stored) as arrays:
        content = dict(arrays)
    np.savez(stored, **{**content, "counts": np.frombuffer(b"5", np.uint8), "begin": np.array([0, 1])})
    split = Coco(tmp_path, "annotations/instances_val2017.json", "", False, cache)
    assert "do not add up" in message(lambda: split[0])


def test_a_digest_of_the_cache_names_no_other_file(tmp_path: Path) -> None:
    cache, _ = kept(tmp_path)
    known = json.loads(cache.read_text())
    cache.write_text(json.dumps({name: [*entry[:2], "../../elsewhere"] for name, entry in known.items()}))
    path = tmp_path / "annotations" / "instances_val2017.json"
    assert open_index(path, cache).categories.tolist() == list(CATEGORIES.values())
    assert "elsewhere" not in cache.read_text()


def test_the_cache_is_written_through_no_link(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    file, cache = tmp_path / "a.txt", tmp_path / "cache.json"
    file.touch()
    cache.with_name(f"{cache.name}.{os.getpid()}.tmp").symlink_to(target)
    file_digests([file], cache)
    assert target.read_text() == "kept"
