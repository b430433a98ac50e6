"""COCO's numbers from an engine: which one is taken, what is refused, and COCO's own sample of 100 images."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluation import coco_ap, coco_engine, masks
from evaluation.coco_ap import ImageDetections, ImageTruth

PARITY = Path(__file__).parents[1] / "parity"
SAMPLE = Path(os.environ.get("GROUPBENCH_DATA", "")) / "coco-eval-100"


def image() -> tuple[ImageTruth, ImageDetections]:
    """Two truths, of which one is found; the surest detection is false."""
    regions = masks.encode(np.eye(3, dtype=np.bool_)[:, None])
    truth = ImageTruth(regions[:2], np.ones(2, np.int64), np.zeros(2, np.bool_), np.full(2, 50.0))
    return truth, ImageDetections([regions[2], regions[0]], np.ones(2, np.int64), np.array([0.9, 0.8]))


def evaluate(engine: str | None = None) -> dict[str, float]:
    truth, found = image()
    return coco_engine.evaluate([truth], [found], ["a"], agnostic=True, engine=engine)


def test_both_engines_give_the_numbers() -> None:
    ours = coco_ap.measure([coco_ap.match_image(*image(), 1)], np.ones((1, 1), np.int64), ["a"])
    assert ours["coco_ap"][0] == pytest.approx(0.5 * 51 / 101, abs=1e-15)
    for engine in coco_engine.ENGINES:
        found = evaluate(engine)
        assert found.keys() == ours.keys()
        for name, value in found.items():
            np.testing.assert_allclose(value, ours[name][0], rtol=0, atol=1e-12, err_msg=f"{engine} {name}")


def test_class_agnostic_numbers_are_left_out_unless_asked_for() -> None:
    truth, found = image()
    few = coco_engine.evaluate([truth], [found], ["a"])
    assert few.keys() == {name for name in evaluate() if not name.startswith("coco_agnostic")}
    assert len(few) == 14


def test_pycocotools_steps_in_where_hotcoco_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    assert coco_engine.engine_classes(None)[1].__module__ == "pycocotools.cocoeval"
    np.testing.assert_equal(evaluate(), evaluate("pycocotools"))
    with pytest.raises(ImportError):
        evaluate("hotcoco")


def test_hotcoco_comes_first() -> None:
    hotcoco = pytest.importorskip("hotcoco")
    assert coco_engine.engine_classes(None) == (hotcoco.COCO, hotcoco.COCOeval)


def test_engines_keep_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    for engine in coco_engine.ENGINES:
        evaluate(engine)
    assert capfd.readouterr() == ("", "")


def test_inputs_are_left_as_they_are() -> None:
    truth, found = image()
    for engine in coco_engine.ENGINES:
        coco_engine.evaluate([truth], [found], ["a"], agnostic=True, engine=engine)
    assert list(truth.regions) == list(image()[0].regions)
    assert list(found.regions) == list(image()[1].regions)


def test_nothing_at_all() -> None:
    empty = ImageTruth([], np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0))
    nothing = ImageDetections([], np.zeros(0, np.int64), np.zeros(0))
    for engine in coco_engine.ENGINES:
        for number in (0, 1, 2):
            values = coco_engine.evaluate([empty] * number, [nothing] * number, ["a"], agnostic=True, engine=engine)
            assert all(np.isnan(value) for value in values.values()), engine


def test_what_is_refused() -> None:
    truth, found = image()
    box = ImageDetections(np.ones((1, 4)), np.ones(1, np.int64), np.ones(1))
    none = ImageTruth([], np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0))
    with pytest.raises(ValueError, match="engine must be one of hotcoco, pycocotools, not 'fast'"):
        evaluate("fast")
    with pytest.raises(ValueError, match="some images have masks, and some have boxes"):
        coco_engine.evaluate([truth, none], [found, box], ["a"])
    with pytest.raises(ValueError, match="a score is not a finite number"):
        coco_engine.evaluate([truth], [ImageDetections(found.regions, found.labels, found.scores * np.nan)], ["a"])
    with pytest.raises(ValueError, match="1 images are annotated, 0 have detections"):
        coco_engine.evaluate([truth], [], ["a"])


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="set GROUPBENCH_DATA to the folder that holds coco-eval-100")
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_the_official_sample(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 images of COCO val2014 with made-up results, and what COCO's code printed: twelve numbers of each kind."""
    monkeypatch.syspath_prepend(PARITY)
    parity = importlib.import_module("coco")
    annotations, results = (
        json.loads((SAMPLE / f"instances_val2014_{name}.json").read_text(encoding="utf-8"))
        for name in ("100", f"fake{kind}100_results")
    )
    printed = (SAMPLE / "val2014_fake_eval_res.txt").read_text(encoding="utf-8").split(f"type={kind}")[1]
    gold = [float(number) for number in re.findall(r"\] = (\d\.\d{3})\n", printed)[:12]]
    truths, detections, categories = parity.read(annotations, results, boxes=kind == "bbox")
    matches = [coco_ap.match_image(*one, len(categories)) for one in zip(truths, detections, strict=True)]
    ours = coco_ap.measure(matches, np.ones((1, len(matches)), np.int64), categories)
    assert [round(float(ours[name][0]), 3) for name in parity.STATS] == gold
    for engine in coco_engine.ENGINES:
        found = coco_engine.evaluate(truths, detections, categories, agnostic=True, engine=engine)
        for name, value in found.items():
            np.testing.assert_allclose(value, ours[name][0], rtol=0, atol=1e-12, err_msg=f"{engine} {name}")
