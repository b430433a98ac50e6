"""A finished table in its four forms: terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from harness.printed import printable

_UNRUN = 3  # rows without a cell that the terminal still lists
_MANY = 9  # columns of a LaTeX table from which on it is shrunk to the page

# Characters that LaTeX takes as commands, or that its oldest font encoding lacks.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "…": r"\ldots{}", "±": r"$\pm$",
    "×": r"$\times$", "≠": r"$\neq$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$",
    "−": "$-$", "–": "--", "°": r"$^\circ$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$",
    "δ": r"$\delta$", "σ": r"$\sigma$", "ł": r"\l{}", "’": "'", "‘": "`", "“": "``", "”": "''",
}  # fmt: skip
_LETTERS = "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿ"  # LaTeX has them in every font


@dataclass(frozen=True)
class Drawn:
    """A table of text, ``body`` with the columns of ``head``; ``numbers`` holds the bare ones, a line for each cell."""

    title: str
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    numbers: tuple[Mapping[str, str | float], ...]
    footnotes: tuple[str, ...]

    def terminal(self) -> str:
        """Many rows that were not run are counted, not listed: the files have them."""
        head, *body = [list(map(printable, row)) for row in (self.head, *self.body)]
        footnotes = list(map(printable, self.footnotes))
        unrun = [row for row in body if "not run" in row]
        if len(unrun) > _UNRUN:
            body = [row for row in body if row not in unrun]
            footnotes.append(f"{len(unrun)} rows were not run; the files list them")
        notes = "".join(f"\n  {note}" for note in footnotes)
        table = tabulate(body, head, tablefmt="rounded_outline", disable_numparse=True)
        return f"{printable(self.title)}\n{table}{notes}"

    def markdown(self) -> str:
        head, *body = [[_markdown_cell(cell) for cell in row] for row in (self.head, *self.body)]
        notes = "".join(f"\n- {_markdown(note)}" for note in self.footnotes)
        return (
            f"## {_markdown(self.title)}\n\n{tabulate(body, head, tablefmt='pipe', disable_numparse=True)}\n{notes}\n"
        )

    def csv(self) -> str:
        """One line for each number of the table; a number that does not exist is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.numbers[0]) if self.numbers else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _bare(value) for key, value in line.items()} for line in self.numbers)
        return text.getvalue()

    def latex(self, label: str) -> str:
        """A table environment for the package booktabs (a wide one also asks for graphicx), named tab:``label``."""
        wide = len(self.head) > _MANY
        rules = "l" + "r" * (len(self.head) - 2) + ("l" if self.head[-1] == "verdict" else "r") * (len(self.head) > 1)
        rows = [r"\toprule", _latex_row(self.head), r"\midrule", *map(_latex_row, self.body), r"\bottomrule"]
        tabular = [rf"\begin{{tabular}}{{{rules}}}", *rows, r"\end{tabular}"]
        if wide:
            tabular = [r"\resizebox{\linewidth}{!}{%", *tabular, "}"]
        notes = [rf"{latex(note)}\par" for note in self.footnotes]
        if notes:
            notes = [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes, r"\end{minipage}"]
        return "\n".join(
            [
                f"% \\usepackage{{booktabs{',graphicx' if wide else ''}}}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.title)}}}",
                rf"\label{{tab:{re.sub('[^A-Za-z0-9:.-]+', '-', label)}}}",
                *tabular,
                *notes,
                r"\end{table}",
                "",
            ]
        )


def _bare(value: str | float) -> str:
    if isinstance(value, str):
        return _csv_text(printable(value))
    return "" if math.isnan(value) else f"{value:.10g}"


def _csv_text(text: str) -> str:
    """Spreadsheets compute what begins like a formula: unless it is a number, an apostrophe goes before it."""
    if len(text) < 2 or text[0] not in "=+-@":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def _markdown(text: str) -> str:
    """Text without HTML and without links or pictures from elsewhere."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", printable(text)).replace("](", "]\\(")


def _markdown_cell(text: str) -> str:
    """A bar would end the cell, and a backslash before it take the escape for itself."""
    return re.sub(r"(\\*)\|", r"\1\1\\|", _markdown(text))


def _latex_row(cells: Sequence[str]) -> str:
    text = " & ".join(map(latex, cells))
    # A row's first [ or * would be an option of the \\ before it.
    return rf"{'{}' if text[:1] in ('[', '*') else ''}{text} \\"


def latex(text: str) -> str:
    """Plain text for LaTeX: special characters escaped, AP^r with its index, a minus before digits as a minus.

    A character that no usual font has becomes a question mark.
    """
    pieces = []
    for piece in re.split(r"(\^\w|(?<![\w)])-(?=\d))", " ".join(text.split())):
        if re.fullmatch(r"\^\w", piece):
            pieces.append(rf"\textsuperscript{{{_escaped(piece[1])}}}")
        else:
            pieces.append("$-$" if piece == "-" else _escaped(piece))
    return "".join(pieces)


def _escaped(text: str) -> str:
    return "".join(
        _LATEX.get(one, one if (one.isascii() and one.isprintable()) or one in _LETTERS else "?") for one in text
    )
