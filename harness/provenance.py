"""Where a number comes from: commit, machine and versions."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from harness.record import Environment
from harness.suite import ROOT

PACKAGES = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "numpy", "scipy", "pycocotools", "pillow")


@functools.cache
def git_state() -> tuple[str, bool]:
    """The commit and whether tracked files differ from it; ("unknown", True) outside a git clone."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def _git(*words: str) -> str:
    return subprocess.run(("git", *words), cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@functools.cache
def package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(on_gpu: bool) -> Environment:
    """The present process's code and machine."""
    commit, dirty = git_state()
    gpu = ""
    if on_gpu:
        import torch  # the driver asks for no GPU and need not load it

        gpu = torch.cuda.get_device_name()
    return Environment(
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        packages=package_versions(),
        machine=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        cores=cores(),
        gpu=gpu,
    )
