"""What strangers wrote stays data: names as text wherever they are printed, and no file that fills memory or disk."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import math
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from datasets.archives import Archive, Count
from evaluation import masks
from harness import cityscapes_files, coco_files, download, judge, judged, plots, reported
from harness.download import DownloadError, unpack
from harness.drawn import Drawn, latex
from harness.measured import Measured
from harness.names import UsageError
from harness.plots import Point
from harness.printed import Terminal, printable
from harness.protocols import Task
from harness.suite import Axis, Plot

EVIL = "a|b\\|c\n# \x1b[2J<img src=x onerror=1>![p](http://x)`$x^2$\\input{/etc/passwd}\u202e\ud800[/red] :smile: =1"


def message(call: Callable[[], object], kind: type[Exception] = UsageError) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


# Text on its way to a person


def test_printable_text() -> None:
    assert printable("AP^r ± 3 × é 中") == "AP^r ± 3 × é 中"
    assert printable("a\x1b[2J\nb\t\u202e\udcff\u200b") == r"a\x1b[2J\nb\t\u202e\udcff\u200b"
    assert printable("a\nb\r\n", lines=True) == "a\nb\\r\n"
    assert printable(printable(EVIL)) == printable(EVIL)
    assert printable(EVIL).isprintable()


def test_a_terminal_prints_text_as_it_is() -> None:
    text = io.StringIO()
    terminal = Terminal(file=text, force_terminal=True, width=300, color_system=None)
    terminal.print("[/red] :smile: \x1b]0;title\x07 [bold]\nnext", soft_wrap=True)
    assert text.getvalue() == "[/red] :smile: \\x1b]0;title\\x07 [bold]\nnext\n"


def test_errors_quote_files_printably() -> None:
    error = UsageError("results/\x1b[2J.json: image \u202e\nsecond line")
    assert str(error) == "results/\\x1b[2J.json: image \\u202e\nsecond line"
    assert f"{error}" == str(error)


def table(name: str) -> Drawn:
    return Drawn(f"T {name}", ("method", name), ((name, "1.0"),), ({"method": name, "value": 1.0},), (name,))


def test_a_table_in_the_terminal_keeps_its_frame() -> None:
    drawn = table(EVIL)
    lines = drawn.terminal().splitlines()
    assert len(lines) == 7
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines[1:6]}) == 1


def test_a_table_in_markdown_keeps_its_cells() -> None:
    text = table(EVIL).markdown()
    assert re.search(r"<\w|\]\(", text) is None
    title, _, head, rule, row, _, note = text.splitlines()
    for line in (head, rule, row):
        # As GitHub reads a row: a backslash takes the next character with it, and a bar that is left ends a cell.
        assert re.sub(r"\\.", "", line).count("|") == 3
    assert all(line.isprintable() for line in (title, head, row, note))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("@SUM(1)", "'@SUM(1)"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("+A1", "'+A1"),
        ("-0.3", "-0.3"),
        ("+1e3", "+1e3"),
        ("-", "-"),
        ("a=b", "a=b"),
        ("a\x1b\rb", "a\\x1b\\rb"),
    ],
)
def test_a_spreadsheet_computes_nothing(text: str, written: str) -> None:
    assert table(text).csv() == f"method,value\n{written},1\n"


def test_latex_runs_no_command_of_a_name() -> None:
    text = latex(EVIL)
    assert text.isprintable()
    assert re.findall(r"\\[A-Za-z]+", text) == [
        r"\textbar", r"\textbackslash", r"\textbar", r"\textless", r"\textgreater", r"\textsuperscript",
        r"\textbackslash",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a^_b", "a^x^y$", EVIL])
def test_a_plot_draws_any_name(name: str) -> None:
    plot = Plot(title=name, x=Axis(metric="a", title=name), y=Axis(metric="b", title="y"))
    points = [Point(name, "m", "d", Measured(0.5), Measured(0.5)), Point("n", "k", name, Measured(0.1), Measured(0.6))]
    assert plots._png(plot, [name], points).startswith(b"\x89PNG")


def test_a_plot_leaves_out_what_no_axis_holds() -> None:
    log = Axis(metric="a", title="x", log=True)
    assert [plots._fits(Measured(value), log) for value in (1e308, math.inf, math.nan, -1.0, 3.0)] == [False] * 4 + [
        True
    ]


# Masks


def packed(runs: list[int]) -> str:
    """COCO's compressed text of any runs."""
    text = ""
    for place, run in enumerate(runs):
        left = run - runs[place - 2] if place > 2 else run
        while True:
            bits, left = left & 31, left >> 5
            more = left != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_masks_that_32_bits_do_not_count() -> None:
    size = (2**16, 2**15)
    with pytest.raises(ValueError, match="too large"):
        masks.check([{"size": list(size), "counts": packed([size[0] * size[1]])}], size)
    masks.check([{"size": [2**15, 2**15], "counts": packed([2**30])}], (2**15, 2**15))


def test_a_sum_that_goes_round_64_bits_is_damage() -> None:
    """A run no image holds may bring the sum back to the right one; pycocotools would then loop for ever."""
    count = 40_000
    step, rest = divmod(2**64 + 64, count * (count + 1))
    runs = [0, *(place * step for place in range(count + 1) for _ in range(2))]
    runs[-1] += rest
    assert sum(runs) % 2**64 == 8 * 8
    with pytest.raises(ValueError, match=r"mask 0 is damaged: .* its runs cover 64 pixels, but some are .* longer"):
        masks.check([{"size": [8, 8], "counts": packed(runs)}], (8, 8))


@pytest.mark.parametrize("size", [8, "88", None, [[8], 8], [8, 8, 8]])
def test_sizes_that_are_none(size: object) -> None:
    with pytest.raises(ValueError, match="mask 0 has the size"):
        masks.check([{"size": size, "counts": "0"}], (8, 8))


# Results


IMAGE = {"id": 1, "file_name": "a.png", "height": 8, "width": 8}
CATEGORY = {"id": 1, "name": "a|b[/red]<b>$x^2"}
POLYGON = [[0, 0, 4, 0, 4, 4]]
ANNOTATION = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": POLYGON, "area": 8, "iscrowd": 0}


def evaluate(folder: Path, result: dict, image: dict | None = None, category: dict | None = None) -> str:
    truth = {
        "images": [IMAGE | (image or {})],
        "categories": [CATEGORY | (category or {})],
        "annotations": [ANNOTATION],
    }
    files = folder / "truth.json", folder / "found.json"
    found = [{"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": POLYGON} | result]
    for path, content in zip(files, (truth, found), strict=True):
        path.write_text(json.dumps(content))
    text = io.StringIO()
    assert judge.run("coco", Task(*files), 0, 0.95, folder / "out", Console(file=text, width=200)) == 0
    return text.getvalue()


def zigzag(sides: int, width: int) -> list[float]:
    return [value for side in range(sides) for value in ((side % 2) * width, side)]


@pytest.mark.parametrize(
    ("result", "image", "text"),
    [
        ({}, {"height": 10**6, "width": 10**6}, "those of an image"),
        ({}, {"height": 1, "width": 2**31 - 1}, "those of an image"),
        ({"segmentation": [zigzag(2000, 3000)]}, {"height": 3000, "width": 3000}, "the outline of its polygons"),
        ({"segmentation": [*POLYGON, [0, 0, math.nan, 0, 4, 4]]}, {}, "a coordinate is no number"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": "0"}}, {}, "its mask has the size"),
        ({"segmentation": {"size": 8, "counts": "0"}}, {}, "its mask has the size 8"),
        ({"segmentation": {"size": [8, 8], "counts": [10**4000]}}, {}, "its runs cover"),
        ({"segmentation": {"size": [8, 8], "counts": packed([65])}}, {}, "its runs cover 65"),
        ({"image_id": "\x1b[2J" * 9999}, {}, "unknown image_id"),
        ({"image_id": [[[[[[[[[[]]]]]]]]]]}, {}, "unknown image_id"),
        ({"category_id": 10**3000}, {}, "unknown category_id"),
        ({"score": float("1e400")}, {}, "score is inf"),
        ({"score": "1"}, {}, "score is '1'"),
    ],
)
def test_results_that_would_crash_or_flood(tmp_path: Path, result: dict, image: dict, text: str) -> None:
    said = message(lambda: evaluate(tmp_path, result, image))
    assert text in said
    assert said.isprintable()
    assert len(said) < 500


def test_a_name_is_printed_and_a_control_character_refused(tmp_path: Path) -> None:
    assert CATEGORY["name"] in evaluate(tmp_path, {})
    assert "cannot be printed" in message(lambda: evaluate(tmp_path, {}, category={"name": "a\x1b[2J"}))
    assert "no text" in message(lambda: evaluate(tmp_path, {}, category={"name": [["\x1b"]]}))


def test_sizes_of_results_may_be_written_otherwise(tmp_path: Path) -> None:
    evaluate(tmp_path, {"segmentation": {"size": [8.0, 8], "counts": packed([60, 4])}})


def test_a_packed_file_of_predictions_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "predictions.jsonl.gz"
    line = json.dumps({"image_id": 1, "size": [8, 8], "results": []}) + "\n"
    with gzip.open(path, "wt") as file:
        file.write(line * 50)
    assert coco_files.read_lines(path, False, [1]) == []
    for name in ("_LINE", "_CHARACTERS"):
        with monkeypatch.context() as patch:
            patch.setattr(coco_files, name, 20)
            assert "it expands to more than" in message(lambda: coco_files.read_lines(path, False, [1]))


def test_another_results_json_nested_without_end_is_another_task(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "coco.json").write_text("[" * 100_000)
    assert "of another task" in message(lambda: evaluate(tmp_path, {}))


def city(folder: Path) -> tuple[Path, Path]:
    truth, results = folder / "truth", folder / "results"
    truth.mkdir()
    results.mkdir()
    Image.fromarray(np.full((4, 6), 26001, np.uint16)).save(truth / "a_1_2_gtFine_instanceIds.png")
    (results / "a_1_2.txt").write_text("m.png 26 0.5\n")
    return truth, results


def test_a_mask_in_postscript_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    truth, results = city(tmp_path)
    (results / "m.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\nshowpage\n")
    pairs = cityscapes_files.open_pairs(truth, results)
    assert "cannot be decoded (UnidentifiedImageError" in message(lambda: list(pairs))


def test_pipes_are_no_results_files(tmp_path: Path) -> None:
    truth, results = city(tmp_path)
    (results / "a_1_2.txt").unlink()
    os.mkfifo(results / "a_1_2.txt")
    assert "holds no results file" in message(lambda: cityscapes_files.open_pairs(truth, results))


def test_masks_outside_of_the_results(tmp_path: Path) -> None:
    truth, results = city(tmp_path)
    for path in ("../truth/x.png", "/etc/passwd", "a/../../truth/x.png", "../\x1b[2J/x.png"):
        (results / "a_1_2.txt").write_text(f"{path} 26 0.5\n")
        text = message(lambda: cityscapes_files.open_pairs(truth, results))
        assert "leads out of" in text
        assert text.isprintable()


# Matches for `compare`


def matches(path: Path, **changes: object) -> Path:
    about = {"kind": "semantic", "version": judged.KINDS["semantic"].version, "variant": "v", "instances": 0}
    about |= {"options": {"categories": ["a"]}, "image_ids": ["1"], **changes}
    names = ("correct", "truth", "predicted")
    arrays = {name: np.ones(1) for name in names} | {f"{name}.lengths": np.array([1]) for name in names}
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)
    return path


@pytest.mark.parametrize(
    "changes",
    [{"image_ids": 5}, {"image_ids": ["1", "2"]}, {"variant": ["x"]}, {"instances": "x"}, {"version": {"a": 1}},
     {"options": []}, {"kind": "x"}],
    ids=str,
)  # fmt: skip
def test_matches_that_nobody_saved(tmp_path: Path, changes: dict[str, object]) -> None:
    assert judged.load(matches(tmp_path / "whole.npz")).instances == 0
    assert "holds no matches" in message(lambda: judged.load(matches(tmp_path / "a.npz", **changes)))


def test_matches_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = matches(tmp_path / "a.npz")
    monkeypatch.setattr(judged, "_LARGEST", 500)
    assert "holds no matches of this program (ValueError)" in message(lambda: judged.load(path))


def test_pickled_matches_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, about=np.array([{"a": 1}], dtype=object))
    assert "holds no matches" in message(lambda: judged.load(path))


def test_compare_prints_a_variant_as_text(tmp_path: Path) -> None:
    path, text = matches(tmp_path / "a.npz", variant="v\x1b[2J[/red]"), io.StringIO()
    assert judge.compare(path, path, 5, 0.9, Console(file=text, width=200)) == 0
    assert r"v\x1b[2J[/red]" in text.getvalue()
    assert "\x1b" not in text.getvalue()


# Archives


ARCHIVE = Archive("T", "a.bin", "data", ("data",), (Count("files", "*.txt", 1),), 1.1, "terms", "origin")


def unpacked(path: Path) -> str:
    return message(lambda: unpack(path, ARCHIVE, path.parent, Console(file=io.StringIO())), DownloadError)


def zipped(path: Path, content: bytes, kind: int) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("data/x.txt", content)
    return path


def test_archives_are_no_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_SMALL", 10_000)
    assert "far more than the known data" in unpacked(zipped(tmp_path / "a.zip", b"\0" * 10_001, zipfile.ZIP_DEFLATED))
    tar = tmp_path / "a.tgz"
    with tarfile.open(tar, "w:gz") as file:
        member = tarfile.TarInfo("data/x.txt")
        member.size = 10_001
        file.addfile(member, io.BytesIO(b"\0" * member.size))
    assert "far more than the known data" in unpacked(tar)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tgz", "a.zip"]
    unpack(
        zipped(tmp_path / "b.zip", b"\0" * 9_000, zipfile.ZIP_DEFLATED), ARCHIVE, tmp_path, Console(file=io.StringIO())
    )
    assert (tmp_path / "data" / "x.txt").stat().st_size == 9_000


def test_damaged_lzma_and_names_that_no_file_can_have(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", b"abc" * 1000, zipfile.ZIP_LZMA)
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises((lzma.LZMAError, zipfile.BadZipFile)), zipfile.ZipFile(path) as file:
        file.testzip()
    assert "cannot be unpacked" in unpacked(path)
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as file:
        member = tarfile.TarInfo("data/x.txt")
        member.pax_headers = {"path": "data/a\0b.txt"}
        file.addfile(member)
    assert "cannot be unpacked" in unpacked(tar)


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-1", "0x10"])
def test_lengths_that_are_none(length: str) -> None:
    headers = {"Content-Length": length, "Content-Range": f"bytes {length}-2/{length}"}
    response = SimpleNamespace(headers=headers)
    assert download._total(response, 0) is None
    with pytest.raises(HTTPException, match="another part of the file"):
        download._total(response, 1)


# Reported values


@pytest.mark.parametrize(
    ("content", "text"),
    [(b"paper,value\nx,1\n", "lacks the columns table"), (b"\xff\xfe", "cannot be read"),
     (b'paper\n"' + b"x" * 200_000 + b'"\n', "cannot be read"), (b"", "lacks the columns")],
    ids=["columns", "encoding", "field", "empty"],
)  # fmt: skip
def test_reported_files_that_are_none(
    tmp_path: Path, content: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    monkeypatch.setattr(reported, "REPORTED", tmp_path)
    reported._read.cache_clear()
    try:
        assert text in message(lambda: reported._read("mine"))
        assert "unknown file" in message(lambda: reported._read("../../etc/passwd"))
    finally:
        reported._read.cache_clear()
