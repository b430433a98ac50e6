"""Errors of usage, and looking a name up in a table with help for typing slips."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from harness.printed import printable

Value = TypeVar("Value")


class UsageError(Exception):
    """The command cannot be carried out as given; the message says what to change. Exit code 2.

    It may quote files of strangers, so it comes as printable text.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), lines=True)


class MissingData(UsageError):
    """The data cannot be opened: cells can be named, but not planned."""


def unknown(kind: str, name: str, available: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not in a table: the nearest names, then the full list."""
    names = sorted(available)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(close)}?" if close else ""
    listing = ", ".join(names) if names else "none"
    return UsageError(f"unknown {kind} {name!r}.{guess} Available: {listing}.{' ' + hint if hint else ''}")


def look_up(kind: str, name: str, table: Mapping[str, Value], hint: str = "") -> Value:
    """``table[name]``, or `UsageError` with the nearest names and the full list."""
    if name not in table:
        raise unknown(kind, name, table, hint)
    return table[name]
