"""`run_all.py doctor`: every diagnosis, by what its probe is given to see; and the command itself."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.specifiers import SpecifierSet
from rich.console import Console

from harness import doctor, machine
from harness.machine import Line
from methods import rcnn_detectron2, rcnn_torchvision
from methods.base import MethodError

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def one(lines: list[Line]) -> Line:
    (line,) = lines
    return line


def by_name(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines}


# The machine


def system_files(root: Path, **files: str) -> Path:
    """A root folder with 8 GiB of memory, 6 of them free, and other ``files``; in their names __ stands for /."""
    for name, text in {"proc__meminfo": f"MemTotal: {8 * 2**20} kB\nMemAvailable: {6 * 2**20} kB\n", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_of_the_machine(tmp_path: Path) -> None:
    assert machine.memory_sizes(system_files(tmp_path)) == (8 * GIB, 6 * GIB)


def test_memory_of_a_container_of_version_two(tmp_path: Path) -> None:
    root = system_files(tmp_path, proc__self__cgroup="0::/a/b\n")
    for folder, limit, used in (("a/b", "max", 1), ("a", str(2 * GIB), GIB)):
        place = tmp_path / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 2}\n")
    assert machine.memory_sizes(root) == (2 * GIB, 2 * GIB - GIB // 2)  # kept files can be thrown out


def test_memory_of_a_container_of_version_one(tmp_path: Path) -> None:
    root = system_files(tmp_path, proc__self__cgroup="5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    place = tmp_path / "sys/fs/cgroup/memory"  # the path is that of the host: the container sees its own as the root
    place.mkdir(parents=True)
    (place / "memory.limit_in_bytes").write_text(str(3 * GIB))
    (place / "memory.usage_in_bytes").write_text(str(GIB))
    (place / "memory.stat").write_text("cache 5\n")
    assert machine.memory_sizes(root) == (3 * GIB, 2 * GIB)


def test_memory_without_proc_is_the_systems(tmp_path: Path) -> None:
    total, free = machine.memory_sizes(tmp_path)
    assert total > 0
    assert free is None


@pytest.mark.parametrize(("total", "state"), [(4 * GIB - 1, "WRONG"), (4 * GIB, "ok")])
def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, total: int, state: str) -> None:
    monkeypatch.setattr(machine, "memory_sizes", lambda: (total, None))
    assert one(machine.memory()).state == state


@pytest.mark.parametrize(("total", "state"), [(64 * 2**20, "WRONG"), (GIB, "ok")])
def test_too_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=total, free=total))
    line = one(machine.shared_memory(tmp_path))
    assert line.state == state
    assert ("--shm-size" in line.advice) == (state == "WRONG")
    assert machine.shared_memory(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("limit", "platform", "state"),
    [(256, "linux", "WRONG"), (256, "darwin", "ok"), (1024, "linux", "ok"), (resource.RLIM_INFINITY, "linux", "ok")],
)
def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch, limit: int, platform: str, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    monkeypatch.setattr(sys, "platform", platform)
    assert one(machine.files()).state == state


# Folders


def test_a_results_folder_that_is_not_there_yet_is_neither_needed_nor_made(tmp_path: Path) -> None:
    lines = by_name(machine.results_folder(tmp_path / "a" / "b"))
    assert lines["writing there"].state == lines["locks there"].state == "ok"
    assert str(tmp_path) in lines["results folder"].found
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_results_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = one(machine.results_folder(tmp_path / "file"))
    assert line.state == "WRONG"
    assert "--output" in line.advice


def test_a_folder_without_leave_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)  # chmod does not stop root
    line = by_name(machine.results_folder(tmp_path))["writing there"]
    assert line.state == "WRONG"
    assert "Permission denied" in line.found


@pytest.mark.parametrize(("free", "state"), [(5 * 10**9 - 1, "WRONG"), (5 * 10**9, "ok")])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, free=free))
    assert by_name(machine.results_folder(tmp_path))["results folder"].state == state
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, free=free // 5))
    assert one(machine.temporary_folder()).state == state


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    line = by_name(machine.results_folder(tmp_path))["locks there"]
    assert (line.state, "No locks available" in line.found) == ("WRONG", True)
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    line = by_name(machine.results_folder(tmp_path))["locks there"]
    assert (line.state, line.found) == ("WRONG", "a locked file was locked again")


def test_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROUPBENCH_DATA", raising=False)
    assert one(machine.samples()).state == "not there"
    monkeypatch.setenv("GROUPBENCH_DATA", str(tmp_path))
    assert one(machine.samples()).state == "WRONG"
    (tmp_path / "bsds-mini" / "bench").mkdir(parents=True)
    assert one(machine.samples()) == Line("GROUPBENCH_DATA", f"{tmp_path} with bsds-mini/bench")


# The project


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_versions_of_python_are_those_of_the_project() -> None:
    needed = SpecifierSet(project()["requires-python"])
    assert [minor for minor in range(30) if f"3.{minor}.0" in needed] == list(
        range(machine.PYTHONS[0][1], machine.PYTHONS[1][1] + 1)
    )


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "WRONG"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "WRONG")]
)
def test_python_outside_of_its_range(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    assert one(machine.python()).state == state


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> dict[str, Line]:
    """The lines on packages, where those of ``versions`` have these instead of what is installed."""
    true = machine._version
    monkeypatch.setattr(machine, "_version", lambda name: versions.get(name, true(name)))
    return by_name(machine.packages())


def test_every_dependency_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = project()["optional-dependencies"]
    declared = [*project()["dependencies"], *(text for texts in extras.values() for text in texts)]
    assert set(installed(monkeypatch)) == {re.split(r"[<>=!]", text)[0] for text in declared}
    assert set(machine.EXTRAS) == set(extras)


@pytest.mark.parametrize(
    ("name", "version", "advice"),
    [
        ("torch", "2.13.1", "without torchvision's operators"),
        ("torch", "2.10.0+cpu", "make install"),
        ("numpy", "2.4.0", "cityscapesscripts 2.3.0 breaks on numpy 2.4"),
        ("transformers", "6.0", '".[mask2former]" brings one that fits'),
    ],
)
def test_a_version_out_of_range(monkeypatch: pytest.MonkeyPatch, name: str, version: str, advice: str) -> None:
    line = installed(monkeypatch, **{name: version})[name]
    assert line.state == "WRONG"
    assert version in line.found
    assert advice in line.advice


@pytest.mark.parametrize(("name", "version"), [("torch", "2.14.0+cu130"), ("torch", "2.15.0"), ("numpy", "2.3.9")])
def test_a_version_within_range(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    assert installed(monkeypatch, **{name: version})[name].state == "ok"


def test_missing_packages_are_wrong_only_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = installed(monkeypatch, scipy="", transformers="", cityscapesscripts="", hypothesis="")
    assert (lines["scipy"].state, lines["scipy"].advice) == ("WRONG", "`make install`")
    for name, extra in (("transformers", "mask2former"), ("cityscapesscripts", "cityscapes"), ("hypothesis", "test")):
        assert lines[name].state == "not there"
        assert machine.EXTRAS[extra] in lines[name].advice
        assert f'".[{extra}]"' in lines[name].advice


def test_a_package_called_datasets_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: {"datasets": "4.0.0"}.get(name, ""))
    line = one(machine.shadows())
    assert line.state == "WRONG"
    assert "uninstall datasets" in line.advice


def test_a_package_in_front_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    true = machine.importlib.util.find_spec
    other = SimpleNamespace(origin="/elsewhere/datasets/__init__.py")
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: other if name == "datasets" else true(name))
    line = one(machine.shadows())
    assert (line.what, line.state) == ("import datasets", "WRONG")
    assert "/elsewhere" in line.found


def test_a_folder_that_is_no_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import provenance

    monkeypatch.setattr(provenance, "git_state", lambda: ("unknown", True))
    assert one(machine.code()).state == "not there"
    monkeypatch.setattr(provenance, "git_state", lambda: ("abc", True))
    assert one(machine.code()) == Line("commit", "abc, with changes")


def test_tools_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert one(machine.git()).state == one(machine.compiler()).state == "not there"
    monkeypatch.setattr(shutil, "which", lambda name: "/opt/cc" if name == "/opt/cc" else None)
    monkeypatch.setenv("CXX", "/opt/cc")
    assert one(machine.compiler()) == Line("C++ compiler", "/opt/cc")


def test_weights_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = one(machine.hub_cache())
    assert line.state == "not there"
    assert "HF_HUB_OFFLINE is set" in line.advice
    (tmp_path / "models--timm--resnet50.a1_in1k").mkdir()
    assert "resnet50.a1_in1k" in one(machine.hub_cache()).found


# Devices and threads


def fake_torch(*cards: str, mps: bool = False) -> SimpleNamespace:
    """A torch that sees these ``cards``; one called "broken" runs nothing."""

    def ones(count: int, device: str) -> SimpleNamespace:
        if cards[int(device.removeprefix("cuda:"))] == "broken":
            raise RuntimeError("no kernel image is available for execution on the device")
        return SimpleNamespace(sum=lambda: SimpleNamespace(item=lambda: float(count)))

    cuda = SimpleNamespace(
        is_available=lambda: bool(cards),
        device_count=lambda: len(cards),
        get_device_properties=lambda n: SimpleNamespace(name=cards[n], total_memory=16 * GIB, major=8, minor=6),
        mem_get_info=lambda n: (3 * GIB, 16 * GIB),
    )
    backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps))
    return SimpleNamespace(cuda=cuda, backends=backends, ones=ones)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "580.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("driver")
def test_each_device_has_a_line() -> None:
    good, bad = doctor.devices(fake_torch("RTX", "broken"))
    assert good == Line("device cuda:0", "RTX, 16 GiB, capability 8.6, 3 GiB free, driver 580.1")
    assert (bad.what, bad.state) == ("device cuda:1", "WRONG")
    assert "no kernel image" in bad.found


@pytest.mark.usefixtures("driver")
def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    line = one(doctor.devices(fake_torch()))
    assert line.state == "WRONG"
    assert "built for CUDA" in line.advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES=7" in one(doctor.devices(fake_torch())).advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert one(doctor.devices(fake_torch())) == Line("device", "the processor")


def test_no_device_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia_driver", lambda: "")
    assert one(doctor.devices(fake_torch())) == Line("device", "the processor")
    assert one(doctor.devices(fake_torch(mps=True))).found == "there, and not used"


@pytest.mark.parametrize(
    ("given", "used", "state"),
    [("", 4, "ok"), ("8", 4, "ok"), ("64", 4, "WRONG"), ("", 64, "WRONG"), ("4,2", 4, "ok"), ("many", 1, "ok")],
)
def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch, given: str, used: int, state: str) -> None:
    from harness import provenance

    monkeypatch.setattr(provenance, "cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert one(doctor.threads(used)).state == state


# Parts


def test_torchvision_without_its_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise MethodError("torchvision's operators do not load with torch 2.13.0: as `make install` does")

    monkeypatch.setattr(rcnn_torchvision, "implementation", broken)
    line = one(machine.guarded(doctor.torchvision))
    assert line.state == "WRONG"
    assert "operators do not load with torch 2.13.0" in line.found


@pytest.mark.parametrize(
    ("there", "problem", "state"),
    [(False, "", "not there"), (True, "does not work: no _C", "WRONG"), (True, "", "ok")],
)
def test_detectron2(monkeypatch: pytest.MonkeyPatch, there: bool, problem: str, state: str) -> None:
    monkeypatch.setattr(rcnn_detectron2, "installed", lambda: there)
    monkeypatch.setattr(rcnn_detectron2, "problem", lambda: problem)
    monkeypatch.setattr(rcnn_detectron2, "implementation", lambda: "detectron2 0.6, commit 02b5c4e2")
    line = one(doctor.detectron2())
    assert line.state == state
    assert ("git+https" in line.advice) == (state != "ok")


@pytest.mark.parametrize("probe", [doctor.mask2former, doctor.cityscapes])
def test_optional_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch, probe: doctor.Probe) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    line = one(probe())
    assert line.state == "not there"
    assert "pip install" in line.advice


# In a process of their own


def broken_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os; os.abort()", "killed: Aborted"),
        ("import os; os.write(2, b'last words'); os._exit(3)", "ended with status 3: last words"),
        ("raise SystemExit('usage: hotcoco')", "SystemExit: usage: hotcoco"),
        ("raise ImportError('undefined symbol')", "ImportError: undefined symbol"),
        ("import time; time.sleep(60)", "no answer within 2.5 s"),
        ("print('chatter', flush=True); COCOeval = int", ""),
    ],
)
def test_a_broken_import_costs_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, found: str
) -> None:
    broken_module(tmp_path, monkeypatch, "hotcoco", source)
    lines = doctor.isolated(["hotcoco", "pycocotools"], seconds=2.5)
    assert one(lines["pycocotools"]).state == "ok"
    assert one(lines["hotcoco"]).state == ("WRONG" if found else "ok")
    assert found in one(lines["hotcoco"]).found


def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert one(doctor.isolated(["hotcoco"])["hotcoco"]).state == "WRONG"


# What is printed


def printed(monkeypatch: pytest.MonkeyPatch, *lines: Line) -> tuple[str, int]:
    monkeypatch.setattr(doctor, "examine", lambda output: iter([("title", list(lines))]))
    text = io.StringIO()
    status = doctor.run(Path(), Console(file=text, width=40))
    return text.getvalue(), status


def test_states_decide_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = [Line("a", "b"), Line("c", "d", "not there", "e")]
    text, status = printed(monkeypatch, *fine)
    assert status == 0
    assert "  not there  c: d\n             -> e\n" in text
    assert text.endswith("nothing is wrong\n")
    text, status = printed(monkeypatch, *fine, Line("f", "g", "WRONG", "h"))
    assert status == 1
    assert text.endswith("wrong: f\n")


def test_what_strangers_write_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = printed(monkeypatch, Line("a", "[red]x[/red]\x1b[31m\n\x07 é " + "long " * 30, "WRONG"))
    assert r"[red]x[/red]\x1b[31m \x07 é long long" in text
    assert len(text.splitlines()) == 5  # an empty line, the title, the finding, an empty line, the summary


# The command


def command(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), "doctor", "--output", "out"],
        cwd=folder, capture_output=True, text=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_TOKEN": "hf_secret", **environment},
    )  # fmt: skip


def test_the_command(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == ("  WRONG" in done.stdout), done.stdout + done.stderr
    for text in ("machine\n", "Python: ", "torch: 2", "torchvision's operators: work", "offline encoder: tf_", "locks"):
        assert text in done.stdout
    assert "hf_secret" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_command_without_a_torch_that_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    done = command(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "WRONG      torch: ImportError: libcudart.so.13" in done.stdout
    for text in ("processor: ", "ok         scipy: ", "ok         pycocotools: works", "\nwrong: torch"):
        assert text in done.stdout
