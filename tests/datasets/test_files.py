"""Reading of images, label maps and lists, and the cache of digests."""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_layout import write_jpg, write_mat, write_png

import datasets.files
from datasets.base import DatasetError
from datasets.files import (
    file_digests,
    first_five,
    is_image_id,
    read_ids,
    read_indices,
    read_regions,
    read_rgb,
)
from datasets.mat_files import read_segmentation


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A grey PNG by hand: Pillow writes neither 4-bit grey nor a header without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class TestImages:
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    def test_every_jpeg_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        Image.new("RGB", (6, 4), (90, 90, 90)).convert(mode).save(tmp_path / "a.jpg")
        image = read_rgb(tmp_path / "a.jpg")
        assert (image.shape, image.dtype) == ((4, 6, 3), np.uint8)
        assert (np.abs(image.astype(int) - 90) <= 1).all()
        assert image.flags.writeable

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_palette_indices_of_any_depth(self, tmp_path: Path, bits: int) -> None:
        values = (np.arange(12).reshape(3, 4) * 23 % 2**bits).astype(np.uint8)
        image = Image.frombytes("P", (4, 3), values.tobytes())
        image.putpalette([50, 60, 70] * 2**bits)
        image.save(tmp_path / "a.png", bits=bits)
        np.testing.assert_array_equal(read_indices(tmp_path / "a.png"), values)

    def test_a_map_of_grey_values(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(2, 1, bits=8, rows=b"\0\x07\xff"))
        np.testing.assert_array_equal(read_indices(tmp_path / "a.png"), [[7, 255]])

    def test_four_bit_grey_would_be_multiplied_by_17(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(2, 1, bits=4, rows=b"\0\x1f"))
        assert np.array(Image.open(tmp_path / "a.png")).tolist() == [[17, 255]]  # label 1 would be class 17
        with pytest.raises(DatasetError, match="PNG of mode L;4; the raw palette PNG"):
            read_indices(tmp_path / "a.png")

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
    def test_maps_of_another_mode(self, tmp_path: Path, mode: str) -> None:
        Image.new(mode, (6, 4)).save(tmp_path / "a.png")
        with pytest.raises(DatasetError, match=rf"a\.png: .* PNG of mode {mode}; the raw palette PNG of the official"):
            read_indices(tmp_path / "a.png")

    def test_a_map_that_is_a_jpeg(self, tmp_path: Path) -> None:
        Image.new("L", (6, 4)).save(tmp_path / "a.png", "JPEG")
        with pytest.raises(DatasetError, match="but this is JPEG of mode L"):
            read_indices(tmp_path / "a.png")

    def test_a_flipped_bit_in_any_byte_of_a_map_is_noticed(self, tmp_path: Path) -> None:
        file, values = (
            tmp_path / "a.png",
            np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((9, 9), np.uint8)),
        )
        write_png(file, values)
        content = file.read_bytes()
        for position in range(len(content) - 12):  # behind it only the mark of the end
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            with pytest.raises(DatasetError, match=r"a\.png: "):
                read_indices(file)

    def test_a_header_that_promises_a_bomb(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(60_000, 60_000, bits=8, rows=b""))
        with pytest.raises(DatasetError, match=r"a\.png: refused, the image is too large to be genuine"):
            read_indices(tmp_path / "a.png")

    @pytest.mark.parametrize("action", ["ignore", "error"])
    def test_what_pillow_only_warns_of_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
    ) -> None:
        write_jpg(tmp_path / "a.jpg", (1, 2, 3), (5, 6))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(DatasetError, match=r"a\.jpg: refused, the image is too large to be genuine"):
            read_rgb(tmp_path / "a.jpg")


class TestMatlab:
    def test_every_damaged_byte_is_noticed_or_does_not_matter(self, tmp_path: Path) -> None:
        # Without the check of the checksums some of these crash scipy's reader, and with it the interpreter.
        file, values = tmp_path / "a.mat", np.kron(np.array([[0, 3], [7, 0]], np.uint8), np.ones((9, 9), np.uint8))
        write_mat(file, "GTinst", values)
        content = file.read_bytes()
        noticed = 0
        for position in range(len(content)):
            file.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
            try:
                np.testing.assert_array_equal(read_segmentation(file, "GTinst"), values)
            except DatasetError:
                noticed += 1
        assert noticed >= len(content) - 128  # the first 124 bytes are free text

    @pytest.mark.parametrize("length", [0, 100, 128, 131, 400, -1])
    def test_cut_off(self, tmp_path: Path, length: int) -> None:
        file = tmp_path / "a.mat"
        write_mat(file, "GTinst", np.zeros((40, 30), np.uint8))
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(DatasetError, match=r"a\.mat: cannot be read"):
            read_segmentation(file, "GTinst")


class TestLists:
    def test_order_is_kept_blanks_and_line_ends_do_not_matter(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf2008_000002\r\n\r\n  2007_000001  ")
        assert read_ids(tmp_path / "a.txt") == ["2008_000002", "2007_000001"]

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("", "the list is empty"),
            ("\n \n", "the list is empty"),
            ("a\nb\na\na\n", "1 ids are listed more than once: a"),
            ("a\n../b\n", "line 2: '../b' is not an image id"),
            ("a/b\n", "line 1: 'a/b' is not an image id"),
            ("a\\b\n", "is not an image id"),
            ("..\n", "is not an image id"),
            ("C:a\n", "is not an image id"),
            ("a\0\n", "is not an image id"),
            ("a -1\n", "line 1: 'a -1' is not an image id"),
        ],
    )
    def test_broken_lists(self, tmp_path: Path, content: str, expected: str) -> None:
        (tmp_path / "a.txt").write_text(content)
        with pytest.raises(DatasetError) as caught:
            read_ids(tmp_path / "a.txt")
        assert str(caught.value).startswith(str(tmp_path / "a.txt"))
        assert expected in str(caught.value)

    def test_a_list_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\x89PNG\r\n\xff\xfe")
        with pytest.raises(DatasetError, match="cannot be read as a list of image ids"):
            read_ids(tmp_path / "a.txt")

    def test_first_five(self) -> None:
        assert first_five(list("abcde")) == "a, b, c, d, e"
        assert first_five(list("abcdefg")) == "a, b, c, d, e and 2 more"


class TestDigests:
    @pytest.fixture
    def files(self, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / name for name in "abc"]
        for path in paths:
            path.write_text(f"content of {path.name}")
        return paths

    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The names of the files whose content was read."""
        names, digest = [], datasets.files._digest
        monkeypatch.setattr(datasets.files, "_digest", lambda name: names.append(Path(name).name) or digest(name))
        return names

    def test_of_the_content_alone(self, files: list[Path], tmp_path: Path) -> None:
        (tmp_path / "copy").write_text("content of b")
        digests = file_digests([*files, tmp_path / "copy"])
        assert digests[3] == digests[1]
        assert len(set(digests)) == 3

    def test_the_cache_saves_reading(self, files: list[Path], read: list[str], tmp_path: Path) -> None:
        cache = tmp_path / "run" / "digests.json"
        first = file_digests(files[:2], cache)
        assert file_digests(files[:2], cache) == first
        assert sorted(read) == ["a", "b"]
        assert file_digests(files[1:], cache)[0] == first[1]
        assert sorted(read) == ["a", "b", "c"]
        assert file_digests(files, cache)[:2] == first  # asking for some files forgets no others
        assert sorted(read) == ["a", "b", "c"]
        assert [path.name for path in cache.parent.iterdir()] == ["digests.json"]  # no temporary file is left

    def test_a_changed_file_is_read_again(self, files: list[Path], read: list[str], tmp_path: Path) -> None:
        cache = tmp_path / "digests.json"
        first = file_digests(files, cache)
        files[0].write_text("content of A")  # the same size
        os.utime(files[0], ns=(0, 12345))
        files[1].write_text("longer content of b")
        read.clear()
        second = file_digests(files, cache)
        assert sorted(read) == ["a", "b"]
        assert [new == old for new, old in zip(second, first, strict=True)] == [False, False, True]

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"a": 1}', b'{"a": [1, 2]}', b"null"])
    def test_a_broken_cache_is_replaced(self, files: list[Path], tmp_path: Path, content: bytes) -> None:
        cache = tmp_path / "digests.json"
        cache.write_bytes(content)
        assert file_digests(files, cache) == file_digests(files)
        assert sorted(map(Path, json.loads(cache.read_text()))) == files

    def test_a_cache_that_cannot_be_written_is_done_without(self, files: list[Path]) -> None:
        assert file_digests(files, files[0] / "digests.json") == file_digests(files)

    def test_a_missing_file_is_named(self, files: list[Path], tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="nothing: cannot be read"):
            file_digests([*files, tmp_path / "nothing"])


def test_regions_are_numbered_by_value_or_colour(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 7], [300, 9]], np.uint16)).save(tmp_path / "grey.png")
    assert read_regions(tmp_path / "grey.png").tolist() == [[0, 0], [2, 1]]
    colours = np.zeros((1, 3, 3), np.uint8)
    colours[0, 1, 2] = colours[0, 2, 0] = 1
    Image.fromarray(colours).save(tmp_path / "colours.png")
    assert read_regions(tmp_path / "colours.png").tolist() == [[0, 2, 1]]
    with pytest.raises(DatasetError, match=r"nothing\.png"):
        read_regions(tmp_path / "nothing.png")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, mode: str) -> None:
    """Pillow would clip them at 255: a microscope's image would become white without a word."""
    path = tmp_path / "deep.tiff"
    values = np.arange(12).reshape(3, 4) * 5000
    Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(path)
    with pytest.raises(DatasetError, match="more than 8 bits a channel"):
        read_rgb(path)


@pytest.mark.parametrize("text", ["a/b", "..", "../x", ".hidden", "a b", "c:x", "a\\b", "/etc"])
def test_what_is_no_image_id(text: str) -> None:
    assert not is_image_id(text)
    assert is_image_id("2007_000032-x.y")
