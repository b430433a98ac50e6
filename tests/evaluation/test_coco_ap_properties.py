"""COCO's AP and AR: pycocotools on random cases, with crowds, ties, overlaps, empties, areas at the edges of sizes."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation import coco_ap, coco_engine, masks
from evaluation.coco_ap import ImageDetections, ImageTruth

EXAMPLES, SLOW_EXAMPLES = 50, 500
CATEGORIES = ("a", "b", "c")
AREAS = [0.0, 2.0, 1023.5, 1024.0, 1024.5, 9215.5, 9216.0, 9216.5, 1e10, 2e10]
Image = tuple[ImageTruth, ImageDetections]


def ours(images: list[Image], counts: np.ndarray | None = None, categories: tuple[str, ...] = CATEGORIES) -> dict:
    matches = [coco_ap.match_image(*image, len(categories)) for image in images]
    counts = np.ones((1, len(images)), np.int64) if counts is None else counts
    return coco_ap.measure(matches, counts, categories)


def official(images: list[Image], categories: tuple[str, ...] = CATEGORIES) -> dict[str, float]:
    """Every number from pycocotools, used as its own demonstration uses it: a results list through loadRes."""
    boxes = any(isinstance(one.regions, np.ndarray) for image in images for one in image)
    kind = "bbox" if boxes else "segmentation"
    annotations, results, sizes = [], [], []
    for number, (truth, found) in enumerate(images, 1):
        sizes.append({"id": number, "height": 2, "width": 5})
        for region, label, crowd, area in zip(truth.regions, truth.labels, truth.crowd, truth.areas, strict=True):
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label), kind: region}
            annotations.append({**one, "iscrowd": int(crowd), "area": float(area)})
        for region, label, score in zip(found.regions, found.labels, found.scores, strict=True):
            region = region.tolist() if boxes else dict(region)
            results.append({"image_id": number, "category_id": int(label), kind: region, "score": float(score)})
    listed = [{"id": number, "name": name} for number, name in enumerate(categories, 1)]
    expected, values = COCO(), {}
    with contextlib.redirect_stdout(io.StringIO()):
        expected.dataset = {"images": sizes, "annotations": annotations, "categories": listed}
        expected.createIndex()
        if results:
            detected = expected.loadRes(results)
        else:
            detected = COCO()  # loadRes cannot take an empty list
            detected.dataset = {"images": sizes, "annotations": [], "categories": listed}
            detected.createIndex()
        run = COCOeval(expected, detected, "bbox" if boxes else "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
        names = ["", "_50", "_75", "_small", "_medium", "_large"]
        values |= {f"coco_ap{name}": run.stats[place] for place, name in enumerate(names)}
        names = ["1", "10", "100", "small", "medium", "large"]
        values |= {f"coco_ar_{name}": run.stats[place] for place, name in enumerate(names, 6)}
        for column, name in enumerate(categories):
            precision = run.eval["precision"][:, :, column, 0, -1]
            values |= {f"coco_ap/{name}": precision.mean(), f"coco_ap_50/{name}": precision[0].mean()}
        run.params.useCats, run.params.maxDets = 0, [1, 10, 100, 1000]
        run.evaluate()
        run.accumulate()
    for row, limit in enumerate(run.params.maxDets):
        for size, name in enumerate(("", "_small", "_medium", "_large")):
            values[f"coco_agnostic_ar_{limit}{name}"] = run.eval["recall"][:, 0, size, row].mean()
        values[f"coco_agnostic_recall_50_{limit}"] = run.eval["recall"][0, 0, 0, row]
    return {name: np.nan if value == -1 else float(value) for name, value in values.items()}


def assert_equal(values: dict, expected: dict, tolerance: float = 1e-12) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=tolerance, err_msg=name)


@st.composite
def images(draw: st.DrawFn, most: int = 3, distinct: bool = False) -> list[Image]:
    """Images of 2 x 5 fields; a field is 1, 256 or 1024 pixels, so that 4, 1 or 9 of them are the edge of a size.

    Scores in three levels; if ``distinct``, no two of an image are equal.
    """
    side = draw(st.sampled_from([1, 16, 32]))
    result = []
    for _ in range(draw(st.integers(1, most))):
        shapes = draw(hnp.arrays(np.bool_, (draw(st.integers(0, 4)), 2, 5)))
        guesses = draw(hnp.arrays(np.bool_, (draw(st.integers(0, 6)), 2, 5), elements=st.booleans()))
        for number in range(len(guesses) if len(shapes) else 0):
            if draw(st.booleans()):  # a truth, with a field or two wrong
                guesses[number] = shapes[draw(st.integers(0, len(shapes) - 1))]
                guesses[number, draw(st.integers(0, 1)), draw(st.integers(0, 4))] ^= draw(st.booleans())
        big, detected = (masks.encode(one.repeat(side, axis=1).repeat(side, axis=2)) for one in (shapes, guesses))
        areas = [draw(st.sampled_from([float(masks.areas([region])[0]), *AREAS])) for region in big]
        levels = draw(st.permutations(range(6))) if distinct else draw(st.lists(st.integers(0, 2), min_size=6))
        truth = ImageTruth(
            big,
            draw(hnp.arrays(np.int64, len(big), elements=st.integers(1, 2))),
            draw(hnp.arrays(np.bool_, len(big), elements=st.sampled_from([False, False, True]))),
            np.array(areas, np.float64),
        )
        labels = draw(hnp.arrays(np.int64, len(detected), elements=st.integers(1, 3)))
        result.append((truth, ImageDetections(detected, labels, np.array(levels[: len(detected)], np.float64))))
    return result


@st.composite
def boxes(draw: st.DrawFn) -> list[Image]:
    """Images with boxes on a grid of half pixels; they may have no area."""
    box = st.tuples(*[st.sampled_from([0.0, 8.0, 16.5, 32.0]) for _ in range(4)])
    result = []
    for truth, found in draw(st.lists(st.tuples(st.lists(box, max_size=4), st.lists(box, max_size=5)), min_size=1)):
        labels, guessed = (
            draw(hnp.arrays(np.int64, len(one), elements=st.integers(1, top))) for one, top in ((truth, 2), (found, 3))
        )
        crowd = draw(hnp.arrays(np.bool_, len(truth)))
        areas = draw(hnp.arrays(np.float64, len(truth), elements=st.sampled_from(AREAS)))
        scores = draw(hnp.arrays(np.float64, len(found), elements=st.sampled_from([0.25, 0.5, 0.75])))
        regions = [np.array(one, np.float64).reshape(-1, 4) for one in (truth, found)]
        result.append((ImageTruth(regions[0], labels, crowd, areas), ImageDetections(regions[1], guessed, scores)))
    return result


def holds_for_masks(data: list[Image]) -> None:
    expected = official(data)
    assert_equal(ours(data), {name: [value] for name, value in expected.items()})
    assert_equal(coco_engine.evaluate(*zip(*data, strict=True), CATEGORIES, agnostic=True), expected)


def holds_for_copies(data: list[Image], counts: np.ndarray) -> None:
    """Weights are copies of images."""
    values = ours(data, counts)
    for row, times in enumerate(counts):
        written_out = [image for image, copies in zip(data, times, strict=True) for _ in range(copies)]
        assert_equal({name: value[row : row + 1] for name, value in values.items()}, ours(written_out))
        if row == 0:
            expected = official(written_out)
            assert_equal({name: value[0] for name, value in values.items()}, expected)


WEIGHTS = hnp.arrays(np.int64, (3, 3), elements=st.integers(0, 3))


@settings(max_examples=EXAMPLES, deadline=None)
@given(images())
def test_pycocotools_and_the_engine_agree(data: list[Image]) -> None:
    holds_for_masks(data)


@pytest.mark.slow
@settings(max_examples=SLOW_EXAMPLES, deadline=None)
@given(images(most=6))
def test_pycocotools_and_the_engine_agree_on_many_cases(data: list[Image]) -> None:
    holds_for_masks(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(images(), WEIGHTS)
def test_weights_are_copies_of_images(data: list[Image], counts: np.ndarray) -> None:
    holds_for_copies(data, counts[:, : len(data)])


@pytest.mark.slow
@settings(max_examples=SLOW_EXAMPLES, deadline=None)
@given(images(), WEIGHTS)
def test_weights_are_copies_of_images_in_many_cases(data: list[Image], counts: np.ndarray) -> None:
    holds_for_copies(data, counts[:, : len(data)])


@settings(max_examples=EXAMPLES, deadline=None)
@given(boxes())
def test_boxes_agree(data: list[Image]) -> None:
    holds_for_masks(data)


@pytest.mark.slow
@settings(max_examples=SLOW_EXAMPLES, deadline=None)
@given(boxes())
def test_boxes_agree_in_many_cases(data: list[Image]) -> None:
    holds_for_masks(data)


@settings(max_examples=EXAMPLES, deadline=None)
@given(images(), st.integers(0, 2), st.floats(0.01, 0.99))
def test_only_the_order_of_scores_matters(data: list[Image], power: int, scale: float) -> None:
    stretched = [(t, ImageDetections(d.regions, d.labels, scale * (d.scores + 1) ** (power + 1))) for t, d in data]
    assert_equal(ours(stretched), ours(data), tolerance=0)


@settings(max_examples=EXAMPLES, deadline=None)
@given(images())
def test_the_outcome_of_an_image_adds_up(data: list[Image]) -> None:
    for truth, found in data:
        match = coco_ap.match_image(truth, found, len(CATEGORIES))
        correct = (match.outcome == 1).sum(-1)
        assert (correct <= match.truth_counts.sum(1)[:, None]).all()  # no truth is found twice
        for label in range(1, len(CATEGORIES) + 1):
            of_class = (match.outcome[0][..., found.labels == label] == 1).sum(-1)
            assert (of_class <= match.truth_counts[:, label - 1, None]).all()


@pytest.mark.parametrize(("number", "classes"), [(140, 1), (300, 3), (1050, 3)])
def test_more_detections_than_any_limit(number: int, classes: int) -> None:
    # 100 an image and class, 1000 an image; and more masks than pycocotools can count in eight bits.
    random = np.random.default_rng(number)
    data = []
    for _ in range(2):
        shapes = random.random((6, 2, 5)) < 0.5
        guesses = shapes[random.integers(6, size=number)] ^ (random.random((number, 2, 5)) < 0.15)
        labels, guessed = random.integers(1, classes + 1, 6), random.integers(1, classes + 1, number)
        truth = ImageTruth(masks.encode(shapes), labels, random.random(6) < 0.2, random.choice(AREAS, 6))
        scores = random.integers(0, 9, number) / 8
        data.append((truth, ImageDetections(masks.encode(guesses), guessed, scores)))
    holds_for_masks(data)
