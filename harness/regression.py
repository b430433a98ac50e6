"""The regression check: what the present records say against a baseline, number by number.

Nothing runs here. A cell's record is the one of the present code, settings and data; any other is stale.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.baseline import (
    OF_TRAINING,
    Baseline,
    Line,
    data_of,
    fingerprints_of,
    for_seeds,
    is_compared,
    line_key,
    numbers_of,
    settings_of,
)
from harness.listing import why_stale
from harness.measured import UNMEASURED, Measured, measured
from harness.plan import Cell
from harness.record import Record, read_record

FAILING = (
    "regression",
    "changed",
    "missing",
    "not a number",
    "incomparable",
    "stale",
    "failed",
)  # verdicts that end the check with status 1; the others are ok, improvement and new
_LOWER_IS_BETTER = "lost_"
_TWO_SIDED = (*OF_TRAINING, "proposals@", "ods_threshold")  # more is not better, and less is not worse
# How an evaluation is summed up, and which of them are made: neither changes a number that both have.
_FREE = ("evaluate.resamples", "evaluate.confidence", "evaluate.protocols")
_LONGEST = 60  # characters of a setting's value that a reason tells


@dataclass(frozen=True)
class State:
    """A cell with its record, or the ``verdict`` ("missing", "stale" or "failed") and reason why there is none."""

    cell: Cell
    record: Record | None
    verdict: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """What became of one number of a row (``line``, see `line_key`), or of the whole row where ``metric`` is empty.

    ``before`` and ``now`` are means over the ``seeds`` that both have, ``now`` with its interval; ``exact``: all of
    these seeds' numbers are the same, bit by bit. Numbers are NaN where they do not exist.
    """

    line: str
    metric: str
    verdict: str
    reason: str = ""
    before: float = math.nan
    now: Measured = UNMEASURED
    tolerance: float = math.nan
    origin: str = ""
    seeds: int = 0
    exact: bool = False

    @property
    def delta(self) -> float:
        return self.now.value - self.before

    @property
    def fails(self) -> bool:
        return self.verdict in FAILING


def state_of(cell: Cell) -> State:
    """The cell's record, or why it has none that counts."""
    record = read_record(cell.record)
    if record is not None and record.status == "ok" and record.evaluation is not None:
        return State(cell, record)
    if record is not None:
        return State(cell, None, "failed", f"{record.status}: {record.reason}")
    older = list(Path(cell.record.parent).glob(f"{glob.escape(cell.settings.cell)}-*.json"))
    reason = why_stale(cell) if older else ""
    if reason:
        return State(cell, None, "stale", f"its record is of other code, settings or data ({reason})")
    return State(cell, None, "missing", "it has no record")


def by_line(states: Sequence[State]) -> dict[str, list[State]]:
    """The states of each row on each data set: one for each seed."""
    found: dict[str, list[State]] = {}
    for state in states:
        settings = state.cell.settings
        found.setdefault(line_key(settings.row, settings.data_name), []).append(state)
    return found


def compare(baseline: Baseline, states: Sequence[State], left_out: Mapping[str, str], whole: bool) -> list[Finding]:
    """All findings, by row. ``left_out`` are rows that cannot run here, with the reason.

    Where the ``whole`` preset was asked for, a row that the baseline alone has is missing.
    """
    found: list[Finding] = []
    lines = by_line(states)
    for key, group in lines.items():
        line = baseline.rows.get(key)
        found += _new_line(key, group) if line is None else compare_line(line, group)
    for key, line in baseline.rows.items():
        if key not in lines and whole and line.row not in left_out:
            found.append(Finding(key, "", "missing", "the suite runs no such row now"))
    return found + [Finding(row, "", "missing", reason) for row, reason in left_out.items()]


def _new_line(key: str, states: Sequence[State]) -> list[Finding]:
    new = Finding(key, "", "new", "the baseline has no such row")
    return _without_record(key, states) or [new]


def _without_record(key: str, states: Sequence[State]) -> list[Finding]:
    return [
        Finding(key, "", state.verdict, f"seed {state.cell.settings.seed}: {state.reason}")
        for state in states
        if state.record is None
    ]


def compare_line(line: Line, states: Sequence[State]) -> list[Finding]:
    """The findings of one row on one data set: numbers over the seeds that baseline and ``states`` share.

    Every state must have a record, and every record must be comparable, also of a seed that the baseline lacks. Of a
    row that trains nothing one seed says it all: its further seeds need not be run.
    """
    key, seeds = line_key(line.row, line.data_name), seeds_of(line)
    shared = [state for state in states if str(state.cell.settings.seed) in seeds]
    further = [state for state in states if str(state.cell.settings.seed) not in seeds]
    if not line.trained and shared:
        further = [state for state in further if state.verdict != "missing"]
    found = _without_record(key, [*shared, *further])
    pairs = [(state.cell, state.record) for state in (*shared, *further) if state.record is not None]
    reasons = dict.fromkeys(reason for cell, record in pairs for reason in differences(line, cell, record))
    if reasons:
        return [*found, Finding(key, "", "incomparable", "; ".join(reasons))]
    alone = ", ".join(str(state.cell.settings.seed) for state in further if state.record is not None)
    if alone and not line.trained:
        found.append(Finding(key, "", "ok", f"seed {alone} is not compared: it trains nothing"))
    elif alone and shared:
        found.append(Finding(key, "", "new", f"seed {alone}: the baseline has no such seed"))
    elif alone:
        found.append(Finding(key, "", "incomparable", f"no seed in common: {', '.join(sorted(seeds))} -> {alone}"))
    records = [state.record for state in shared if state.record is not None]
    return found + _compare_numbers(key, line, records, [record for _, record in pairs]) if records else found


def seeds_of(line: Line) -> set[str]:
    return {seed for value in line.metrics.values() for seed in value.seeds}


def differences(line: Line, cell: Cell, record: Record) -> list[str]:
    """Why the numbers of a row cannot be held against the baseline's; empty where they can."""
    now = fingerprints_of(cell)
    reasons = []
    for name in dict.fromkeys((*line.fingerprints, *now)):
        if line.fingerprints.get(name) != now.get(name):
            options = _changed(line.data, data_of(cell)) if "data" in name else []
            told = "; ".join(options) or "the content is another one"
            reasons.append(f"other {name} ({told})")
    if line.method != cell.settings.method:
        reasons.append(f"other method: {line.method} -> {cell.settings.method}")
    if line.implementation != cell.implementation:
        reasons.append(f"other implementation: {line.implementation or 'ours'} -> {cell.implementation or 'ours'}")
    if line.images != record.evaluation.images:
        reasons.append(f"other number of images: {line.images} -> {record.evaluation.images}")
    settings = settings_of(cell)
    if changed := _changed(*({k: v for k, v in one.items() if k not in _FREE} for one in (line.settings, settings))):
        reasons.append(f"other settings: {'; '.join(changed)}")
    return reasons


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [f"{name} {_told(old, name)} -> {_told(new, name)}" for name in names]


def _told(values: Mapping[str, Any], name: str) -> str:
    text = str(values[name]) if name in values else "none"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _compare_numbers(key: str, line: Line, records: Sequence[Record], every: Sequence[Record]) -> list[Finding]:
    """The numbers of ``records``; how they were judged must be the baseline's way in ``every`` one."""
    other = _other_judgements(line, every)
    numbers = {str(record.settings.seed): (record, numbers_of(record)) for record in records}
    kinds = {name: kind for record in records for kind, verdict in record.evaluation.verdicts.items()
             for name in verdict.metrics}  # fmt: skip
    found = [Finding(key, "", "incomparable", reason) for reason in other.values()]
    for metric in line.metrics:
        if kinds.get(metric) not in other and is_compared(metric, line.trained):
            found.append(_compare_number(key, line, metric, numbers))
    new = sorted({name for _, values in numbers.values() for name in values} - set(line.metrics))
    found += [
        Finding(key, name, "new", "the baseline has no such number", now=Measured(_mean(name, numbers))) for name in new
    ]
    return found


def _other_judgements(line: Line, records: Sequence[Record]) -> dict[str, str]:
    """Kinds of metric that judge otherwise now, with the difference in words."""
    found: dict[str, dict[str, None]] = {}
    for kind, now in (verdict for record in records for verdict in record.evaluation.verdicts.items()):
        before = line.kinds.get(kind)
        if before is None:
            continue
        pairs = {"version": (before.version, now.version), "variant": (before.variant, now.variant),
                 "number of instances": (before.instances, now.instances)}  # fmt: skip
        told = {f"{name} {old} -> {new}": None for name, (old, new) in pairs.items() if old != new}
        if told:
            found.setdefault(kind, {}).update(told)
    return {kind: f"{kind}: other metric: {'; '.join(told)}" for kind, told in found.items()}


def _compare_number(
    key: str, line: Line, metric: str, numbers: Mapping[str, tuple[Record, Mapping[str, float]]]
) -> Finding:
    value = line.metrics[metric]
    both = [seed for seed in numbers if seed in value.seeds]
    absent = [seed for seed in both if metric not in numbers[seed][1]]
    if absent or not both:
        told = f"seed {', '.join(absent)}: " if absent else ""
        return Finding(key, metric, "missing", f"{told}it was not measured")
    pairs = {seed: (_number(value.seeds[seed]), numbers[seed][1][metric]) for seed in both}
    gone = [seed for seed, (old, new) in pairs.items() if math.isnan(new) and not math.isnan(old)]
    come = [seed for seed, (old, new) in pairs.items() if math.isnan(old) and not math.isnan(new)]
    known = [seed for seed, (old, new) in pairs.items() if not (math.isnan(old) or math.isnan(new))]
    if gone:
        before = sum(pairs[seed][0] for seed in gone) / len(gone)
        return Finding(key, metric, "not a number", f"seed {', '.join(gone)}", before=before)
    if come:
        told = f"seed {', '.join(come)}: the baseline has no number"
        return Finding(key, metric, "new", told, now=Measured(_mean(metric, numbers)))
    if not known:
        return Finding(key, metric, "ok", "does not exist, nor in the baseline", seeds=len(both), exact=True)
    before = sum(pairs[seed][0] for seed in known) / len(known)
    now = Measured(sum(pairs[seed][1] for seed in known) / len(known))
    if not metric.startswith(OF_TRAINING):
        of_records = measured([numbers[seed][0] for seed in known], metric)
        now = Measured(now.value, of_records.low, of_records.high)
    allowed = for_seeds(metric, value, line.trained, len(known))
    exact = all(pairs[seed][0] == pairs[seed][1] for seed in known)
    verdict = judge(metric, now.value - before, allowed)
    return Finding(key, metric, verdict, "", before, now, allowed, value.origin, len(known), exact)


def judge(metric: str, delta: float, tolerance: float) -> str:
    """The verdict on a difference: within the ``tolerance`` (<=) it is ok."""
    if abs(delta) <= tolerance:
        return "ok"
    if metric.startswith(_TWO_SIDED):
        return "changed"
    return "improvement" if (delta < 0) == metric.startswith(_LOWER_IS_BETTER) else "regression"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(metric: str, numbers: Mapping[str, tuple[Record, Mapping[str, float]]]) -> float:
    values = [found[metric] for _, found in numbers.values() if metric in found]
    return sum(values) / len(values)
