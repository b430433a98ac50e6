"""Suites, presets and --set: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from harness.cell import CellPlan
from harness.names import UsageError, look_up
from harness.plan import Request, resolve
from harness.reported import check_reported
from harness.settings import Settings
from harness.suite import Preset, load_suite, parse_overrides, suite_names


def settings_of(suite: str, **request: object) -> list[Settings]:
    return [settings for _, settings in resolve(load_suite(suite), Request(**request))[2]]


@pytest.mark.parametrize("name", suite_names())
def test_every_preset_of_every_suite_resolves(name: str) -> None:
    suite = load_suite(name)
    for preset in suite.presets:
        # lenient: a row may want weights, or a library, that this machine lacks
        cells = settings_of(name, preset=preset, methods=list(suite.rows), lenient=True)
        data_sets = sum(len(row.data or suite.presets[preset].data) for row in suite.rows.values())
        expected = data_sets * len(suite.presets[preset].seeds)
        assert len({cell.cell for cell in cells}) == len(cells) == expected


@pytest.mark.parametrize("name", [name for name in suite_names() if name != "tiny"])  # the regression check's
def test_every_suite_has_a_quick_preset_and_a_long_one(name: str) -> None:
    presets = load_suite(name).presets
    assert load_suite(name).default_preset == "quick"
    assert {"paper", "full"} & set(presets)
    assert presets["quick"].run, "ablations would run unasked"


@pytest.mark.parametrize(
    ("suite", "row", "images", "learning_rates", "ends"),
    [  # where each rate ends, in steps; detectron2's YAML files, torchvision's epochs of 7,329 and of 1,832 steps
        ("coco", "mask_rcnn", 16, [0.02, 0.002, 0.0002], [60_000, 80_000, 90_000]),
        ("coco", "mask_rcnn_r101", 16, [0.02, 0.002, 0.0002], [60_000, 80_000, 90_000]),
        ("coco", "mask_rcnn_3x", 16, [0.02, 0.002, 0.0002], [210_000, 250_000, 270_000]),
        ("coco", "mask_rcnn_r101_3x", 16, [0.02, 0.002, 0.0002], [210_000, 250_000, 270_000]),
        ("coco", "mask_rcnn_x101_3x", 16, [0.02, 0.002, 0.0002], [210_000, 250_000, 270_000]),
        ("coco", "mask_rcnn_torchvision", 16, [0.02, 0.002, 0.0002], [16 * 7_329, 22 * 7_329, 26 * 7_329]),
        ("coco", "mask_rcnn_torchvision_v2", 64, [0.1, 0.01, 0.001], [352 * 1_832, 384 * 1_832, 400 * 1_832]),
        ("cityscapes", "mask_rcnn", 8, [0.01, 0.001], [18_000, 24_000]),
        ("cityscapes", "mask_rcnn_from_coco", 8, [0.01, 0.001], [18_000, 24_000]),
    ],
)
def test_mask_rcnns_schedules_are_their_makers(
    suite: str, row: str, images: int, learning_rates: list[float], ends: list[int]
) -> None:
    train = settings_of(suite, preset="paper", methods=[row], lenient=True)[0].train
    stages = train.stages()
    assert [stage.learning_rate for stage in stages] == learning_rates
    assert list(itertools.accumulate(stage.steps for stage in stages)) == ends
    assert [round(stage.warmup * stage.steps) for stage in stages] == [1000] + [0] * (len(stages) - 1)
    assert all((stage.batch_size, stage.optimizer, stage.clip) == (images, "sgd", 0.0) for stage in stages)


@pytest.mark.parametrize("name", suite_names())
def test_three_seeds_are_the_rule_and_one_where_more_say_nothing(name: str) -> None:
    assert Preset(description="", data={}).seeds == (0, 1, 2)
    for key, preset in load_suite(name).presets.items():
        cells = settings_of(name, preset=key, methods=list(load_suite(name).rows), lenient=True)
        trains = any(stage.steps for cell in cells for stage in cell.train.stages())
        if key in ("quick", "tiny") or not trains:
            assert len(preset.seeds) == 1
        else:
            assert len(preset.seeds) == 3


@pytest.mark.parametrize("name", ["coco", "cityscapes"])
def test_the_preset_zoo_trains_nothing_and_loads_something(name: str) -> None:
    for cell in settings_of(name, preset="zoo", lenient=True):
        assert sum(stage.steps for stage in cell.train.stages()) == 0
        assert cell.config["zoo"]
        assert cell.config["weights"]
        assert (cell.predict.short_side, cell.predict.long_side) == (0, 0)  # its networks resize by themselves


@pytest.mark.parametrize("name", suite_names())
def test_reported_values_of_every_suite_are_single(name: str) -> None:
    check_reported(load_suite(name))


def test_what_a_cells_process_reads_is_what_was_planned(tmp_path: Path) -> None:
    for settings in settings_of("shapes"):
        folders = {"train": tmp_path}
        plan = CellPlan(
            settings=settings,
            output=tmp_path,
            data_root=None,
            folders=folders,
            inputs={"train": {"seed": 0}},
            checkpoints=tmp_path,
            drafts=tmp_path,
            missing=("train",),
        )
        assert CellPlan.model_validate_json(plan.model_dump_json()) == plan


def test_overrides_reach_sections_and_methods() -> None:
    overrides = parse_overrides(
        [
            "train.steps=7",
            "data.val_images=5",
            "pull_push.threshold=0.7",
            "mask_rcnn.train.steps=9",
            "evaluate.resamples=0",
        ]
    )
    cells = {cell.row: cell for cell in settings_of("shapes", overrides=overrides)}
    assert cells["pull_push_shift"].train.steps == 7
    assert cells["mask_rcnn"].train.steps == 9  # a method's own value wins over everybody's
    assert cells["pull_push_shift"].config["threshold"] == 0.7
    assert cells["pull_push_fixed"].config["threshold"] == 0.7  # all rows of the method
    assert all(cell.data["val_images"] == 5 and cell.evaluate.resamples == 0 for cell in cells.values())


def test_an_override_of_one_row_stays_in_it() -> None:
    cells = {c.row: c for c in settings_of("shapes", overrides=parse_overrides(["pull_push_fixed.threshold=0.6"]))}
    assert cells["pull_push_fixed"].config["threshold"] == 0.6
    assert cells["pull_push_shift"].config["threshold"] != 0.6


def test_methods_are_chosen_by_row_or_by_method() -> None:
    assert {c.row for c in settings_of("shapes", methods=["mask_rcnn"])} == {"mask_rcnn"}
    assert {c.row for c in settings_of("shapes", methods=["pull_push_oracle"])} == {"pull_push_oracle"}
    assert len(settings_of("shapes", methods=["pull_push"])) == 3
    assert len(settings_of("shapes", methods=["mask_rcnn"], seeds=[0, 1, 2])) == 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"preset": "quik"}, "unknown preset of suite shapes 'quik'. Did you mean quick? Available: full, quick"),
        ({"methods": ["pul_push"]}, "unknown method of suite shapes 'pul_push'. Did you mean pull_push"),
        ({"methods": ["nowhere.py:Mine"]}, "FileNotFoundError: there is no file"),
        ({"overrides": {"train.step": 3}}, "unknown key in train 'step'. Did you mean steps"),
        ({"overrides": {"trian.steps": 3}}, "unknown key in --set 'trian.steps'. Did you mean train.steps"),
        ({"overrides": {"steps": 3}}, "unknown key in --set 'steps'"),
        (
            {"overrides": {"pull_push.treshold": 3}},
            "unknown setting of pull_push_shift 'treshold'. Did you mean threshold",
        ),
        ({"overrides": {"pull_push.grouping": "center"}}, "'center' is not one of center_fixed, center_shift"),
        ({"overrides": {"pull_push.threshold": "big"}}, "pull_push_shift: threshold: Input should be a valid number"),
        ({"overrides": {"train.steps": -1}}, "train: steps: Input should be greater than or equal to 0"),
        ({"overrides": {"train.clip": float("inf")}}, "train: clip: Input should be a finite number"),
        ({"overrides": {"train.scale": [2, 1]}}, "scale must be [low, high] with 0 < low <= high"),
        ({"overrides": {"train.short_side": [0]}}, "short_side must hold positive numbers of pixels"),
        ({"overrides": {"train.around_instances": True}}, "around_instances says where the crop is: set train.crop"),
        ({"overrides": {"train.then": [{"steps": 3, "corp": 64}]}}, "train: then.0.corp: Extra inputs"),
        ({"overrides": {"train.then": [{"steps": 3, "around_instances": True}]}}, "set train.crop"),
        ({"overrides": {"pull_push.threshold": float("nan")}}, "threshold: nan is not a finite number"),
        ({"overrides": {"pull_push.threshold": -2}}, "threshold must be positive, not -2.0"),
        ({"preset": ""}, "unknown preset of suite shapes ''"),
        ({"overrides": {"pull_push.decoder": "FPM"}}, "'FPM' is not one of DeepLabV3Plus, FPN"),
        ({"overrides": {"mask_rcnn.data.val_images": 5}}, "all rows of a table share their data: set data.val_images"),
        ({"overrides": {"data.leven": "hard"}}, "unknown key in data 'leven'. Did you mean level"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_name(request_: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        settings_of("shapes", **request_)
    assert message in str(error.value)


def test_unknown_suite_lists_all_suites() -> None:
    with pytest.raises(UsageError, match=r"suite 'shape'. Did you mean shapes.*\? Available: boundaries, city"):
        load_suite("shape")


def test_override_without_a_value_is_explained() -> None:
    with pytest.raises(UsageError, match="write KEY=VALUE"):
        parse_overrides(["train.steps"])


def test_override_values_are_toml_or_text() -> None:
    values = parse_overrides(["a.b=1", "a.c=0.5", "a.d=true", "a.e=[1, 2]", "a.f=hard", 'a.g="x"'])
    assert list(values.values()) == [1, 0.5, True, [1, 2], "hard", "x"]


def test_look_up_without_near_names_still_lists() -> None:
    with pytest.raises(UsageError, match=r"unknown thing 'zzz'\. Available: apple, pear\."):
        look_up("thing", "zzz", {"pear": 1, "apple": 2})
