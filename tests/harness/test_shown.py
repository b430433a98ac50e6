"""Where a sweep's tables lie: those of other settings, data or seeds never take the preset's place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_records import PRESET

from harness.job import Job
from harness.shown import other_seeds, tables_folder
from harness.store import Store

THREE = PRESET.model_copy(update={"seeds": (0, 1, 2)})


def job(seeds: Sequence[int], **overrides: object) -> Job:
    cells = [
        SimpleNamespace(settings=SimpleNamespace(seed=seed, dataset="shapes"), val_fingerprint="v") for seed in seeds
    ]
    fields = dict.fromkeys(field.name for field in dataclasses.fields(Job))
    own = {
        "suite": SimpleNamespace(name="shapes"),
        "preset_name": "quick",
        "preset": THREE,
        "store": Store(Path("out")),
    }
    return Job(**{**fields, **own, "cells": cells, "others": [], "overrides": overrides})


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ((0, 1, 2), ""),
        ((2, 1, 0, 0), ""),  # the order and other rows change nothing
        ((0,), "seeds 0: not the preset's"),
        ((3, 0, 1, 2), "seeds 0, 1, 2, 3: not the preset's"),
        ((), ""),
    ],
)
def test_seeds_that_are_not_the_presets_are_told(seeds: tuple[int, ...], note: str) -> None:
    assert other_seeds(job(seeds)) == note


def test_tables_of_other_seeds_have_a_folder_of_their_own() -> None:
    assert tables_folder(job((0, 1, 2))) == Path("out/tables/shapes-quick")
    folders = [tables_folder(job(seeds, **{"train.steps": 3})) for seeds in ((0, 1, 2), (0,), (0, 1))]
    folders += [tables_folder(job(seeds)) for seeds in ((0, 1, 2), (0,), (0, 1))]
    assert len(set(folders)) == 6
