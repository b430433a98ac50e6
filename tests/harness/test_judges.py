"""What judges hand over: stored and read back it gives the same numbers, and every suite's columns are among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.shapes import CATEGORIES as SHAPES
from datasets.shapes import Shapes
from datasets.voc import CATEGORIES as VOC
from evaluation import boundary, cityscapes_ap, coco_ap, masks, proposals
from evaluation.voc_apr import ImageDetections
from harness.evaluate import image_truth
from harness.judged import KINDS, Judged, load, save
from harness.judges import BoundaryJudge, CityscapesJudge, CocoJudge, ProposalsJudge, SemanticJudge, VocJudge
from harness.record import PredictCost, TrainCost
from harness.suite import load_suite, suite_names


def judged(categories: tuple[str, ...] = SHAPES, known: bool = True) -> dict[str, Judged]:
    """Every kind, with the scenes' attributes where they are ``known``, on three scenes where the truth but for its
    last instance is found; in the second nothing is.
    """
    judges = {
        "voc": VocJudge(categories),
        "coco": CocoJudge(categories),
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


@pytest.mark.parametrize("suite", suite_names())
def test_every_column_of_a_suite_is_measured(suite: str) -> None:
    loaded, (dataset,) = (
        load_suite(suite),
        {d.dataset for p in load_suite(suite).presets.values() for d in p.data.values()},
    )
    kinds = judged({"shapes": SHAPES, "voc": VOC}[dataset], known=dataset == "shapes")
    once = np.ones((1, 3), np.int64)
    costs = {f"cost.train.{n}" for n in TrainCost.model_fields} | {
        f"cost.predict.{n}" for n in PredictCost.model_fields
    }
    for preset in loaded.presets.values():
        owned = {"voc": ("voc", "errors", "breakdowns")}
        asked = [kind for name in preset.evaluate.protocols for kind in owned.get(name, (name,))]
        names = costs | {name for kind in asked for name in kinds[kind].measure(once)}
        for key, table in loaded.tables.items():
            columns = {column.metric for column in table.columns}
            assert columns <= names, f"suites/{suite}.toml, table {key}: {columns - names}"
