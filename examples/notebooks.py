"""Run the notebooks of this folder, each in an empty folder, and store their outputs.

    python examples/notebooks.py --page benchmarks/results/notebooks.md

Progress and paths of this machine are taken out. A cell that fails ends the command.
"""

import argparse
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from gankd.text import duration
from gankd.version import __version__

HERE = Path(__file__).parent
PAGE = """# Notebooks

Written on {date} by `make notebooks` (part of `make nightly`) with gankd {version}. Every cell ran, in order, in an
empty folder.

| notebook | cells | its result | wall time | processor time |
|---|---:|---|---:|---:|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path)
    page = parser.parse_args().page
    lines = []
    for path in sorted(HERE.glob("*.ipynb")):
        notebook, begun, before = nbformat.read(path, 4), time.monotonic(), processor_seconds()
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
            cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
            for cell in cells:
                cell.metadata = {}
                cell.outputs = [without(output, folder) for output in cell.outputs if output.get("name") != "stderr"]
        notebook.metadata.language_info = {"name": "python"}
        nbformat.write(notebook, path)
        times = f"{duration(time.monotonic() - begun)} | {duration(processor_seconds() - before)}"
        lines.append(f"| [{path.name}](../../examples/{path.name}) | {len(cells)} | {headline(cells)} | {times} |\n")
        print(lines[-1], end="", flush=True)
    if page is not None:
        page.write_text(PAGE.format(date=f"{datetime.now(UTC):%Y-%m-%d}", version=__version__) + "".join(lines))


def processor_seconds() -> float:
    """Processor time of the kernels that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def without(output: Any, folder: str) -> Any:
    """An output of a cell without the path of its folder; a picture once, as PNG."""
    if output.output_type == "stream":
        output.text = output.text.replace(f"{folder}/", "")
    else:
        output.data.pop("image/jpeg", None)
        for kind in [kind for kind in output.data if kind.startswith("text/")]:
            output.data[kind] = output.data[kind].replace(f"{folder}/", "")
    return output


def headline(cells: Any) -> str:
    """What the cell prints that prints the result in one sentence."""
    (found,) = [cell for cell in cells if cell.source == "print(result.headline)"]
    return str(found.outputs[0].text).strip()


if __name__ == "__main__":
    main()
