"""`run_all.py check`: the regression check in the terminal and for a pull request, and the making of baselines."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.baseline import (
    LEAST_SEEDS,
    Baseline,
    Made,
    default_path,
    is_share,
    made_of,
    make_baseline,
    read_baseline,
    trains,
    write_baseline,
)
from harness.drawn import Drawn
from harness.job import Job, make_job
from harness.names import UsageError
from harness.plan import Request
from harness.regression import FAILING, Finding, State, by_line, compare, seeds_of, state_of
from harness.store import write_text
from harness.suite import ROOT

_ORDER = (*FAILING, "new", "improvement", "ok")
_UNITS = (
    "shares in per cent and their differences in points, losses and counts as they are; means over the seeds that both "
    "have; [interval] of the new value, over images for one seed, over seeds for several; tolerance: a floor, or from "
    "the spread of the baseline's seeds (99 %: of a hundred such numbers one may leave it by chance)"
)
_EXACT = "=: the same to the last bit, as on the same machine with the same number of threads"
_SEEDS = "0,1,2,3,4"  # of a first baseline
_LISTED = 120  # numbers in a table of the Markdown: a pull request takes 65,536 characters
_LONGEST = 400  # characters of a cell there
_MOST_DIGITS = 6  # more than usual


@dataclass(frozen=True)
class Checked:
    """A finished check: whether it passed and why, in one sentence, all that was found, and what to know beside it."""

    passed: bool
    summary: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def run(
    suite: str,
    request: Request,
    output: Path,
    console: Console,
    baseline: Path | None = None,
    markdown: Path | None = None,
    update: bool = False,
    everything: bool = False,
) -> int:
    """Compare the present records with the baseline, or make them the baseline. Exit status: 0 passed, 1 not."""
    job = make_job(suite, request, output)
    path = baseline or default_path(suite, job.preset_name)
    if update:
        return _update(job, request, path, console)
    checked = check(job, request, read_baseline(path, suite, job.preset_name), _relative(path))
    if everything:
        _print(console, f"{everything_table(checked).terminal()}\n")
    if problems := not_ok(checked.findings):
        _print(console, f"{_findings_table('What is not ok', problems).terminal()}\n")
    _print(console, f"{rows_table(checked).terminal()}\n")
    _print(console, checked.summary)
    if markdown is not None:
        write_text(markdown, as_markdown(checked))
    return 0 if checked.passed else 1


def check(job: Job, request: Request, baseline: Baseline, name: str) -> Checked:
    """The job's present records against the baseline called ``name``."""
    states = [state_of(cell) for cell in job.cells]
    findings = compare(baseline, states, job.left_out, request.methods is None and request.tables is None)
    counts = Counter(finding.verdict for finding in findings)
    compared = sum(finding.seeds > 0 for finding in findings)
    failing = [f"{counts[verdict]} {verdict}" for verdict in FAILING if counts[verdict]]
    passed = compared > 0 and not failing
    told = f"{compared} numbers compared" + "".join(f", {counts[v]} {v}" for v in ("improvement", "new") if counts[v])
    summary = f"passed: {told}" if passed else f"FAILED: {', '.join(failing) or 'nothing to compare'}; {told}"
    made = dict.fromkeys(_made(made_of(state.record)) for state in states if state.record is not None)
    notes = [
        f"baseline: {name}, by `{baseline.command}`",
        *(f"baseline ran on {_made(one)}" for one in baseline.made.values()),
        *(f"this ran on {one}" for one in made),
        *_advice(job, request, counts, baseline),
    ]
    return Checked(passed, summary, tuple(findings), tuple(notes))


def _advice(job: Job, request: Request, counts: Counter[str], baseline: Baseline) -> list[str]:
    asked = f"--suite {job.suite.name} --preset {job.preset_name}"
    advice = []
    if counts["missing"] or counts["stale"] or counts["failed"]:
        seeds = f" --seeds {','.join(map(str, request.seeds))}" if request.seeds else ""
        command = f"python run_all.py {asked}{seeds}"
        advice.append(f"cells are run by `{command}`, with the same --output, --data-root and --set as here")
    seeds = ",".join(sorted({seed for line in baseline.rows.values() for seed in seeds_of(line)}, key=_as_number))
    update = f"`python run_all.py check {asked} --seeds {seeds} --update`, with the same --output, --data-root, --set "
    update += "and --baseline as here, writes a new baseline of finished cells, for review"
    if counts["improvement"] or counts["new"]:
        advice.append(f"better or new numbers are not taken over by themselves: {update}")
    elif any(counts[verdict] for verdict in ("regression", "changed", "incomparable")):
        advice.append(f"where this is meant to be so: {update}")
    return advice


def _as_number(seed: str) -> tuple[int, str]:
    return (int(seed) if seed.isdecimal() else 0, seed)


def _update(job: Job, request: Request, path: Path, console: Console) -> int:
    """Write the baseline from the job's records, and say what changes. A row that trains nothing needs one seed.

    Raises `UsageError` where only a part of the rows is asked for, a row cannot run here, or one has too few seeds.
    """
    if request.methods is not None or request.tables is not None:
        raise UsageError("check --update writes the whole baseline: leave --methods and --tables away")
    if job.left_out:
        raise UsageError("; ".join(f"{row} cannot run here: {reason}" for row, reason in job.left_out.items()))
    try:
        old = read_baseline(path, job.suite.name, job.preset_name) if path.exists() else None
    except UsageError as error:
        _print(console, f"the old baseline is not compared: {error}")
        old = None
    lines = by_line([state_of(cell) for cell in job.cells])
    _want_seeds(lines, old)
    records, open_ = {}, []
    for key, states in lines.items():
        wanted = states if trains(states[0].cell.settings.train) else states[:1]
        open_ += [state for state in wanted if state.record is None]
        records[key] = [(state.cell, state.record) for state in wanted if state.record is not None]
    if open_:
        for state in open_:
            _print(console, f"{state.cell.settings.cell} {state.verdict}: {state.reason}")
        rows = ",".join(dict.fromkeys(state.cell.settings.row for state in open_))
        seeds = ",".join(str(seed) for seed in dict.fromkeys(state.cell.settings.seed for state in open_))
        command = f"--suite {job.suite.name} --preset {job.preset_name} --methods {rows} --seeds {seeds}"
        _print(console, f"no baseline is written: {len(open_)} cells are not done; `python run_all.py {command}`")
        return 1
    words = ["python run_all.py check --update", f"--suite {job.suite.name}", f"--preset {job.preset_name}"]
    words += [f"--seeds {','.join(map(str, request.seeds))}"] if request.seeds else []
    words += [f"--set {key}={value}" for key, value in sorted(request.overrides.items())]
    new = make_baseline(job.suite.name, job.preset_name, " ".join(words), records)
    if old is not None:
        checked = check(job, request, old, _relative(path))
        if changed := not_ok(checked.findings):
            _print(console, f"{_findings_table('Against the old baseline', changed).terminal()}\n")
        _print(console, f"the old baseline against these records: {checked.summary}")
    if warning := _mixed(new):
        _print(console, f"warning: {warning}")
    write_baseline(path, new)
    numbers = sum(len(line.metrics) for line in new.rows.values())
    _print(console, f"{_relative(path)}: {numbers} numbers of {len(new.rows)} rows; review it with `git diff`")
    return 0


def _want_seeds(lines: Mapping[str, Sequence[State]], old: Baseline | None) -> None:
    """Raises `UsageError` where a row that trains would lose seeds, or a new one has too few to show a spread."""
    for key, states in lines.items():
        if not trains(states[0].cell.settings.train):
            continue
        line = old.rows.get(key) if old else None
        before = sorted(seeds_of(line), key=_as_number) if line is not None and line.trained else []
        wanted, seeds = len(before) or LEAST_SEEDS, ",".join(before) or _SEEDS
        if len(states) < wanted:
            why = "the old baseline has" if before else "a tolerance from the spread needs"
            raise UsageError(
                f"no baseline is written: {key} trains and has {len(states)} of the {wanted} seeds that {why}: run its "
                f"cells with --seeds {seeds}, and give check --update the same"
            )


def _mixed(new: Baseline) -> str:
    """What makes the code behind a baseline doubtful; empty for one commit without changes."""
    commits = list(dict.fromkeys(made.commit[:10] for made in new.made.values()))
    doubts = [f"the records are of several commits ({', '.join(commits)})"] if len(commits) > 1 else []
    if any(made.dirty for made in new.made.values()):
        doubts.append("some were made with changes that are not committed")
    return f"{'; '.join(doubts)}: better run all cells again from a clean commit" if doubts else ""


def not_ok(findings: Sequence[Finding]) -> list[Finding]:
    """What a reader must see, the worst first."""
    found = [finding for finding in findings if finding.verdict != "ok"]
    return sorted(found, key=lambda finding: _ORDER.index(finding.verdict))


def rows_table(checked: Checked) -> Drawn:
    """One line for each row: how many numbers have which verdict, and whether all are bit-equal."""
    body = []
    for key in dict.fromkeys(finding.line for finding in checked.findings):
        own = [finding for finding in checked.findings if finding.line == key]
        counts = Counter(finding.verdict for finding in own)
        numbers = [finding for finding in own if finding.seeds]
        exact = sum(finding.exact for finding in numbers)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
        body.append((key, str(max((finding.seeds for finding in numbers), default=0)), told, f"{exact}/{len(numbers)}"))
    return Drawn("Rows", ("row", "seeds", "verdicts", "bit-equal"), tuple(body), (), checked.notes)


def everything_table(checked: Checked) -> Drawn:
    return _findings_table("Everything that was compared", checked.findings)


def _findings_table(title: str, findings: Sequence[Finding]) -> Drawn:
    head = ("row", "number", "baseline", "now", "difference", "tolerance", "verdict", "why")
    return Drawn(title, head, tuple(map(_cells, findings)), (), (_UNITS, _EXACT))


def _cells(finding: Finding) -> tuple[str, ...]:
    metric, now = finding.metric, finding.now
    digits = _digits(finding)
    interval = ""
    if not (math.isnan(now.low) or math.isnan(now.high)):
        interval = f" [{_number(metric, now.low)}, {_number(metric, now.high)}]"
    difference = "=" if finding.exact and finding.seeds else _number(metric, finding.delta, digits, "+")
    origin = f" ({finding.origin})" if finding.origin else ""
    return (
        finding.line,
        metric or "(all)",
        _number(metric, finding.before, digits),
        f"{_number(metric, now.value, digits)}{interval}",
        difference,
        f"{_number(metric, finding.tolerance, digits)}{origin}",
        finding.verdict,
        finding.reason,
    )


def _digits(finding: Finding) -> int:
    """How many digits more than usual make the difference and its tolerance visible beside the values."""
    small = [abs(one) for one in (finding.delta, finding.tolerance) if one and not math.isnan(one)]
    if not small:
        return 0
    if is_share(finding.metric):
        last = 1e-4  # of 100 x value, two decimals
    else:
        last = 10.0 ** (math.floor(math.log10(abs(finding.before))) - 3) if finding.before else 0.0  # four digits
    return next((more for more in range(_MOST_DIGITS) if min(small) >= last / 10.0**more), _MOST_DIGITS)


def _number(metric: str, value: float, more: int = 0, sign: str = "") -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:{sign}.{2 + more}f}" if is_share(metric) else f"{value:{sign}.{4 + more}g}"


def as_markdown(checked: Checked) -> str:
    """For a pull request: the verdict, what is not ok, and of the rest, folded away, what is not bit-equal."""
    problems = not_ok(checked.findings)
    fine = [finding for finding in checked.findings if finding.verdict == "ok"]
    other = [finding for finding in fine if not finding.exact]
    parts = [f"# Regression check: {'passed' if checked.passed else 'failed'}"]
    parts += [_short(checked.summary, problems)] if problems else [f"{checked.summary}\n"]
    parts += [_plain(rows_table(checked).markdown())]
    equal = f"{len(fine) - len(other)} numbers are bit-equal to the baseline's"
    if other:
        title = "Within the tolerance, not bit-equal"
        parts += [
            f"<details>\n<summary>{equal}, {len(other)} others are ok</summary>\n",
            _short(title, other),
            "</details>\n",
        ]
    else:
        parts.append(f"{equal}; no others are ok.\n")
    return "\n\n".join(parts)


def _short(title: str, findings: Sequence[Finding]) -> str:
    """The first of the findings as Markdown: what is left out is counted."""
    drawn = _findings_table(title, findings[:_LISTED])
    body = tuple(tuple(f"{cell[:_LONGEST]}..." if len(cell) > _LONGEST else cell for cell in row) for row in drawn.body)
    more = (f"{len(findings) - _LISTED} more are not listed; `--all` shows them",) if len(findings) > _LISTED else ()
    return _plain(replace(drawn, body=body, footnotes=(*drawn.footnotes, *more)).markdown())


def _plain(markdown: str) -> str:
    """Tables without the blanks and dashes that line up their columns in the source."""
    lines = []
    for line in markdown.splitlines():
        if re.fullmatch(r"\|[:|-]+\|", line):
            line = re.sub(r":?-+:?", "-", line)
        lines.append(re.sub(r" {2,}", " ", line) if line.startswith("|") else line)
    return "\n".join(lines) + "\n"


def _made(made: Made) -> str:
    versions = ", ".join(f"{name} {made.packages[name]}" for name in ("torch", "torchvision") if name in made.packages)
    changed = " with changes" if made.dirty else ""
    return f"{made.processor}, {made.cores} cores; {versions}; commit {made.commit[:10]}{changed}"


def _relative(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
