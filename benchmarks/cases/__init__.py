"""What benchmarks.grouping and benchmarks.evaluation measure: lists of `Case`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Case:
    """One piece of work, done by us and by what a user would do otherwise.

    ``contenders`` maps a name to a call that does the whole work once and returns its result; "ours" is first.
    Building the inputs is not part of a call. ``same(ours, other)`` raises AssertionError where a result differs: a
    fast wrong answer is none. ``target`` is the goal in words.
    """

    name: str
    contenders: Mapping[str, Callable[[], object]]
    target: str
    same: Callable[[object, object], None] | None = None
    slow: frozenset[str] = field(default_factory=frozenset)  # contenders that are run once only

    def only_ours(self) -> Case:
        """The case without the others, for sizes that would take them hours."""
        return replace(self, contenders={name: call for name, call in self.contenders.items() if "ours" in name})
