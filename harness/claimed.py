"""What the papers claim: results/claims.toml, checked, with the effect that each paper reports."""

from __future__ import annotations

import functools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from harness import effects
from harness.measured import is_cost
from harness.names import UsageError, look_up
from harness.reported import ReportedValue, reported_value
from harness.settings import Spec, check
from harness.suite import ROOT, Column, Reported, Suite

FILE = ROOT / "results" / "claims.toml"
PROPERTY = "property"


class Where(Spec):
    """How a suite measures a claim: ``metric`` as in `Column`; ``data`` of its presets (empty: all that fit)."""

    metric: str
    data: tuple[str, ...] = ()


class Proof(Spec):
    """The tests ("FILE::NAME") that show that a statement about a formula ``holds``, or that it does not."""

    holds: bool
    tests: tuple[str, ...] = Field(min_length=1)


class Claim(Spec):
    """One claim of a paper; results/claims.toml says what the fields mean, `harness.effects` what the kinds do."""

    paper: str
    text: str
    source: str
    kind: str
    rows: tuple[str, ...] = ()
    on: dict[str, Where] = Field(default_factory=dict)
    scale: float = 100.0
    digits: int = 1
    tolerance: float = Field(0.0, ge=0)
    tolerance_why: str = ""
    reported: tuple[Reported, ...] = ()
    reported_scale: float = 1.0
    reported_as: str = ""
    proof: Proof | None = None
    note: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Claim:
        needed = {"peak_inside": 3}.get(self.kind, 2)
        tolerant = self.kind in ("at_least", "difference", "ratio", "insensitive")
        pair = self.kind in ("difference", "ratio")
        for wrong, message in (
            (self.kind not in (*effects.KINDS, PROPERTY), f"kind must be one of {effects.KINDS} or {PROPERTY!r}"),
            ((self.kind == PROPERTY) != (self.proof is not None), "a property has a proof, no other kind has one"),
            (self.kind == PROPERTY and (self.rows or self.on), "a property is not measured: no rows, no on"),
            (self.kind != PROPERTY and not self.on, "on must name a suite and its metric"),
            (self.kind != PROPERTY and len(self.rows) < needed, f"{self.kind} compares at least {needed} rows"),
            (len(set(self.rows)) < len(self.rows), "a row is named twice"),
            (pair and len(self.rows) != 2, f"{self.kind} compares two rows"),
            (tolerant != (self.tolerance > 0), "exactly at_least, difference, ratio, insensitive have a tolerance"),
            (tolerant != bool(self.tolerance_why), "a tolerance needs tolerance_why"),
            (
                not self.reported_as and len(self.reported) not in (0, 1, len(self.rows)),
                "reported selects the effect, or one value for each row",
            ),
            (
                bool(self.reported_as) and self.reported_as.count("{}") != len(self.reported),
                "reported_as has a {} for each selection",
            ),
            (self.kind == "faster" and not all(map(is_cost, self._metrics())), "faster compares a cost"),
            (self.kind != "faster" and any(map(is_cost, self._metrics())), "costs are compared by faster alone"),
        ):
            if wrong:
                raise ValueError(message)
        return self

    def _metrics(self) -> list[str]:
        return [where.metric for where in self.on.values()]

    def paper_effect(self) -> float:
        """The effect that the paper's numbers come to, as `measured` would: NaN where they are not known."""
        numbers = [] if self.reported_as else [self.reported_scale * one.number for one in self._reported()]
        if not numbers or any(map(math.isnan, numbers)):
            return math.nan
        if len(numbers) == 1:
            return numbers[0]
        picked = effects.decisive(self.kind, numbers)
        return float(effects.contrast(self.kind, *np.array([[numbers[picked.first]], [numbers[picked.second]]]))[0])

    def paper_says(self) -> str:
        """What the table shows for it."""
        if self.reported_as:
            return self.reported_as.format(*(one.text for one in self._reported()))
        effect = self.paper_effect()
        return "not available" if math.isnan(effect) else self.printed(effect)

    def printed(self, effect: float) -> str:
        """A difference with its sign, a spread without, a ratio with two digits."""
        if self.kind in ("ratio", "faster"):
            return f"{effect:.2f}"
        sign = "" if self.kind == "insensitive" else "+"
        return f"{effect:{sign}z.{self.digits}f}"

    def _reported(self) -> list[ReportedValue]:
        whole = Column(metric="", title="", reported={})
        return [reported_value(one, whole) for one in self.reported]


@functools.cache
def load_claims(path: Path = FILE) -> dict[str, Claim]:
    """Read and check the claims, by id, in the file's order. Raises `UsageError` for a broken file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"results/{path.name} cannot be read: {error}") from error
    loose = [name for name, fields in tables.items() if not isinstance(fields, dict)]
    if loose:
        raise UsageError(f"results/{path.name}: {', '.join(loose)} stands outside of any claim, above the first [ID]")
    claims = {name: check(Claim, fields, f"{name} in results/{path.name}") for name, fields in tables.items()}
    for name, claim in claims.items():
        if claim.kind in ("difference", "ratio") and math.isnan(claim.paper_effect()):
            raise UsageError(f"results/{path.name}: {name} needs a reported effect to be compared with")
    return claims


def check_rows(claims: Mapping[str, Claim], suite: Suite) -> None:
    """Raise `UsageError` for a row or data set of a claim that the suite does not have."""
    data = {name for preset in suite.presets.values() for name in preset.data}
    for name, claim in claims.items():
        for row in claim.rows:
            look_up(f"row of claim {name} (results/claims.toml) in suite {suite.name}", row, suite.rows)
        for one in claim.on[suite.name].data:
            look_up(f"data of claim {name} (results/claims.toml) in suite {suite.name}", one, dict.fromkeys(data))
