"""Progress for people: bars with the time left on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.printed import printable

_LINE_EVERY = 20.0  # seconds between lines where there is no terminal


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:<10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class Follower:
    """Shows one cell's progress messages; a bar for each step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = _progress(console)
        self.tasks: dict[str, int] = {}
        self.started: dict[str, tuple[float, int]] = {}  # time and count of the first message
        self.last_line = time.monotonic()

    def __enter__(self) -> Follower:
        self.progress.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self.progress.__exit__(*details)

    def message(self, message: dict) -> None:
        step = message.get("step")
        if step is None:
            return
        done, total = message["done"], message["total"]
        if step not in self.tasks:
            self.tasks[step] = self.progress.add_task(step, total=total)
            self.started[step] = (time.monotonic(), done)
        self.progress.update(self.tasks[step], completed=done)
        now, (start, first) = time.monotonic(), self.started[step]
        if not self.console.is_terminal and now - self.last_line > _LINE_EVERY and done > first:
            self.last_line = now
            left = (now - start) * (total - done) / (done - first)
            self.console.print(f"  {step} {done}/{total}, about {left:.0f} s left", markup=False)


@contextmanager
def bar(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in the driver itself; yields a function that takes the number done."""
    title = printable(title)
    if not console.is_terminal:
        console.print(f"{title} ({total})", markup=False)
    with _progress(console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
