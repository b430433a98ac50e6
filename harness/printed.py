"""Text of strangers on its way to a person: names, reasons and logs may hold whatever somebody put there."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def printable(text: str, lines: bool = False) -> str:
    r"""``text`` with characters that do not show as themselves as escapes: ESC as ``\x1b``, a surrogate as ``\udcff``.

    Terminals obey control characters, and signs of direction turn names around. Ends of lines stay where ``lines``.
    Applied twice, it changes nothing more.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or (lines and one == "\n") else ascii(one)[1:-1] for one in text)


class Terminal(Console):
    """A console that prints text as it is: neither markup nor emoji codes, and control characters as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(one, lines=True) if isinstance(one, str) else one for one in objects), **options)
