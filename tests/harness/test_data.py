"""`data verify` and `data download`, with mini archives and a server in this process; nothing needs a network."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from voc_layout import picture, write_mini_voc, write_sbd

from datasets import archives
from datasets.archives import Archive, Count
from harness import data, download
from harness.names import UsageError
from harness.plan import Request
from harness.suite import Data, Preset, Suite, load_suite

NAME = "VOC.tar"


class Server:
    """Serves ``files`` by path; ``mode`` says how badly. ``requests`` are (path, Range) as they came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.mode = "ranges"
        self.busy = 0  # answers of 503 before the first good one
        self.requests: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range", "")
        self.requests.append((handler.path[1:], wanted))
        content = self.files.get(handler.path[1:])
        if self.busy:
            self.busy -= 1
            return handler.send_error(503)
        if content is None:
            return handler.send_error(404)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.mode != "whole" else 0
        handler.send_response(206 if start else 200)
        if start:
            shown = 0 if self.mode == "wrong range" else start
            handler.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: len(content) // 3 if self.mode == "cut" else None])
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)


@pytest.fixture(scope="module")
def voc_tar(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An archive like VOC's, with five images."""
    return tar_of(write_mini_voc(tmp_path_factory.mktemp("mini")))


@pytest.fixture
def voc(server: Server, voc_tar: bytes, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The mini archive in the place of VOC's, on the server."""
    server.files[NAME] = voc_tar
    monkeypatch.setitem(archives._SAMPLES, "voc", {"train": 3, "val": 2, "train_aug": 5})
    return replaced(monkeypatch, "VOC", server, voc_tar, NAME, (5, 5, 5, 3, 2, 5))


def replaced(
    monkeypatch: pytest.MonkeyPatch, key: str, server: Server, content: bytes, name: str, numbers: tuple[int, ...]
) -> Archive:
    """The archive of the table with mini ``content`` and ``numbers`` takes its place."""
    old: Archive = getattr(archives, key)
    counts = tuple(dataclasses.replace(count, number=n) for count, n in zip(old.counts, numbers, strict=True))
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    mini = dataclasses.replace(
        old, name=name, urls=(server.url(name),), size=len(content), checksum=checksum, counts=counts
    )
    monkeypatch.setattr(archives, key, mini)
    return mini


def tar_of(folder: Path, *more: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)
        for member in more:
            tar.addfile(member)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def request(root: Path | None, preset: str | None = "quick", **overrides: object) -> Request:
    return Request(data_root=root, preset=preset, overrides={f"data.{k}": v for k, v in overrides.items()})


def get(root: Path | None, suite: str = "voc", keep: bool = False, preset: str | None = "quick") -> tuple[int, str]:
    """Exit status and text of `data download`."""
    text = io.StringIO()
    return data.download(suite, request(root, preset), keep, Console(file=text, width=300)), text.getvalue()


def look(
    root: Path | None, suite: str = "voc", quick: bool = False, preset: str | None = "quick", **overrides: object
) -> tuple[int, str]:
    """Exit status and text of `data verify`; its results folder lies beside the data."""
    text = io.StringIO()
    output = root.parent / "output" if root else Path("unused")
    status = data.verify(suite, request(root, preset, **overrides), output, quick, Console(file=text, width=300))
    return status, text.getvalue()


def line(text: str, what: str) -> list[str]:
    """The cells of the report's line on ``what``."""
    table = (row for row in text.splitlines() if "  " in row)
    found = [re.split(r"\s{2,}", row.strip()) for row in table if re.search(rf"\s{re.escape(what)}\s", row)]
    assert len(found) == 1, text
    return found[0]


# Downloading


def test_download_fetches_checks_unpacks_and_removes_the_archive(voc: Archive, tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    status, text = get(root)
    assert (status, [path.name for path in root.iterdir()]) == (0, ["VOCdevkit"]), text
    assert "flickr" in text
    status, text = look(root)
    assert status == 0, text
    assert line(text, "images") == ["VOC 2012", "images", "5", "5", "ok"]
    assert line(text, "samples of train") == ["voc", "samples of train", "3", "3", "ok"]


def test_what_is_there_and_whole_is_not_fetched_again(voc: Archive, server: Server, tmp_path: Path) -> None:
    get(tmp_path)
    server.requests.clear()
    status, text = get(tmp_path)
    assert (status, server.requests) == (0, [])
    assert f"{NAME} is there, whole" in text


def test_keep_keeps_the_archive_and_verify_checks_it(voc: Archive, tmp_path: Path, voc_tar: bytes) -> None:
    assert get(tmp_path, keep=True)[0] == 0
    assert (tmp_path / NAME).read_bytes() == voc_tar
    assert line(look(tmp_path)[1], NAME)[-1] == "ok"
    (tmp_path / NAME).write_bytes(bytes([voc_tar[0] ^ 1]) + voc_tar[1:])
    status, text = look(tmp_path)
    assert (status, line(text, NAME)[-1]) == (1, "broken")
    assert f"instead of {voc.checksum.split(':')[1]}" in text
    assert line(look(tmp_path, quick=True)[1], NAME)[-1] == "not checked"


def test_a_download_goes_on_where_it_stopped(voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(voc_tar[:1000])
    status, text = look(tmp_path)
    assert (status, line(text, f"{NAME}.part")[-1]) == (1, "unfinished")
    assert get(tmp_path)[0] == 0
    assert server.requests == [(NAME, "bytes=1000-")]


def test_a_finished_part_is_checked_and_not_fetched(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(voc_tar)
    assert get(tmp_path)[0] == 0
    assert server.requests == []


def test_a_part_longer_than_the_file_is_begun_anew(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(voc_tar + b"x")
    assert get(tmp_path)[0] == 0
    assert server.requests == [(NAME, "")]


def test_a_broken_connection_is_taken_up_again(voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes) -> None:
    server.mode = "cut"
    assert get(tmp_path)[0] == 0
    third = len(voc_tar) // 3
    starts = ["", f"bytes={third}-", f"bytes={2 * third}-"]
    assert [wanted for _, wanted in server.requests][:3] == starts


def test_a_server_without_ranges_sends_everything_again(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    server.mode = "whole"
    (tmp_path / f"{NAME}.part").write_bytes(b"?" * 1000)  # would spoil the file if it were kept
    assert get(tmp_path)[0] == 0
    assert server.requests == [(NAME, "bytes=1000-")]


def test_another_range_than_asked_for_is_not_appended(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    server.mode = "wrong range"
    (tmp_path / f"{NAME}.part").write_bytes(voc_tar[:1000])
    status, text = get(tmp_path)
    assert status == 1
    assert "another part of the file" in text
    assert (tmp_path / f"{NAME}.part").read_bytes() == voc_tar[:1000]


def test_a_busy_server_is_asked_again_but_not_for_ever(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    server.busy = download.TRIES - 1
    assert get(tmp_path / "first")[0] == 0
    server.busy = 1000
    server.requests.clear()
    status, text = get(tmp_path / "second")
    assert (status, len(server.requests)) == (1, download.TRIES)
    assert "503" in text


def test_the_second_address_is_tried_when_the_first_has_nothing(
    voc: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = dataclasses.replace(voc, urls=(server.url("gone.tar"), *voc.urls))
    monkeypatch.setattr(archives, "VOC", both)
    assert get(tmp_path)[0] == 0
    assert [path for path, _ in server.requests] == ["gone.tar", NAME]


def test_an_address_that_is_gone_is_one_message(voc: Archive, server: Server, tmp_path: Path) -> None:
    server.files.clear()
    status, text = get(tmp_path)
    assert (status, len(server.requests)) == (1, 1)
    assert f"{server.url(NAME)}: the server answers 404" in text


def test_a_server_that_is_not_there_is_one_message(
    voc: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "VOC", dataclasses.replace(voc, urls=("http://127.0.0.1:1/x.tar",)))
    status, text = get(tmp_path)
    assert status == 1
    assert "http://127.0.0.1:1/x.tar: " in text
    assert "Run the command again later" in text


def test_a_wrong_checksum_deletes_what_came(voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes) -> None:
    server.files[NAME] = voc_tar[:-1] + bytes([voc_tar[-1] ^ 1])
    status, text = get(tmp_path)
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert f"another checksum than {voc.checksum}" in text


def test_a_file_of_another_size_is_not_even_begun(voc: Archive, server: Server, tmp_path: Path) -> None:
    server.files[NAME] = b"<html>moved</html>"
    status, text = get(tmp_path)
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert f"offers 18 bytes, but the known file has {voc.size:,}" in text


def test_an_interruption_keeps_the_part(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def pressed(*_: object) -> Iterator[object]:
        def advance(done: int) -> None:
            raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch:
        patch.setattr(download, "_CHUNK", 1000)
        patch.setattr(download, "bar", pressed)
        status, text = get(tmp_path)
    assert (status, [path.name for path in tmp_path.iterdir()]) == (1, [f"{NAME}.part"])
    assert "the same command goes on" in text
    assert (tmp_path / f"{NAME}.part").read_bytes() == voc_tar[:1000]
    assert get(tmp_path)[0] == 0
    assert server.requests[-1] == (NAME, "bytes=1000-")


def test_an_interruption_of_the_check_keeps_the_part(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pooch.core.hash_matches", interrupted)
        assert get(tmp_path)[0] == 1
    assert (tmp_path / f"{NAME}.part").read_bytes() == voc_tar
    assert get(tmp_path)[0] == 0
    assert len(server.requests) == 1


def test_too_little_room_is_said_before_anything_is_fetched(
    voc: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    status, text = get(tmp_path)
    assert (status, server.requests) == (1, [])
    assert "not enough room" in text


def test_room_is_counted_for_one_archive_after_the_other(voc: Archive, tmp_path: Path) -> None:
    first = dataclasses.replace(voc, name="a", size=100, growth=2.0)
    second = dataclasses.replace(voc, name="b", size=10, growth=3.0)
    assert download.needed([first, second], tmp_path, keep=False) == 300  # archive and content of the first
    assert download.needed([second, first], tmp_path, keep=False) == 30 + 300
    assert download.needed([second, first], tmp_path, keep=True) == 40 + 300
    (tmp_path / "a.part").write_bytes(b"x" * 60)
    assert download.needed([first], tmp_path, keep=False) == 40 + 200
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert download.needed([first], tmp_path, keep=False) == 200


def test_a_folder_that_cannot_be_made_is_one_message(voc: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, text = get(tmp_path / "file" / "data")
    assert status == 1
    assert "cannot be made" in text


def test_data_that_are_not_whole_are_not_written_over(voc: Archive, server: Server, tmp_path: Path) -> None:
    get(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "t1.jpg").unlink()
    server.requests.clear()
    status, text = get(tmp_path)
    assert (status, server.requests) == (1, [])
    assert "4 of 5 images" in text
    assert "move it away" in text


def test_another_folder_of_that_name_is_not_written_over(voc: Archive, server: Server, tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2012" / "mine").mkdir(parents=True)
    status, text = get(tmp_path)
    assert (status, server.requests) == (1, [])
    assert "in the way" in text


def test_an_archive_put_there_by_hand_is_used_and_kept(
    voc: Archive, server: Server, tmp_path: Path, voc_tar: bytes
) -> None:
    (tmp_path / NAME).write_bytes(voc_tar)
    status, text = get(tmp_path)
    assert (status, server.requests, (tmp_path / NAME).exists()) == (0, [], True)
    assert "not needed any more" in text


def test_a_wrong_archive_put_there_by_hand_is_refused(voc: Archive, tmp_path: Path, voc_tar: bytes) -> None:
    (tmp_path / NAME).write_bytes(voc_tar[:100])
    status, text = get(tmp_path)
    assert status == 1
    assert f"100 bytes instead of {voc.size:,}" in text
    assert not (tmp_path / "VOCdevkit").exists()


# Unpacking


def test_an_interrupted_unpacking_is_repeated(voc: Archive, tmp_path: Path) -> None:
    rest = tmp_path / f".unpacking-{NAME}" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    rest.mkdir(parents=True)
    (rest / "sixth.jpg").write_text("half")
    assert get(tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["VOCdevkit"]
    assert not (tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "sixth.jpg").exists()


def test_an_archive_without_all_its_files_does_not_take_its_place(
    voc: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = (Count("images", "JPEGImages/*.jpg", 6), *voc.counts[1:])
    monkeypatch.setattr(archives, "VOC", dataclasses.replace(voc, counts=counts))
    status, text = get(tmp_path)
    assert status == 1
    assert "5 of 6 images" in text
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/outside.txt"])
def test_a_tar_that_leads_out_of_its_folder_is_refused(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mini_voc(tmp_path / "mini")
    content = tar_of(tmp_path / "mini", tarfile.TarInfo(name))
    server.files[NAME] = content
    replaced(monkeypatch, "VOC", server, content, NAME, (5, 5, 5, 3, 2, 5))
    root = tmp_path / "root"
    status, text = get(root)
    assert status == 1
    assert "would lie outside" in text
    assert [path.name for path in root.iterdir()] == [NAME]
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "C:/outside.txt", "..\\outside.txt"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(name: str, voc: Archive, tmp_path: Path) -> None:
    path = tmp_path / "root" / "evil.zip"
    path.parent.mkdir()
    path.write_bytes(zip_of({name: b"x"}))
    with pytest.raises(download.DownloadError, match="would lie outside"):
        download.unpack(path, voc, path.parent, Console(file=io.StringIO()))
    assert [one.name for one in tmp_path.rglob("*")] == ["root", "evil.zip"]


def test_links_in_a_tar_are_left_out(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mini_voc(tmp_path / "mini")
    link = tarfile.TarInfo("VOCdevkit/VOC2012/passwords")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    content = tar_of(tmp_path / "mini", link)
    server.files[NAME] = content
    replaced(monkeypatch, "VOC", server, content, NAME, (5, 5, 5, 3, 2, 5))
    assert get(tmp_path / "root")[0] == 0
    assert not (tmp_path / "root" / "VOCdevkit" / "VOC2012" / "passwords").is_symlink()


@pytest.mark.parametrize("content", [b"neither tar nor zip", b"PK\x05\x06 cut off", b"\x1f\x8b cut off"])
def test_a_broken_archive_is_one_message(
    content: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[NAME] = content
    replaced(monkeypatch, "VOC", server, content, NAME, (5, 5, 5, 3, 2, 5))
    status, text = get(tmp_path)
    assert status == 1
    assert "cannot be unpacked" in text
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


# The other data sets


def test_without_a_preset_everything_that_a_preset_needs_is_fetched(
    voc: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sbd(tmp_path / "sbd" / "benchmark_RELEASE" / "dataset", {"s1": picture()}, {"s2": picture()})
    content = tar_of(tmp_path / "sbd")
    server.files["sbd.tgz"] = content
    replaced(monkeypatch, "SBD", server, content, "sbd.tgz", (2, 2, 2, 1, 1))
    assert get(tmp_path / "root", preset="quick")[0] == 0
    assert [name for name, _ in server.requests] == [NAME]
    status, text = look(tmp_path / "root", preset=None)
    assert (status, "(only for --preset paper" in text) == (1, True)
    assert get(tmp_path / "root", preset=None)[0] == 0
    assert [name for name, _ in server.requests] == [NAME, "sbd.tgz"]
    status, text = look(tmp_path / "root", preset="paper")
    assert (status, line(text, "samples of train_aug")[-1]) == (0, "ok"), text


def suite_of(monkeypatch: pytest.MonkeyPatch, dataset: str, **options: object) -> None:
    preset = Preset(description="", data={"only": Data(dataset=dataset, options=options)})
    made = Suite(name="made", title="", default_preset="quick", rows={}, presets={"quick": preset}, tables={})
    monkeypatch.setattr(data, "load_suite", lambda name: made)


def test_cityscapes_is_explained_and_its_archives_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite_of(monkeypatch, "cityscapes")
    minis = tuple(
        dataclasses.replace(one, counts=tuple(dataclasses.replace(count, number=1) for count in one.counts))
        for one in archives.CITYSCAPES
    )
    monkeypatch.setattr(archives, "CITYSCAPES", minis)
    status, text = get(tmp_path, "made")
    assert status == 1
    assert f"csDownload -d {tmp_path} gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip" in text
    for name, file in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
        files = {f"{name}/{split}/bonn/bonn_000000_{file}.png": b"x" for split in ("train", "val")}
        (tmp_path / f"{name}_trainvaltest.zip").write_bytes(zip_of({"README": b"", **files}))
    status, text = look(tmp_path, "made", quick=True)
    assert line(text, "gtFine_trainvaltest.zip")[2] == "no published checksum"
    assert "gtFine_trainvaltest.zip is not unpacked." in text
    status, text = get(tmp_path, "made")
    assert status == 0, text
    assert (tmp_path / "gtFine" / "val" / "bonn" / "bonn_000000_gtFine_instanceIds.png").is_file()


def test_coco_is_fetched_from_three_archives(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite_of(monkeypatch, "coco")
    objects = json.dumps({"annotations": [{"iscrowd": 0}, {"iscrowd": 1}]}).encode()
    annotations = zip_of({f"annotations/instances_{split}2017.json": objects for split in ("train", "val")})
    server.files["annotations.zip"] = annotations
    replaced(monkeypatch, "COCO_ANNOTATIONS", server, annotations, "annotations.zip", (2, 2))
    for split in ("train", "val"):
        content = zip_of({f"{split}2017/1.jpg": b"x"})
        server.files[f"{split}.zip"] = content
        mini = dataclasses.replace(
            archives.COCO[split],
            name=f"{split}.zip",
            urls=(server.url(f"{split}.zip"),),
            size=len(content),
            checksum=f"md5:{hashlib.md5(content).hexdigest()}",
            counts=(Count(f"images of {split}", "*.jpg", 1),),
        )
        monkeypatch.setitem(archives.COCO, split, mini)
    status, text = get(tmp_path, "made")
    assert status == 0, text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "train2017", "val2017"]
    assert line(look(tmp_path, "made", quick=True)[1], "objects of train")[-1] == "ok"


def test_generated_data_need_nothing() -> None:
    assert get(None, "shapes") == (0, "suite shapes needs no files\n")
    status, text = look(None, "shapes")
    assert (status, line(text, "samples of train")[-1]) == (0, "needs no files")


def test_data_of_ones_own_are_not_downloaded_but_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite_of(monkeypatch, "coco", train_annotations="mine/train.json", val_annotations="mine/val.json")
    status, text = get(tmp_path, "made")
    assert status == 1
    assert "Nothing to download for data of your own" in text
    assert "train.json" in text
    status, text = look(tmp_path, "made")
    assert (status, line(text, "samples of train")[-1]) == (1, "missing")


# Verifying


def test_a_sample_of_the_official_data_is_partial(tmp_path: Path) -> None:
    write_mini_voc(tmp_path)
    status, text = look(tmp_path)
    assert status == 1
    assert line(text, "images") == ["VOC 2012", "images", "17,125", "5", "partial"]
    assert line(text, "samples of val") == ["voc", "samples of val", "1,449", "2", "partial"]
    assert text.count("suites run on it, but nothing measured there is comparable with papers") == 1


def test_missing_data_say_how_to_get_them(tmp_path: Path) -> None:
    status, text = look(tmp_path)
    assert (status, line(text, "images")[-1]) == (1, "missing")
    assert f"`python run_all.py data download --suite voc --data-root {tmp_path}` gets it" in text


def test_a_missing_file_is_named(voc: Archive, tmp_path: Path) -> None:
    get(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "t2.png").unlink()
    status, text = look(tmp_path)
    assert (status, line(text, "class maps")[3:]) == (1, ["4", "partial"])
    assert "SegmentationClass/t2.png" in text


def test_a_broken_file_is_named_unless_quick(voc: Archive, tmp_path: Path) -> None:
    get(tmp_path)
    broken = tmp_path / "VOCdevkit" / "VOC2012" / "JPEGImages" / "t2.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    status, text = look(tmp_path)
    assert (status, line(text, "samples of train")[3:]) == (1, ["3, 1 broken", "broken"])
    assert str(broken) in text
    status, text = look(tmp_path, quick=True)
    assert (status, line(text, "samples of train")[-1]) == (0, "not checked")


def test_what_was_decoded_once_is_not_decoded_again(
    voc: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    get(root)
    assert look(root)[0] == 0

    def decode(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("datasets.voc.Voc.verify", decode)
    assert look(root)[0] == 0
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "t1.jpg").write_bytes(b"changed")
    with pytest.raises(AssertionError, match="decoded again"):
        look(root)


def test_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data-root DIR is missing"):
        look(None)
    with pytest.raises(UsageError, match="not a folder"):
        look(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="unknown suite 'vok'"):
        look(tmp_path, "vok")
    with pytest.raises(UsageError, match="unknown preset of suite voc 'quik'"):
        look(tmp_path, preset="quik")
    with pytest.raises(UsageError, match=r"unknown key in data 'train_spilt'"):
        look(tmp_path, train_spilt="train")
    with pytest.raises(UsageError, match=r"unknown key in --set 'train.steps'"):
        data.data_sets(load_suite("voc"), Request(overrides={"train.steps": 1}))


def test_options_choose_the_data(tmp_path: Path) -> None:
    write_mini_voc(tmp_path)
    _, text = look(tmp_path, train_split="trainval")
    assert line(text, "samples of trainval")[:4] == ["voc", "samples of trainval", "2,913", "5"]
    sets = data.data_sets(load_suite("voc"), request(None, None, train_split="train_aug"))
    assert {one.archives for one in sets} == {(archives.VOC, archives.SBD)}
