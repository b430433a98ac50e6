"""Breakdowns: pycocotools as the oracle of sizes, and what must hold for any input."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation import breakdowns, masks, voc_apr
from evaluation.breakdowns import Bins, ImageMatches
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant

FEW, MANY = settings(max_examples=50, deadline=None), settings(max_examples=500, deadline=None)
CATEGORIES = ("cat", "dog")
SHAPE = (3, 9)
SIZES = Bins("area", ("small", "medium", "large"), (4, 8))
HALVES = Bins("half", ("left", "right"), (2,))  # an attribute that no detection has: where the truth begins
Image = tuple[ImageTruth, ImageDetections]


def few_and_many(check: Callable, *inputs: st.SearchStrategy) -> tuple[Callable, Callable]:
    """Two tests of one property."""
    return FEW(given(*inputs)(check)), pytest.mark.slow(MANY(given(*inputs)(check)))


@st.composite
def images(draw: st.DrawFn) -> list[Image]:
    """One to three images of 3 x 9 pixels, two classes; detections are truths with some pixels changed, or noise.

    Scores have four levels. No IoU with a truth is exactly 1/2: there two truths can be candidates, and COCO's matching
    takes the one that counts in the bin.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result = []
    for _ in range(rng.integers(1, 4)):
        ids = np.where(rng.random(SHAPE) < 0.8, np.sort(rng.integers(0, rng.integers(1, 5), SHAPE[1])), 0)
        ids = np.searchsorted(np.append(0, np.setdiff1d(ids, [0])), ids)  # 1..N without gaps
        labels = rng.integers(1, 3, ids.max())
        dense, classes = [], []
        for _ in range(rng.integers(0, 8)):
            chosen = rng.integers(0, len(labels) + 1)
            mask = ((ids == chosen) & (chosen > 0)) ^ (rng.random(SHAPE) < rng.choice([0.0, 0.1, 0.3]))
            shared = np.array([(mask & (ids == n + 1)).sum() for n in range(len(labels))])
            union = np.array([(mask | (ids == n + 1)).sum() for n in range(len(labels))])
            if not (2 * shared == union).any():
                dense.append(mask)
                classes.append(labels[chosen - 1] if chosen and rng.random() < 0.8 else rng.integers(1, 3))
        encoded = masks.encode(np.array(dense, np.bool_).reshape(len(dense), *SHAPE))
        scores = rng.integers(0, 4, len(dense)).astype(np.float64)
        result.append((ImageTruth(ids, labels), ImageDetections(encoded, np.array(classes, np.int64), scores)))
    return result


def matched(data: list[Image]) -> list[ImageMatches]:
    result = []
    for truth, detections in data:
        known = breakdowns.attributes_of(truth.instances, truth.labels)
        places = [np.flatnonzero((truth.instances == n + 1).any(0))[0] for n in range(len(truth.labels))]
        known["half"] = np.array(places, np.int64)
        result.append(breakdowns.match_image(truth, detections, known, (SIZES, HALVES), 2))
    return result


def measured(matches: list[ImageMatches]) -> dict[str, float]:
    once = np.ones((1, len(matches)), np.int64)
    return {name: values[0] for name, values in breakdowns.measure(matches, once, (SIZES, HALVES), CATEGORIES).items()}


def coco(data: list[Image], label: int, low: float, high: float) -> tuple[int, float, float]:
    """Truths, recall and AP at IoU 0.5 of one class by pycocotools, with truths of low..high pixels."""
    truths, found = [], []
    for number, (truth, detections) in enumerate(data, start=1):
        regions = masks.encode_ids(truth.instances, len(truth.labels))
        for region, of in zip(regions, truth.labels, strict=True):
            truths.append({"image_id": number, "category_id": int(of), "segmentation": region, "iscrowd": 0})
            truths[-1] |= {"id": len(truths), "area": int(masks.areas([region])[0]), "bbox": [0, 0, 1, 1]}
        for region, of, score in zip(detections.masks, detections.labels, detections.scores, strict=True):
            found.append({"image_id": number, "category_id": int(of), "segmentation": region, "score": score})
            found[-1] |= {"id": len(found), "area": int(masks.areas([region])[0]), "bbox": [0, 0, 1, 1], "iscrowd": 0}
    listed = {
        "images": [{"id": n + 1, "height": SHAPE[0], "width": SHAPE[1]} for n in range(len(data))],
        "categories": [{"id": 1}, {"id": 2}],
    }
    sides = []
    for entries in (truths, found):
        side = COCO()
        side.dataset = listed | {"annotations": entries}
        side.createIndex()
        sides.append(side)
    judge = COCOeval(*sides, "segm")
    positives = sum(of["category_id"] == label and low <= of["area"] <= high for of in truths)
    # The area under the envelope is the mean of the envelope at recall 1/P, 2/P ... 1.
    judge.params.recThrs = np.arange(1, positives + 1) / max(positives, 1)
    judge.params.iouThrs, judge.params.maxDets = np.array([0.5]), [1000]
    judge.params.areaRng, judge.params.areaRngLbl = [[low, high]], ["bin"]
    judge.params.catIds = [label]
    judge.evaluate()
    judge.accumulate()
    return positives, judge.eval["recall"].mean(), judge.eval["precision"].mean() if positives else np.nan


def _sizes_are_cocos(data: list[Image]) -> None:
    values = measured(matched(data))
    for name, low, high in (("small", 0, 3.5), ("medium", 3.5, 7.5), ("large", 7.5, 1e9)):  # no area is on an edge
        with contextlib.redirect_stdout(io.StringIO()):
            by_class = [part for part in (coco(data, label, low, high) for label in (1, 2)) if part[0]]
        number = sum(truths for truths, _, _ in by_class)
        assert values[f"truths[area={name}]"] == number
        if number:
            recall = sum(truths * recall for truths, recall, _ in by_class) / number
            np.testing.assert_allclose(values[f"recall_50[area={name}]"], recall, rtol=0, atol=1e-12)
            ap = np.mean([ap for _, _, ap in by_class])
            np.testing.assert_allclose(values[f"ap_r_50[area={name}]"], ap, rtol=0, atol=1e-12)
        else:
            assert np.isnan(values[f"recall_50[area={name}]"])
            assert np.isnan(values[f"ap_r_50[area={name}]"])


def _bins_add_up(data: list[Image]) -> None:
    matches = matched(data)
    values = measured(matches)
    whole = [voc_apr.match_image(*image, Variant(), 2) for image in data]
    truths, found = sum(match.truth_counts.sum() for match in whole), sum(match.correct[4].sum() for match in whole)
    for one in (SIZES, HALVES):
        tags = [f"[{one.attribute}={name}]" for name in one.names]
        assert sum(values[f"truths{tag}"] for tag in tags) == truths
        parts = [values[f"truths{tag}"] * values[f"recall_50{tag}"] for tag in tags if values[f"truths{tag}"]]
        np.testing.assert_allclose(sum(parts), found, rtol=0, atol=1e-9)


def _one_bin_for_all_is_apr(data: list[Image]) -> None:
    anything, matches = Bins("parts", ("any",), ()), []
    for truth, detections in data:
        known = breakdowns.attributes_of(truth.instances, truth.labels)
        matches.append(breakdowns.match_image(truth, detections, known, (anything,), 2))
    values = breakdowns.measure(matches, np.ones((1, len(data)), np.int64), (anything,), CATEGORIES)
    whole = voc_apr.average_precision([voc_apr.match_image(*image, Variant(), 2) for image in data], Variant(), 2)
    np.testing.assert_array_equal(values["ap_r_50[parts=any]"][0], whole.mean[4])


def _false_detections_count_in_every_bin_without_an_area(data: list[Image]) -> None:
    for image in matched(data):
        sizes, halves = image.detection_bins
        assert (halves[~image.correct] == -1).all()
        assert (halves[image.correct] >= 0).all()
        assert (sizes >= 0).all()


def _weights_are_repeated_images(data: list[Image], times: list[int]) -> None:
    matches, times = matched(data), times[: len(data)]
    drawn = [image for image, count in zip(matches, times, strict=True) for _ in range(count)]
    weighted = breakdowns.measure(matches, np.array([times]), (SIZES, HALVES), CATEGORIES)
    repeated = breakdowns.measure(drawn, np.ones((1, len(drawn)), np.int64), (SIZES, HALVES), CATEGORIES)
    for name in weighted:
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=0, atol=1e-12, err_msg=name)


TIMES = st.lists(st.integers(0, 3), min_size=3, max_size=3)
test_coco, test_coco_many = few_and_many(_sizes_are_cocos, images())
test_sums, test_sums_many = few_and_many(_bins_add_up, images())
test_one_bin, test_one_bin_many = few_and_many(_one_bin_for_all_is_apr, images())
test_false, test_false_many = few_and_many(_false_detections_count_in_every_bin_without_an_area, images())
test_weights, test_weights_many = few_and_many(_weights_are_repeated_images, images(), TIMES)
