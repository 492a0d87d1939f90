"""Plain English in the text that people read: package, docs, README and CONTRIBUTING."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_ALONE = 10
NOT_A_SUBJECT = re.compile(
    r"(the same|what|whom|who|whose|how|where|which|why|when|whether"
    r"|of|from|by|for|with|without|in|on|at|to|into|after|before|between|through|as|among|behind|beside)\b",
    re.IGNORECASE,
)
"""No docstring begins like this: a docstring names its subject first."""


SOURCES = sorted(ROOT.glob("src/**/*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TEXTS = [*SOURCES, *PAGES, *sorted(ROOT.glob("src/**/*.html"))]


def flat(text: str) -> str:
    """Text on one line: wrapped sentences, comments and parts of one string are joined."""
    return re.sub(r'\s*"?\s*\n\s*(?:#|f?")?\s*', " ", text)


def found(pattern: str) -> list[str]:
    """All matches in the checked texts, with what surrounds them."""
    hits = []
    for path in TEXTS:
        text = flat(path.read_text())
        for match in re.finditer(pattern, text, re.IGNORECASE):
            around = text[max(0, match.start() - 40) : match.end() + 40]
            hits.append(f"{path.relative_to(ROOT)}: ...{around}...")
    return hits


def docstrings(path: Path) -> list[tuple[int, str]]:
    """Lines and texts of all docstrings, those of settings and constants included."""
    return [
        (node.lineno, node.value.value.strip())
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def test_nobody_writes_whom() -> None:
    assert found(r"\bwhom\b") == []


def test_alone_is_rare() -> None:
    hits = found(r"\balone\b")
    assert len(hits) <= MOST_ALONE, "\n".join(["say only:", *hits])


IS_NO = r"(?<!\bthere )\b(?:is|are|was|were) no\b(?! (?:longer|more than|less than|fewer than)\b)"


def test_what_something_is_not() -> None:
    hits = found(IS_NO)
    assert not hits, "\n".join(["say is not a ..., is missing ...:", *hits])


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("x is no folder", True),
        ('f"{x} is no "\n    "folder"', True),
        ("these are no\n    # networks", True),
        ("there is no folder", False),
        ('there "\n    "is no folder', False),
        ("the folder is no longer there", False),
        ("it is no more than a guess", False),
        ("it is not a folder", False),
        ("this is none of them", False),
    ],
)
def test_which_sentences_say_is_no(text: str, wrong: bool) -> None:
    assert bool(re.search(IS_NO, flat(text))) == wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src/gankd")))
def test_docstrings_begin_with_their_subject(path: Path) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for line, text in docstrings(path)
        if NOT_A_SUBJECT.match(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 1500
    assert [line for line in text.splitlines() if len(line) > 120] == []


if __name__ == "__main__":
    counts = {"whom": len(found(r"\bwhom\b")), "alone": len(found(r"\balone\b")), "X is no Y": len(found(IS_NO))}
    counts["words in the README"] = len((ROOT / "README.md").read_text().split())
    for title, count in counts.items():
        print(f"{title:<38}{count}")
