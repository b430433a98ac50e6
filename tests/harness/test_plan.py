"""Keys: each change makes exactly the steps stale whose outcome it can change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.keys import method_files
from harness.names import UsageError
from harness.plan import Request, load_method, plan, resolve
from harness.store import STEPS, Store
from harness.suite import load_suite, parse_overrides


def keys(tmp_path: Path, *overrides: str, row: str = "pull_push_shift", seed: int = 0) -> dict[str, str]:
    request = Request(methods=[row], seeds=[seed], overrides=parse_overrides(["data.val_images=3", *overrides]))
    _, _, cells = resolve(load_suite("shapes"), request)
    (cell,) = plan(cells, Store(tmp_path), None)
    return dict(cell.keys)


@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("pull_push.threshold=0.5", ["predict", "evaluate"]),
        ("pull_push.min_size=3", ["predict", "evaluate"]),
        ("pull_push.pull_margin=0.5", list(STEPS)),
        ("train.steps=3", list(STEPS)),
        ("train.flip=0", list(STEPS)),
        ("train.workers=2", []),
        ("predict.long_side=64", ["predict", "evaluate"]),
        ("evaluate.resamples=5", ["evaluate"]),
        ("data.val_images=4", ["predict", "evaluate"]),
        ("data.train_images=5", list(STEPS)),
        ("data.level=hard", list(STEPS)),
    ],
)
def test_a_setting_makes_exactly_its_steps_stale(tmp_path: Path, override: str, stale: list[str]) -> None:
    before, after = keys(tmp_path), keys(tmp_path, override)
    assert [step for step in STEPS if before[step] != after[step]] == stale


def test_a_seed_is_another_training(tmp_path: Path) -> None:
    assert set(keys(tmp_path).values()).isdisjoint(keys(tmp_path, seed=1).values())


def test_rows_that_differ_in_prediction_share_the_training(tmp_path: Path) -> None:
    shift, fixed = keys(tmp_path), keys(tmp_path, row="pull_push_fixed")
    assert shift["train"] == fixed["train"]
    assert shift["predict"] != fixed["predict"]


def test_method_files_follow_imports() -> None:
    names = {path.name for path in method_files(load_method("pull_push"))}
    assert names == {"pull_push.py", "base.py", "backbones.py", "grouping.py", "regroup.py", "scoring.py"}


def test_a_borrowed_grouping_is_part_of_the_prediction_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that only a row with ``regroup`` borrows makes stale what that row predicts, and no training."""
    import harness.keys as module

    own, lent = keys(tmp_path), keys(tmp_path, "pull_push.regroup=mean_shift")
    assert own["train"] == lent["train"]
    real = module.code_digests

    def changed(files: Iterable[Path], root: Path) -> dict[str, str]:
        found = real(files, root)
        return {name: key + "changed" * name.endswith("recurrent_mean_shift.py") for name, key in found.items()}

    monkeypatch.setattr(module, "code_digests", changed)
    assert keys(tmp_path) == own
    again = keys(tmp_path, "pull_push.regroup=mean_shift")
    assert again["train"] == lent["train"]
    assert again["predict"] != lent["predict"]


def test_a_method_file_that_does_not_load_is_explained(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("class Mine(", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be loaded: SyntaxError: '\\(' was never closed"):
        load_method(f"{broken}:Mine")
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="has no attribute 'Mine'"):
        load_method(f"{empty}:Mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Mine: pass", "is not a subclass of methods.base.Method"),
        ("from methods.base import Method\nclass Mine(Method): name = 'x'", "does not declare paper, tasks, Config"),
        ("from methods.pull_push import PullPush\nclass Mine(PullPush): name = 'a/../b'", "'a/../b' may hold letters"),
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("import no_such_package", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_what_is_not_a_method_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / f"plugin{abs(hash(text))}.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        load_method(f"{path}:Mine")
    assert message in str(error.value)


@pytest.mark.parametrize("line", ["import helper", "from helper import VALUE"])
def test_a_plugins_own_helper_is_part_of_it(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text("VALUE = 1\n", encoding="utf-8")
    text = f"{line}\nfrom methods import pull_push\nclass Mine(pull_push.PullPush):\n    name = 'mine'\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    names = {path.name for path in method_files(load_method(f"{tmp_path / 'mine.py'}:Mine"))}
    assert names == {path.name for path in method_files(load_method("pull_push"))} | {"mine.py", "helper.py"}


def test_a_plugin_may_not_take_the_name_of_a_row(tmp_path: Path) -> None:
    text = "from methods.pull_push import PullPush\n\nclass Mine(PullPush):\n    name = 'mask_rcnn'\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="the name 'mask_rcnn' is taken by another method or row"):
        resolve(load_suite("shapes"), Request(methods=[f"{tmp_path / 'mine.py'}:Mine"]))
