"""One number of a table: measured beside reported, and the verdict on both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.measured import UNMEASURED, Measured, is_cost
from harness.reported import ReportedValue
from harness.standings import NOT_COMPARED, Standing
from harness.suite import Column

_NAMED = 3  # so many columns that are not reproduced are named

CRITERION = (
    "reproduced: the paper's value lies within the measured interval (its ends are in the CSV), or both print the same "
    "digits. In brackets: measured minus reported"
)


@dataclass(frozen=True)
class Entry:
    """One column of one row. ``value`` is in the printed unit; NaN: not measured. ``comparable``: with the paper's.

    ``standing`` is how the row stands to the best measured one, in the record's unit.
    """

    column: Column
    paper: ReportedValue
    value: Measured = UNMEASURED
    comparable: bool = False
    standing: Standing = NOT_COMPARED

    @property
    def judgeable(self) -> bool:
        """Whether the paper has a number to judge by. Costs are never judged: they are those of other machines."""
        return not (math.isnan(self.paper.number) or is_cost(self.column.metric))

    @property
    def delta(self) -> float:
        """The printed measured number minus the paper's; NaN where the two are not compared."""
        if not (self.judgeable and self.comparable):
            return math.nan
        return float(self._printed(self.value.value)) - self.paper.number

    @property
    def reproduced(self) -> bool:
        """See `CRITERION`; False where nothing is compared."""
        if math.isnan(self.delta):
            return False
        # The paper's number is rounded, too: an interval narrower than the last digit must not decide.
        same = self._printed(self.value.value) == self._printed(self.paper.number)
        return same or self.value.low <= self.paper.number <= self.value.high

    @property
    def word(self) -> str:
        """The verdict on this number alone; empty where the paper has none to judge by."""
        if not self.judgeable:
            return ""
        if not self.comparable:
            return "not comparable"
        if math.isnan(self.value.value):
            return "not measured"
        if not self.reproduced and math.isnan(self.value.half):
            return "no interval"
        return "reproduced" if self.reproduced else "not reproduced"

    def delta_text(self) -> str:
        return "" if math.isnan(self.delta) else f" ({self.delta:+z.{self.column.digits}f})"

    def text(self) -> str:
        """``value ± half (+delta) sign``, as far as there is one; a lopsided interval as ``value [low, high]``."""
        if math.isnan(self.value.value):
            return "-"
        interval = "" if math.isnan(self.value.half) else f" ± {self._printed(self.value.half)}"
        if interval and self.value.lopsided:
            interval = f" [{self._printed(self.value.low)}, {self._printed(self.value.high)}]"
        sign = f" {self.standing.sign}" if self.standing.sign else ""
        return f"{self._printed(self.value.value)}{interval}{self.delta_text()}{sign}"

    def _printed(self, number: float) -> str:
        return f"{number:z.{self.column.digits}f}"


def judge(entries: Sequence[Entry], reason: str, own_reason: str) -> str:
    """The verdict on a measured row.

    ``reason`` says why its numbers cannot be held against the paper's (empty: they can), ``own_reason`` why those of
    this row never can, which is told also where the paper has no number.
    """
    judged = [one for one in entries if one.judgeable]
    if not judged:
        return f"not comparable: {own_reason}" if own_reason else "no reported value"
    if reason:
        return f"not comparable: {reason}"
    if len(judged) == 1:
        return f"{judged[0].word}{judged[0].delta_text()}"
    absent = [one.column.title for one in judged if one.word == "not measured"]
    blurred = [one.column.title for one in judged if one.word == "no interval"]
    missed = [one.column.title for one in judged if one.word == "not reproduced"]
    text = f"{len(judged) - len(absent) - len(missed) - len(blurred)} of {len(judged)} reproduced"
    reasons = {"not": missed, "not measured:": absent, "no interval:": blurred}
    return text + "".join(_named(word, titles, len(judged)) for word, titles in reasons.items())


def _named(word: str, titles: Sequence[str], number: int) -> str:
    """The ``titles`` where they are few, and not all ``number`` of them."""
    return f", {word} {', '.join(titles)}" if 0 < len(titles) <= min(_NAMED, number - 1) else ""
