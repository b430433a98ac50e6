"""Claims: what decides one, how sure it is, what is printed; worked on matches and records made by hand.

At the end stand the tests that results/claims.toml names as proofs of statements about losses.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from evaluation import semantic_iou
from harness import claims, effects, listing, shown, sweep
from harness.claimed import Claim, check_rows, load_claims
from harness.effects import Contrast, Effect, contrast, decide, decisive, estimate, holds_for
from harness.job import Job
from harness.judged import KINDS, Judged, save
from harness.measured import COSTS
from harness.names import UsageError
from harness.plan import Cell, Request
from harness.record import Environment, Evaluation, PredictCost, Provenance, Record, TrainCost
from harness.settings import EvaluateSettings, PredictSettings, Settings, TrainSettings
from harness.suite import Data, Preset, Row, Suite, load_suite, suite_names
from methods.pull_push import pull_push_loss
from methods.recurrent_mean_shift import pair_loss

ROOT = Path(__file__).resolve().parents[2]
NAN = math.nan


# ---------------------------------------------------------------- effects: the two rows that decide


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("greater", [1, 2], Contrast(0, 1, 1)),
        ("greater", [3, 4, 2], Contrast(1, 2, 2)),  # the last must beat the best of the others
        ("at_least", [3, 1, 2, 2.5], Contrast(0, 3, 3)),
        ("difference", [9, 2], Contrast(0, 1, 1)),
        ("ratio", [9, 2], Contrast(0, 1, 1)),
        ("peak_inside", [1, 5, 6, 2], Contrast(3, 2, 4)),  # two ends, two inside
        ("peak_inside", [7, 5, 6, 2], Contrast(0, 2, 4)),
        ("insensitive", [3, 1, 2], Contrast(1, 0, 3)),
        ("faster", [10, 3, 4, 2], Contrast(0, 2, 3)),  # the slowest of the others
    ],
)
def test_the_rows_that_decide(kind: effects.Kind, values: list[float], expected: Contrast) -> None:
    assert decisive(kind, values) == expected


def test_contrasts_by_hand() -> None:
    first, second = np.array([2.0, 0.0]), np.array([3.0, 6.0])
    assert contrast("greater", first, second).tolist() == [1, 6]
    np.testing.assert_array_equal(contrast("ratio", first, second), [1.5, NAN])
    np.testing.assert_array_equal(contrast("faster", second, first), [1.5, NAN])


@pytest.mark.parametrize(
    ("kind", "low", "high", "verdict"),
    [
        ("greater", 0.1, 2.0, "replicated"),
        ("greater", -0.1, 2.0, "undecided"),
        ("greater", -2.0, -0.1, "not replicated"),
        ("greater", 0.0, 0.0, "not replicated"),  # nothing changed: for certain not more
        ("peak_inside", 0.1, 2.0, "replicated"),
        ("at_least", -0.4, 0.2, "replicated"),  # tolerance 0.5
        ("at_least", -0.6, 0.2, "undecided"),
        ("at_least", -0.9, -0.6, "not replicated"),
        ("difference", 6.6, 7.4, "replicated"),  # 7 within 0.5
        ("difference", 6.4, 7.4, "undecided"),
        ("difference", 6.4, 7.6, "undecided"),
        ("difference", 7.6, 9.0, "not replicated"),
        ("difference", 1.0, 6.4, "not replicated"),
        ("insensitive", -0.1, 0.4, "replicated"),
        ("insensitive", 0.0, 0.0, "replicated"),
        ("insensitive", 0.4, 0.6, "undecided"),
        ("insensitive", 0.6, 0.9, "not replicated"),
        ("faster", 1.1, 3.0, "replicated"),
        ("faster", 0.9, 3.0, "undecided"),
        ("faster", 0.3, 0.9, "not replicated"),
        ("greater", NAN, NAN, "undecided"),
        ("difference", NAN, NAN, "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(kind: effects.Kind, low: float, high: float, verdict: str) -> None:
    tolerance = 0.5 if kind in ("at_least", "difference", "insensitive") else 0.0
    assert decide(Effect(0.5 * (low + high), low, high), holds_for(kind, tolerance, 7.0)) == verdict


# ---------------------------------------------------------------- effects: their intervals


def test_one_seed_has_the_interval_over_images() -> None:
    samples = np.array([[[1.0, 1.0, 1.0, 1.0, 1.0]], [[1.0, 2.0, 3.0, 4.0, 5.0]]])
    effect = estimate("greater", np.array([[1.0], [3.0]]), samples, 0.5)
    assert effect == Effect(2.0, 1.0, 3.0)  # the middle half of 0, 1, 2, 3, 4


def test_images_and_seeds_add_as_squares() -> None:
    values = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    samples = np.zeros((2, 3, 3))
    samples[1] = [1.0, 2.0, 5.0]  # below the mean of 2: 1; above: 3, at confidence near 1
    sure = 1 - 1e-12
    half = estimate("greater", values, None, sure).high - 2.0
    effect = estimate("greater", values, samples, sure)
    assert effect.low == pytest.approx(2.0 - math.hypot(half, 1.0))
    assert effect.high == pytest.approx(2.0 + math.hypot(half, 3.0))


def test_seeds_alone_have_students_interval() -> None:
    effect = estimate("greater", np.array([[5.0, 5.0, 5.0], [6.0, 7.0, 8.0]]), None, 0.95)
    assert effect.value == 2.0
    assert effect.high - 2.0 == pytest.approx(4.302653 / 3**0.5, abs=1e-6)  # t of 2 degrees of freedom


def test_what_rows_share_drops_out() -> None:
    """Seeds that lift both rows alike, and images that are hard for both, say nothing against the effect."""
    generator = np.random.default_rng(0)
    luck, images = generator.normal(0, 9, 3), generator.normal(0, 9, (3, 50))
    effect = estimate("greater", np.array([luck, luck + 1]), np.array([images, images + 1]), 0.95)
    assert (effect.low, effect.high) == pytest.approx((1.0, 1.0))


def test_without_seeds_and_images_there_is_no_interval() -> None:
    for samples in (None, np.full((2, 1, 4), NAN)):
        effect = estimate("greater", np.array([[1.0], [2.0]]), samples, 0.95)
        assert effect.value == 1.0
        assert math.isnan(effect.low)
        assert math.isnan(effect.high)


def test_times_are_trusted_to_a_factor() -> None:
    one = estimate("faster", np.array([[30.0], [10.0]]), None, 0.95)
    assert one == Effect(3.0, 2.0, 4.5)
    even = estimate("faster", np.array([[30.0, 30.0], [10.0, 10.0]]), None, 0.95)
    assert even == Effect(3.0, 2.0, 4.5)  # seeds that agree do not make a machine quiet


def test_a_picked_pair_has_a_wider_interval() -> None:
    samples = np.stack([np.zeros((1, 1000)), np.linspace(0, 1, 1000)[None]])
    values = np.array([[0.0], [0.5]])
    alone, picked = estimate("greater", values, samples, 0.9), estimate("greater", values, samples, 0.9, pairs=10)
    assert (alone.low, alone.high) == pytest.approx((0.05, 0.95), abs=1e-3)
    assert (picked.low, picked.high) == pytest.approx((0.005, 0.995), abs=1e-3)


def simulated(
    generator: np.random.Generator, seeds: int, trainings: float, effect: float, images: int = 100, resamples: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Two rows' values (2, S) and samples (2, S, B): means over images, with an error of each training and image."""
    shared = generator.normal(0, 5, (1, seeds, images))
    hard = generator.normal(0, 1, (2, 1, images))  # what an image is to a row, whatever the seed
    luck = generator.normal(0, trainings, (2, seeds, 1))
    scores = shared + hard + luck + generator.normal(0, 1, (2, seeds, images))
    scores[1] += effect
    counts = generator.multinomial(images, np.full(images, 1 / images), size=resamples)
    return scores.mean(axis=2), scores @ counts.T / images


@pytest.mark.parametrize(("seeds", "trainings"), [(1, 0.0), (3, 0.0), (3, 0.5)])
def test_intervals_hold_the_true_effect_as_often_as_they_say(seeds: int, trainings: float) -> None:
    generator, runs, held = np.random.default_rng(1), 1000, 0
    for _ in range(runs):
        values, samples = simulated(generator, seeds, trainings, effect=1.0)
        found = estimate("greater", values, samples, 0.9)
        held += found.low <= 1.0 <= found.high
    assert 0.87 <= held / runs <= 0.97  # 0.9, less three standard deviations of a share; at most a little wide


def test_an_interval_over_images_alone_misses_the_luck_of_trainings() -> None:
    """Why one seed is said to be one seed."""
    generator, held = np.random.default_rng(2), 0
    for _ in range(200):
        values, samples = simulated(generator, 1, trainings=0.5, effect=1.0)
        found = estimate("greater", values, samples, 0.9)
        held += found.low <= 1.0 <= found.high
    assert held / 200 < 0.8


def test_a_flat_curve_has_no_peak_inside() -> None:
    """Of eight equal rows one is best by luck: replicated at most as often as an error is allowed."""
    generator, wrong = np.random.default_rng(3), 0
    for _ in range(300):
        scores = generator.normal(0, 1, (8, 60)) + generator.normal(0, 5, 60)
        counts = generator.multinomial(60, np.full(60, 1 / 60), size=500)
        picked = decisive("peak_inside", scores.mean(axis=1))
        pair = scores[[picked.first, picked.second]]
        found = estimate("peak_inside", pair.mean(axis=1)[:, None], (pair @ counts.T / 60)[:, None], 0.95, picked.pairs)
        wrong += decide(found, holds_for("peak_inside", 0, NAN)) == "replicated"
    assert wrong / 300 <= 0.05


# ---------------------------------------------------------------- results/claims.toml


def test_the_papers_effects_by_hand() -> None:
    found = load_claims()
    assert found["center_shift"].paper_effect() == pytest.approx(24.9 - 23.4)
    assert found["true_semantics_by_7"].paper_effect() == pytest.approx(31.7 - 24.9)
    assert found["threshold_peak"].paper_effect() == pytest.approx(31.7 - 29.1)  # 1.2 against 2.0
    assert found["unsupervised_three_quarters"].paper_effect() == pytest.approx(0.76)
    assert found["neighbours"].paper_effect() == pytest.approx(0.4)
    assert math.isnan(found["faster_than_proposals"].paper_effect())  # ">10" is no number
    says = {name: claim.paper_says() for name, claim in found.items() if not claim.proof}
    assert says["center_shift"] == "+1.5"
    assert says["neighbours"] == "0.4"
    assert says["unsupervised_three_quarters"] == "0.76"
    assert says["faster_than_proposals"] == ">10 fps against 5 fps"
    assert says["clusters_25"] == "25 are the best"
    assert says["sigma_learned"] == "not available"


def test_about_three_quarters_is_neither_seven_nor_eight_tenths() -> None:
    claim = load_claims()["unsupervised_three_quarters"]
    low, high = holds_for("ratio", claim.tolerance, claim.paper_effect())
    assert 0.70 < low < 0.75 < high < 0.80


def test_what_the_loss_says_of_the_number_of_instances_is_two_claims() -> None:
    """Its zero does not depend on it, its value does: each has a proof of its own."""
    zero, value = (load_claims()[name].proof for name in ("rpe_loss_zero", "rpe_loss_value"))
    assert (zero.holds, value.holds) == (True, False)
    assert not set(zero.tests) & set(value.tests)


def test_claims_name_what_exists() -> None:
    metrics = {name for kind in KINDS.values() for name in kind.shown} | set(COSTS)
    for claim in load_claims().values():
        assert {where.metric for where in claim.on.values()} <= metrics
        for test in claim.proof.tests if claim.proof else ():
            file, _, name = test.partition("::")
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", suite_names())
def test_suites_have_the_rows_of_their_claims(name: str) -> None:
    check_rows({key: claim for key, claim in load_claims().items() if name in claim.on}, load_suite(name))


def test_claims_have_a_suite_each() -> None:
    assert {name for claim in load_claims().values() for name in claim.on} <= set(suite_names())


GOOD = """
[one]
paper = "P"
text = "t"
source = "s"
kind = "greater"
rows = ["a", "b"]
on = { shapes = { metric = "miou" } }
"""


def test_a_good_claim_loads(tmp_path: Path) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_claims(path)["one"].rows == ("a", "b")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"greater"', '"bigger"', "kind must be one of"),
        ('["a", "b"]', '["a"]', "at least 2 rows"),
        ('["a", "b"]', '["a", "a"]', "named twice"),
        ('"greater"', '"peak_inside"', "at least 3 rows"),
        ('"greater"', '"insensitive"', "have a tolerance"),
        ('"greater"', '"at_least"\ntolerance = 1.0', "needs tolerance_why"),
        ('"greater"', '"greater"\ntolerance = 1.0', "have a tolerance"),
        ('"greater"', '"difference"\ntolerance = 1.0\ntolerance_why = "w"', "needs a reported effect"),
        (
            '["a", "b"]',
            '["a", "b", "c"]\nreported = [{ file = "rpe", where = {} }, { file = "rpe", where = {} }]',
            "eac",
        ),
        ('"greater"', '"greater"\nreported_as = "{} fps"', "for each selection"),
        ('"greater"', '"property"', "has a proof"),
        ('"greater"', '"faster"', "compares a cost"),
        ('"miou"', '"cost.predict.milliseconds"', "by faster alone"),
        ("paper", "papr", "Did you mean paper"),
        ("[one]", "x = 1\n[one]", "outside of any claim"),
        ("[one]", "[one", "cannot be read"),
    ],
)
def test_a_broken_claim_is_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "claims.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_claims(path)


# ---------------------------------------------------------------- measuring

HERE = Environment(
    commit="abc", dirty=False, python="3", packages={}, machine="m", processor="p", cores=2, gpu=""
)  # fmt: skip
GREATER = Claim(paper="P", text="t", source="s", kind="greater", rows=("a", "b"), on={"shapes": {"metric": "miou"}})
TRUTH = 100  # pixels of the one class in each image


def made(
    folder: Path,
    row: str,
    correct: Sequence[int],
    seed: int = 0,
    status: str = "ok",
    milliseconds: float = 5.0,
    resamples: int = 200,
    processor: str = "p",
    truth: int = TRUTH,
    training: str = "shared",
) -> tuple[Record, Path]:
    """A record and its evaluate folder: one class, of which ``correct`` pixels of each image were named."""
    matches = [semantic_iou.ImageMatches(*(np.array([n], np.int64) for n in (one, truth, one))) for one in correct]
    judged = Judged("semantic", "v", {"categories": ["class"]}, [str(i) for i in range(len(correct))], matches, 0)
    place = folder / f"{row}.s{seed}"
    save(place / "semantic.npz", judged)
    settings = Settings(
        "shapes", "quick", row, "pull_push", {}, "easy", "shapes", {}, seed,
        TrainSettings(), PredictSettings(), EvaluateSettings(protocols=("semantic",), resamples=resamples),
    )  # fmt: skip
    ran = HERE.model_copy(update={"processor": processor})
    record = Record(
        cell=settings.cell,
        status=status,
        reason="" if status == "ok" else "out of luck",
        settings=settings,
        evaluation=Evaluation(images=len(correct), confidence=0.95, verdicts={"semantic": judged.verdict(0, 0.95)}),
        train=TrainCost(
            seconds=1.0, steps=1, parameters=1, peak_memory=1, losses={}, weights_digest="", environment=ran
        ),
        predict=PredictCost(
            seconds=1.0, images=4, network_ms=milliseconds, grouping_ms=NAN, scoring_ms=0.0, peak_memory=1,
            environment=ran,
        ),
        provenance=Provenance(
            environment=HERE, train_fingerprint="t", val_fingerprint="v", keys={"train": training}, finished="",
        ),
    )  # fmt: skip
    return record, place


def judged(claim: Claim, metric: str, *cells: tuple[Record, Path]) -> claims.Outcome:
    records = {(record.settings.row, record.settings.seed): record for record, _ in cells}
    folders = {(record.settings.row, record.settings.seed): place for record, place in cells}
    return claims.measure("one", claim, metric, "easy", records, folders)


def test_a_claim_from_stored_matches(tmp_path: Path) -> None:
    found = judged(GREATER, "miou", made(tmp_path, "a", [50, 60, 70, 40]), made(tmp_path, "b", [60, 70, 80, 45]))
    # IoU is correct / truth, since nothing wrong is predicted: 220 and 255 of 400.
    assert found.verdict == "replicated"
    assert found.rows == ("a", "b")
    assert found.values == pytest.approx((55.0, 63.75))
    assert found.effect.value == pytest.approx(8.75)
    # Every image gained 5 or 10 points, so every resample of four did: paired, nothing else is uncertain.
    assert 5.0 <= found.effect.low <= found.effect.high <= 10.0 + 1e-9
    assert (found.seeds, found.images, found.pairs) == ((0,), 4, 1)


def test_one_seed_of_different_trainings_decides_nothing(tmp_path: Path) -> None:
    """An interval over images says nothing of how another training would come out; three seeds say something."""
    cells = [
        made(tmp_path, row, [number] * 4, seed, training=f"{row} {seed}")
        for row, number in (("a", 50), ("b", 60))
        for seed in range(3)
    ]
    alone = judged(GREATER, "miou", *(cell for cell in cells if cell[0].settings.seed == 0))
    assert (alone.verdict, alone.effect.value) == ("undecided", pytest.approx(10.0))
    assert "one seed of different trainings" in alone.reason
    assert judged(GREATER, "miou", *cells).verdict == "replicated"


def test_seeds_are_paired(tmp_path: Path) -> None:
    """The two seeds are 20 points apart, but each row's gain is one point in both."""
    cells = [made(tmp_path, "a", [50] * 4, 0), made(tmp_path, "b", [51] * 4, 0)]
    cells += [made(tmp_path, "a", [70] * 4, 1), made(tmp_path, "b", [71] * 4, 1)]
    found = judged(GREATER, "miou", *cells)
    assert found.verdict == "replicated"
    assert (found.effect.low, found.effect.high) == pytest.approx((1.0, 1.0))
    assert found.seeds == (0, 1)


def test_a_claim_about_several_rows(tmp_path: Path) -> None:
    fields = {**GREATER.model_dump(), "rows": ("a", "b", "c")}
    spread = Claim(**{**fields, "kind": "insensitive", "tolerance": 3.0, "tolerance_why": "w"})
    cells = [made(tmp_path, row, [n] * 4) for row, n in (("a", 52), ("b", 50), ("c", 51))]
    found = judged(spread, "miou", *cells)
    assert (found.rows, found.pairs, found.verdict) == (("b", "a"), 3, "replicated")
    assert judged(Claim(**{**fields, "kind": "peak_inside"}), "miou", *cells).verdict == "not replicated"


def test_a_seed_counts_where_every_row_has_it(tmp_path: Path) -> None:
    cells = [made(tmp_path, "a", [50] * 4, 0), made(tmp_path, "b", [51] * 4, 0)]
    cells += [made(tmp_path, "a", [50] * 4, 1), made(tmp_path, "b", [9] * 4, 1, status="timeout")]
    found = judged(GREATER, "miou", *cells)
    assert found.seeds == (0,)
    assert "without b of seed 1: timeout" in found.reason


def test_times_come_from_one_machine(tmp_path: Path) -> None:
    claim = Claim(
        paper="P", text="t", source="s", kind="faster", rows=("a", "b"), scale=1.0,
        on={"shapes": {"metric": "cost.predict.milliseconds"}},
    )  # fmt: skip
    slow = made(tmp_path, "a", [1] * 4, milliseconds=20.0)
    found = judged(claim, "cost.predict.milliseconds", slow, made(tmp_path, "b", [1] * 4, milliseconds=5.0))
    assert (found.verdict, found.effect.value) == ("replicated", pytest.approx(4.0))
    with pytest.raises(claims.Unmeasurable, match="different machines"):
        judged(claim, "cost.predict.milliseconds", slow, made(tmp_path, "b", [1] * 4, processor="other"))


def test_without_an_interval_nothing_is_decided(tmp_path: Path) -> None:
    for number, resamples in ((4, 0), (1, 50)):
        pair = [made(tmp_path / str(number), row, [n] * number, resamples=resamples) for row, n in (("a", 1), ("b", 9))]
        found = judged(GREATER, "miou", *pair)
        assert found.verdict == "undecided"
        assert "no interval" in found.reason


@pytest.mark.parametrize(
    ("metric", "change", "message"),
    [
        ("miou", {"status": "failed"}, "b failed: out of luck"),
        ("coco_ap", {}, "no coco_ap for a, b"),
        ("miou", {"correct": [0] * 4}, "miou is 0 for every row"),
        ("miou", {"truth": 99}, "not judged on the same images by the same annotation"),
        ("miou", {"correct": [10] * 3}, "not judged on the same images"),
    ],
)
def test_what_cannot_be_measured_says_why(tmp_path: Path, metric: str, change: dict, message: str) -> None:
    first = made(tmp_path, "a", [0 if change.get("correct") == [0] * 4 else 10] * 4)
    second = made(tmp_path, **{"row": "b", "correct": [10] * 4, **change})
    with pytest.raises(claims.Unmeasurable, match=message):
        judged(GREATER, metric, first, second)


def test_missing_matches_and_rows_say_why(tmp_path: Path) -> None:
    first, (record, _) = made(tmp_path, "a", [10] * 4), made(tmp_path, "b", [20] * 4)
    with pytest.raises(claims.Unmeasurable, match="no such file"):
        judged(GREATER, "miou", first, (record, tmp_path / "nowhere"))
    with pytest.raises(claims.Unmeasurable, match="no b"):
        claims.measure("one", GREATER, "miou", "easy", {("a", 0): first[0], ("b", 0): None}, {})


def test_no_ratio_to_nothing(tmp_path: Path) -> None:
    fields = {**GREATER.model_dump(), "kind": "ratio", "tolerance": 0.1, "tolerance_why": "w", "reported_scale": 0.01}
    fields["reported"] = [{"file": "segsort", "where": {"metric": "relative mIoU"}}]
    ratio = Claim(**fields)
    with pytest.raises(claims.Unmeasurable, match="no ratio: miou of a is 0"):
        judged(ratio, "miou", made(tmp_path, "a", [0] * 4), made(tmp_path, "b", [9] * 4))
    good = judged(ratio, "miou", made(tmp_path / "2", "a", [50] * 4), made(tmp_path / "2", "b", [38] * 4))
    assert (good.verdict, good.effect.value) == ("replicated", pytest.approx(0.76))


# ---------------------------------------------------------------- the command

CLAIMS = {
    "up": GREATER,
    "elsewhere": Claim(**{**GREATER.model_dump(), "on": {"voc": {"metric": "miou"}, "coco": {"metric": "miou"}}}),
    "exact": Claim(
        paper="P", text="e", source="s", kind="property", proof={"holds": False, "tests": ("tests/t.py::test_e",)}
    ),
}
SUITE = Suite(
    name="shapes",
    title="S",
    default_preset="quick",
    rows={row: Row(method="pull_push", title=row) for row in "abc"},
    presets={"quick": Preset(description="a tiny preset", data={"easy": Data(dataset="shapes")})},
    tables={},
)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The command on cells that are made by hand: run(*cells, only=..., dry_run=...) -> status, text, files' folder."""
    monkeypatch.setattr(claims, "load_claims", lambda: CLAIMS)
    monkeypatch.setattr(claims, "load_suite", lambda name: SUITE)
    asked = []

    def run(*cells: tuple[Record, Path], **options: object) -> tuple[int, str, Path]:
        planned = [
            Cell(record.settings, SUITE.rows[record.settings.row], "", {}, {}, {"evaluate": place}, place, "t", "v")
            for record, place in cells
        ]
        folder = tmp_path / "tables" / "shapes-quick"

        def make_job(suite: str, request: Request, output: Path) -> Job:
            asked.append(list(request.methods))
            fields = dict.fromkeys(one.name for one in dataclasses.fields(Job))
            own = {"suite": SUITE, "preset_name": "quick", "preset": SUITE.presets["quick"], "cells": planned}
            return Job(**{**fields, **own, "others": [], "overrides": {"train.steps": 3}})

        monkeypatch.setattr(claims, "make_job", make_job)
        monkeypatch.setattr(sweep, "run_cells", lambda job, console: [record for record, _ in cells])
        monkeypatch.setattr(shown, "tables_folder", lambda job: folder)
        monkeypatch.setattr(listing, "show_plan", lambda job, console: console.print("THE PLAN"))
        text = io.StringIO()
        status = claims.run(
            "shapes", Request(), options.pop("only", None), tmp_path, Console(file=text, width=80), **options
        )
        return status, text.getvalue(), folder

    run.asked = asked
    return run


def pair(folder: Path, **change: object) -> list[tuple[Record, Path]]:
    return [made(folder, "a", [50, 60, 70, 40]), made(folder, **{"row": "b", "correct": [60, 70, 80, 45], **change})]


def test_the_command_prints_and_writes_every_claim(tmp_path: Path, command) -> None:
    status, text, folder = command(*pair(tmp_path))
    assert status == 0
    assert command.asked == [["a", "b"]]  # c is in no claim
    assert "suite shapes, preset quick" in text
    assert "a 55.0, b 63.7" in text
    assert "+8.7 (" in text
    assert "needs suite voc or coco" in text
    assert "not replicated, by test" in text
    assert "tests/t.py::test_e" in text
    assert "a tiny preset" in text
    assert "changed with --set: train.steps = 3" in text
    assert "one seed" in text
    assert {path.name for path in folder.iterdir()} == {f"claims.{suffix}" for suffix in ("md", "csv", "tex", "json")}
    lines = {line["claim"]: line for line in csv.DictReader((folder / "claims.csv").open(encoding="utf-8"))}
    assert lines["up"]["verdict"] == "replicated"
    assert float(lines["up"]["effect"]) == pytest.approx(8.75)
    assert float(lines["up"]["low"]) >= 5.0
    assert lines["elsewhere"]["effect"] == ""
    content = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    assert (content["suite"], content["preset"], content["changes"]) == ("shapes", "quick", ["train.steps = 3"])
    up, elsewhere, exact = content["claims"]
    assert up["seeds"] == [0]
    assert up["holds_above"] == 0.0
    assert up["holds_below"] is None
    assert elsewhere["effect"] is None
    assert exact["reason"] == "shown by tests/t.py::test_e"
    assert "| up " in (folder / "claims.md").read_text(encoding="utf-8")
    assert r"\begin{tabular}" in (folder / "claims.tex").read_text(encoding="utf-8")


def test_a_failed_cell_is_a_line_and_a_status(tmp_path: Path, command) -> None:
    status, text, _ = command(*pair(tmp_path, status="failed"))
    assert status == 1
    assert "not measured" in text
    assert "up: not measured: b failed: out of luck" in text


def test_only_some_claims(tmp_path: Path, command) -> None:
    _, text, _ = command(*pair(tmp_path), only=["up"])
    assert "needs suite" not in text
    with pytest.raises(UsageError, match="Did you mean up"):
        command(*pair(tmp_path), only=["upp"])
    status, text, _ = command(*pair(tmp_path), only=["elsewhere", "exact"])  # nothing to run here
    assert status == 0
    assert "needs suite voc or coco" in text
    assert command.asked == [["a", "b"]]


def test_a_dry_run_runs_and_writes_nothing(tmp_path: Path, command) -> None:
    status, text, folder = command(*pair(tmp_path), dry_run=True)
    assert status == 0
    assert "not run" in text
    assert "THE PLAN" in text
    assert not folder.exists()


def test_a_row_that_the_suite_lacks_is_named() -> None:
    with pytest.raises(UsageError, match=r"claim up .* suite shapes 'z'"):
        check_rows({"up": GREATER.model_copy(update={"rows": ("a", "z")})}, SUITE)
    with pytest.raises(UsageError, match="data of claim up"):
        check_rows(
            {"up": Claim(**{**GREATER.model_dump(), "on": {"shapes": {"metric": "miou", "data": ["x"]}}})}, SUITE
        )


def test_a_claim_without_common_data_is_not_measured(tmp_path: Path, command) -> None:
    _, text, _ = command(made(tmp_path, "a", [50] * 4))
    assert "no data set that all its rows run on" in text


# ---------------------------------------------------------------- proofs of statements about losses


def spheres(groups: int, pixels: int, spread: float, dimension: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """``groups`` at right angles: half of the ``pixels`` of group g at +spread from axis 2g, half at -spread."""
    angle = torch.tensor([spread, -spread], dtype=torch.float64).repeat(groups * pixels // 2)
    of = torch.arange(groups).repeat_interleave(pixels)
    points = torch.zeros(groups * pixels, dimension, dtype=torch.float64)
    points[torch.arange(len(of)), 2 * of] = angle.cos()
    points[torch.arange(len(of)), 2 * of + 1] = angle.sin()
    return points, of


@pytest.mark.parametrize("hinge", ["linear", "quadratic"])
def test_pair_loss_ignores_the_size_of_instances(hinge: str) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(12, 5, generator=generator, dtype=torch.float64), dim=1)
    groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    times = torch.tensor([7, 1, 3])[groups]  # every pixel of group 0 seven times, of group 2 three times
    plain = pair_loss(points, groups, margin=0.5, hinge=hinge)
    enlarged = pair_loss(
        points.repeat_interleave(times, dim=0), groups.repeat_interleave(times), margin=0.5, hinge=hinge
    )
    assert [float(term) for term in enlarged] == pytest.approx([float(term) for term in plain], rel=1e-12)
    assert float(plain[0]) > 0
    assert float(plain[1]) > 0


@pytest.mark.parametrize("groups", [1, 2, 7, 16])
def test_pair_loss_is_zero_for_any_number_of_instances_that_fits(groups: int) -> None:
    axes = torch.cat([torch.eye(8, dtype=torch.float64), -torch.eye(8, dtype=torch.float64)])  # 2 in each of 8
    for hinge in ("linear", "quadratic"):
        terms = pair_loss(axes[:groups], torch.arange(groups), margin=0.5, hinge=hinge)
        assert [float(term) for term in terms] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("hinge", ["linear", "quadratic"])
def test_pair_loss_within_falls_with_the_number_of_instances(hinge: str) -> None:
    one = [float(term) for term in pair_loss(*spheres(1, 4, 0.3), margin=0.5, hinge=hinge)]
    assert one[0] > 0
    for number in (2, 4, 8):
        several = [float(term) for term in pair_loss(*spheres(number, 4, 0.3), margin=0.5, hinge=hinge)]
        assert several == pytest.approx([one[0] / number, 0.0], abs=1e-12)


def corners(instances: int, pixels: int) -> tuple[float, ...]:
    """The pull/push loss of one class: means on the axes at 2, all equally far apart; pixels 0.5 around their mean."""
    embeddings = torch.zeros(8, instances * pixels, dtype=torch.float64)
    of = torch.arange(instances).repeat_interleave(pixels)
    embeddings[of, torch.arange(len(of))] = 2.0
    embeddings[7] = torch.tensor([0.5, -0.5]).repeat(len(of) // 2)
    ids = (of + 1).view(1, 1, -1)
    terms = pull_push_loss(embeddings.view(1, 8, 1, -1), torch.ones_like(ids), ids)
    return tuple(float(term) for term in terms)


def test_pull_push_loss_ignores_the_size_of_instances() -> None:
    small = corners(3, 2)
    assert small == pytest.approx((0.3, 6 - 2 * 2**0.5, 2.0))  # 0.5 - d_pull, 2 d_push - distance, |mean|
    assert corners(3, 20) == pytest.approx(small)


def test_pull_push_loss_ignores_the_number_of_instances() -> None:
    few = corners(2, 4)
    assert all(term > 0 for term in few)
    for number in (3, 5, 7):
        assert corners(number, 4) == pytest.approx(few)
