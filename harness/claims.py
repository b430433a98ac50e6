"""`run_all.py claims`: the papers' claims (results/claims.toml), measured on a suite's cells, and a verdict on each."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from harness import effects, listing, paired, shown, sweep
from harness.claimed import Claim, check_rows, load_claims
from harness.drawn import Drawn
from harness.job import Job, make_job
from harness.job import changes as job_changes
from harness.measured import finished, is_cost, measured
from harness.names import look_up
from harness.plan import Request
from harness.record import Record
from harness.store import write_text
from harness.suite import load_suite

HEAD = ("claim", "compared", "metric", "reported", "measured", "seeds", "verdict")
NOTES = (
    "measured: the effect, and its interval over images and, where there are several, seeds; replicated: all of the "
    "interval is where the claim holds; not replicated: none of it is; undecided: else",
    "compared: the two rows that decide, with their values; where they were picked among several rows, the interval is "
    "wider for it",
)


class Unmeasurable(Exception):
    """A claim cannot be judged from the cells at hand; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """A claim on one data set: the two rows that decided, what they came to, and the verdict with its reason.

    ``values`` are the two rows' metric in the printed unit, means over ``seeds``. An outcome that was not measured has
    no rows, and NaN for every number.
    """

    claim: str
    verdict: str
    reason: str = ""
    data: str = ""
    metric: str = ""
    rows: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    effect: effects.Effect = effects.UNKNOWN
    confidence: float = math.nan
    pairs: int = 1
    seeds: tuple[int, ...] = ()
    images: int = 0


def run(
    suite_name: str, request: Request, only: Sequence[str] | None, output: Path, console: Console, dry_run: bool = False
) -> int:
    """Run the missing cells of a suite's claims (of those in ``only``), print the verdicts and write them beside the
    suite's tables. The claims choose the ``request``'s rows. Exit status: 0, or 1 if a cell failed.
    """
    claims = load_claims()
    if only is not None:
        claims = {name: look_up("claim", name, claims) for name in dict.fromkeys(only)}
    suite = load_suite(suite_name)
    here = {name: claim for name, claim in claims.items() if suite.name in claim.on}
    check_rows(here, suite)
    rows = [row for row in suite.rows if any(row in claim.rows for claim in here.values())]
    look_up(f"preset of suite {suite.name}", request.preset or suite.default_preset, suite.presets)
    if not rows:
        outcomes = [_elsewhere(name, claim) for name, claim in claims.items()]
        _print(console, draw("The papers' claims", claims, outcomes).terminal())
        return 0
    job = make_job(suite.name, dataclasses.replace(request, methods=rows, tables=None), output)
    records = [] if dry_run else sweep.run_cells(job, console)
    outcomes = []
    for name, claim in claims.items():
        outcomes += _of_job(name, claim, job, records) if name in here else [_elsewhere(name, claim)]
    changes = job_changes(job)
    notes = [
        job.preset.description,
        f"not the papers' setting: {job.preset.not_comparable}" if job.preset.not_comparable else "",
        f"changed with --set: {', '.join(changes)}" if changes else "",
        shown.other_seeds(job),
    ]
    title = f"The papers' claims on suite {suite.name}, preset {job.preset_name}"
    drawn = draw(title, claims, outcomes, [note for note in notes if note])
    _print(console, f"\n{drawn.terminal()}")
    if dry_run:
        listing.show_plan(job, console)
        return 0
    folder = shown.tables_folder(job)
    about = {"suite": suite.name, "preset": job.preset_name, "changes": changes}
    texts = {"md": drawn.markdown(), "csv": drawn.csv(), "tex": drawn.latex(f"{folder.name}-claims")}
    for suffix, text in {**texts, "json": as_json(claims, outcomes, about)}.items():
        write_text(folder / f"claims.{suffix}", text)
    _print(console, f"\nclaims: {folder / 'claims.md'}, .csv, .tex and .json")
    return 1 if any(record.status != "ok" for record in records) else 0


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _elsewhere(name: str, claim: Claim) -> Outcome:
    """A claim that the suite at hand does not measure: tests decide it, or another suite."""
    if claim.proof:
        verdict = "replicated" if claim.proof.holds else "not replicated"
        return Outcome(name, f"{verdict}, by test", f"shown by {', '.join(claim.proof.tests)}")
    return Outcome(name, f"needs suite {' or '.join(claim.on)}")


def _of_job(name: str, claim: Claim, job: Job, records: Sequence[Record]) -> list[Outcome]:
    """The claim on each data set of the job that all its rows run on."""
    where = claim.on[job.suite.name]
    found = {(one.settings.row, one.settings.data_name, one.settings.seed): one for one in records}
    outcomes = []
    for data in job.preset.data:
        cells = {
            (cell.settings.row, cell.settings.seed): cell.folders["evaluate"]
            for cell in job.cells
            if cell.settings.row in claim.rows and cell.settings.data_name == data
        }
        if {row for row, _ in cells} != set(claim.rows) or (where.data and data not in where.data):
            continue
        if not records:
            outcomes.append(Outcome(name, "not run", data=data, metric=where.metric))
            continue
        try:
            mine = {(row, seed): found.get((row, data, seed)) for row, seed in cells}
            outcomes.append(measure(name, claim, where.metric, data, mine, cells))
        except Unmeasurable as error:
            outcomes.append(Outcome(name, "not measured", str(error), data, where.metric))
    nowhere = Outcome(name, "not measured", "this preset has no data set that all its rows run on", "", where.metric)
    return outcomes or [nowhere]


def measure(
    name: str,
    claim: Claim,
    metric: str,
    data: str,
    records: Mapping[tuple[str, int], Record | None],
    folders: Mapping[tuple[str, int], Path],
) -> Outcome:
    """Judge a claim from its cells on one data set, by (row, seed); ``folders`` hold their stored matches.

    A seed counts where every row has it. Raises `Unmeasurable` where no seed does, or a number does not exist.
    """
    good = {key for key, record in records.items() if record is not None and finished([record])}
    seeds = tuple(dict.fromkeys(seed for _, seed in records if all((row, seed) in good for row in claim.rows)))
    if not seeds:
        key = next(key for key in records if key not in good)
        raise Unmeasurable(f"{key[0]} {records[key].status}: {records[key].reason}" if records[key] else f"no {key[0]}")
    values = np.array([[measured([records[row, seed]], metric).value for seed in seeds] for row in claim.rows])
    values *= claim.scale
    unknown = [row for row, numbers in zip(claim.rows, values, strict=True) if np.isnan(numbers).any()]
    if unknown:
        raise Unmeasurable(f"no {metric} for {', '.join(unknown)}")
    if not values.any():
        raise Unmeasurable(f"{metric} is 0 for every row")
    picked = effects.decisive(claim.kind, values.mean(axis=1))
    rows, both = (claim.rows[picked.first], claim.rows[picked.second]), values[[picked.first, picked.second]]
    pair = [[(row, seed) for seed in seeds] for row in rows]
    example = records[pair[0][0]]
    settings, samples = example.settings.evaluate, None
    if is_cost(metric):
        _check_machines([records[key] for keys in pair for key in keys])
    elif settings.resamples:
        kind = example.evaluation.find(metric)[0]
        files = [[folders[key] / f"{kind}.npz" for key in keys] for keys in pair]
        # Beyond each end of the interval lie 20 samples, however sure it must be for many pairs.
        enough = math.ceil(40 * picked.pairs / (1.0 - settings.confidence))
        try:
            samples = claim.scale * paired.from_matches(files, metric, max(settings.resamples, enough))
        except paired.Unpaired as error:
            raise Unmeasurable(str(error)) from error
    effect = effects.estimate(claim.kind, both, samples, settings.confidence, picked.pairs)
    if math.isnan(effect.value):
        raise Unmeasurable(f"no ratio: {metric} of {rows[claim.kind == 'faster']} is 0")
    verdict = effects.decide(effect, effects.holds_for(claim.kind, claim.tolerance, claim.paper_effect()))
    reasons = [
        f"without {row} of seed {seed}: {_state(records[row, seed])}" for row, seed in records if seed not in seeds
    ]
    if math.isnan(effect.low):
        reasons.append("one seed and no resamples of several images: no interval")
    if effect.low == effect.high == contrast_of_equals(claim.kind):
        verdict = "undecided"
        reasons.append("both rows came out the same on every resample: nothing to tell them apart")
    trainings = {records[row, seeds[0]].provenance.keys["train"] for row in claim.rows}
    if len(seeds) == 1 and len(trainings) > 1 and not is_cost(metric):
        # An interval over images says nothing of how another training of each row would come out.
        verdict = "undecided"
        reasons.append("one seed of different trainings; three or more decide")
    return Outcome(
        claim=name,
        verdict=verdict,
        reason="; ".join(reasons),
        data=data,
        metric=metric,
        rows=rows,
        values=tuple(both.mean(axis=1).tolist()),
        effect=effect,
        confidence=settings.confidence,
        pairs=picked.pairs,
        seeds=seeds,
        images=example.evaluation.images,
    )


def contrast_of_equals(kind: effects.Kind) -> float:
    """The effect of two rows with the same numbers."""
    return float(effects.contrast(kind, np.ones(1), np.ones(1))[0])


def _state(record: Record | None) -> str:
    return "no record" if record is None else record.status


def _check_machines(records: Sequence[Record]) -> None:
    if len({(one.predict.environment.processor, one.predict.environment.gpu) for one in records if one.predict}) > 1:
        raise Unmeasurable("its rows ran on different machines")


def draw(title: str, claims: Mapping[str, Claim], outcomes: Sequence[Outcome], notes: Sequence[str] = ()) -> Drawn:
    """One line for each outcome; below it every claim in words, with its tolerance, its note and why it has no number.

    ``notes`` come first among the footnotes.
    """
    body, numbers, words = [], [], {}
    several = {one.claim for one in outcomes if sum(one.claim == other.claim for other in outcomes) > 1}
    for one in outcomes:
        claim = claims[one.claim]
        shown = f"{one.claim}, {one.data}" if one.claim in several else one.claim
        body.append((shown, *_cells(claim, one), one.verdict))
        numbers.append(_numbers(claim, one))
        tolerance = f"; tolerance {claim.tolerance:g}: {claim.tolerance_why}" if claim.tolerance else ""
        note = f"; {claim.note}" if claim.note else ""
        words.setdefault(one.claim, f"{one.claim}: {claim.text} ({claim.paper}, {claim.source}){tolerance}{note}")
        if one.reason:
            words[shown, "why"] = f"{shown}: {one.verdict}: {one.reason}"
    judged = any(one.seeds for one in outcomes)
    luck = [paired.ONE_SEED] if any(len(one.seeds) == 1 for one in outcomes) else []
    footnotes = (*notes, *(NOTES if judged else ()), *luck, *words.values())
    return Drawn(title, HEAD, tuple(body), tuple(numbers), footnotes)


def _cells(claim: Claim, one: Outcome) -> tuple[str, str, str, str, str]:
    """compared, metric, reported, measured, seeds."""
    reported = "" if claim.proof else claim.paper_says()
    if not one.rows:
        rows = f"{claim.rows[0]} .. {claim.rows[-1]}" if len(claim.rows) > 2 else ", ".join(claim.rows)
        return rows, one.metric, reported, "", ""
    compared = ", ".join(f"{row} {value:.{claim.digits}f}" for row, value in zip(one.rows, one.values, strict=True))
    effect = one.effect
    interval = "" if math.isnan(effect.low) else f" ({claim.printed(effect.low)} .. {claim.printed(effect.high)})"
    return compared, one.metric, reported, f"{claim.printed(effect.value)}{interval}", str(len(one.seeds))


def _numbers(claim: Claim, one: Outcome) -> dict[str, str | float]:
    """The CSV's line: everything that a verdict follows from."""
    first, second = one.rows or ("", "")
    values = one.values or (math.nan, math.nan)
    paper = math.nan if claim.proof else claim.paper_effect()
    holds = effects.holds_for(claim.kind, claim.tolerance, paper) if claim.on else (math.nan, math.nan)
    return {
        "claim": one.claim,
        "paper": claim.paper,
        "kind": claim.kind,
        "data": one.data,
        "metric": one.metric,
        "first": first,
        "second": second,
        "first value": values[0],
        "second value": values[1],
        "reported effect": paper,
        "reported": "" if claim.proof else claim.paper_says(),
        "holds above": holds[0],
        "holds below": holds[1],
        "effect": one.effect.value,
        "low": one.effect.low,
        "high": one.effect.high,
        "confidence": one.confidence,
        "pairs": float(one.pairs) if one.rows else math.nan,
        "seeds": " ".join(map(str, one.seeds)),
        "images": float(one.images) if one.rows else math.nan,
        "verdict": one.verdict,
        "reason": one.reason,
    }


def as_json(claims: Mapping[str, Claim], outcomes: Sequence[Outcome], about: Mapping[str, object]) -> str:
    """``about`` and, for each outcome, the CSV's line with the claim's words; numbers that do not exist are null."""
    lines = []
    for one in outcomes:
        claim = claims[one.claim]
        words = {"text": claim.text, "source": claim.source, "rows": claim.rows, "tolerance": claim.tolerance}
        line = {**_numbers(claim, one), **words, "tolerance_why": claim.tolerance_why, "note": claim.note}
        line["seeds"] = one.seeds
        bare = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        lines.append({key.replace(" ", "_"): value for key, value in bare.items()})
    return json.dumps({**about, "claims": lines}, indent=1, allow_nan=False) + "\n"
