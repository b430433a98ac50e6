"""Which rows run, on which data, with which settings: a suite written by hand, and what overrides what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coco_layout import annotation, image_entry, rectangle, write_images, write_json

from harness.names import UsageError
from harness.plan import Request, open_data, plan, resolve, stage_data
from harness.settings import Settings
from harness.store import Store
from harness.suite import Suite, parse_overrides

SHAPES = {"dataset": "shapes", "options": {"size": 32, "train_images": 3, "val_images": 2}}


def suite(**changes: Any) -> Suite:
    """Three rows of one method, one of another; two data sets; the preset runs two rows."""
    content: dict[str, Any] = {
        "name": "made",
        "title": "made by hand",
        "default_preset": "quick",
        "rows": {
            "a": {"method": "pull_push", "title": "A"},
            "b": {"method": "pull_push", "title": "B", "config": {"dimension": 5}, "train": {"steps": 30}},
            "c": {"method": "pull_push", "title": "C", "data": ["second"], "predict": {"long_side": 40}},
            "d": {"method": "mask_rcnn", "title": "D"},
        },
        "presets": {
            "quick": {
                "description": "by hand",
                "run": ["a", "b"],
                "data": {"first": SHAPES, "second": {**SHAPES, "protocols": ["semantic"]}},
                "train": {"steps": 10, "flip": 0.25},
                "grouping": {"min_size": 7},
                "methods": {"pull_push": {"config": {"dimension": 3}, "train": {"steps": 20, "batch_size": 4}}},
                "rows": {"b": {"config": {"min_size": 9}, "train": {"batch_size": 5}}},
            }
        },
        "tables": {
            "small": {"title": "T", "rows": ["c", "d"], "columns": [{"metric": "ap_r_50", "title": "AP"}]},
            "every": {"title": "U", "columns": [{"metric": "ap_r_50", "title": "AP"}]},
        },
    }
    return Suite.model_validate({**content, **changes})


def cells(**request: Any) -> list[Settings]:
    return [settings for _, settings in resolve(suite(), Request(**request))[2]]


def rows(**request: Any) -> list[str]:
    return list(dict.fromkeys(settings.row for settings in cells(**request)))


def test_the_preset_says_what_runs_when_nothing_is_asked_for() -> None:
    assert rows() == ["a", "b"]


def test_methods_and_tables_name_rows() -> None:
    assert rows(methods=["d"]) == ["d"]
    assert rows(methods=["pull_push"]) == ["a", "b"]  # those that the preset runs
    assert rows(methods=["mask_rcnn"]) == ["d"]  # it runs none of them: all
    assert rows(tables=["small"]) == ["c", "d"]
    assert rows(tables=["every"]) == ["a", "b", "c", "d"]
    assert rows(tables=["all"]) == ["a", "b", "c", "d"]
    assert rows(methods=["a"], tables=["small"]) == ["a", "c", "d"]


def test_an_unknown_table_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="smal"):
        rows(tables=["smal"])


def test_a_row_runs_on_its_data_under_their_protocols() -> None:
    found = {(one.row, one.data_name): one.evaluate.protocols for one in cells(tables=["all"])}
    assert set(found) == {(row, data) for row in "abd" for data in ("first", "second")} | {("c", "second")}
    assert found["a", "first"] == ("voc",)
    assert found["c", "second"] == ("semantic",)


def test_what_overrides_what() -> None:
    """preset < method < row < the preset's row < --set."""
    first = {one.row: one for one in cells(tables=["all"]) if one.data_name == "second"}
    assert [first[row].config["dimension"] for row in "abc"] == [3, 5, 3]
    assert [first[row].config["min_size"] for row in "abc"] == [7, 9, 7]
    assert [first[row].train.steps for row in "abcd"] == [20, 30, 20, 10]
    assert [first[row].train.batch_size for row in "abc"] == [4, 5, 4]
    assert {one.train.flip for one in first.values()} == {0.25}
    assert [first[row].predict.long_side for row in "abcd"] == [0, 0, 40, 0]
    changed = cells(
        methods=["b"], overrides=parse_overrides(["b.train.steps=1", "b.dimension=2", "train.batch_size=8"])
    )
    assert {(one.train.steps, one.config["dimension"], one.train.batch_size) for one in changed} == {(1, 2, 8)}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("rows", {"a": {"method": "pull_push", "title": "A", "data": ["third"]}}, "third"),
        ("tables", {"t": {"title": "T", "rows": ["zz"], "columns": []}}, "zz"),
    ],
)
def test_names_that_lead_nowhere_are_found_when_a_suite_is_loaded(
    part: str, value: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.suite as module

    with pytest.raises(UsageError, match=message):
        module._check_names(suite(**{part: {**suite().model_dump()[part], **value}}))


class TestStages:
    def settings(self, then: str) -> Settings:
        (one, _) = cells(methods=["a"], seeds=[0], overrides=parse_overrides([f"train.then={then}"]))
        return one

    def test_a_stage_on_another_split_is_opened_and_is_in_the_key(self, tmp_path: Path) -> None:
        plain = self.settings("[{steps = 2}]")
        assert stage_data(plain, None, tmp_path / "cache.json") == {}
        other = self.settings('[{steps = 2, split = "train"}]')
        (found,) = stage_data(other, None, tmp_path / "cache.json").values()
        assert (len(found), found.info.split) == (3, "train")
        row = suite().rows["a"]
        keys = [plan([(row, one)], Store(tmp_path), None)[0].keys["train"] for one in (plain, other)]
        assert keys[0] != keys[1]

    def test_an_unknown_split_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="train_split"):
            stage_data(self.settings('[{steps = 2, split = "no"}]'), None, tmp_path / "cache.json")


class TestData:
    def test_splits_with_other_categories_are_refused(self, tmp_path: Path) -> None:
        """Each file numbers its own classes: another order would judge every class as another one."""
        for name, categories in (("a", {1: "x", 2: "y"}), ("b", {1: "y", 2: "x"}), ("c", {1: "x"})):
            images = [image_entry(1)]
            write_images(tmp_path / name, images)
            shape = annotation(1, 1, rectangle(0, 0, 3, 2))
            write_json(tmp_path / "annotations" / f"instances_{name}.json", images, [shape], categories)

        def opened(train: str, val: str) -> object:
            paths = {"train": train, "val": val}
            options = {f"{split}_annotations": f"annotations/instances_{name}.json" for split, name in paths.items()}
            options |= {"train_images": "", "val_images": ""}
            return open_data("coco", tuple(sorted(options.items())), tmp_path, tmp_path / "cache.json")

        assert len(opened("a", "a").val) == 1
        for other in "bc":
            with pytest.raises(UsageError, match="must have the same categories in the same order"):
                opened("a", other)

    @pytest.mark.parametrize(("protocol", "layout"), [("boundary", "bsds"), ("cityscapes", "cityscapes")])
    def test_a_protocol_that_the_data_cannot_serve_is_found_before_anything_runs(
        self, protocol: str, layout: str
    ) -> None:
        with pytest.raises(UsageError, match=f"{protocol} needs data in the layout {layout}"):
            cells(overrides={"evaluate.protocols": [protocol]})
