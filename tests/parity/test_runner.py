"""The runner of golden files leaves nothing out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import runner

GOLDEN = Path(__file__).parent / "golden"


def copy(folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copy(GOLDEN / name, folder / name)
    return folder


def edit(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


@pytest.fixture
def case(tmp_path: Path) -> runner.Case:
    copy(tmp_path, "voc6_exact_iou.npz", "voc6_exact_iou.expected.json")
    return runner.find_cases(tmp_path)[0]


def test_a_case_is_the_files_that_share_a_name(tmp_path: Path) -> None:
    copy(tmp_path, "voc6_exact_iou.npz", "voc6_exact_iou.expected.json", "voc3_ties.npz")
    (tmp_path / "README.md").write_text("known")
    found = [(case.name, [path.name for path in case.paths]) for case in runner.find_cases(tmp_path)]
    assert found == [
        ("voc3_ties", ["voc3_ties.npz"]),
        ("voc6_exact_iou", ["voc6_exact_iou.expected.json", "voc6_exact_iou.npz"]),
    ]


def test_every_value_is_counted(case: runner.Case) -> None:
    # The nine thresholds; nine tables of nine thresholds and one class; two rows of nine means.
    assert runner.check_case(case) == 9 + 9 * 9 + 2 * 9


@pytest.mark.parametrize("name", ["xyz1_basic.npz", "notes.txt"])
def test_a_file_without_checker_fails(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(AssertionError, match="unknown file"):
        runner.check_case(runner.find_cases(tmp_path)[0])


def test_a_folder_without_files_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no golden files"):
        runner.find_cases(tmp_path)


def test_an_input_without_expected_values_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not a voc case"):
        runner.check_case(runner.find_cases(copy(tmp_path, "voc3_ties.npz"))[0])


def test_an_unknown_reference_fails(case: runner.Case) -> None:
    edit(case.paths[0], somebody_area=[[1.0]] * 9)
    with pytest.raises(AssertionError, match="unknown reference 'somebody_area'"):
        runner.check_case(case)


def test_an_unused_input_array_fails(case: runner.Case) -> None:
    with np.load(case.paths[1]) as file:
        np.savez(case.paths[1], surprise=np.zeros(1), **file)
    with pytest.raises(AssertionError, match="never used: surprise"):
        runner.check_case(case)


def test_a_wrong_value_fails(case: runner.Case) -> None:
    values = json.loads(case.paths[0].read_text(encoding="utf-8"))["fcis_11pt"]
    values[4][0] += 1e-8
    edit(case.paths[0], fcis_11pt=values)
    with pytest.raises(AssertionError, match=r"fcis_11pt.*4"):
        runner.check_case(case)


def test_a_value_beyond_every_order_of_ties_fails(tmp_path: Path) -> None:
    copy(tmp_path, "voc3_ties.npz", "voc3_ties.expected.json")
    (case,) = runner.find_cases(tmp_path)
    values = json.loads(case.paths[0].read_text(encoding="utf-8"))["chainercv_area"]
    values[4][1] += 0.3
    edit(case.paths[0], chainercv_area=values)
    with pytest.raises(AssertionError, match="chainercv_area"):
        runner.check_case(case)


def test_entries_are_compared_by_shape_and_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", table=np.array([1.0, np.nan]), other=np.zeros(3))
    golden = runner.Golden(tmp_path / "a.npz")
    with pytest.raises(AssertionError, match=r"\(1,\), expected \(2,\)"):
        golden.compare("table", [1.0])
    golden.compare("table", [1.0 + 1e-10, np.nan])
    assert golden.compared == 2
    with pytest.raises(AssertionError, match="never used: other"):
        golden.finish()
