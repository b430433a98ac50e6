"""Proposals: recall, both average recalls and the curves, on cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import masks, proposals
from evaluation.proposals import KS, MATCHINGS, ImageMatches, ImageProposals, ImageTruth, Variant

DEFAULT, STRICT = Variant(), Variant(hit=">")


def rows(*texts: str) -> list[masks.RunLengths]:
    """Masks of one row of pixels, written as x and dots."""
    return [masks.encode(np.array([[[letter == "x" for letter in text]]]))[0] for text in texts]


def truth(width: int, *instances: str, void: str | None = None) -> ImageTruth:
    return ImageTruth(rows(*instances), (1, width), None if void is None else rows(void)[0])


def found(*regions: str, scores: list[float] | None = None) -> ImageProposals:
    """By default surest first."""
    return ImageProposals(rows(*regions), -np.arange(len(regions)) if scores is None else np.array(scores))


def image(*overlaps: float, used: int = 1) -> ImageMatches:
    """An image whose instances are found up to these IoUs, for every K."""
    return ImageMatches(np.tile(np.array(overlaps), (len(KS), 1)), np.array([used]))


def measured(*matches: ImageMatches, variant: Variant = DEFAULT) -> dict[str, float]:
    values = proposals.measure(matches, np.ones((1, len(matches)), np.int64), variant)
    return {name: value.item() for name, value in values.items()}


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("twentieths", range(1, 21))
def test_an_iou_of_exactly_k_twentieths(matching: str, twentieths: int) -> None:
    # Truth: all 20 pixels; proposal: the first k. IoU = k/20: >= passes the levels 1/20 .. k/20, > one fewer.
    levels = [k / 20 for k in range(1, 21)]
    case = (truth(20, "x" * 20), found("x" * twentieths + "." * (20 - twentieths)))
    for hit, passed in ((">=", twentieths), (">", twentieths - 1)):
        variant = Variant(matching, hit=hit)
        recall = proposals.recall_over_iou([proposals.match_image(*case, variant)], 10, levels, variant)
        assert recall.tolist() == [1.0] * passed + [0.0] * (20 - passed)


def test_both_average_recalls_by_hand() -> None:
    # IoU 0.6: the levels 0.5, 0.55, 0.6 of ten. The grid's points 0.5 .. 0.6 are 101, the first counts half:
    # 2 * 0.001 * 100.5. IoU 0.5 passes one level, and half a point; IoU 1 passes everything.
    for overlap, ar, hosang in ((0.6, 0.3, 0.201), (0.5, 0.1, 0.001), (1.0, 1.0, 1.0), (0.49, 0.0, 0.0)):
        values = measured(image(overlap))
        assert values["ar@10"] == pytest.approx(ar, abs=1e-12)
        assert values["ar_hosang@10"] == pytest.approx(hosang, abs=1e-12)
    # Pooled over instances, (0.3 + 0.1 + 1) / 3.
    assert measured(image(0.6, 0.5), image(1.0))["ar@10"] == pytest.approx(1.4 / 3)


def test_hosangs_grid_lies_above_seven_tenths() -> None:
    # 700 * 0.001 > 0.7 in floating point, so an exact 7/10 reaches 0.699: 2 * 0.001 * 199.5 instead of 200.5.
    assert measured(image(7 / 10))["ar_hosang@1"] == pytest.approx(0.399, abs=1e-12)
    assert measured(image(7 / 10))["ar@1"] == pytest.approx(0.5, abs=1e-12)  # COCO's levels are the decimals


def test_a_strict_hit_loses_the_level_itself() -> None:
    values = measured(image(0.75, 0.5), variant=STRICT)
    assert values["recall_50@1"] == 0.5
    assert values["recall_75@1"] == 0.0
    assert values["ar@1"] == pytest.approx(5 / 20)  # 0.5 .. 0.7 of ten levels, of one of two
    assert measured(image(0.6), variant=STRICT)["ar_hosang@1"] == pytest.approx(0.199)  # 0.5 .. 0.599


def test_the_union_of_two_equal_truths_serves_both_only_without_exclusivity() -> None:
    case = (truth(8, "xxxx....", "....xxxx"), found("xxxxxxxx"))  # IoU 4/8 with either
    recalls = {m: measured(proposals.match_image(*case, Variant(m)))["recall_50@1"] for m in MATCHINGS}
    assert recalls == {"max": 1.0, "greedy": 0.5, "score": 0.5}
    for matching in MATCHINGS:
        strict = Variant(matching, hit=">")
        assert measured(proposals.match_image(*case, strict), variant=strict)["recall_50@1"] == 0.0


def test_three_matchings_of_overlapping_truths() -> None:
    # a = 0..9, b = 4..13. First proposal 1..10: 9/11 with a, 7/13 with b. Second proposal: a itself, 6/14 with b.
    annotated = truth(14, "xxxxxxxxxx....", "....xxxxxxxxxx")
    proposed = found(".xxxxxxxxxx...", "xxxxxxxxxx....")
    overlaps = {m: proposals.match_image(annotated, proposed, Variant(m)).overlaps[KS.index(3)] for m in MATCHINGS}
    assert overlaps["max"] == pytest.approx([1, 7 / 13])
    assert overlaps["greedy"] == pytest.approx([1, 7 / 13])  # the second takes a, the first is left for b
    # By score, up to 9/11, the first takes a and the second is left for b; above, the second takes a.
    assert overlaps["score"] == pytest.approx([1, 6 / 14])


def test_greedy_gives_a_proposal_away_once() -> None:
    # As above without the second proposal: a takes it, b has nothing. By score too, and above 9/11 nobody wants it.
    annotated, proposed = truth(14, "xxxxxxxxxx....", "....xxxxxxxxxx"), found(".xxxxxxxxxx...")
    assert proposals.match_image(annotated, proposed, Variant("max")).overlaps[0] == pytest.approx([9 / 11, 7 / 13])
    for matching in ("greedy", "score"):
        overlaps = proposals.match_image(annotated, proposed, Variant(matching)).overlaps
        assert overlaps[0] == pytest.approx([9 / 11, 0])
        assert (overlaps == overlaps[0]).all()


def test_of_two_equally_good_truths_coco_takes_the_later() -> None:
    # Second proposal: b itself, but b is gone. Max and greedy give it b; by score it gets nothing below 1/2.
    case = (truth(8, "xxxx....", "....xxxx"), found("xxxxxxxx", "....xxxx"))
    assert proposals.match_image(*case, Variant("score")).overlaps[1] == pytest.approx([0, 1])
    assert proposals.match_image(*case, Variant("greedy")).overlaps[1] == pytest.approx([0.5, 1])


@pytest.mark.parametrize("matching", MATCHINGS)
def test_void_counts_or_is_stripped(matching: str) -> None:
    case = (truth(4, "xx..", void="..xx"), found("xxxx"))
    assert proposals.match_image(*case, Variant(matching, "count")).overlaps[0] == 0.5
    assert proposals.match_image(*case, Variant(matching, "strip")).overlaps[0] == 1.0


def test_void_never_takes_an_instances_pixels() -> None:
    # Void everywhere: of the proposal's 4 pixels the 2 on the instance stay.
    case = (truth(4, "xx..", void="xxxx"), found("xxxx"))
    assert proposals.match_image(*case, Variant(void="strip")).overlaps[0] == 1.0


def test_void_makes_no_difference_where_there_is_none() -> None:
    case = (truth(4, "xx.."), found("xxxx"))
    count, strip = proposals.match_variants(*case, [Variant(void="count"), Variant(void="strip")])
    assert np.array_equal(count.overlaps, strip.overlaps)


def test_the_surest_come_first_and_ties_keep_their_order() -> None:
    # Sorted: 0.9 (2/4), then 0.5 (1/4), 0.5 (4/4). K = 1 sees the first, K = 3 all.
    case = (truth(4, "xxxx"), found("x...", "xxxx", "xx..", scores=[0.5, 0.5, 0.9]))
    assert proposals.match_image(*case).overlaps[:3, 0].tolist() == [0.5, 1.0, 1.0]
    tied = (truth(4, "xxxx"), found("x...", "xxxx", scores=[0.5, 0.5]))
    assert proposals.match_image(*tied).overlaps[:2, 0].tolist() == [0.25, 1.0]
    assert proposals.match_image(tied[0], found("xxxx", "x...", scores=[0.5, 0.5])).overlaps[0, 0] == 1.0


def test_no_more_than_the_largest_k_are_used() -> None:
    many = found(*["x..."] * KS[-1], "xxxx")
    match = proposals.match_image(truth(4, "xxxx"), many)
    assert match.overlaps[:, 0].tolist() == [0.25] * len(KS)
    assert measured(match)["proposals@1000"] == 1000


def test_an_image_with_fewer_proposals_gives_all_it_has() -> None:
    few = proposals.match_image(truth(4, "xxxx"), found("....", "xxxx"))
    none = proposals.match_image(truth(4, "xxxx"), found())
    values = measured(few, none)
    assert [values[f"recall_50@{number}"] for number in (1, 3, 1000)] == [0.0, 0.5, 0.5]  # none's truth is not found
    assert [values[f"proposals@{number}"] for number in (1, 3, 1000)] == [0.5, 1.0, 1.0]
    assert proposals.proposals_used([few, none]).tolist() == [0.5] + [1.0] * (len(KS) - 1)


def test_recall_is_pooled_over_instances_not_images() -> None:
    assert measured(image(1.0), image(0.0, 0.0, 0.0))["recall_50@1"] == 0.25
    assert measured(image(1.0), image())["recall_50@1"] == 1.0  # an image without an instance adds none


def test_image_weights() -> None:
    counts = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 3]])
    values = proposals.measure([image(1.0, used=5), image(0.6, 0.0), image(used=2)], counts)
    assert values["recall_50@1"].tolist() == pytest.approx([2 / 3, 1, np.nan], nan_ok=True)
    assert values["ar@1"].tolist() == pytest.approx([1.3 / 3, 1, np.nan], nan_ok=True)
    assert values["proposals@3"].tolist() == pytest.approx([6 / 3, 8 / 3, 2])  # 3, 1, 2 of them are used


def test_without_instances_or_images_there_is_no_recall() -> None:
    values = measured(image(used=4))
    assert values.pop("proposals@3") == 3
    assert all(np.isnan(value) for name, value in values.items() if not name.startswith("proposals"))
    assert all(np.isnan(value) for value in measured().values())
    assert np.isnan(proposals.recall_over_iou([], 10)).all()
    assert np.isnan(proposals.proposals_used([])).all()


def test_the_names() -> None:
    names = [f"{name}@{k}" for k in KS for name in ("recall_50", "recall_75", "ar", "ar_hosang", "proposals")]
    assert list(measured(image(0.5))) == names


def test_curves_by_hand() -> None:
    # Each K finds its own: IoUs 0.5, 0.55 ... 0.9 for K = 1 .. 1000, and a second instance with 0.6 for all.
    overlaps = np.stack([np.linspace(0.5, 0.9, len(KS)), np.full(len(KS), 0.6)], axis=1)
    matches = [ImageMatches(overlaps, np.array([7]))]
    assert proposals.recall_over_iou(matches, 1, [0.4, 0.5, 0.6, 0.7]).tolist() == [1, 1, 0.5, 0]
    assert proposals.recall_over_iou(matches, 1, [0.4, 0.5, 0.6, 0.7], STRICT).tolist() == [1, 0.5, 0, 0]
    assert proposals.recall_over_iou(matches, 1000, [0.6, 0.8, 0.95]).tolist() == [1, 0.5, 0]
    assert proposals.recall_over_k(matches, 0.65).tolist() == [0] * 3 + [0.5] * 6
    assert len(proposals.recall_over_iou(matches, 10)) == len(proposals.CURVE) == 51


@pytest.mark.parametrize("levels", [[], [0.0, 0.5], [0.5, 0.5], [0.6, 0.5], [0.5, 1.01], [np.nan]])
def test_curves_refuse_other_levels(levels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"levels must ascend within \(0, 1\]"):
        proposals.recall_over_iou([image(0.5)], 10, levels)


def test_curves_refuse_an_unknown_number() -> None:
    with pytest.raises(ValueError, match="of 1, 3, 5, 10, 30, 60, 100, 300, 1000 proposals, not of 20"):
        proposals.recall_over_iou([image(0.5)], 20)


def test_the_fields_that_are_stored() -> None:
    match = proposals.match_image(truth(4, "x...", "..xx", void=".x.."), found("xx.."), Variant(void="strip"))
    assert match.overlaps.shape == (len(KS), 2)
    assert match.overlaps.dtype == np.float64
    assert match.proposals.shape == (1,)
    assert proposals.match_image(truth(4), found("xx..")).overlaps.shape == (len(KS), 0)
    assert proposals.match_image(truth(4, void="x..."), found(), Variant(void="strip")).overlaps.shape == (len(KS), 0)


@pytest.mark.parametrize("choice", [{"matching": "best"}, {"void": "ignore"}, {"hit": "="}])
def test_an_unknown_variant(choice: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(choice))} must be one of"):
        Variant(**choice)
    assert Variant().tag == "max/count/>="


@pytest.mark.parametrize(
    ("annotated", "proposed", "message"),
    [
        (truth(4, "...."), found("xxxx"), "annotated instance 0 has no pixel"),
        (truth(4, "xxxx", void="xxx"), found("xxxx"), r"annotated: mask 1 has the size \[1, 3\]"),
        (truth(4, "xxxx"), found("xxxx", "xxx"), r"proposed: mask 1 has the size \[1, 3\]"),
        (truth(4), found("xxx"), r"proposed: mask 0 has the size \[1, 3\]"),
        (truth(4, "xxxx"), found("xxxx", scores=[np.nan]), "a score is not a finite number"),
        (truth(4, "xxxx"), found("xxxx", scores=[1, 2]), r"there are 1 masks, but scores of shape \(2,\)"),
    ],
)
def test_what_breaks_the_promise_is_refused(annotated: ImageTruth, proposed: ImageProposals, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        proposals.match_image(annotated, proposed)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 1)])
def test_weights_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"counts must have the shape \(B, 2\)"):
        proposals.measure([image(0.5), image(0.5)], np.ones(shape, np.int64))
