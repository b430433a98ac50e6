"""Make the committed weights of suite tiny: `python -m benchmarks.tiny_weights [--only ROW,...]`, half an hour of CPU.

What names shapes is dear to learn: pull/push learns it first, and the others start from its weights where theirs have
the same name and shape, with the same encoder at least: from its whole ones in --scratch, or else from the committed
ones. All learn on scenes of the split train and on no other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.plan import Request, load_method, open_data, resolve
from harness.settings import TrainSettings, build_config
from harness.suite import ROOT, load_suite
from harness.train import build_method, train

FOLDER = ROOT / "results" / "baselines" / "weights"
FIRST = "pull_push"
STEPS = {
    "pull_push": 5000,
    "recurrent_mean_shift": 500,
    "spatial_embeddings": 500,
    "segsort": 400,
    "mask_rcnn": 800,
    "mask2former": 800,
}
IMAGES = 20_000  # scenes of the split train that are learned from
# Where each method keeps timm's encoder.
ENCODERS = (
    "network.model.encoder.model.",
    "detector.model.backbone.encoder.model.",
    "network.model.pixel_level_module.encoder._backbone.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(STEPS), help="methods, separated by commas")
    parser.add_argument("--scratch", type=Path, default=Path("build/tiny_weights"), help="folder for whole weights")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        parser.error(f"--only: no weights are made for {', '.join(unknown)}; there are {', '.join(STEPS)}")
    torch.set_num_threads(1)
    given.scratch.mkdir(parents=True, exist_ok=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sorted(names, key=lambda name: name != FIRST):
        whole = given.scratch / f"{name}.safetensors"
        start = time.perf_counter()
        first = None if name == FIRST else first_weights(given.scratch, FOLDER)
        if first is None and name != FIRST:
            parser.error(f"{name} starts from the weights of {FIRST}, which are not there: run --only {FIRST} first")
        if first is not None:
            print(f"{name}: starts from {first}", flush=True)
        losses = learn(name, whole, first)
        save_file(small(load_file(whole)), FOLDER / whole.name)
        size = (FOLDER / whole.name).stat().st_size
        print(f"{name}: {time.perf_counter() - start:.0f} s, {size} bytes, {losses}", flush=True)


def first_weights(*folders: Path) -> Path | None:
    """The weights that the others start from, in the first folder that has them.

    The committed ones are rounded (`small`): what starts from them ends elsewhere than from the whole ones.
    """
    return next((path for folder in folders if (path := folder / f"{FIRST}.safetensors").is_file()), None)


def learn(name: str, path: Path, first: Path | None) -> dict[str, float]:
    """Train the row ``name`` of suite tiny with `STEPS` and write all its weights; returns the last loss terms."""
    suite = load_suite("tiny")
    _, _, cells = resolve(suite, Request(methods=[name], seeds=[0], overrides={"data.train_images": IMAGES}))
    settings = cells[0][1]
    method_class = load_method(settings.method)
    data = open_data(settings.dataset, tuple(sorted(settings.data.items())), None, path.parent / "digests.json").train
    config = build_config(method_class.Config, settings.config, name)
    method = build_method(method_class, config, len(data.info.categories), seed=0)
    if first is not None:
        own = method.state_dict()
        method.load_state_dict({**own, **shared(own, load_file(first))})
    recipe = TrainSettings(
        steps=STEPS[name], batch_size=8, learning_rate=0.002 if name == "mask2former" else 0.005, prepare_images=1
    )

    def progress(done: int, steps: int) -> None:
        if done % 100 == 0:
            print(f"{name}: {done} of {steps}", flush=True)

    losses = train(method, data, recipe, 0, progress).losses
    save_file({key: value.contiguous() for key, value in method.state_dict().items()}, path)
    return losses


def shared(own: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of ``first``, what has the name and shape of a tensor of ``own``; encoders count as named alike."""
    found = {}
    for name, value in own.items():
        prefix = next((one for one in ENCODERS if name.startswith(one)), "")
        there = ENCODERS[0] + name.removeprefix(prefix) if prefix else name
        if there in first and first[there].shape == value.shape:
            found[name] = first[there]
    return found


def small(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as 8-bit floats (e4m3, 3 bits of fraction), other floats as 16-bit ones.

    No encoder of timm has under 80,000 parameters: six networks in 16 bits would be more than a megabyte.
    """
    stored = {}
    for name, value in state.items():
        kind = torch.float8_e4m3fn if value.dim() > 1 else torch.float16
        stored[name] = value.to(kind if value.is_floating_point() else value.dtype).contiguous()
    return stored


if __name__ == "__main__":
    main()
