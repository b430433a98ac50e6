"""What judges hand over: stored and read back it gives the same numbers, and every suite's columns are among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets import cityscapes
from datasets.shapes import CATEGORIES as SHAPES
from datasets.shapes import Shapes
from datasets.voc import CATEGORIES as VOC
from evaluation import boundary, cityscapes_ap, coco_ap, masks, proposals
from evaluation.voc_apr import ImageDetections
from harness.evaluate import image_truth
from harness.judged import KINDS, Judged, load, save
from harness.judges import BoundaryJudge, CityscapesJudge, CocoJudge, ProposalsJudge, SemanticJudge, VocJudge
from harness.measured import COSTS
from harness.suite import load_suite, suite_names


def judged(categories: tuple[str, ...] = SHAPES, known: bool = True) -> dict[str, Judged]:
    """Every kind, with the scenes' attributes where they are ``known``, on three scenes where the truth but for its
    last instance is found; in the second nothing is.
    """
    judges = {
        "voc": VocJudge(categories),
        "coco": CocoJudge(categories),
        "boxes": CocoJudge(categories, "boxes", "boxes"),
        "proposals": ProposalsJudge(),
        "semantic": SemanticJudge(("background", *categories)),
        "cityscapes": CityscapesJudge(),
        "boundary": BoundaryJudge(0.02),
    }
    data = Shapes("val", count=3, level="hard", size=48)
    for index in range(3):
        sample = data[index]
        labels = sample.labels()
        regions = masks.encode_ids(sample.instances, len(labels))
        found = slice(0, 0) if index == 1 else slice(0, len(labels) - 1)
        scores = np.linspace(0.9, 0.1, len(labels))[found]
        name, crowd = sample.image_id, np.zeros(len(labels), np.bool_)
        attributes = vars(sample.attributes) if known else None
        judges["voc"].add(name, image_truth(sample), ImageDetections(regions[found], labels[found], scores), attributes)
        judges["coco"].add(
            name,
            coco_ap.ImageTruth(regions, labels, crowd, masks.areas(regions).astype(np.float64)),
            coco_ap.ImageDetections(regions[found], labels[found], scores),
        )
        boxes = masks.boxes(regions)
        judges["boxes"].add(
            name,
            coco_ap.ImageTruth(boxes, labels, crowd, masks.areas(regions).astype(np.float64)),
            coco_ap.ImageDetections(boxes[found], labels[found], scores),
        )
        truth = proposals.ImageTruth(regions, sample.instances.shape)
        judges["proposals"].add(name, truth, proposals.ImageProposals(regions[found], scores))
        judges["semantic"].add(name, sample.semantic, np.roll(sample.semantic, 1, 0))
        ids = np.where(sample.instances > 0, 26000 + sample.instances, 7)
        cars = np.full(len(scores), 26)
        judges["cityscapes"].add(
            name, cityscapes_ap.ImageTruth(ids), cityscapes_ap.ImageDetections(regions[found], cars, scores)
        )
        edges = np.diff(sample.instances, axis=0, prepend=0) != 0
        drawn, seen = boundary.ImageTruth(edges[None]), boundary.ImageBoundary(edges * 0.5)
        judges["boundary"].add(name, boundary.match_image(drawn, seen, max_distance=0.02))
    return {one.kind: one for judge in judges.values() for one in judge.finish()}


@pytest.fixture(scope="module")
def every() -> dict[str, Judged]:
    return judged()


def test_there_is_a_judge_for_every_kind(every: dict[str, Judged]) -> None:
    assert every.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_stored_gives_the_same_numbers(every: dict[str, Judged], kind: str, tmp_path: Path) -> None:
    one = every[kind]
    save(tmp_path / "matches.npz", one)
    again = load(tmp_path / "matches.npz")
    assert (again.kind, again.variant, again.instances) == (kind, one.variant, one.instances)
    assert again.image_ids == list(one.image_ids)
    counts = np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1], [0, 0, 0]])
    before, after = one.measure(counts), again.measure(counts)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].shape == (4,)
        assert np.array_equal(before[name], after[name], equal_nan=True), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_shown_numbers_exist(every: dict[str, Judged], kind: str) -> None:
    names = every[kind].measure(np.ones((1, 3), np.int64)).keys()
    assert set(KINDS[kind].shown) <= names
    assert not KINDS[kind].by_class or any(name.startswith(f"{KINDS[kind].by_class}/") for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_hold_their_values(every: dict[str, Judged], kind: str) -> None:
    metrics = every[kind].verdict(resamples=200, confidence=0.99).metrics
    name = KINDS[kind].shown[0]
    assert metrics[name].low <= metrics[name].value <= metrics[name].high


CATEGORIES = {
    "shapes": SHAPES,
    "voc": VOC,
    "cityscapes instances": tuple(cityscapes.TASKS["instances"].values()),
    "cityscapes semantic": tuple(cityscapes.TASKS["semantic"].values()),
    # Whatever classes there are: the tables of these name none. (The scenes judged here have six.)
    "coco": tuple("abcdef"),
    "bsds": tuple("abcdef"),
}
OWNED = {"voc": ("voc", "errors", "breakdowns")}


@pytest.fixture(scope="module")
def measurable() -> dict[str, dict[str, set[str]]]:
    """The numbers of every kind on every data set."""
    once = np.ones((1, 3), np.int64)
    found = {}
    for name, categories in CATEGORIES.items():
        kinds = judged(categories, known=name == "shapes")
        found[name] = {kind: set(one.measure(once)) for kind, one in kinds.items()}
    return found


@pytest.mark.parametrize("suite", suite_names())
def test_every_number_of_a_suite_is_measured(suite: str, measurable: dict[str, dict[str, set[str]]]) -> None:
    """Each column and axis is measured on data that rows of its table run on, in every preset."""
    loaded = load_suite(suite)
    shown = {f"table {key}": (t.rows, t.data, [c.metric for c in t.columns]) for key, t in loaded.tables.items()}
    shown |= {f"plot {key}": (p.rows, p.data, [p.x.metric, p.y.metric]) for key, p in loaded.plots.items()}
    for preset_name, preset in loaded.presets.items():
        for where, (rows, narrowed, metrics) in shown.items():
            data_names = {name for row in rows or loaded.rows for name in loaded.rows[row].data or preset.data}
            names = set(COSTS)
            for data_name in data_names & set(narrowed or preset.data):
                data = preset.data[data_name]
                kinds = measurable[" ".join(filter(None, (data.dataset, data.options.get("task"))))]
                protocols = data.protocols or preset.evaluate.protocols
                names |= {name for one in protocols for kind in OWNED.get(one, (one,)) for name in kinds[kind]}
            lacking = set(metrics) - names
            assert not lacking, f"suites/{suite}.toml, preset {preset_name}, {where}: {lacking}"
