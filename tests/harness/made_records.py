"""Records made by hand, for the tests of tables and plots."""

from __future__ import annotations

from harness.record import Environment, Evaluation, Metric, PredictCost, Provenance, Record, TrainCost, Verdict
from harness.settings import EvaluateSettings, PredictSettings, Settings, TrainSettings
from harness.suite import Column, Data, Preset, Reported

HERE = Environment(
    commit="abc", dirty=False, python="3", packages={"torch": "2"}, machine="m", processor="p", cores=2, gpu=""
)
PRESET = Preset(description="quick", data={"easy": Data(dataset="shapes")})
AP = Column(metric="ap_r_50", title="AP", scale=100, reported={})
# The report has 24.9.
PAPER = Reported(
    file="instancenet",
    where={"table": "1", "system": "InstanceNet, semantics=DeepLabv3+", "setting": "center-shift"},
)


def metric(value: float, low: float | None = None, high: float | None = None) -> Metric:
    return Metric(value=value, low=low, high=high)


def record(
    row: str, value: float = 0.5, seed: int = 0, status: str = "ok", data: str = "easy", **more: object
) -> Record:
    """One cell's record, ``ap_r_50`` with an interval of ``half`` around it; ``metrics`` are further ones."""
    half = float(more.pop("half", 0.1))
    metrics = {"ap_r_50": metric(value, value - half, value + half), **more.pop("metrics", {})}
    network, grouping, scoring = more.pop("milliseconds", (5.0, float("nan"), 0.1))
    settings = Settings(
        "shapes", "quick", row, "pull_push", {}, data, "shapes", {}, seed,
        TrainSettings(), PredictSettings(), EvaluateSettings(),
    )  # fmt: skip
    return Record(
        cell=settings.cell,
        status=status,
        reason=str(more.pop("reason", "" if status == "ok" else "out of luck")),
        settings=settings,
        evaluation=Evaluation(
            images=4, confidence=0.95,
            verdicts={"voc": Verdict(version="1", variant="area/mnc/count/nan", instances=9, metrics=metrics)},
        ),
        train=TrainCost(
            seconds=12.4, steps=3, parameters=10, peak_memory=10**9, losses={}, weights_digest="", environment=HERE
        ),
        predict=PredictCost(
            seconds=1.0, images=4, network_ms=network, grouping_ms=grouping, scoring_ms=scoring, peak_memory=1,
            environment=HERE,
        ),
        provenance=Provenance(
            environment=HERE, train_fingerprint="t", val_fingerprint="v", finished="",
            keys={"train": str(more.pop("training", "shared"))},
        ),
    )  # fmt: skip
