"""The table of the owners' archives, and counting what is unpacked."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path

import pytest
from voc_layout import message, picture, write_mini_voc, write_sbd

from datasets import archives
from datasets.archives import Archive, Count, official_archives, official_samples, survey
from datasets.voc import SBD_FOLDERS

ALL = [
    archives.VOC,
    archives.SBD,
    *archives.COCO.values(),
    archives.COCO_ANNOTATIONS,
    archives.BSDS,
    *archives.CITYSCAPES,
]
VOC_OPTIONS = {"train_split": "train", "val_split": "val"}
COCO_OPTIONS = {
    "train_annotations": "annotations/instances_train2017.json",
    "val_annotations": "annotations/instances_val2017.json",
}


def small(*counts: Count, places: tuple[str, ...] = ("",)) -> Archive:
    return Archive("Small", "small.zip", "small", places, counts, growth=1.0, terms="", origin="")


# The table


@pytest.mark.parametrize("archive", ALL, ids=lambda archive: archive.name)
def test_sizes_and_checksums_come_with_their_origin(archive: Archive) -> None:
    assert archive.origin
    assert archive.terms
    if archive.checksum:
        algorithm, _, digits = archive.checksum.partition(":")
        assert len(digits) == {"md5": 32, "sha256": 64}[algorithm]
        assert set(digits) <= set(string.hexdigits.lower())


@pytest.mark.parametrize("archive", ALL, ids=lambda archive: archive.name)
def test_an_archive_is_fetched_with_a_known_size_or_its_steps_are_named(archive: Archive) -> None:
    assert bool(archive.urls) != bool(archive.steps)
    assert bool(archive.urls) == bool(archive.size)
    assert all(url.rsplit("/", 1)[1] == archive.name for url in archive.urls)
    assert "{root}" in archive.steps or archive.urls


def test_official_numbers() -> None:
    """As the issue and the owners' pages give them."""
    numbers = {archive.name: {count.what: count.number for count in archive.counts} for archive in ALL}
    voc, sbd = numbers["VOCtrainval_11-May-2012.tar"], numbers["benchmark.tgz"]
    assert voc["images"] == 17_125
    assert voc["ids in train.txt"] + voc["ids in val.txt"] == voc["ids in trainval.txt"] == voc["class maps"] == 2_913
    assert sbd["ids in train.txt"] + sbd["ids in val.txt"] == sbd["images"] == 11_355
    assert sum(n for what, n in numbers["BSR_bsds500.tgz"].items() if "images" in what) == 500
    assert numbers["annotations_trainval2017.zip"] == {"objects of train": 860_001, "objects of val": 36_781}
    assert list(numbers["gtFine_trainvaltest.zip"].values()) == [2_975, 500]


def test_the_places_of_sbd_are_those_that_the_dataset_looks_in() -> None:
    assert archives.SBD.places == SBD_FOLDERS


def test_what_a_data_set_needs_follows_from_its_options() -> None:
    assert official_archives("voc", VOC_OPTIONS) == (archives.VOC,)
    assert official_archives("voc", VOC_OPTIONS | {"train_split": "train_aug"}) == (archives.VOC, archives.SBD)
    names = [one.name for one in official_archives("coco", COCO_OPTIONS)]
    assert names == ["train2017.zip", "val2017.zip", "annotations_trainval2017.zip"]
    half = official_archives("coco", COCO_OPTIONS | {"train_annotations": "mine.json"})
    assert [one.name for one in half] == ["val2017.zip", "annotations_trainval2017.zip"]
    assert official_archives("coco", {"train_annotations": "a.json", "val_annotations": "b.json"}) == ()
    assert official_archives("bsds", VOC_OPTIONS) == (archives.BSDS,)
    assert official_archives("bsds", {"train_split": "all", "val_split": "all"}) == ()
    assert official_archives("cityscapes", VOC_OPTIONS) == archives.CITYSCAPES
    assert official_archives("shapes", VOC_OPTIONS) == ()


def test_official_samples_of_a_split() -> None:
    assert official_samples("voc", {"train_split": "train_aug", "val_split": "val"}, "train") == 10_582
    assert official_samples("voc", VOC_OPTIONS, "val") == 1_449
    assert official_samples("coco", COCO_OPTIONS, "val") == 5_000
    assert official_samples("coco", {"val_annotations": "mine.json"}, "val") is None
    assert official_samples("bsds", VOC_OPTIONS, "train") is None


# Counting


def test_counts_files_lines_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.jpg", "2.jpg", "._1.jpg", "3.png"):  # the third is what macOS leaves
        (tmp_path / "a" / name).write_bytes(b"")
    (tmp_path / "list.txt").write_text("one\n\n  \ntwo\r\nthree")
    (tmp_path / "objects.json").write_text('[{"iscrowd": 0}, {"iscrowd": 1}]')
    archive = small(
        Count("images", "a/*.jpg", 2),
        Count("ids", "list.txt", 3, "line"),
        Count("objects", "objects.json", 2, '"iscrowd"'),
        Count("others", "b/*.jpg", 1),
    )
    result = survey(archive, tmp_path)
    assert result.found == (2, 3, 2, 0)
    assert (result.whole, result.empty) == (False, False)
    assert result.gaps() == ["0 of 1 others"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
def test_a_text_is_counted_once_wherever_the_pieces_of_the_file_end(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_CHUNK", chunk)
    (tmp_path / "x").write_text("ab-ab-aab.b")
    counts = Count("texts", "x", 3, "ab"), Count("letters", "x", 4, "a"), Count("others", "x", 1, "ab-ab-aab.b")
    assert survey(small(*counts), tmp_path).whole


def test_the_place_with_most_of_it_counts(tmp_path: Path) -> None:
    counts = Count("images", "img/*", 1), Count("list", "list", 1, "line")
    archive = small(*counts, places=("first", "second"))
    assert survey(archive, tmp_path).folder == tmp_path / "first"  # where it would be unpacked
    assert survey(archive, tmp_path).empty
    for place in ("first/img", "second/img"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1").write_text("")
    assert survey(archive, tmp_path).folder == tmp_path / "first"
    (tmp_path / "second" / "list").write_text("1\n")
    assert survey(archive, tmp_path).folder == tmp_path / "second"
    assert survey(archive, tmp_path).whole


def test_more_than_the_official_files_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("")
    (tmp_path / "2").write_text("")
    assert survey(small(Count("images", "*", 1)), tmp_path).gaps() == ["2 of 1 images"]


@pytest.mark.parametrize("folder", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_and_sbd_are_found_from_any_root_that_the_dataset_accepts(folder: str, tmp_path: Path) -> None:
    write_mini_voc(tmp_path)
    write_sbd(tmp_path / "benchmark_RELEASE" / "dataset", {"s1": picture()}, {"s2": picture()})
    assert survey(archives.VOC, tmp_path / folder).found == (5, 5, 5, 3, 2, 5)
    assert survey(archives.SBD, tmp_path / folder).found == (2, 2, 2, 1, 1)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    archive = dataclasses.replace(small(Count("ids", "list", 1, "line")))
    assert str(tmp_path / "list") in message(lambda: survey(archive, tmp_path))
