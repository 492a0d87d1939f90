"""Tables, intervals, durations and numbers as people read them: the one place that lays them out."""

import csv
import io
import math
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

DAY = 24 * 3600
GAP = "  "
"""Gap between two columns of plain text."""
LEAST = 16
"""Columns of text are wrapped down to this width before the last columns are left out."""
NO_TERMINAL = 120
"""Width of plain text that does not go to a terminal."""


# --- numbers ------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def fixed(value: float, places: int = 2) -> str:
    """A number with this many decimals: `1.30`; never -0.00, and `-` for nan."""
    if math.isnan(value):
        return "-"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float, places: int = 2) -> str:
    """A number with its sign: `+1.30`; a number that rounds to zero has none, and nan is `-`."""
    text = fixed(value, places)
    return f"+{text}" if value > 0 and float(text) != 0 else text


def interval(value: float, low: float, high: float, places: int = 2, *, sign: bool = True) -> str:
    """`+1.30 [+0.71, +1.89]`; the value only where a bound is nan.

    Args:
        value: the estimate.
        low, high: bounds of its confidence interval.
        places: decimals.
        sign: show + before positive numbers, as for a difference.
    """
    show = signed if sign else fixed
    if math.isnan(low) or math.isnan(high):
        return show(value, places)
    return f"{show(value, places)} [{show(low, places)}, {show(high, places)}]"


def plus_minus(value: float, error: float, places: int = 2, *, sign: bool = False) -> str:
    """`95.12 ± 0.21`: a mean and its standard error; the mean only where the error is nan."""
    text = signed(value, places) if sign else fixed(value, places)
    return text if math.isnan(error) else f"{text} ± {fixed(error, places)}"


def duration(seconds: float) -> str:
    """`0.8s`, `42s`, `3m10s`, `2h05m`, `23 days`, `about 5 years`."""
    if seconds < 9.95:
        return f"{round(seconds, 1):g}s"
    whole = round(seconds)
    if whole >= 2 * 365 * DAY:
        return f"about {whole / (365 * DAY):.0f} years"
    if whole >= 2 * DAY:
        return f"{whole / DAY:.0f} days"
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def speed_of(text: str) -> float | None:
    """Operations per second of "60 TFLOP/s", "989 TFLOPS" or "9.7e3 GFLOP/s"; None for other text."""
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d+)?)\s*([GTP])FLOP(?:/s|s)?\s*", text, re.IGNORECASE)
    return None if found is None else float(found[1]) * {"G": 1e9, "T": 1e12, "P": 1e15}[found[2].upper()]


def hours(seconds: float) -> str:
    """`0.036`, `4.2`, `1,280` hours."""
    found = seconds / 3600
    return f"{found:,.0f}" if found >= 99.5 else f"{found:.2g}"


def compact(value: float) -> str:
    """`812`, `41.3 k`, `1.24 M`."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * size:  # 999,600 is 1 M, not 1000 k
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def storage_size(kib: float) -> str:
    """`41 KiB`, `1.2 MiB`."""
    return f"{kib:.3g} KiB" if kib < 1000 else f"{kib / 1024:.3g} MiB"


# --- width --------------------------------------------------------------------------------------------------


def columns(stream: TextIO | None = None, default: int = NO_TERMINAL) -> int:
    """Width of the terminal that a stream (default: standard output) goes to; `default` where it is not a terminal."""
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or default
    except (OSError, ValueError, AttributeError):
        return default


def display_width(text: str) -> int:
    """Columns of a terminal that `text` takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most `width` columns, broken between words where that is possible; [""] for an empty text.

    Args:
        text: newlines count as spaces.
        width: columns of a terminal.
        indent: before every line but the first.
    """
    lines, line = [], ""
    for word in text.split():
        gap = " " if line.strip() else ""
        if gap and display_width(line + gap + word) > width:
            lines.append(line)
            line, gap = indent, ""
        line += gap
        for letter in word:  # a word that is wider than a line is broken anywhere
            if line.strip() and display_width(line + letter) > width:
                lines.append(line)
                line = indent
            line += letter
    return [*lines, line]


# --- tables -------------------------------------------------------------------------------------------------


Form = Literal["csv", "latex", "markdown"]
"""Forms of a table for other programs."""


@dataclass(frozen=True)
class Table:
    """Cells of text under a head, for a terminal, a Markdown page, a spreadsheet or a paper."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]] = ()
    """A row that is shorter than the head ends in empty cells."""
    align: str = ""
    """One letter per column, l (text) or r (numbers); default: text in the first column, numbers in the others."""
    caption: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.align:
            object.__setattr__(self, "align", "l" + "r" * (len(self.head) - 1))
        assert len(self.align) == len(self.head), self.align
        assert set(self.align) <= {"l", "r"}, self.align
        assert all(len(row) <= len(self.head) for row in self.rows), self.rows

    @property
    def _cells(self) -> list[list[str]]:
        """Head and rows, each with as many cells as the head, without newlines."""
        count = len(self.head)
        return [
            [" ".join(cell.split()) for cell in [*row, *[""] * (count - len(row))]] for row in [self.head, *self.rows]
        ]

    # --- plain text -----------------------------------------------------------------------------------------

    def plain(self, width: int | None = None) -> str:
        """Aligned text for a terminal.

        Columns of text are wrapped to fit; where that is not enough, the last columns are left out, and a note says
        which.

        Args:
            width: columns to fit into; default: those of the terminal, 120 where there is none.
        """
        width = columns() if width is None else width
        cells = self._cells
        widths = self._widths(cells, width)
        head, *body = ("\n".join(self._lines(row, widths)) for row in cells)
        rule = "-" * max((display_width(line) for text in (head, *body) for line in text.split("\n")), default=0)
        notes, left_out = list(self.notes), cells[0][len(widths) :]
        if left_out:
            notes.append(f"left out to fit {width} columns: {', '.join(left_out)}")
        caption = [*wrap(self.caption, width), rule] if self.caption else []
        under = [line for note in notes for line in wrap(note, width, GAP)]
        return "\n".join([*caption, head, rule, *body, *([rule] if body and under else []), *under])

    def _widths(self, cells: Sequence[Sequence[str]], width: int) -> list[int]:
        """Widths of the columns that are shown."""
        natural = [max(display_width(row[place]) for row in cells) for place in range(len(self.head))]
        least = [min(own, LEAST) if side == "l" else own for own, side in zip(natural, self.align, strict=True)]

        def total(some: Sequence[int]) -> int:
            return sum(some) + len(GAP) * (len(some) - 1)

        shown = len(least)
        while shown > 1 and total(least[:shown]) > width:
            shown -= 1
        widths = natural[:shown]
        while total(widths) > width:
            shrinking = [place for place in range(shown) if widths[place] > least[place]]
            if not shrinking:
                break
            widths[max(shrinking, key=widths.__getitem__)] -= 1
        return widths

    def _lines(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        """The lines of one row."""
        parts = [wrap(cell, width, GAP) for cell, width in zip(row, widths, strict=False)]
        lines = []
        for number in range(max(map(len, parts))):
            line = []
            for part, width, side in zip(parts, widths, self.align, strict=False):
                text = part[number] if number < len(part) else ""
                padding = " " * (width - display_width(text))
                line.append(text + padding if side == "l" else padding + text)
            lines.append(GAP.join(line).rstrip())
        return lines

    # --- files ----------------------------------------------------------------------------------------------

    def markdown(self) -> str:
        """A table of GitHub's Markdown, without a newline at its end; cells may hold `code`."""
        rule = ["---" if side == "l" else "---:" for side in self.align]
        head, *rows = ([_markdown(cell) for cell in row] for row in self._cells)
        lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
        caption = [self.caption, ""] if self.caption else []
        return "\n".join([*caption, *lines, *(line for note in self.notes for line in ("", note))])

    def rendered(self, form: Form) -> str:
        """The table in this form, without a newline at its end."""
        return {"csv": self.csv, "latex": self.latex, "markdown": self.markdown}[form]().rstrip("\n")

    def csv(self) -> str:
        """Head and rows with commas between them, for a spreadsheet; caption and notes are left out."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(self._cells)
        return stream.getvalue()

    def latex(self) -> str:
        r"""A `tabular` for a paper that uses the package booktabs, in a `table` where there is a caption or a note."""
        head, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in self._cells)
        lines = [rf"\begin{{tabular}}{{{self.align}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]
        lines.append(r"\end{tabular}")
        if self.caption or self.notes:
            caption = [rf"\caption{{{_latex(self.caption)}}}"] if self.caption else []
            notes = [rf"\par\small {_latex(note)}" for note in self.notes]
            lines = [r"\begin{table}", r"\centering", *caption, *lines, *notes, r"\end{table}"]
        return "\n".join(lines) + "\n"


def _markdown(cell: str) -> str:
    """A cell in which no character ends the cell or starts emphasis by accident."""
    if re.sub("`[^`]*`", "", cell).count("*") > 1:  # one star is a star; two would make the text between them italic
        cell = re.sub(r"`[^`]*`|\*", lambda found: found[0] if len(found[0]) > 1 else r"\*", cell)
    return re.sub(r"(\\*)\|", lambda found: found[1] * 2 + r"\|", cell)


_LATEX = {
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "[": "{[}",
    "]": "{]}",  # a bracket after \\ would be an option
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
}


def _latex(text: str) -> str:
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)  # the minus of a number, not a hyphen
    return "".join(_LATEX.get(letter, letter) for letter in text)
