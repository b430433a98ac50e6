"""A table's forms hold the same cells; LaTeX is escaped and balanced."""

from __future__ import annotations

import csv
import io
import math
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.drawn import Drawn, latex

DRAWN = Drawn(
    "AP^r, 100 % of it",
    ("method", "AP_50", "verdict"),
    (("a|b", "50.0 ± 10.0 (-1.2)", "not reproduced (-1.2)"), ("[c] & d", ">10", "reported")),
    ({"method": "a|b", "value": 50.0, "low": math.nan}, {"method": "c, d", "value": 1 / 3, "low": ">10"}),
    ("note # 1",),
)


def test_terminal_has_title_table_and_notes() -> None:
    first, *table, note = DRAWN.terminal().splitlines()
    assert first == "AP^r, 100 % of it"
    assert table[0].startswith("╭")
    assert "│ a|b      │ 50.0 ± 10.0 (-1.2) │ not reproduced (-1.2) │" in table
    assert note == "  note # 1"


def test_markdown_escapes_bars() -> None:
    text = DRAWN.markdown()
    assert text.startswith("## AP^r, 100 % of it\n\n| method")
    assert "| a\\|b " in text
    assert text.endswith("\n\n- note # 1\n")


def test_csv_has_bare_numbers_and_empty_places() -> None:
    read = list(csv.DictReader(io.StringIO(DRAWN.csv())))
    assert read == [
        {"method": "a|b", "value": "50", "low": ""},
        {"method": "c, d", "value": "0.3333333333", "low": ">10"},
    ]
    assert Drawn("T", ("method",), (), (), ()).csv() == "\n"


def test_latex_of_the_whole_table() -> None:
    assert DRAWN.latex("shapes quick_t").splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{AP\textsuperscript{r}, 100 \% of it}",
        r"\label{tab:shapes-quick-t}",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"method & AP\_50 & verdict \\",
        r"\midrule",
        r"a\textbar{}b & 50.0 $\pm$ 10.0 ($-$1.2) & not reproduced ($-$1.2) \\",
        r"{}[c] \& d & \textgreater{}10 & reported \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize",
        r"note \# 1\par",
        r"\end{minipage}",
        r"\end{table}",
    ]


def test_a_wide_table_is_shrunk_to_the_page_and_one_without_notes_has_no_box_for_them() -> None:
    wide = Drawn("T", ("method", *"abcdefghi"), (("m", *"123456789"),), (), ()).latex("t")
    assert r"\usepackage{booktabs,graphicx}" in wide
    assert r"\resizebox{\linewidth}{!}{%" + "\n" + r"\begin{tabular}{lrrrrrrrrr}" in wide
    assert "minipage" not in wide
    check_structure(wide, 10)
    narrow = Drawn("T", ("method",), (("m",),), (), ()).latex("t")
    assert r"\begin{tabular}{l}" in narrow


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32^2 pixels", r"32\textsuperscript{2} pixels"),
        ("a^_b ^", r"a\textsuperscript{\_}b \textasciicircum{}"),
        ("-3 to -1.5, val-2017, 1e-4", "$-$3 to $-$1.5, val-2017, 1e-4"),
        (r"C:\x {y} ~ $1", r"C:\textbackslash{}x \{y\} \textasciitilde{} \$1"),
        ('"Lovász" σ ≤ 2\nthen …', r"''Lovász'' $\sigma$ $\leq$ 2 then \ldots{}"),
        ("日本 \x1b[31m", "?? ?[31m"),
    ],
)
def test_latex_escapes(text: str, expected: str) -> None:
    assert latex(text) == expected


cells = st.text(st.sampled_from(string.printable + "±^é日"), max_size=12)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=3), st.lists(cells, max_size=2))
def test_latex_of_any_text_is_balanced(body: list[list[str]], notes: list[str]) -> None:
    drawn = Drawn(body[0][0], ("method", "b", "c"), tuple(map(tuple, body)), (), tuple(notes))
    check_structure(drawn.latex(body[0][1]), 3)


def check_structure(text: str, columns: int) -> None:
    """What a LaTeX run would stumble over: braces, dollars, environments, cells of a row, characters."""
    code = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines())
    bare = re.sub(r"\\[{}$&#_%]", "x", code)
    assert bare.count("{") == bare.count("}")
    depth = 0
    for sign in bare:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert bare.count("$") % 2 == 0
    assert not set(bare) & set('#_~^"<>|')
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", bare):
        opened.append(name) if kind == "begin" else opened.pop() == name or pytest.fail(name)
    assert not opened
    rows = [line for line in bare.splitlines() if line.endswith("\\\\")]
    assert rows
    assert all(row.count("&") == columns - 1 for row in rows)
    assert not any(row.startswith(("[", "*")) for row in rows)
    assert not re.search(r"\n\s*\n", code.strip()), "an empty line would end the paragraph inside the table"
