"""Breakdowns: cases worked by hand, the attributes of drawn instances and those of generated scenes."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.shapes import Shapes
from evaluation import breakdowns, masks
from evaluation.breakdowns import AREA, BINS, CONTACTS, PARTS, VISIBLE_FRACTION, Bins, ImageMatches
from evaluation.voc_apr import ImageDetections, ImageTruth

SIZES = Bins("area", ("small", "large"), (4,))
PLACE = Bins("place", ("first", "second"), (1,))


def drawn(rows: str) -> np.ndarray:
    return np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows.split()])


def match(
    truth: str, labels: list[int], bins: tuple[Bins, ...], *detections: tuple[int, str], **attributes: list[float]
) -> ImageMatches:
    """A row of pixels: ``truth`` holds ids and dots; detections are class and a row of x and dots, surest first."""
    ids = drawn(truth)
    dense = np.array([[letter == "x" for letter in row] for _, row in detections], np.bool_)
    scores = 1.0 - 0.1 * np.arange(len(detections))
    encoded = masks.encode(dense.reshape(len(detections), 1, len(truth)))
    found = ImageDetections(encoded, np.array([label for label, _ in detections], np.int64), scores)
    known = breakdowns.attributes_of(ids, np.array(labels)) | {k: np.array(v) for k, v in attributes.items()}
    return breakdowns.match_image(ImageTruth(ids, np.array(labels, np.int64)), found, known, bins, 2)


def measured(image: ImageMatches, *bins: Bins) -> dict[str, float]:
    values = breakdowns.measure([image], np.ones((1, 1), np.int64), bins, ("cat", "dog"))
    return {name: value[0] for name, value in values.items()}


def test_sizes_by_hand() -> None:
    # Small truth of 2, large of 6. A false one of 5 pixels (large), the large one, a false one of 1 pixel (small), the
    # small one. Large: wrong, right: 1/2. Small: wrong, right: 1/2; the large ones are neither.
    found = [(1, "...........xxxxx"), (1, "...xxxxxx......."), (1, "..........x....."), (1, "xx..............")]
    image = match("11.222222.......", [1, 1], (SIZES,), *found)
    assert image.truth_bins.tolist() == [[0, 1]]
    assert image.detection_bins.tolist() == [[1, 1, 0, 0]]
    assert measured(image, SIZES) == {
        "ap_r_50[area=small]": 1 / 2,
        "recall_50[area=small]": 1,
        "truths[area=small]": 1,
        "ap_r_50[area=large]": 1 / 2,
        "recall_50[area=large]": 1,
        "truths[area=large]": 1,
    }


def test_a_correct_detection_belongs_to_the_bin_of_its_truth() -> None:
    # 6 pixels find a truth of 3 (IoU 1/2): small, and no false detection among the large ones.
    image = match("111....22222", [1, 1], (SIZES,), (1, "xxxxxx......"), (1, ".......xxxxx"))
    assert image.detection_bins.tolist() == [[0, 1]]
    values = measured(image, SIZES)
    assert values["ap_r_50[area=small]"] == 1
    assert values["ap_r_50[area=large]"] == 1


def test_a_correct_detection_found_its_candidate_and_no_other_truth() -> None:
    # 4 pixels, 2 on each truth: IoU 2/5 and 2/4. Then IoU 2/4 with both, of which the second has its class.
    image = match("11122.", [1, 1], (PLACE,), (1, ".xxxx."), place=[0, 1])
    assert image.correct.tolist() == [True]
    assert image.detection_bins.tolist() == [[1]]
    image = match("1122", [1, 2], (PLACE,), (2, "xxxx"), place=[0, 1])
    assert image.correct.tolist() == [True]
    assert image.detection_bins.tolist() == [[1]]


def test_a_duplicate_is_false_where_its_own_area_is() -> None:
    # The truth of 4 is large; its copy of 3 pixels is small, where it is false before the small truth: 1/2.
    image = match("1111.22", [1, 1], (SIZES,), (1, "xxxx..."), (1, "xxx...."), (1, ".....xx"))
    assert image.detection_bins.tolist() == [[1, 0, 0]]
    assert measured(image, SIZES)["ap_r_50[area=small]"] == 1 / 2


def test_without_an_area_false_detections_count_in_every_bin() -> None:
    # False, then the truth in two parts, then the one in one: two parts 1/2; one part: false, right, as well 1/2.
    image = match("1.1.22.", [1, 1], (PARTS,), (1, "......x"), (1, "x.x...."), (1, "....xx."))
    assert image.detection_bins.tolist() == [[-1, 1, 0]]
    values = measured(image, PARTS)
    assert values["ap_r_50[parts=1]"] == 1 / 2
    assert values["ap_r_50[parts=2]"] == 1 / 2
    assert np.isnan(values["ap_r_50[parts=3+]"])


def test_recall_counts_truths_and_ap_averages_classes() -> None:
    # Of three cats one is found, of one dog one: recall 2/4, AP (1/3 + 1) / 2.
    image = match("1.2.3.4", [1, 1, 1, 2], (PARTS,), (1, "x......"), (2, "......x"))
    values = measured(image, PARTS)
    assert values["recall_50[parts=1]"] == 1 / 2
    assert values["ap_r_50[parts=1]"] == pytest.approx(2 / 3)
    assert values["truths[parts=1]"] == 4


def test_an_empty_bin_has_no_recall() -> None:
    values = measured(match("1..", [1], (SIZES,)), SIZES)
    assert values["recall_50[area=small]"] == 0
    assert values["ap_r_50[area=small]"] == 0
    assert values["truths[area=large]"] == 0
    assert np.isnan(values["recall_50[area=large]"])
    assert np.isnan(values["ap_r_50[area=large]"])


def test_numbers_follow_the_weights_of_images() -> None:
    both = match("11.2222", [1, 1], (SIZES,), (1, "xx....."))
    small = match("11.....", [1], (SIZES,))
    values = breakdowns.measure([both, small], np.array([[1, 1], [2, 0], [0, 3]]), (SIZES,), ("cat", "dog"))
    assert values["truths[area=small]"].tolist() == [2, 2, 3]
    assert values["recall_50[area=small]"].tolist() == [1 / 2, 1, 0]
    assert values["ap_r_50[area=small]"].tolist() == [1 / 2, 1, 0]
    assert values["recall_50[area=large]"].tolist()[:2] == [0, 0]
    assert np.isnan(values["recall_50[area=large]"][2])


def test_a_bin_begins_at_its_edge() -> None:
    assert AREA.of(np.array([1023, 1024, 9215, 9216])).tolist() == [0, 1, 1, 2]
    assert VISIBLE_FRACTION.of(np.array([0.0, 0.49, 0.5, 0.99, 1.0])).tolist() == [0, 0, 1, 1, 2]
    assert PARTS.of(np.array([1, 2, 3, 7])).tolist() == [0, 1, 2, 2]
    assert CONTACTS.of(np.array([0, 1, 2, 5])).tolist() == [0, 1, 2, 2]


def test_attributes_by_hand() -> None:
    # 1 and 2 touch along an edge and are of one class, 1 and 3 only at a corner; 3 has two parts (a corner does not
    # join them) and touches 4, of another class.
    ids = drawn("112... 112... ...3.. ..443. ....3.")
    found = breakdowns.attributes_of(ids, np.array([1, 1, 1, 2]))
    assert found["area"].tolist() == [4, 2, 3, 2]
    assert found["parts"].tolist() == [1, 1, 2, 1]
    assert found["same_class_contacts"].tolist() == [1, 1, 0, 0]
    assert breakdowns.attributes_of(ids, np.ones(4))["same_class_contacts"].tolist() == [1, 1, 1, 1]


def test_two_truths_in_contact_twice_are_one_contact() -> None:
    ids = drawn("1112 2111 3333")
    found = breakdowns.attributes_of(ids, np.array([1, 1, 1]))
    assert found["same_class_contacts"].tolist() == [2, 2, 2]
    assert found["parts"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_attributes_of_an_empty_map(dtype: type) -> None:
    found = breakdowns.attributes_of(np.zeros((3, 4), dtype), np.zeros(0, np.int64))
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("area", "parts", "same_class_contacts"), (0,)
    )


@pytest.mark.parametrize("level", ["easy", "standard", "hard"])
def test_attributes_are_those_of_generated_scenes(level: str) -> None:
    scenes = Shapes("val", 12, level)
    for index in range(12):
        sample = scenes[index]
        found = breakdowns.attributes_of(sample.instances, sample.labels())
        for name, values in found.items():
            expected = getattr(sample.attributes, name)
            assert values.dtype == expected.dtype == np.int64
            assert values.tolist() == expected.tolist(), name


def test_the_default_bins_fit_a_generated_scene() -> None:
    sample = Shapes("val", 4, "hard")[1]
    labels, count = sample.labels(), len(sample.labels())
    perfect = ImageDetections(masks.encode_ids(sample.instances, count), labels, np.ones(count))
    known = vars(sample.attributes)
    image = breakdowns.match_image(ImageTruth(sample.instances, labels), perfect, known, BINS, 6)
    values = breakdowns.measure([image], np.ones((1, 1), np.int64), BINS, tuple("abcdef"))
    for one in BINS:
        assert sum(values[f"truths[{one.attribute}={name}]"][0] for name in one.names) == count
        for name in one.names:
            full = values[f"truths[{one.attribute}={name}]"][0] > 0
            for number in ("ap_r_50", "recall_50"):
                value = values[f"{number}[{one.attribute}={name}]"][0]
                assert value == 1 if full else np.isnan(value)


def test_bins_must_fit() -> None:
    with pytest.raises(ValueError, match="area: 2 edges make 3 bins"):
        Bins("area", ("small", "large"), (1, 2))
    with pytest.raises(ValueError, match=r"the edges .* do not rise"):
        Bins("area", ("small", "medium", "large"), (2, 2))


def test_attributes_must_fit() -> None:
    with pytest.raises(
        ValueError, match="no attribute 'visible_fraction'; available: area, parts, same_class_contacts"
    ):
        match("1", [1], (VISIBLE_FRACTION,))
    with pytest.raises(ValueError, match=r"parts has the shape \(2,\), but there are 1 truths"):
        match("1", [1], (PARTS,), parts=[1, 2])
    with pytest.raises(ValueError, match="visible_fraction of truth 2 is not a number"):
        match("1.2", [1, 1], (VISIBLE_FRACTION,), visible_fraction=[1.0, np.nan])


def test_other_bins_than_matched_are_refused() -> None:
    image = match("1", [1], (PARTS,))
    with pytest.raises(ValueError, match="image 0 was matched with 1 properties, not 2"):
        breakdowns.measure([image], np.ones((1, 1), np.int64), (PARTS, AREA), ("cat", "dog"))
