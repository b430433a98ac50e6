"""GroupBench's front door: `python run_all.py` runs a suite; `python run_all.py list` shows what there is."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console

    from harness.names import UsageError
    from harness.printed import Terminal
except ImportError as error:
    print(f"error: {error}. Run `make install`, then .venv/bin/python run_all.py", file=sys.stderr)
    sys.exit(2)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

SuiteOption = Annotated[str, typer.Option("--suite", help="Which suite; `list` shows them.")]
MethodsOption = Annotated[
    str | None, typer.Option("--methods", help="Rows or methods, separated by commas, or file.py:Class; default: all.")
]
TablesOption = Annotated[
    str | None, typer.Option("--tables", help="The rows of these tables of the suite, or all; default: the preset's.")
]
TrainOption = Annotated[
    Path | None, typer.Option("--train", help="Annotation in COCO's layout to train on (suites coco and nuclei).")
]
ValOption = Annotated[Path | None, typer.Option("--val", help="The same to judge on.")]
SeedsOption = Annotated[str | None, typer.Option("--seeds", help="Seeds, separated by commas, as in 0,1,2.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="How much to spend; default: the suite's first choice.")
]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the suite's data set.")]
OutputOption = Annotated[Path, typer.Option("--output", help="Folder for records, predictions, logs and tables.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE, may be repeated: train.steps=100, data.level=hard, pull_push.threshold=2."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=1, help="Seconds after which a cell is stopped; default: the preset's."),
]
MemoryOption = Annotated[
    float | None,
    typer.Option("--memory", min=0.1, help="GB that a cell's processes may take; default: 95 % of the machine's."),
]
DEFAULT_OUTPUT = Path("results/runs")


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    suite: SuiteOption = "shapes",
    methods: MethodsOption = None,
    tables: TablesOption = None,
    seeds: SeedsOption = None,
    preset: PresetOption = None,
    data_root: RootOption = None,
    train: TrainOption = None,
    val: ValOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    set_: SetOption = None,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, settings, what would run, and estimates of time and memory.")
    ] = False,
) -> None:
    """Train, predict and evaluate every cell of a suite, and print its tables beside what the papers report.

    Exit status: 0 all cells ok, 1 a cell failed or Ctrl-C, 2 wrong usage.
    """
    if context.invoked_subcommand is not None:
        if len(sys.argv) > 1 and sys.argv[1] != context.invoked_subcommand:
            raise UsageError(f"options of `{context.invoked_subcommand}` stand behind it, not before")
        return
    from harness import listing, sweep
    from harness.job import make_job

    request = _request(methods, tables, seeds, preset, data_root, set_, train, val, timeout, memory)
    if dry_run:
        listing.show_dry_run(suite, request, output, _console())
        raise typer.Exit(0)
    raise typer.Exit(sweep.run(make_job(suite, request, output), _console()))


@app.command("list")
def list_(
    suite: Annotated[str | None, typer.Option("--suite", help="Only this suite.")] = None,
    preset: PresetOption = None,
    data_root: RootOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
) -> None:
    """Show suites, methods, data sets, and the cells with their state."""
    from harness import listing

    listing.show_everything(suite, preset, data_root, output, _console())


@app.command()
def evaluate(
    protocol: Annotated[
        str, typer.Option("--protocol", help="voc, coco, cityscapes, proposals, semantic or boundary.")
    ],
    ground_truth: Annotated[
        Path, typer.Option("--ground-truth", help="Annotation: COCO JSON, or the official folder.")
    ],
    predictions: Annotated[
        Path, typer.Option("--predictions", help="Results: COCO JSON, or a folder; docs/metrics.md has the forms.")
    ],
    split: Annotated[str | None, typer.Option("--split", help="Of VOC or Cityscapes; default: val.")] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="voc: the convention of AP^r; default: area/mnc/count/nan.")
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option("--max-distance", help="boundary: share of the diagonal; default: 0.0075.")
    ] = None,
    distances: Annotated[
        Path | None, typer.Option("--distances", help="cityscapes: gtInstances.json with medDist and distConf.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="coco: ask hotcoco or pycocotools, too.")] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", min=0, max=100_000, help="Of the bootstrap over images; 0: none.")
    ] = 1000,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
    output: Annotated[Path | None, typer.Option("--output", help="Folder; default: results/runs/judged/NAME.")] = None,
) -> None:
    """Judge anybody's results by one protocol: a table, and JSON, CSV and per-image matches in the output folder."""
    from harness import judge
    from harness.protocols import Task

    folder = output or DEFAULT_OUTPUT / "judged" / predictions.name.split(".")[0]
    task = Task(ground_truth, predictions, split, variant, verify or None, distances, max_distance)
    raise typer.Exit(judge.run(protocol, task, resamples, confidence, folder, _console()))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Matches (.npz) that `evaluate` or a cell's evaluate step wrote.")],
    second: Annotated[Path, typer.Argument(help="The same of other results on the same images.")],
    resamples: Annotated[
        int, typer.Option("--resamples", min=1, max=100_000, help="Of the bootstrap over images.")
    ] = 1000,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the intervals.")] = 0.95,
) -> None:
    """Compare two sets of results on the same images: paired differences with intervals."""
    from harness import judge

    raise typer.Exit(judge.compare(first, second, resamples, confidence, _console()))


@app.command()
def claims(
    suite: SuiteOption = "shapes",
    only: Annotated[str | None, typer.Option("--only", help="These claims, separated by commas; default: all.")] = None,
    seeds: SeedsOption = None,
    preset: PresetOption = None,
    data_root: RootOption = None,
    train: TrainOption = None,
    val: ValOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    set_: SetOption = None,
    timeout: TimeoutOption = None,
    memory: MemoryOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the claims, and the cells that would run.")] = False,
) -> None:
    """Run what the papers' claims need on a suite, and say of each whether it is replicated."""
    from harness import claims as papers_claims

    request = _request(None, None, seeds, preset, data_root, set_, train, val, timeout, memory)
    raise typer.Exit(papers_claims.run(suite, request, _words("--only", only), output, _console(), dry_run))


@app.command()
def doctor(output: OutputOption = DEFAULT_OUTPUT) -> None:
    """Show the machine, versions, devices, usable parts, and what is wrong; then the exit status is 1."""
    from harness import doctor as check_up

    raise typer.Exit(check_up.run(output, _console()))


@app.command()
def check(
    suite: SuiteOption,
    methods: MethodsOption = None,
    seeds: SeedsOption = None,
    preset: PresetOption = None,
    data_root: RootOption = None,
    train: TrainOption = None,
    val: ValOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    set_: SetOption = None,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Default: results/baselines/SUITE-PRESET.json.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write this file for a pull request.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Make the finished cells the baseline.")] = False,
    all_: Annotated[bool, typer.Option("--all", help="Print every number, not only what is not ok.")] = False,
) -> None:
    """Compare finished cells with a committed baseline; exit status 1 on a regression, or where nothing can be said."""
    from harness import check as regression_check

    request = _request(methods, None, seeds, preset, data_root, set_, train, val)
    raise typer.Exit(regression_check.run(suite, request, output, _console(), baseline, markdown, update, all_))


data = typer.Typer(help="The suites' data: what is there, and what is missing.", rich_markup_mode=None)
app.add_typer(data, name="data")


@data.command()
def verify(
    suite: SuiteOption,
    preset: PresetOption = None,
    data_root: RootOption = None,
    train: TrainOption = None,
    val: ValOption = None,
    output: OutputOption = DEFAULT_OUTPUT,
    set_: SetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Neither decode samples nor compute checksums.")] = False,
) -> None:
    """Check counts, sizes and checksums against the official data, and decode every sample."""
    from harness import data as suites_data

    request = _request(preset=preset, data_root=data_root, set_=set_, train=train, val=val)
    raise typer.Exit(suites_data.verify(suite, request, output, quick, _console()))


@data.command()
def download(
    suite: SuiteOption,
    preset: PresetOption = None,
    data_root: RootOption = None,
    set_: SetOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives once they are unpacked.")] = False,
) -> None:
    """Fetch, check and unpack what a suite lacks, where the owners allow it; otherwise print the owner's steps."""
    from harness import data as suites_data

    request = _request(preset=preset, data_root=data_root, set_=set_)
    raise typer.Exit(suites_data.download(suite, request, keep, _console()))


def _request(
    methods: str | None = None,
    tables: str | None = None,
    seeds: str | None = None,
    preset: str | None = None,
    data_root: Path | None = None,
    set_: list[str] | None = None,
    train: Path | None = None,
    val: Path | None = None,
    timeout: float | None = None,
    memory: float | None = None,
):
    from harness.plan import Request
    from harness.suite import parse_overrides

    if (train is None) != (val is None):
        raise UsageError("--train and --val go together: give the annotation to train on and the one to judge on")
    overrides = parse_overrides(set_ or [])
    for split, path in (("train", train), ("val", val)):
        if path is not None:  # cells run in another folder
            overrides[f"data.{split}_annotations"] = str(path.resolve())
    named = _words("--methods", methods), _words("--tables", tables)
    return Request(*named, _numbers(seeds), preset, data_root, overrides, timeout, memory)


def _words(option: str, text: str | None) -> list[str] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option} is empty: give names separated by commas")
    return words


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        numbers = list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        raise UsageError(f"--seeds {text!r}: write whole numbers separated by commas, as in 0,1,2") from None
    if not all(0 <= number < 2**32 for number in numbers):  # what numpy takes
        raise UsageError(f"--seeds {text!r}: a seed is 0 or more and below 2^32")
    return numbers


def _console() -> Console:
    return Terminal()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def start() -> int:
    """Run the command line; every error that the person can mend is one message on standard error and status 2."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the running cell must not outlive its driver
        signal.signal(number, _interrupt)
    sys.stdout.reconfigure(errors="replace")  # a terminal without ± must not end a run in a traceback
    try:
        app()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except SystemExit as end:
        if end.code != 130:  # what typer makes of Ctrl-C
            raise
        print("interrupted", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(start())
