"""A method for tests of faults: small, quick, with every kind of state that a training has, and misbehaving on demand.

Its setting ``fault`` says what goes wrong, ``when`` at which call, and ``mark`` is a file that gets a line for every
training that starts, so that a test can count them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from methods.base import Instances, Method, Prediction, setting


@dataclass(frozen=True)
class Config:
    fault: str = setting("none", "what goes wrong", source="test")
    when: int = setting(3, "at which call", source="test")
    part: str = setting("loss", "where it goes wrong: loss or predict", source="test")
    pause: float = setting(0.0, "seconds that every call takes", source="test")
    mark: str = setting("", "file that counts trainings", source="test")


class Faulty(Method):
    name, paper, tasks, Config = "faulty", "none", frozenset({"instances", "semantic"}), Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(8, num_classes + 1, 1),
        )
        self.calls = 0

    def initialise(self) -> None:
        if self.config.mark:
            with open(self.config.mark, "a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")

    def loss(self, batch):
        self._call("loss")
        noise = random.random() + np.random.rand()  # both generators must come back, too
        logits = self.layers(batch.images + 0.01 * noise * torch.rand_like(batch.images))
        return {"classes": nn.functional.cross_entropy(logits, batch.semantic, ignore_index=255)}

    def predict(self, images, sizes, oracle=None):
        self._call("predict")
        logits = self.layers(images)
        probabilities = logits.softmax(1)[0]
        semantic = probabilities.argmax(0)
        found = [label for label in range(1, self.num_classes + 1) if (semantic == label).any()]
        masks = torch.stack([semantic == label for label in found]) if found else torch.zeros(0, *semantic.shape).bool()
        scores = torch.stack([probabilities[label].max() for label in found]) if found else torch.zeros(0)
        instances = Instances(masks, torch.tensor(found, dtype=torch.int64), scores)
        return [Prediction(instances, semantic.to(torch.uint8))]

    def _call(self, part: str) -> None:
        time.sleep(self.config.pause)
        if part != self.config.part:
            return
        self.calls += 1
        if self.calls == self.config.when and self.config.fault != "none":
            getattr(Faults, self.config.fault)(*[self.config.mark] * (self.config.fault == "leaves_processes"))


class Faults:
    @staticmethod
    def raises() -> None:
        raise ValueError("no such luck")

    @staticmethod
    def segfault() -> None:
        ctypes.string_at(0)

    @staticmethod
    def hang() -> None:
        time.sleep(1000)

    @staticmethod
    def hang_in_library() -> None:
        """Without letting another thread run, and deaf to signals."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        ctypes.PyDLL(None).sleep(1000)

    @staticmethod
    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def grows() -> None:
        kept = []
        while True:
            kept.append(bytearray(os.urandom(1 << 20)) * 32)
            time.sleep(0.02)

    @staticmethod
    def cannot_allocate() -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    @staticmethod
    def full_disk() -> None:
        """From now on no file can grow beyond some bytes: what a full disk does to every writer."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    @staticmethod
    def leaves_processes(mark: str) -> None:
        """One child in the group, one in a session of its own, one whose parent has gone."""
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,)).start()
        command = [sys.executable, "-c", f"import time; time.sleep(1000)  # {mark}"]
        subprocess.Popen(command, start_new_session=True)
        script = f"import subprocess; subprocess.Popen({command!r}, start_new_session=True)"
        subprocess.run([sys.executable, "-c", script], check=True)
        raise ValueError("left")

    @staticmethod
    def exits() -> None:
        os._exit(0)
