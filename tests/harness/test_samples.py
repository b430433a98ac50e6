"""Samples of a cell as its evaluate step stores them: what comes back, what is refused, and what may be paired."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation import semantic_iou
from harness import samples
from harness.judged import KINDS, Judged
from harness.measured import is_cost
from harness.names import UsageError
from harness.samples import ABOUT, VALUES
from harness.suite import load_suite, suite_names

CORRECT = (50, 60, 70, 40)


def judged(correct: tuple[int, ...] = CORRECT, truth: int = 100) -> Judged:
    """One class, of which ``correct`` pixels of each image were named, of ``truth``."""
    matches = [semantic_iou.ImageMatches(*(np.array([n], np.int64) for n in (one, truth, one))) for one in correct]
    return Judged("semantic", "v", {"categories": ["class"]}, [str(i) for i in range(len(correct))], matches, 0)


def saved(folder: Path, one: Judged | None = None, resamples: int = 20) -> Path:
    folder.mkdir(exist_ok=True)
    one = one or judged()
    samples.save(folder, [one], [one.resampled(resamples)])
    return folder


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    found = samples.load(saved(tmp_path))
    expected = judged().bootstrap(20).samples
    for name in ("miou", "iou/class", "pixel_accuracy"):
        np.testing.assert_allclose(found.of(name), expected[name], rtol=0, atol=1e-7)
    assert found.values.dtype == np.float32
    assert found.judged == {"semantic": samples.judged_key(judged())}


def test_without_resamples_or_with_one_image_there_are_none(tmp_path: Path) -> None:
    for name, one, resamples in (("none", judged(), 0), ("one", judged((50,)), 20)):
        found = samples.load(saved(tmp_path / name, one, resamples))
        assert found.values.shape[1] == 0
        assert found.judged.keys() == {"semantic"}


def test_only_results_on_the_same_images_by_the_same_annotation_share_a_key() -> None:
    one = judged()
    assert samples.judged_key(one) == samples.judged_key(judged((1, 2, 3, 4)))  # other results, the same truth
    others = [
        judged(truth=99),
        judged(CORRECT[:3]),
        dataclasses.replace(one, image_ids=[*one.image_ids[:3], "other"]),
        dataclasses.replace(one, image_ids=one.image_ids[::-1]),
        dataclasses.replace(one, variant="w"),
        dataclasses.replace(one, options={"categories": ["other"]}),
        dataclasses.replace(one, instances=1),
    ]
    assert samples.judged_key(one) not in [samples.judged_key(other) for other in others]


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path("/nowhere/trap").touch, ()


def rewritten(folder: Path, change: Callable[[dict], None]) -> None:
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    change(about)
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / ABOUT).unlink(),
        lambda folder: (folder / VALUES).unlink(),
        lambda folder: (folder / ABOUT).write_text("[" * 100_000, encoding="utf-8"),
        lambda folder: (folder / VALUES).write_bytes((folder / VALUES).read_bytes()[:-7]),
        lambda folder: (folder / VALUES).write_bytes(b"\x93NUMPY\x01\x00"),
        lambda folder: np.save(folder / VALUES, np.array([Trap()], object), allow_pickle=True),
        lambda folder: np.save(folder / VALUES, np.load(folder / VALUES).astype(np.float64)),
        lambda folder: np.save(folder / VALUES, np.load(folder / VALUES)[1:]),
        lambda folder: np.save(folder / VALUES, np.load(folder / VALUES)[0]),
        lambda folder: rewritten(folder, lambda about: about.update(more=1)),
        lambda folder: rewritten(folder, lambda about: about["kinds"]["semantic"]["numbers"].pop()),
        lambda folder: rewritten(folder, lambda about: about["kinds"]["semantic"]["numbers"].__setitem__(0, "fwiou")),
        lambda folder: rewritten(folder, lambda about: about["kinds"]["semantic"].update(judged=None)),
    ],
)
def test_damaged_samples_are_refused_without_naming_the_machine(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = saved(tmp_path / "row.easy.s0-1234")
    damage(folder)
    with pytest.raises(UsageError, match=r"missing or damaged .*delete steps/evaluate/row.easy.s0-1234") as error:
        samples.load(folder)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("name", suite_names())
def test_every_column_that_has_a_best_has_samples(name: str) -> None:
    columns = [column for table in load_suite(name).tables.values() for column in table.columns if column.best]
    for metric in {column.metric for column in columns if not is_cost(column.metric)}:
        assert any(samples.stored(kind, [metric]) for kind in KINDS), metric


def test_stored_numbers_are_those_of_tables() -> None:
    names = ["ap_r_50", "ap_r_50/cat", "ap_r_30", "ap_r_30/cat", "ap_r_vol/cat"]
    assert samples.stored("voc", names) == ["ap_r_50", "ap_r_50/cat", "ap_r_vol/cat"]
    assert samples.stored("errors", ["lost_merge", "lost_merge/cat", "errors_merge"]) == ["lost_merge"]
    assert samples.stored("semantic", ["miou", "iou/cat"]) == ["miou", "iou/cat"]
