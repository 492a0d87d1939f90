"""Pages with hostile names in a real browser: no script runs, and no request leaves."""

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gankd.commands import run
from gankd.commands.stages import RunResult
from gankd.config import override
from gankd.data.images import LabelledImages, Splits
from gankd.recipes import RECIPES
from gankd.recipes.arms import Arm
from gankd.tasks import Classification

import torch  # isort: skip

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
MARK = "gankd-was-here"


def hostile_names(url: str) -> tuple[str, ...]:
    """Names of classes that try to run a script or to fetch something."""
    change = f"document.title='{MARK}'"
    return (
        f"<script>{change}</script>",
        f"<img src={url}x onerror={change}>",
        f'"><svg onload="{change}">',
        f"'-alert(1)-'</text><script>{change}</script>",
        f"javascript:{change}",
        "{{ 7*7 }}${7*7}",
        "\u202egnp.tac\u2066",
        "line\nbreak\ttab",
        "\U0001f431 cat & <b>dog</b>",
        f"</style><link rel=stylesheet href={url}y>",
    )


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server's address, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", paths
    server.shutdown()
    thread.join()
    server.server_close()


def reported(folder: Path, names: tuple[str, ...], tiny: tuple[str, ...]) -> RunResult:
    """A tiny run with classes and an arm of these names."""
    generator = np.random.default_rng(0)
    task = Classification(num_classes=len(names), class_names=names)

    def part(count: int) -> LabelledImages:
        labels = torch.arange(count) % len(names)
        images = generator.integers(0, 40, (count, 1, 8, 8)) + 20 * labels.numpy()[:, None, None, None]
        return LabelledImages(torch.from_numpy(images.astype(np.uint8)), labels, task)

    splits = Splits(part(80), part(60), part(60), names[0], {"origin": names[0], "licence": names[1]})
    arm = Arm(name="evil", title=names[1], images="adjusted", role="method")
    recipe = override(RECIPES["digits"](), (*tiny, "seeds=1", "data.num_train=80"))
    return run(recipe, folder, arms=["real_matched", arm], splits=splits)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_no_script_runs_and_no_request_leaves(
    asked: tuple[str, list[str]], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    assert BROWSER is not None
    url, paths = asked
    page = reported(tmp_path / "run", hostile_names(url), tiny).report
    assert page is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
        f"--user-data-dir={tmp_path / 'user'}",
    ]

    def title(path: Path) -> str:
        shown = subprocess.run([BROWSER, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True)
        return shown.stdout.partition("<title>")[2].partition("</title>")[0]

    bad = tmp_path / "bad.html"  # the test sees a script that runs, and a request that leaves
    bad.write_text(f"<title>x</title>{hostile_names(url)[0]}<img src={url}seen>")
    assert title(bad) == MARK
    assert paths == ["/seen"]
    paths.clear()
    assert MARK not in title(page)
    assert "gankd" in title(page)
    assert paths == []
