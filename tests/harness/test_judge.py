"""`run_all.py evaluate` and `compare`: what is printed and written, and that bad input leaves nothing behind."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from evaluation import coco_engine, masks
from harness import judge
from harness.judged import KINDS, load
from harness.names import UsageError
from harness.protocols import Task

ROOT = Path(__file__).resolve().parent.parent.parent

# Two images of 8 x 10 with two squares each: one of class 1 (16 pixels), one of class 2 (12 pixels).
OBJECTS = np.zeros((8, 10), np.uint8)
OBJECTS[1:5, 1:5] = 1
OBJECTS[4:8, 6:9] = 2
MISSED = np.where(OBJECTS == 2, 0, OBJECTS).astype(np.uint8)


@dataclass(frozen=True)
class Asked:
    """The command line's values."""

    protocol: str
    task: Task
    output: Path
    resamples: int = 50
    confidence: float = 0.95


def task(protocol: str, truth: Path, predictions: Path, output: Path, resamples: int = 50, **options: object) -> Asked:
    return Asked(protocol, Task(truth, predictions, **options), output, resamples)


def run(given: Asked) -> tuple[str, dict, list[dict[str, str]]]:
    """The printed text, the JSON and the CSV's lines."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    assert judge.run(given.protocol, given.task, given.resamples, given.confidence, given.output, console) == 0
    content = json.loads((given.output / f"{given.protocol}.json").read_text())
    lines = list(csv.DictReader((given.output / f"{given.protocol}.csv").read_text().splitlines()))
    return text.getvalue(), content, lines


def coco_truth(folder: Path) -> Path:
    regions = masks.encode_ids(OBJECTS, 2)
    content = {
        "images": [{"id": number, "height": 8, "width": 10} for number in (1, 2)],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
        "annotations": [
            {"id": 2 * image + label, "image_id": image, "category_id": label, "segmentation": region}
            for image in (1, 2)
            for label, region in enumerate(regions, 1)
        ],
    }
    return write_json(folder / "truth.json", content)


def coco_results(folder: Path, name: str, images: Sequence[int]) -> Path:
    """Both squares found exactly on ``images``, nothing elsewhere."""
    regions = masks.encode_ids(OBJECTS, 2)
    content = [
        {"image_id": image, "category_id": label, "segmentation": region, "score": 0.9}
        for image in images
        for label, region in enumerate(regions, 1)
    ]
    return write_json(folder / name, content)


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_voc(folder: Path, *maps: np.ndarray) -> Path:
    for number, values in enumerate(maps, 1):
        for part in ("SegmentationClass", "SegmentationObject"):  # object 1 is of class 1, object 2 of class 2
            (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / part / f"2007_00000{number}.png")
    return folder


def test_coco(tmp_path: Path) -> None:
    found = coco_results(tmp_path, "found.json", [1])
    text, content, lines = run(task("coco", coco_truth(tmp_path), found, tmp_path / "out"))
    # Half of the truths of each class are found, without a false one: precision 1 up to recall 0.5, 51 of 101 levels.
    assert content["verdicts"]["coco"]["metrics"]["coco_ap"]["value"] == pytest.approx(51 / 101)
    assert content["verdicts"]["coco"]["metrics"]["coco_ar_100"]["value"] == 0.5
    assert "2 images, 4 instances" in text
    assert "│ coco_ap/bee" in text
    assert content["truth"] == str((tmp_path / "truth.json").resolve())
    (line,) = (line for line in lines if line["number"] == "coco_ap")
    assert float(line["value"]) == content["verdicts"]["coco"]["metrics"]["coco_ap"]["value"]
    assert float(line["low"]) <= float(line["value"]) <= float(line["high"])
    (line,) = (line for line in lines if line["number"] == "coco_ap_large")  # no truth is large
    assert (line["value"], line["low"]) == ("", "")


def test_verify_asks_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = task("coco", coco_truth(tmp_path), coco_results(tmp_path, "found.json", [1]), tmp_path / "out", verify=True)
    assert re.search(r"verified: hotcoco gives the same \d\d numbers", run(given)[0])
    other = dict(coco_engine.evaluate([], [], ["ant", "bee"], agnostic=True), coco_ap=0.25)
    monkeypatch.setattr(coco_engine, "evaluate", lambda *_, **__: other)
    with pytest.raises(
        UsageError, match=r"hotcoco gives other numbers than this program: coco_ap 0\.50.* against 0\.25"
    ):
        run(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": True}, "--verify belongs to coco, not to semantic"),
        ({"variant": "area/mnc/count/nan"}, "--variant belongs to voc, not to semantic"),
        ({"max_distance": 0.1}, "--max-distance belongs to boundary, not to semantic"),
        ({"distances": Path("a.json")}, "--distances belongs to cityscapes, not to semantic"),
    ],
)
def test_options_belong_to_a_protocol(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(task("semantic", tmp_path, tmp_path, tmp_path / "out", **options))


def test_the_distance_is_a_share(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-distance 4\.3: it is a share of the diagonal"):
        run(task("boundary", tmp_path, tmp_path, tmp_path / "out", max_distance=4.3))


def test_what_another_task_wrote_is_kept(tmp_path: Path) -> None:
    truth, output = coco_truth(tmp_path), tmp_path / "out"
    one, other = coco_results(tmp_path, "one.json", [1]), tmp_path / "other.json"
    other.write_text(truth.read_text())
    run(task("coco", truth, one, output))
    run(task("coco", truth, coco_results(tmp_path, "one.json", [1, 2]), output))  # the same file, made anew
    before = (output / "coco.json").read_text()
    for again in (
        task("coco", truth, coco_results(tmp_path, "two.json", [1]), output),
        task("coco", other, one, output),
    ):
        with pytest.raises(UsageError, match=r"out/coco\.json is there, and of another task: give another folder"):
            run(again)
    assert (output / "coco.json").read_text() == before


def test_the_predictions_are_not_written_over(tmp_path: Path) -> None:
    found = coco_results(tmp_path, "coco.json", [1])
    before = found.read_text()
    with pytest.raises(UsageError, match=r"coco\.json is there, and of another task"):
        run(task("coco", coco_truth(tmp_path), found, tmp_path))
    assert found.read_text() == before


def test_an_output_that_cannot_be_is_told_before_judging(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--output .*file/sub: .*file is not a folder that can be written to"):
        run(task("coco", coco_truth(tmp_path), tmp_path / "truth.json", tmp_path / "file" / "sub"))


def test_one_image_has_no_interval(tmp_path: Path) -> None:
    truth, found = write_voc(tmp_path / "truth", OBJECTS), write_voc(tmp_path / "found", OBJECTS)
    _, content, _ = run(task("voc", truth, found, tmp_path / "out"))
    assert content["verdicts"]["voc"]["metrics"]["ap_r_50"] == {"value": 1.0, "low": None, "high": None}


def test_no_truth_at_all(tmp_path: Path) -> None:
    content = json.loads(coco_truth(tmp_path).read_text())
    truth = write_json(tmp_path / "truth.json", {**content, "annotations": []})
    found = coco_results(tmp_path, "found.json", [1])
    for protocol, name in (("coco", "coco_ap"), ("proposals", "recall_50@10")):
        text, written, _ = run(task(protocol, truth, found, tmp_path / protocol))
        assert written["verdicts"][protocol]["metrics"][name] == {"value": None, "low": None, "high": None}
        assert f"│ {name} " in text
        matches = tmp_path / protocol / f"{protocol}.npz"
        assert judge.compare(matches, matches, 10, 0.95, Console(file=io.StringIO())) == 0


def test_voc_from_label_maps_and_from_coco_results(tmp_path: Path) -> None:
    truth = write_voc(tmp_path / "truth", OBJECTS, OBJECTS)
    text, content, _ = run(task("voc", truth, write_voc(tmp_path / "found", OBJECTS, MISSED), tmp_path / "one"))
    metrics = content["verdicts"]["voc"]["metrics"]
    assert metrics["ap_r_50/aeroplane"]["value"] == 1.0
    assert metrics["ap_r_50/bicycle"]["value"] == 0.5
    assert metrics["ap_r_50/bird"]["value"] is None
    assert "ap_r_50 area/sds/strip/zero" in content["verdicts"]["voc"]["variants"]
    # The bicycle of the second image was missed: without that truth its AP is 1, the mean over both classes 1/4 more.
    assert content["verdicts"]["errors"]["metrics"]["lost_missed"]["value"] == 0.25
    assert content["verdicts"]["breakdowns"]["metrics"]["recall_50[area=small]"]["value"] == 0.75
    assert "lost_missed" in text
    regions = masks.encode_ids(OBJECTS, 2)
    results = [
        {"image_id": image_id, "category_id": label, "segmentation": regions[label - 1], "score": 1.0}
        for image_id, label in (("2007_000001", 1), ("2007_000001", 2), (2007000002, 1))
    ]
    _, other, _ = run(task("voc", truth, write_json(tmp_path / "found.json", results), tmp_path / "two"))
    assert other["verdicts"] == content["verdicts"]


def test_the_variant_of_voc(tmp_path: Path) -> None:
    truth, found = write_voc(tmp_path / "truth", OBJECTS), write_voc(tmp_path / "found", OBJECTS)
    given = task("voc", truth, found, tmp_path / "out", variant="11-point/sds/strip/zero")
    text, content, _ = run(given)
    assert "VOC AP^r: 11-point/sds/strip/zero" in text
    assert content["verdicts"]["voc"]["metrics"]["ap_r_50"]["value"] == pytest.approx(2 / 20)  # absent classes count 0
    with pytest.raises(UsageError, match=r"--variant 'area/mnc': write it as area/mnc/count/nan"):
        run(task("voc", truth, found, tmp_path / "other", variant="area/mnc"))
    with pytest.raises(UsageError, match=r"--variant 'area/mnc/drop/nan': .* void count or strip"):
        run(task("voc", truth, found, tmp_path / "other", variant="area/mnc/drop/nan"))


def test_cityscapes(tmp_path: Path) -> None:
    ids = np.full((40, 40), 7, np.uint16)  # road
    ids[:12, :12], ids[20:32, 20:32], ids[:12, 20:32] = 26001, 26002, 24001
    (tmp_path / "gtFine" / "val" / "town").mkdir(parents=True)
    Image.fromarray(ids).save(tmp_path / "gtFine" / "val" / "town" / "town_000000_000001_gtFine_instanceIds.png")
    (tmp_path / "found").mkdir()
    for number in (26001, 24001):
        Image.fromarray((ids == number).astype(np.uint8)).save(tmp_path / "found" / f"{number}.png")
    (tmp_path / "found" / "town_000000_000001.txt").write_text("26001.png 26 0.9\n24001.png 24 0.8\n")
    text, content, _ = run(task("cityscapes", tmp_path / "gtFine", tmp_path / "found", tmp_path / "out"))
    metrics = content["verdicts"]["cityscapes"]["metrics"]
    # One of two cars: from (recall 0, precision 1) to (1/2, 1), and no further.
    assert (metrics["cs_ap/car"]["value"], metrics["cs_ap/person"]["value"]) == (0.5, 1.0)
    assert metrics["cs_ap"]["value"] == 0.75
    assert metrics["cs_ap_50m"]["value"] is None
    assert "1 images, 3 instances" in text


def test_proposals_from_both_kinds_of_truth(tmp_path: Path) -> None:
    found = coco_results(tmp_path, "found.json", [1])
    _, content, _ = run(task("proposals", coco_truth(tmp_path), found, tmp_path / "one"))
    metrics = content["verdicts"]["proposals"]["metrics"]
    assert (metrics["recall_50@10"]["value"], metrics["recall_50@1"]["value"]) == (0.5, 0.25)
    assert metrics["proposals@10"]["value"] == 1.0
    assert content["curves"]["recall_over_iou@10"] == [0.5] * len(content["curves"]["iou"])
    assert "recall_50@60 max/strip/>=" in content["verdicts"]["proposals"]["variants"]
    truth = write_voc(tmp_path / "truth", OBJECTS, OBJECTS)
    maps = write_voc(tmp_path / "maps", OBJECTS, np.zeros_like(OBJECTS))
    _, other, _ = run(task("proposals", truth, maps, tmp_path / "two"))
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert {n: m["value"] for n, m in other["verdicts"]["proposals"]["metrics"].items()} == values


def test_semantic(tmp_path: Path) -> None:
    truth, found = write_voc(tmp_path / "truth", OBJECTS), write_voc(tmp_path / "found", MISSED)
    text, content, _ = run(task("semantic", truth, found, tmp_path / "out"))
    # Background 52 of 52 + 12 wrongly background; class 1 whole, class 2 missed.
    assert content["verdicts"]["semantic"]["metrics"]["miou"]["value"] == pytest.approx((52 / 64 + 1 + 0) / 3)
    assert "iou/aeroplane" in text
    plain = task("semantic", truth / "SegmentationClass", found / "SegmentationClass", tmp_path / "plain")
    _, numbered, _ = run(plain)
    assert set(numbered["verdicts"]["semantic"]["metrics"]) >= {"iou/0", "iou/1", "iou/2"}
    assert "iou/3" not in numbered["verdicts"]["semantic"]["metrics"]
    Image.fromarray(np.full((8, 10), 255, np.uint8)).save(found / "SegmentationClass" / "2007_000001.png")
    with pytest.raises(UsageError, match=r"SegmentationClass/2007_000001\.png: the prediction .*255"):
        run(dataclasses.replace(plain, output=tmp_path / "bad"))
    assert not (tmp_path / "bad").exists()


def test_boundary(tmp_path: Path) -> None:
    line = np.zeros((20, 30), np.uint8)
    line[10, 3:27] = 255
    for folder, values in (("truth", line), ("found", line // 2)):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / "a.png")
    given = task("boundary", tmp_path / "truth", tmp_path / "found", tmp_path / "out", max_distance=0.05)
    text, content, _ = run(given)
    assert content["verdicts"]["boundary"]["metrics"]["ods"]["value"] == 1.0
    assert "ods python" in content["verdicts"]["boundary"]["variants"]
    assert len(content["curves"]["precision"]) == 99
    assert "within 0.05 of the diagonal; 1 images" in text


def test_without_resamples_there_are_no_intervals(tmp_path: Path) -> None:
    found = coco_results(tmp_path, "found.json", [1, 2])
    _, content, lines = run(task("coco", coco_truth(tmp_path), found, tmp_path / "out", resamples=0))
    assert content["verdicts"]["coco"]["metrics"]["coco_ap"] == {"value": 1.0, "low": None, "high": None}
    assert all(line["low"] == "" for line in lines)


def test_stored_matches_give_the_numbers_again(tmp_path: Path) -> None:
    run(task("coco", coco_truth(tmp_path), coco_results(tmp_path, "found.json", [1]), tmp_path / "out"))
    truth, found = write_voc(tmp_path / "truth", OBJECTS, OBJECTS), write_voc(tmp_path / "found", OBJECTS, MISSED)
    for protocol in ("voc", "proposals", "semantic"):
        run(task(protocol, truth, found, tmp_path / "out"))
    stored = sorted((tmp_path / "out").glob("*.npz"))
    assert {path.stem for path in stored} == {"coco", "voc", "errors", "breakdowns", "proposals", "semantic"}
    for path in stored:
        again = load(path)
        protocol = "voc" if path.stem in ("errors", "breakdowns") else path.stem
        content = json.loads((tmp_path / "out" / f"{protocol}.json").read_text())
        verdict = again.verdict(resamples=50, confidence=0.95).model_dump(mode="json")
        assert verdict["metrics"] == content["verdicts"][path.stem]["metrics"]
        assert verdict["instances"] == content["verdicts"][path.stem]["instances"]


def test_compare_pairs_the_images(tmp_path: Path) -> None:
    truth = coco_truth(tmp_path)
    for name, images in (("both", [1, 2]), ("one", [1])):
        run(task("coco", truth, coco_results(tmp_path, f"{name}.json", images), tmp_path / name))
    files = tmp_path / "both" / "coco.npz", tmp_path / "one" / "coco.npz"

    def cells(confidence: float) -> list[str]:
        text = io.StringIO()
        assert judge.compare(*files, 200, confidence, Console(file=text, width=200)) == 0
        line = next(line for line in text.getvalue().splitlines() if "coco_ar_100 " in line)
        return [cell.strip() for cell in line.split("│")][2:7]

    # Drawn twice, image 2 is missed twice: the difference is 1; image 1 drawn twice: 0. Each in a quarter of the draws.
    assert cells(0.95) == ["1.0000", "0.5000", "+0.5000", "+0.0000 .. +1.0000", "no"]
    assert cells(0.2) == ["1.0000", "0.5000", "+0.5000", "+0.5000 .. +0.5000", "yes"]


def test_compare_refuses_what_does_not_pair(tmp_path: Path) -> None:
    truth, found = coco_truth(tmp_path), coco_results(tmp_path, "found.json", [1])
    for protocol in ("coco", "proposals"):
        run(task(protocol, truth, found, tmp_path / "out"))
    content = json.loads(truth.read_text())
    renamed = {**content, "images": [{**one, "id": 10 + one["id"]} for one in content["images"]], "annotations": []}
    run(
        task(
            "coco",
            write_json(tmp_path / "renamed.json", renamed),
            write_json(tmp_path / "none.json", []),
            tmp_path / "r",
        )
    )
    fewer = write_json(tmp_path / "fewer.json", {**content, "annotations": content["annotations"][:-1]})
    run(task("coco", fewer, found, tmp_path / "fewer"))
    coco = tmp_path / "out" / "coco.npz"

    def compare(other: Path) -> int:
        return judge.compare(coco, other, 10, 0.95, Console(file=io.StringIO()))

    for other, message in (
        (tmp_path / "out" / "proposals.npz", "are not of one metric"),
        (tmp_path / "r" / "coco.npz", "are not of the same images"),
        (tmp_path / "fewer" / "coco.npz", "were not judged by the same annotation"),
        (found, r"found\.json holds no matches of this program"),
        (tmp_path / "none.npz", r"none\.npz: no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(other)


def test_damaged_matches_are_refused(tmp_path: Path) -> None:
    run(task("coco", coco_truth(tmp_path), coco_results(tmp_path, "found.json", [1]), tmp_path / "out"))
    whole, rng = (tmp_path / "out" / "coco.npz").read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.npz"
    for _ in range(60):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        damaged.write_bytes(content)
        with contextlib.suppress(UsageError):  # some bits of a zip file mean nothing
            load(damaged)


def test_matches_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(task("coco", coco_truth(tmp_path), coco_results(tmp_path, "found.json", [1]), tmp_path / "out"))
    monkeypatch.setitem(KINDS, "coco", dataclasses.replace(KINDS["coco"], version="next"))
    with pytest.raises(UsageError, match="was made by version 1 of its metric, this is next"):
        load(tmp_path / "out" / "coco.npz")


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(ROOT / "run_all.py"), "evaluate", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command(tmp_path: Path) -> None:
    coco_truth(tmp_path)
    coco_results(tmp_path, "found.json", [1, 2])
    done = command(tmp_path, "--protocol", "coco", "--ground-truth", "truth.json", "--predictions", "found.json")
    assert (done.returncode, done.stderr) == (0, "judging (2)\n")  # progress, apart from the table
    assert "coco_ap_50" in done.stdout
    files = sorted(path.name for path in (tmp_path / "results" / "runs" / "judged" / "found").iterdir())
    assert files == ["coco.csv", "coco.json", "coco.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "cocoa", "--predictions", "bad.json"), "unknown protocol 'cocoa'. Did you mean coco"),
        (("--protocol", "coco", "--predictions", "none.json"), "--predictions none.json: no such file or folder"),
        (("--protocol", "coco", "--predictions", "bad.json"), "bad.json, result 0: unknown image_id 9"),
        (("--protocol", "voc", "--predictions", "bad.json"), "truth.json is not in VOC's layout"),
        (("--protocol", "coco", "--predictions", "bad.json", "--confidence", "95"), "--confidence 95.0: it lies"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_two_and_writes_nothing(tmp_path: Path, arguments: tuple, message: str) -> None:
    coco_truth(tmp_path)
    write_json(tmp_path / "bad.json", [{"image_id": 9, "category_id": 1, "segmentation": [], "score": 1}])
    done = command(tmp_path, "--ground-truth", "truth.json", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}"), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "truth.json"]
