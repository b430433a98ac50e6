"""A training that was stopped and goes on is the same training: bit for bit, whatever the method."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from method_contract import TINY

from datasets import open_split
from harness.checkpoint import Checkpoints, State, random_state, set_random_state
from harness.plan import load_method
from harness.record import TrainCost
from harness.settings import ShapesOptions, TrainSettings
from harness.train import build_method, train
from methods.base import Method


class Stopped(BaseException):
    """As sudden as a kill: nothing of the program catches it."""


class StoppedAfter(Checkpoints):
    """The process dies right after the checkpoint of step ``last``."""

    last = 0

    def save(self, state: State) -> None:
        super().save(state)
        if state.done == self.last:
            raise Stopped


@pytest.fixture(scope="module")
def scenes():
    options = ShapesOptions(level="easy", size=64, train_images=5, val_images=2).model_dump()
    return open_split("shapes", "train", options, None, None)


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{"steps": 4, "batch_size": 2, "checkpoint_seconds": 0, **changes})


def method(name: str = "pull_push", **config) -> Method:
    found = load_method(name)
    values = {**TINY.get(name, {}), **config}
    if name == "mask_rcnn":
        values["backend"] = "torchvision"
    return build_method(found, found.Config(**values), 6, 3)


def stopped_and_resumed(name: str, folder: Path, scenes, recipe: TrainSettings, stops: list[int]) -> TrainCost:
    for last in stops:
        checkpoints = StoppedAfter(folder, 0)
        checkpoints.last = last
        with pytest.raises(Stopped):
            train(method(name), scenes, recipe, 3, lambda *_: None, checkpoints=checkpoints)
        torch.rand(7)  # another process begins with other states
    return train(method(name), scenes, recipe, 3, lambda *_: None, checkpoints=Checkpoints(folder, 0))


@pytest.mark.parametrize("name", list(TINY))
def test_every_method_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path, scenes) -> None:
    whole = train(method(name), scenes, settings(), 3, lambda *_: None)
    resumed = stopped_and_resumed(name, tmp_path, scenes, settings(), [1, 3])
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.losses == whole.losses
    assert (resumed.gradient_norm, resumed.moved) == (whole.gradient_norm, whole.moved)
    assert whole.gradient_norm > 0 < whole.moved
    assert resumed.resumed == (1, 3)
    assert whole.resumed == ()


RECIPES = {
    "sgd": {"optimizer": "sgd", "schedule": "poly"},
    "accumulates Adam": {"optimizer": "adam", "schedule": "constant", "warmup": 0.5},
    "half precision": {"precision": "bf16-mixed"},
    "loader processes": {"workers": 1},
    "frozen": {"pretrained_rate": 0.0, "frozen_statistics": True},
    "augmented": {"rotation": 20.0, "scale": (0.8, 1.3), "color": 0.4, "crop": 48, "around_instances": True},
    "two stages": {"then": ({"steps": 3, "learning_rate": 1e-4, "batch_size": 1, "frozen_statistics": True},)},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_goes_on(recipe: dict, tmp_path: Path, scenes) -> None:
    """Step 4 is the last of the first stage: what is left is a second one, or the look at the images afterwards."""
    whole = train(method(), scenes, settings(**recipe), 3, lambda *_: None)
    resumed = stopped_and_resumed("pull_push", tmp_path, scenes, settings(**recipe), [2, 4])
    assert (resumed.weights_digest, resumed.losses) == (whole.weights_digest, whole.losses)


def test_a_second_stage_goes_on_from_its_middle(tmp_path: Path, scenes) -> None:
    recipe = settings(**RECIPES["two stages"])
    whole = train(method("segsort"), scenes, recipe, 3, lambda *_: None)
    resumed = stopped_and_resumed("segsort", tmp_path, scenes, recipe, [5, 6])
    assert resumed.weights_digest == whole.weights_digest


def test_progress_begins_where_the_training_goes_on(tmp_path: Path, scenes) -> None:
    seen = []
    checkpoints = StoppedAfter(tmp_path, 0)
    checkpoints.last = 3
    with pytest.raises(Stopped):
        train(method(), scenes, settings(), 3, lambda *_: None, checkpoints=checkpoints)
    train(method(), scenes, settings(), 3, lambda *now: seen.append(now), checkpoints=Checkpoints(tmp_path, 0))
    assert seen == [(3, 4), (4, 4)]


def state(done: int) -> State:
    model = {"weight": torch.full((3,), float(done))}
    return State(done, 0, done, model, {}, {}, {}, {"pull": 0.5}, 2.0, 1.0, 10, [])


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kept = Checkpoints(tmp_path, 0)
    assert (kept.latest(), kept.step()) == (None, 0)
    for done in (1, 2, 3):
        kept.save(state(done))
    older, newer = sorted(tmp_path.iterdir())
    assert [int(path.name[:9]) for path in (older, newer)] == [2, 3]
    assert kept.latest().model["weight"].tolist() == [3.0] * 3
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    newer.write_bytes(content)
    assert kept.latest().done == 2
    assert "is removed: ValueError: its content is not what was written" in capsys.readouterr().err
    older.write_bytes(older.read_bytes()[:100])
    assert kept.latest() is None
    kept.save(state(1))
    assert kept.latest().done == 1, "what was damaged does not stand in the way of the next"


def test_a_file_that_would_run_something_is_not_run(tmp_path: Path) -> None:
    """With a right name, even: the reader makes tensors and plain values only."""
    import hashlib

    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": 1, "done": Bad()}, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    (tmp_path / f"000000001-{hashlib.blake2b(content, digest_size=16).hexdigest()}.pt").write_bytes(content)
    assert Checkpoints(tmp_path, 0).latest() is None
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Checkpoints(tmp_path / "file", 0)
    kept.save(state(1))
    assert "no checkpoint written after step 1" in capsys.readouterr().err


def test_large_states_are_written_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("harness.checkpoint.time.monotonic", lambda: now[0])
    kept = Checkpoints(tmp_path, 10.0)
    assert not kept.due()
    now[0] = 10.0
    assert kept.due()
    monkeypatch.setattr("harness.checkpoint.os.fsync", lambda _: now.__setitem__(0, 12.0))  # two seconds
    kept.save(state(1))
    now[0] = 51.9
    assert not kept.due(), "writing takes a twentieth of the time, at most"
    now[0] = 52.0
    assert kept.due()


def test_random_states_come_back() -> None:
    def draw() -> list[float]:
        return [random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()]

    draw()
    kept = random_state()
    first = draw()
    draw()
    set_random_state(kept)
    assert draw() == first
