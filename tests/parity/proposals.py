"""Golden files ``prop_voc*``: class-agnostic recall as the code of Hosang, MCG and COCO (``useCats = 0``) gives it.

Such a case has no input of its own: ``prop_voc6_exact_iou`` was made from ``voc6_exact_iou.npz`` beside it. It holds a
section for each void rule, and in it a list over K for each number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runner import TOLERANCE, Golden

from evaluation import masks, proposals
from evaluation.proposals import ImageMatches, ImageProposals, ImageTruth, Variant

VOID = 255
# The eleven levels 0.5 .. 1 of MCG's average recall; `proposals.measure` has COCO's ten.
ELEVEN = [k / 20 for k in range(10, 21)]
# Entry -> matching, hit, and the number of `proposals.measure`, or None for the mean over `ELEVEN`.
ENTRIES = {
    "mcg_R50_strict_gt": ("max", ">", "recall_50"),
    "mcg_R50_ge": ("max", ">=", "recall_50"),
    "mcg_AR_50_5_95": ("max", ">=", "ar"),
    "mcg_AR_50_5_100": ("max", ">=", None),
    "hosang_AR_trapz_on_maxJ": ("max", ">=", "ar_hosang"),
    "hosang_greedy_R50_ge": ("greedy", ">=", "recall_50"),
    "hosang_greedy_AR_trapz": ("greedy", ">=", "ar_hosang"),
    "hosang_greedy_AR_50_5_95": ("greedy", ">=", "ar"),
    "coco_R50": ("score", ">=", "recall_50"),
    "coco_AR": ("score", ">=", "ar"),
}


def check(paths: list[Path]) -> int:
    """Compare one case, given as its .expected.json; the number of values compared."""
    assert [path.name.split(".", 1)[1] for path in paths] == ["expected.json"], f"not a case of proposals: {paths}"
    expected = Golden(paths[0])
    data = _read(input_of(paths[0]))
    for section in expected.names():
        entries = dict(expected.take(section))
        numbers = entries.pop("K")
        assert entries.keys() <= ENTRIES.keys(), (
            f"{paths[0].name} {section}: unknown: {entries.keys() - ENTRIES.keys()}"
        )
        # A section's name says in words of its own how void was treated: one of the two rules must give all numbers.
        wrong = {}
        for void in ("count",) if section == "plain" else proposals.VOIDS:
            ours = {name: _ours(data, name, void, numbers) for name in entries}
            wrong[void] = [n for n in entries if not np.allclose(ours[n], entries[n], rtol=0, atol=TOLERANCE)]
        assert not all(wrong.values()), f"{paths[0].name} {section}: under neither void rule equal: {wrong}"
        expected.count(sum(len(values) for values in entries.values()))
    return expected.finish()


def _ours(data: list[tuple[ImageTruth, ImageProposals]], name: str, void: str, numbers: list[int]) -> list[float]:
    matching, hit, measured = ENTRIES[name]
    variant = Variant(matching, void, hit)
    return _numbers([proposals.match_image(*image, variant) for image in data], numbers, measured, variant)


def input_of(expected: Path) -> Path:
    """The .npz that a case was made from: of the same name without ``prop_``, or the only one with its first word."""
    name = expected.name.split(".")[0].removeprefix("prop_")
    exact = expected.with_name(f"{name}.npz")
    word = name.split("_")[0]
    found = (
        [exact]
        if exact.exists()
        else sorted([*expected.parent.glob(f"{word}.npz"), *expected.parent.glob(f"{word}_*.npz")])
    )
    assert len(found) == 1, f"{expected.name} needs {exact.name} in {expected.parent}; found {[p.name for p in found]}"
    return found[0]


def _read(path: Path) -> list[tuple[ImageTruth, ImageProposals]]:
    inputs = Golden(path)
    height, width = int(inputs.take("H")), int(inputs.take("W"))
    packed, scores, image_of = (inputs.take(f"pred_{name}") for name in ("masks_packed", "scores", "img"))
    dense = np.unpackbits(packed, axis=1, count=height * width).reshape(-1, height, width).astype(np.bool_)
    data = []
    for image, ids in enumerate(inputs.take("gt_inst")):
        regions = ids == np.setdiff1d(ids, [0, VOID])[:, None, None]
        void = masks.encode((ids == VOID)[None])[0] if (ids == VOID).any() else None
        these = np.flatnonzero(image_of == image)
        truth = ImageTruth(masks.encode(regions), (height, width), void)
        data.append((truth, ImageProposals(masks.encode(dense[these]), scores[these])))
    return data


def _numbers(matches: list[ImageMatches], numbers: list[int], measured: str | None, variant: Variant) -> list[float]:
    if measured is None:
        return [proposals.recall_over_iou(matches, number, ELEVEN, variant).mean() for number in numbers]
    values = proposals.measure(matches, np.ones((1, len(matches)), dtype=np.int64), variant)
    return [values[f"{measured}@{number}"][0] for number in numbers]
