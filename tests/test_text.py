"""Numbers, intervals, durations and tables as people read them."""

import csv
import io
import math

import pytest

from gankd.text import (
    Table,
    columns,
    compact,
    display_width,
    duration,
    fixed,
    interval,
    number,
    plus_minus,
    signed,
    storage_size,
    wrap,
)

NAN = math.nan


def test_numbers() -> None:
    assert [number(x) for x in (0.123456, 12345.6, 3.0, NAN)] == ["0.1235", "1.235e+04", "3", "nan"]
    assert [fixed(x) for x in (1.005, -0.004, 0.0, -2.0, NAN)] == ["1.00", "0.00", "0.00", "-2.00", "-"]
    assert [signed(x) for x in (0.126, -0.001, 0.001, -0.126, NAN)] == ["+0.13", "0.00", "0.00", "-0.13", "-"]
    assert signed(0.004, 3) == "+0.004"


def test_an_interval_is_written_one_way() -> None:
    assert interval(1.3, 0.71, 1.89) == "+1.30 [+0.71, +1.89]"
    assert interval(-0.001, -0.004, 0.003) == "0.00 [0.00, 0.00]"
    assert interval(0.25, 0.2, 0.3, 3, sign=False) == "0.250 [0.200, 0.300]"
    assert interval(-1.3, NAN, NAN) == "-1.30"
    assert "-0.00" not in interval(-1e-9, -1e-3, 1e-3)


def test_a_mean_with_its_error() -> None:
    assert plus_minus(95.123, 0.214) == "95.12 ± 0.21"
    assert plus_minus(95.123, NAN) == "95.12"
    assert plus_minus(1.3, 0.59, sign=True) == "+1.30 ± 0.59"


def test_durations() -> None:
    spans = {0: "0s", 0.84: "0.8s", 3: "3s", 9.94: "9.9s", 9.96: "10s", 41.6: "42s", 59.7: "1m00s", 190: "3m10s"}
    spans |= {3599.7: "1h00m", 7500: "2h05m", 90000: "25h00m", 172799: "47h59m"}
    spans |= {23.2 * 86400: "23 days", 45452.95 * 3600: "about 5 years"}
    assert {seconds: duration(seconds) for seconds in spans} == spans


def test_counts_and_sizes() -> None:
    assert [compact(n) for n in (812, 41_260, 999_600, 1_240_000)] == ["812", "41.3 k", "1 M", "1.24 M"]
    assert [storage_size(k) for k in (41.2, 2048.0)] == ["41.2 KiB", "2 MiB"]


def test_output_that_goes_to_no_terminal_has_a_default_width() -> None:
    assert columns(io.StringIO()) == 120
    assert columns(io.StringIO(), 80) == 80


def test_wide_and_combining_characters_are_measured_as_a_terminal_shows_them() -> None:
    assert [display_width(text) for text in ("abc", "日本", "e\u0301", "±−")] == [3, 4, 1, 2]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, 200])
def test_wrapped_lines_fit_and_lose_no_letter(width: int) -> None:
    text = "日本 a rather long text, with an unbreakableandratherlongword and 日本語日本語"
    lines = wrap(text, width)
    assert all(display_width(line) <= max(width, 2) for line in lines)  # a wide letter takes two columns at least
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert wrap("", width) == [""]


def test_a_word_is_not_broken_where_it_fits_on_a_line() -> None:
    assert wrap("one two three", 7, "  ") == ["one two", "  three"]


TABLE = Table(
    ["student", "top1 %", "updates"],
    [["real only", "95.12 ± 0.21", "600"], ["日本", "9.00", "12,000"], ["short"]],
    caption="Test images",
    notes=["+ is better"],
)


def test_plain_text_is_aligned() -> None:
    assert TABLE.plain(80).split("\n") == [
        "Test images",
        "--------------------------------",
        "student          top1 %  updates",
        "--------------------------------",
        "real only  95.12 ± 0.21      600",
        "日本               9.00   12,000",
        "short",
        "--------------------------------",
        "+ is better",
    ]


@pytest.mark.parametrize("width", [24, 31, 40, 60])
def test_plain_text_fits_and_says_what_was_left_out(width: int) -> None:
    head = ["what", *(f"column {number}" for number in range(5))]
    table = Table(head, [["a title of several words", *["1.00"] * 5]], caption="word " * 30, notes=["note " * 30])
    lines = table.plain(width).split("\n")
    assert max(map(display_width, lines)) <= width
    shown = [name for name in head if any(line.startswith("what") and name in line for line in lines)]
    left_out = " ".join(" ".join(lines).split()).partition(f"left out to fit {width} columns: ")[2]
    assert left_out.split(", ") == [name for name in head if name not in shown]
    assert "left out" not in table.plain(200)


def test_columns_of_text_are_wrapped_before_any_is_left_out() -> None:
    table = Table(["loss", "meaning", "n"], [["KD", "word " * 12, "7"]], align="llr")
    text = table.plain(40)
    assert text.count("word") == 12
    assert "left out" not in text
    assert max(map(len, text.split("\n"))) <= 40


def test_empty_tables_and_single_rows() -> None:
    empty = Table(["a", "b"])
    assert empty.plain(80) == "a  b\n----"
    assert empty.markdown() == "| a | b |\n| --- | ---: |"
    assert empty.csv() == "a,b\n"
    assert "\\midrule\n\\bottomrule" in empty.latex()
    assert Table(["a"], [["1"]]).plain(80) == "a\n-\n1"


def test_newlines_in_a_cell_are_spaces() -> None:
    table = Table(["a"], [["one\ntwo\r\nthree"]])
    assert "one two three" in table.plain(80)
    assert "| one two three |" in table.markdown()
    assert table.csv() == "a\none two three\n"
    assert r"one two three \\" in table.latex()


def test_markdown() -> None:
    assert TABLE.markdown().split("\n")[:4] == [
        "Test images",
        "",
        "| student | top1 % | updates |",
        "| --- | ---: | ---: |",
    ]
    assert TABLE.markdown().endswith("| short |  |  |\n\n+ is better")


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\\\|b"),  # a backslash of the text itself, then the pipe
        ("`a|b`", r"`a\|b`"),
        ("2*AB", "2*AB"),
        ("1*KD + 2*AB", r"1\*KD + 2\*AB"),
        ("`1*KD + 2*AB`", "`1*KD + 2*AB`"),
        ("real_matched #1 & 5 %", "real_matched #1 & 5 %"),
    ],
)
def test_markdown_cells_are_escaped(cell: str, written: str) -> None:
    assert Table(["a"], [[cell]]).markdown().split("\n")[-1] == f"| {written} |"


def test_csv_is_read_back() -> None:
    cells = [["a", 'say "b"', "c,d"], ["1|2", "±", ""]]
    assert list(csv.reader(io.StringIO(Table(cells[0], cells[1:]).csv()))) == cells


def test_latex_is_escaped() -> None:
    table = Table(["a & b", "50 %"], [["x_1 #2 {y} ~ ^ \\", "-1.30 [$2]"], ["self-VKD", "±"]])
    lines = table.latex().split("\n")
    assert lines[0] == r"\begin{tabular}{lr}"
    assert r"a \& b & 50 \% \\" in lines
    assert r"x\_1 \#2 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} & $-$1.30 {[}\$2{]} \\" in lines
    assert r"self-VKD & $\pm$ \\" in lines
    assert TABLE.latex().startswith("\\begin{table}\n\\centering\n\\caption{Test images}\n\\begin{tabular}{lrr}")
