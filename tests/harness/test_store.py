"""Keys and files: equal when nothing that matters changed, whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.store import Store, code_digests, digest, write_text


def source(tmp_path: Path, text: str) -> str:
    path = tmp_path / "code.py"
    path.write_text(text, encoding="utf-8")
    return code_digests([path])


def test_code_digest_sees_code_only(tmp_path: Path) -> None:
    first = source(tmp_path, 'def f(x):\n    """One."""\n    return x + 1\n')
    assert source(tmp_path, 'def f(x):\n    """Another text."""\n\n    # why\n    return (x + 1)\n') == first
    assert source(tmp_path, "def f(x):\n    return x + 1\n") == first
    assert source(tmp_path, "def f(x):\n    return x + 2\n") != first


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2.0}) == digest({"b": 2.0, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_a_step_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    final = store.step("train", "m.d.s0", "abc")

    def die_half_way(drafts: Path) -> None:
        with store.create(final, drafts) as draft:
            (draft / "weights").write_text("half")
            raise RuntimeError

    with store.drafts("cell") as drafts:
        with pytest.raises(RuntimeError):
            die_half_way(drafts)
        assert list(final.parent.iterdir()) == []
        with store.create(final, drafts) as draft:
            (draft / "weights").write_text("whole")
            assert not final.exists()
    assert (final / "weights").read_text() == "whole"
    assert list((tmp_path / "drafts").iterdir()) == []


def test_a_step_made_anew_takes_the_place_of_the_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    final = store.step("train", "m.d.s0", "abc")
    for text in ("damaged", "good"):
        with store.drafts("cell") as drafts, store.create(final, drafts) as draft:
            (draft / "weights").write_text(text)
    assert (final / "weights").read_text() == "good"
    assert [path.name for path in final.parent.iterdir()] == [final.name]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
