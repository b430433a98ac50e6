"""Run-length masks: the text format, exact counts, and damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from evaluation import masks

SIZE = (4, 3)
stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 4), st.just(SIZE[0]), st.just(SIZE[1])))


def test_the_text_is_cocos() -> None:
    # Column by column: 4 zeros, 2 ones, 6 zeros. A run below 16 is one character, chr(48 + run): '4', '2', '6'.
    mask = np.zeros((1, 4, 3), np.bool_)
    mask[0, :2, 1] = True
    assert masks.encode(mask) == [{"size": [4, 3], "counts": "426"}]


def test_the_text_survives_json() -> None:
    mask = np.eye(5, dtype=np.bool_)[None]
    stored = json.loads(json.dumps(masks.encode(mask)))
    assert np.array_equal(masks.decode(stored, (5, 5)), mask)


@given(stacks)
def test_decode_undoes_encode(stack: np.ndarray) -> None:
    decoded = masks.decode(masks.encode(stack), SIZE)
    assert decoded.dtype == np.bool_
    assert np.array_equal(decoded, stack)


@given(stacks, stacks)
def test_areas_and_intersections_are_pixel_counts(first: np.ndarray, second: np.ndarray) -> None:
    one, two = masks.encode(first), masks.encode(second)
    assert np.array_equal(masks.areas(one), first.sum((1, 2)))
    shared = masks.intersections(one, two)
    assert shared.shape == (len(first), len(second))
    assert shared.dtype == np.int64
    assert np.array_equal(shared, (first[:, None] & second[None]).sum((2, 3)))


def test_intersections_are_exact_where_the_quotient_is_rounded() -> None:
    # 4,000 x 4,000 pixels; a: the first 15,999,999, b: all but the first. i = 15,999,998, u = 16,000,000.
    first = np.ones(16_000_000, np.bool_)
    second = first.copy()
    first[-1] = second[0] = False
    one, two = (masks.encode(flat.reshape(1, 4000, 4000)) for flat in (first, second))
    assert masks.intersections(one, two).tolist() == [[15_999_998]]
    assert masks.areas(one).tolist() == [15_999_999]


@given(hnp.arrays(np.int32, SIZE, elements=st.integers(0, 4)))
def test_an_id_map_encodes_as_its_masks(instances: np.ndarray) -> None:
    dense = np.stack([instances == number for number in (1, 2, 3, 4)])
    assert masks.encode_ids(instances, 4) == masks.encode(dense)


def test_an_id_beyond_the_count_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"ids 0\.\.257 are not within 0\.\.1"):  # 257 must not wrap round to 1
        masks.encode_ids(np.array([[0, 257]]), 1)


def test_no_mask_at_all() -> None:
    assert masks.encode(np.zeros((0, 4, 3), np.bool_)) == []
    assert masks.encode_ids(np.zeros((4, 3), np.uint8), 0) == []
    assert masks.decode([], SIZE).shape == (0, 4, 3)
    assert masks.areas([]).shape == (0,)
    assert masks.intersections([], []).shape == (0, 0)


def test_encode_takes_masks_only() -> None:
    with pytest.raises(ValueError, match="must be bool of shape"):
        masks.encode(np.zeros((1, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="must be bool of shape"):
        masks.encode(np.zeros((4, 3), np.bool_))


GOOD = {"size": [4, 3], "counts": "426"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": [3, 4], "counts": "426"}, r"mask 1 has the size \[3, 4\], the image \[4, 3\]"),
        ({"size": [4, 3], "counts": [4, 2, 6]}, "uncompressed counts"),
        ({"size": [4, 3]}, "needs 'size' and 'counts'"),
        ({"size": [4, 3], "counts": "42"}, "runs cover 6 pixels"),  # cut off: pycocotools would never return
        ({"size": [4, 3], "counts": ""}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": "42T"}, "not compressed run lengths"),  # 'T' = 48 + 36: more should follow
        ({"size": [4, 3], "counts": "42é"}, "not compressed run lengths"),
        ({"size": [4, 3], "counts": "42" + 20 * "T" + "6"}, "no image reaches"),
    ],
)
def test_a_damaged_mask_is_named(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masks.check([GOOD, bad], SIZE)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 3), st.just(40), st.just(30))))
def test_every_encoded_mask_passes_the_check(stack: np.ndarray) -> None:
    # Runs up to 1,200 take several characters, and differences of runs may be negative.
    masks.check(masks.encode(stack), (40, 30))
    as_bytes = [{"size": mask["size"], "counts": mask["counts"].encode()} for mask in masks.encode(stack)]
    masks.check(as_bytes, (40, 30))


def test_hundreds_of_masks() -> None:
    # pycocotools' own area fails at 256.
    shapes = np.random.default_rng(0).random((600, 5, 4)) < 0.5
    encoded = masks.encode(shapes)
    assert masks.areas(encoded).tolist() == shapes.sum((1, 2)).tolist()
    np.testing.assert_array_equal(masks.decode(encoded, (5, 4)), shapes)
    flat = shapes.reshape(600, -1).astype(np.int64)
    np.testing.assert_array_equal(masks.intersections(encoded, encoded[:300]), flat @ flat[:300].T)


def test_negative_runs_are_damage_even_where_the_sum_is_right() -> None:
    # 4 x 5 pixels; pycocotools would loop for ever on the first, and count 4294967295 pixels in the others.
    for counts in ("53M<", "i0K", "5O`0"):
        with pytest.raises(ValueError, match=r"mask 1 is damaged: .* cover 20 pixels, but some are negative"):
            masks.check([*masks.encode(np.ones((1, 4, 5), np.bool_)), {"size": [4, 5], "counts": counts}], (4, 5))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=9), min_size=1, max_size=4))
def test_runs_are_read_as_pycocotools_writes_them(listed: list[list[int]]) -> None:
    texts = []
    for runs in listed:
        packed = coco.frPyObjects([{"size": [1, sum(runs)], "counts": runs}], 1, sum(runs))[0]
        texts.append(packed["counts"])
    runs, first = masks._runs(texts)
    assert [part.tolist() for part in np.split(runs, first[1:])] == listed
