"""Cityscapes AP against the official evaluator, on real files: maps, masks and lists as `harness.cityscapes_files` has
them.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official
from cityscapesscripts.evaluation.instances2dict import instances2dict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evaluation import cityscapes_ap, masks
from evaluation.cityscapes_ap import CLASSES, ImageDetections, ImageMatches
from harness.cityscapes_files import TRUTH, open_pairs, write_image

EXAMPLES, MANY_EXAMPLES = 50, 500
SIZE, CELL = (48, 96), 8  # a cell has 64 pixels: objects below and above 100, and above 1000 of the image's 4608

# Objects and groups of two classes that meet each other; another class; void; a caravan as an object and as a group.
IDS = (24000, 24001, 24002, 26000, 26001, 24, 26, 24, 26, 33000, 0, 4, 29, 29001, 11)
LABELS = (24, 26, 26, 33, 29, 7)  # the last two have no instances to evaluate
DISTANCES = ((-1.0, 0.0), (20.0, 0.9), (50.0, 0.5), (80.0, 0.7), (100.0, 0.51), (130.0, 0.9), (30.0, 0.3))


@dataclass(frozen=True)
class Scene:
    """One image: ids (H, W) uint16; masks (M, H, W) bool, labels and scores of what was found; distances to draw from;
    how often the image counts.
    """

    ids: np.ndarray
    masks: np.ndarray
    labels: list[int]
    scores: list[float]
    distances: list[tuple[float, float]]
    weight: int


def box(rng: np.random.Generator, unit: int) -> tuple[slice, slice]:
    """A box of up to 6 x 6 cells at multiples of ``unit`` pixels."""
    starts = [int(rng.integers(side // unit)) * unit for side in SIZE]
    return tuple(slice(start, start + int(rng.integers(1, 6 * CELL // unit + 1)) * unit) for start in starts)


def scene(rng: np.random.Generator) -> Scene:
    """Drawn evenly, which Hypothesis does not: most of what it makes is nearly empty, and has AP 0 or none."""
    ids = np.full(SIZE, rng.choice([7, 0, 11]), np.uint16)
    for number in rng.choice(IDS, rng.integers(2, 8)):
        ids[box(rng, CELL)] = number
    dense, labels = [], []
    for number in np.unique(ids).tolist():  # found is what there is: never, once or twice, without or with other pixels
        for _ in range(rng.integers(0, 3)):
            mask, label = ids == number, number // 1000 if number >= 1000 else number
            for _ in range(rng.integers(0, 3)):
                mask[box(rng, 2)] = rng.integers(2)
            dense.append(mask)
            labels.append(label if label in CLASSES and rng.random() < 0.7 else int(rng.choice(LABELS)))
    scores = np.where(rng.random(len(labels)) < 0.5, rng.integers(1, 4, len(labels)) / 4, rng.normal(size=len(labels)))
    distances = [DISTANCES[place] for place in rng.integers(0, len(DISTANCES), len(IDS) + 4)]
    return Scene(ids, np.array(dense, np.bool_).reshape(-1, *SIZE), labels, scores.tolist(), distances, rng.integers(4))


def scenes(seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [scene(rng) for _ in range(rng.integers(1, 5))]


def write(folder: Path, data: list[Scene]) -> list[Path]:
    """Truth below ``folder``/gt, results below ``folder``/found, distances in ``folder``/distances.json."""
    truths = []
    for number, scene in enumerate(data):
        image_id = f"town_{number:06d}_000019"
        path = folder / "gt" / "town" / f"{image_id}{TRUTH}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.ids).save(path)
        found = ImageDetections(masks.encode(scene.masks), np.array(scene.labels, np.int64), np.array(scene.scores))
        write_image(folder / "found", image_id, found)
        truths.append(path)
    content = instances2dict([str(path) for path in truths])
    for scene, by_label in zip(data, content.values(), strict=True):
        entries = [entry for entries in by_label.values() for entry in entries]
        for entry, (metres, confidence) in zip(entries, scene.distances, strict=False):
            entry["medDist"], entry["distConf"] = metres, confidence
    (folder / "distances.json").write_text(json.dumps(content))
    return truths


def official_arguments(folder: Path) -> Any:
    arguments = copy.copy(official.args)
    arguments.gtInstancesFile = str(folder / "distances.json")
    arguments.predictionPath, arguments.predictionWalk = str(folder / "found"), None
    arguments.quiet, arguments.distanceAvailable = True, True
    official.setInstanceLabels(arguments)
    return arguments


def official_matches(truths: list[Path], arguments: Any) -> list[Any]:
    """What the official evaluator knows of each image, before it applies thresholds. It leaves no file behind."""
    paths = [str(path) for path in truths]
    lists = [official.getPrediction(path, arguments) for path in paths]
    instances = official.getGtInstances(paths, arguments)
    return list(official.matchGtWithPreds(lists, paths, instances, arguments).values())


def official_ap(matches: list[Any], arguments: Any) -> np.ndarray:
    """(3, 8, 10) as the official code has it: ranges, classes, thresholds; 0 where it stops with an IndexError."""
    named = {str(number): match for number, match in enumerate(matches)}
    ranges, labels, overlaps = len(arguments.distanceThs), arguments.instLabels, arguments.overlaps
    table = np.zeros((ranges, len(labels), len(overlaps)))
    for place, column, level in np.ndindex(table.shape):
        one = copy.copy(arguments)
        one.distanceAvailable = True
        one.minRegionSizes, one.distanceThs, one.distanceConfs = (
            values[place : place + 1]
            for values in (arguments.minRegionSizes, arguments.distanceThs, arguments.distanceConfs)
        )
        one.instLabels, one.overlaps = labels[column : column + 1], overlaps[level : level + 1]
        try:
            table[place, column, level] = official.evaluateMatches(named, one)[0, 0, 0]
        except IndexError:
            table[place, column, level] = 0.0
    return table


def our_matches(folder: Path) -> list[ImageMatches]:
    pairs = open_pairs(folder / "gt", folder / "found", distances=folder / "distances.json")
    return [cityscapes_ap.match_image(truth, found) for _, truth, found in pairs]


def compare(data: list[Scene]) -> None:
    with tempfile.TemporaryDirectory() as name:
        truths = write(Path(name), data)
        arguments = official_arguments(Path(name))
        theirs, ours = official_matches(truths, arguments), our_matches(Path(name))
    weights = np.array([[1] * len(data), [scene.weight for scene in data]], np.int64)
    for row, table in zip(weights, cityscapes_ap.average_precision(ours, weights), strict=True):
        copies = [match for match, times in zip(theirs, row, strict=True) for _ in range(times)]
        expected = official_ap(copies, arguments)
        np.testing.assert_allclose(table.transpose(0, 2, 1), expected, rtol=0, atol=1e-12)
        compare_names(cityscapes_ap.measure(ours, row[None]), expected, arguments)


def compare_names(values: dict[str, np.ndarray], table: np.ndarray, arguments: Any) -> None:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # means of nothing
        averages = official.computeAverages(table, arguments)
    names = {"Ap": "cs_ap", "Ap50%": "cs_ap_50", "Ap100m": "cs_ap_100m", "Ap50m": "cs_ap_50m"}
    expected = {ours: averages[f"all{theirs}"] for theirs, ours in names.items()}
    for label, numbers in averages["classes"].items():
        expected |= {f"{ours}/{label}": numbers[theirs.lower()] for theirs, ours in names.items()}
    actual = {name: value[0] for name, value in values.items()}
    assert actual == pytest.approx(expected, abs=1e-12, rel=0, nan_ok=True)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_images(seed: int) -> None:
    compare(scenes(seed))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=MANY_EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_many_random_images(seed: int) -> None:
    compare(scenes(seed))


def one(ids: np.ndarray, dense: list[np.ndarray], labels: list[int], scores: list[float]) -> Scene:
    return Scene(ids, np.array(dense), labels, scores, [DISTANCES[1]] * 20, 2)


def strips() -> Iterator[Scene]:
    """IoU, and part on void, of exactly k/20: what greater means is decided by the official floating point."""
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE, np.int64)
    for twentieths in range(10, 21):
        ids = np.where(rows < 40, 26001, 7).astype(np.uint16)
        yield one(ids, [rows < 2 * twentieths], [26], [twentieths / 20])
        ids = np.where(rows < 2 * twentieths, 4, 7).astype(np.uint16)
        ids[44:] = 26002
        yield one(ids, [rows < 40, rows >= 44], [26, 26], [twentieths / 20, 0.1])


def test_exact_fractions() -> None:
    data = list(strips())
    compare(data)
    for scene in data:
        compare([scene])


@pytest.mark.parametrize("pixels", [99, 100, 999, 1000])
@pytest.mark.parametrize("number", [26001, 26])
def test_least_sizes(pixels: int, number: int) -> None:
    ids = np.full(SIZE, 7, np.uint16)
    ids.ravel()[:pixels] = number
    ids[40:] = 26003
    mask = np.zeros(SIZE, np.bool_)
    mask.ravel()[: 2 * pixels + 10] = True  # not half of it: no hit, and dropped only if the pixels count twice
    compare([one(ids, [ids == number, mask, ids == 26003], [26, 26, 26], [0.9, 0.8, 0.7])])


def test_the_official_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own way through lists, averages and JSON; without distances, as the public annotation is.
    rng = np.random.default_rng(0)
    data = []
    for _ in range(4):
        ids = np.full(SIZE, 7, np.uint16)
        for number in (24001, 24002, 26001, 26, 26004):
            top, left = rng.integers(0, 30), rng.integers(0, 70)
            ids[top : top + rng.integers(8, 24), left : left + rng.integers(8, 30)] = number
        shapes = [np.roll(ids == number, rng.integers(-2, 3, 2), (0, 1)) for number in np.unique(ids)[1:]]
        labels = [int(number) // 1000 if number >= 1000 else int(number) for number in np.unique(ids)[1:]]
        data.append(Scene(ids, np.array(shapes), labels, rng.random(len(labels)).tolist(), [], 1))
    truths = write(tmp_path, data)
    monkeypatch.chdir(tmp_path)
    arguments = official_arguments(tmp_path)
    arguments.distanceAvailable, arguments.exportFile = False, str(tmp_path / "official" / "result.json")
    lists = [official.getPrediction(str(path), arguments) for path in truths]
    # Its matches.json is only for debugging, and cannot be written with numpy 2.3.
    plain = official.writeDict2JSON
    monkeypatch.setattr(official, "writeDict2JSON", lambda what, to: to == "matches.json" or plain(what, to))
    official.evaluateImgLists(lists, [str(path) for path in truths], arguments)
    result = json.loads((tmp_path / "official" / "result.json").read_text())

    pairs = open_pairs(tmp_path / "gt", tmp_path / "found")
    matches = [cityscapes_ap.match_image(truth, found) for _, truth, found in pairs]
    ours = cityscapes_ap.measure(matches, np.ones((1, len(matches)), np.int64))
    assert 0.2 < ours["cs_ap"][0] < 0.9
    assert ours["cs_ap"][0] == pytest.approx(result["averages"]["allAp"], abs=1e-12, rel=0)
    assert ours["cs_ap_50"][0] == pytest.approx(result["averages"]["allAp50%"], abs=1e-12, rel=0)
    assert np.isnan(ours["cs_ap_50m"][0])
    assert os.listdir(tmp_path / "official") == ["result.json"]
