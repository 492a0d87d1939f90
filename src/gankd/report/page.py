"""One self-contained page per run, and one that links to several: no scripts, no network, light and dark."""

from collections.abc import Sequence
from pathlib import Path

from gankd.errors import RunError
from gankd.report.facts import ReportData
from gankd.storage import atomic


def write_report(data: ReportData, path: Path) -> None:
    """Write one self-contained HTML page, atomically.

    Raises:
        RunError: the page cannot be written.
    """
    from gankd.report.view import report_html  # matplotlib takes a second to import

    write_page(path, report_html(data))


def write_index(reports: Sequence[tuple[ReportData, str]], path: Path) -> None:
    """Write one page with the result of every run, each with a link to its report.

    Args:
        reports: runs with the address of their report, relative to `path`.
        path: the page.

    Raises:
        RunError: the page cannot be written.
    """
    from gankd.report.view import index_html

    write_page(path, index_html(reports))


def write_page(path: Path, text: str) -> None:
    """Write a page, atomically.

    Raises:
        RunError: the page cannot be written.
    """
    try:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"report {path} cannot be written: {error.strerror or error}; free some space or choose another --out"
        ) from None
