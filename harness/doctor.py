"""`run_all.py doctor`: the machine, versions, devices, what is usable and what is wrong, to mend it or to report it.

Every probe is guarded: what it raises becomes a line. Compiled packages, whose import may crash or hang, are looked at
in a process of their own, without the network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import machine
from harness.machine import EXTRAS, PIP, ROOT, Line, guarded, plain

Probe = Callable[[], list[Line]]
SECONDS = 60.0  # for one process; a network disk takes that long to give torch away for the first time


def run(output: Path, console: Any) -> int:
    """Print all findings to rich's ``console``; 1 where something is wrong, else 0."""
    wrong = []
    for title, lines in examine(output):
        console.print(f"\n{title}", markup=False, highlight=False)
        for line in lines:
            text = f"  {line.state:10} {plain(line.what)}: {plain(line.found)}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            if line.advice:
                console.print(f"{'':12} -> {plain(line.advice)}", markup=False, highlight=False, soft_wrap=True)
        wrong += [line.what for line in lines if line.state == "WRONG"]
    summary = f"wrong: {', '.join(wrong)}" if wrong else "nothing is wrong"
    console.print(f"\n{plain(summary)}", markup=False, highlight=False, soft_wrap=True)
    return 1 if wrong else 0


def examine(output: Path) -> Iterator[tuple[str, list[Line]]]:
    """Titles and their findings, in the order of printing; ``output`` is the results folder."""
    yield "machine", _all(machine.system, machine.memory, machine.shared_memory, machine.files)
    yield "folders", guarded(machine.results_folder, output) + _all(machine.temporary_folder, machine.samples)
    yield "project", _all(machine.python, machine.code, machine.shadows)
    yield "packages", _all(machine.packages)
    found = isolated([probe.__name__ for probe in ISOLATED])
    yield "torch", found.pop("torch") + found.pop("torchvision")
    tools = _all(machine.hub_cache, machine.git, machine.compiler)
    yield "parts", [line for lines in found.values() for line in lines] + tools


def _all(*probes: Probe) -> list[Line]:
    return [line for probe in probes for line in guarded(probe)]


# In a process of their own


def torch() -> list[Line]:
    import torch

    built = [f"{name} {version}" for name in ("cuda", "hip") if (version := getattr(torch.version, name))]
    lines = [Line("torch", f"{torch.__version__}, built for {' '.join(built) or 'the processor'}")]
    return lines + devices(torch) + threads(torch.get_num_threads())


def devices(torch: Any) -> list[Line]:
    lines, driver = [], nvidia_driver()
    if torch.cuda.is_available():
        lines = [_device(torch, index, driver) for index in range(torch.cuda.device_count())]
    elif driver and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):  # nobody hid it
        advice = "install a torch that is built for CUDA, or a driver that is new enough for its CUDA"
        if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
            advice = f"does CUDA_VISIBLE_DEVICES={visible} name one that is there?"
        lines = [Line("device", f"NVIDIA driver {driver}, but this torch finds no device", "WRONG", advice)]
    if torch.backends.mps.is_available():
        lines.append(Line("device mps", "there, and not used"))
    return lines or [Line("device", "the processor")]


def _device(torch: Any, index: int, driver: str) -> Line:
    what = f"device cuda:{index}"
    try:
        card = torch.cuda.get_device_properties(index)
        size = f"{card.total_memory / 2**30:.0f} GiB, capability {card.major}.{card.minor}"
        torch.ones(8, device=f"cuda:{index}").sum().item()  # a build without code for this card fails only here
        free = torch.cuda.mem_get_info(index)[0]
        return Line(what, f"{card.name}, {size}, {free / 2**30:.0f} GiB free, driver {driver or 'unknown'}")
    except RuntimeError as error:
        advice = "is it full, or too old or new for this build? CUDA_VISIBLE_DEVICES= runs on the processor"
        return Line(what, str(error), "WRONG", advice)


def nvidia_driver() -> str:
    """The driver's version, or empty where there is none."""
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def threads(used: int) -> list[Line]:
    from harness.provenance import cores

    given = os.environ.get("OMP_NUM_THREADS", "")
    found = f"{used} of torch, OMP_NUM_THREADS {given or 'not set'}, {cores()} cores usable"
    if max(used, int(given) if given.isdigit() else 0) <= 2 * cores():
        return [Line("threads", found)]
    return [Line("threads", found, "WRONG", f"more threads than cores slow everything down: OMP_NUM_THREADS={cores()}")]


def torchvision() -> list[Line]:
    from methods.rcnn_torchvision import implementation

    return [Line("torchvision's operators", f"work, {implementation()}")]


def detectron2() -> list[Line]:
    from methods import rcnn_detectron2

    if not rcnn_detectron2.installed():
        advice = f"for Mask R-CNN as detectron2 has it, else torchvision's runs: {rcnn_detectron2.install_command()}"
        return [Line("detectron2", "not installed", "not there", advice)]
    if problem := rcnn_detectron2.problem():
        return [Line("detectron2", problem, "WRONG", f"build it for this torch: {rcnn_detectron2.install_command()}")]
    return [Line("detectron2", f"works, {rcnn_detectron2.implementation()}")]


def mask2former() -> list[Line]:
    if not importlib.util.find_spec("transformers"):
        advice = f'for {EXTRAS["mask2former"]}: {PIP} install -c constraints.txt ".[mask2former]"'
        return [Line("transformers for mask2former", "not installed", "not there", advice)]
    from transformers import Mask2FormerForUniversalSegmentation as Network

    return [Line("transformers for mask2former", f"has {Network.__name__}")]


def pycocotools() -> list[Line]:
    import numpy as np
    from pycocotools import mask

    area = int(mask.area(mask.encode(np.asfortranarray(np.eye(3, dtype=np.uint8)))))
    if area != 3:
        return [Line("pycocotools", f"a mask of 3 pixels has {area}", "WRONG", "install it anew")]
    return [Line("pycocotools", "works")]


def hotcoco() -> list[Line]:
    from hotcoco import COCOeval

    return [Line("hotcoco", f"has {COCOeval.__name__}")]


def cityscapes() -> list[Line]:
    if not importlib.util.find_spec("cityscapesscripts"):
        advice = f'for {EXTRAS["cityscapes"]}: {PIP} install -c constraints.txt ".[cityscapes]"'
        return [Line("cityscapesscripts", "not installed", "not there", advice)]
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
    from cityscapesscripts.helpers.labels import labels

    return [Line("cityscapesscripts", f"works, {len(labels)} labels, {evalInstanceLevelSemanticLabeling.__name__}")]


def encoder() -> list[Line]:
    import timm

    from methods.backbones import OFFLINE_ENCODER, load_imagenet

    load_imagenet(timm.create_model(OFFLINE_ENCODER, features_only=True), OFFLINE_ENCODER)
    return [Line("offline encoder", f"{OFFLINE_ENCODER} and its ImageNet weights")]


ISOLATED = (torch, torchvision, encoder, detectron2, mask2former, pycocotools, hotcoco, cityscapes)


def isolated(names: Sequence[str], seconds: float = SECONDS) -> dict[str, list[Line]]:
    """The probes' findings by name. One that takes its process down costs its own line; a new one asks the rest."""
    found: dict[str, list[Line]] = {}
    left = list(names)
    while left:
        answers, end = _ask(left, seconds)
        for name, *lines in answers:
            found[name] = [Line(**line) for line in lines]
        left = [name for name in left if name not in found]
        if left:
            advice = (
                "what it imports does not fit the machine or each other: `make clean install`; if it stays, report it"
            )
            name = left.pop(0)
            found[name] = [Line(name, end, "WRONG", advice)]
    return found


def _ask(names: Sequence[str], seconds: float) -> tuple[list[list], str]:
    """What a process answered, and how it ended."""
    script = f"import sys; sys.path[0] = {str(ROOT)!r}; from harness.doctor import answer; answer(sys.argv[1:])"
    command = [sys.executable, "-c", script, *names]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}  # nothing is fetched here
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment)
        said, end, words = done.stdout, _ending(done.returncode), done.stderr
    except subprocess.TimeoutExpired as error:
        said, end, words = error.stdout or b"", f"no answer within {seconds:g} s", error.stderr or b""
    except OSError as error:  # no memory for another process
        return [], str(error)
    last = words.decode(errors="replace").strip().rpartition("\n")[2]
    lines = said.decode(errors="replace").split("\n")[:-1]  # whole lines alone
    return [json.loads(line) for line in lines], f"{end}{': ' if last else ''}{last}"


def _ending(status: int) -> str:
    return f"killed: {signal.strsignal(-status)}" if status < 0 else f"ended with status {status}"


def answer(names: Sequence[str]) -> None:
    """The process's side: one JSON list a line, the probe's name and its findings; libraries' prints go elsewhere."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    probes = {probe.__name__: probe for probe in ISOLATED}
    for name in names:
        stream.write(json.dumps([name, *map(asdict, guarded(probes[name]))]) + "\n")
        stream.flush()
