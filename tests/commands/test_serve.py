"""`gankd serve`: answers, limits, who may ask, and the page in a real browser."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gankd.commands import serve as module
from gankd.commands.export import export
from gankd.commands.predict import predict
from gankd.commands.serve import Page, teacher_of
from gankd.models.exported import open_exported
from gankd.recipes import Recipe
from gankd.recipes.experiment import Experiment
from gankd.runs import Run

pytest.importorskip("uvicorn")
testclient = pytest.importorskip("fastapi.testclient")

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def model(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(*digits_run, tmp_path_factory.mktemp("served") / "small.safetensors").path


@pytest.fixture(scope="module")
def photo(digits_run: tuple[Recipe, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    digit = Experiment.open(digits_run[0], Run(digits_run[1])).splits.test.images[0, 0].numpy()
    path = tmp_path_factory.mktemp("photos") / "digit.png"
    Image.fromarray(digit).convert("RGB").resize((70, 50)).save(path)
    return path


def client(page: Page, host: str = "127.0.0.1", asks: str = "127.0.0.1") -> Any:
    return testclient.TestClient(page.app(host), base_url=f"http://{asks}")


def test_student_and_teacher_answer_side_by_side(digits_run: tuple[Recipe, Path], model: Path, photo: Path) -> None:
    page = Page(open_exported(model), teacher_of(digits_run[1]))
    answer = client(page).post("/label", content=photo.read_bytes())
    assert answer.status_code == 200
    student, teacher = answer.json()["student"], answer.json()["teacher"]
    (expected,) = predict(model, [photo]).rows
    assert (student["answer"], student["sure"]) == (expected.answer, expected.sure)
    best, *_ = student["likely"]
    assert best == [expected.facts["class"], pytest.approx(expected.facts["probability"], abs=1e-6)]
    assert len(student["likely"]) == len(teacher["likely"]) == 3
    assert teacher["sure"]
    assert page.photos == 1
    alone = client(Page(open_exported(model), None)).post("/label", content=photo.read_bytes()).json()
    assert alone == {"student": student}


def test_a_value_has_its_interval(angles_run: tuple[Recipe, Path], tmp_path: Path, photo: Path) -> None:
    path = export(*angles_run, tmp_path / "angles.safetensors").path
    page = Page(open_exported(path), teacher_of(angles_run[1]))
    said = client(page).post("/label", content=photo.read_bytes()).json()
    (expected,) = predict(path, [photo]).rows
    assert said["student"]["answer"] == expected.answer
    assert " to " in said["student"]["interval"]
    assert "interval" not in said["teacher"]  # its doubt was not measured
    assert "likely" not in said["student"]


def test_what_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = client(Page(open_exported(model), None))
    note = asks.post("/label", content=b"hello")
    assert (note.status_code, "not an image in a known format" in note.json()["error"]) == (422, True)
    assert asks.post("/label", content=b"").status_code == 422
    large = BytesIO()
    Image.new("L", (120, 100)).save(large, "PNG")
    monkeypatch.setattr(module, "MOST_PIXELS", 11_999)
    answer = asks.post("/label", content=large.getvalue())
    assert (answer.status_code, "120 x 100 pixels" in answer.json()["error"]) == (422, True)
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    assert asks.post("/label", content=bytes(1001)).status_code == 413
    assert asks.get("/docs").status_code == asks.get("/openapi.json").status_code == 404
    assert asks.get("/label").status_code == 405


def test_only_pages_of_this_machine_may_ask(model: Path, photo: Path) -> None:
    """A stranger's page whose name is made to point here is not answered."""
    page = Page(open_exported(model), None)
    for name, status in (("127.0.0.1", 200), ("localhost:8000", 200), ("evil.example", 400)):
        assert client(page, asks=name).get("/").status_code == status
    assert client(page, host="0.0.0.0", asks="camera.example").get("/").status_code == 200
    head = client(page).get("/").headers["content-security-policy"]
    assert "default-src 'none'" in head
    assert "unsafe-inline" not in head.partition("script-src")[2].partition(";")[0]


def test_wrong_input(model: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--port must lie in 0..65535, got 99999" in refused("serve", model, "--port", 99999)
    assert "no run in nowhere" in refused("serve", model, "--teacher", "nowhere")
    assert "no file none.onnx" in refused("serve", "none.onnx")
    assert "cannot listen on 203.0.113.9, port 0 (Cannot assign" in refused(
        "serve", model, "--host", "203.0.113.9", "--port", 0
    )
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'gankd[serve]'" in refused("serve", model)


# --- in a process of its own, and a browser ---------------------------------------------------------------------


@pytest.fixture
def address(digits_run: tuple[Recipe, Path], model: Path) -> Iterator[str]:
    """Address of a server that runs, and ends by Ctrl-C with exit code 0."""
    command = [sys.executable, "-m", "gankd", "serve", str(model), "--teacher", str(digits_run[1]), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "open http://127.0.0.1:" in line, line
        yield line.split()[1]
        process.send_signal(signal.SIGINT)
        assert "1 photograph labelled" in process.stdout.read()
        assert process.wait() == 0


class Browser:
    """A headless Chromium that is steered through a pipe."""

    def __init__(self, program: str, folder: Path) -> None:
        (inner_in, self._out), (self._in, inner_out) = os.pipe(), os.pipe()

        def place() -> None:  # it reads from 3 and writes to 4
            for number, end in ((103, inner_in), (104, inner_out)):
                os.dup2(end, number)
            for number in (3, 4):
                os.dup2(100 + number, number)

        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
        ]
        self.process = subprocess.Popen(
            [program, *options], preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(inner_in)
        os.close(inner_out)
        self._numbers, self._left, self._session = itertools.count(1), b"", {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._left:
                part = os.read(self._in, 1 << 16)
                assert part, "the browser has ended"
                self._left += part
            answer, _, self._left = self._left.partition(b"\0")
            found: dict[str, Any] = json.loads(answer)
            if found.get("id") == number:
                result: dict[str, Any] = found["result"]
                return result

    def value(self, expression: str) -> Any:
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> Any:
        for _ in range(300):
            if found := self.value(expression):
                return found
            time.sleep(0.1)
        raise AssertionError(expression)

    def close(self) -> None:
        self("Browser.close")
        self.process.wait()
        os.close(self._out)
        os.close(self._in)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_photograph_is_labelled_in_a_browser(address: str, model: Path, photo: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    browser = Browser(BROWSER, tmp_path / "user")
    browser("Page.navigate", url=address)
    browser.until("document.querySelector('#teacher .answer') !== null")
    node = browser("DOM.querySelector", nodeId=browser("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
    browser("DOM.setFileInputFiles", files=[str(photo)], nodeId=node)
    said = browser.until("document.querySelector('#student .answer').textContent")
    assert said == predict(model, [photo]).rows[0].answer
    assert browser.value("document.querySelector('#teacher .answer').textContent") in "0123456789"
    assert browser.value("document.querySelectorAll('#student meter').length") == 3
    assert browser.value("document.querySelector('#photo').naturalWidth") == 70  # its policy lets the page show it
    assert browser.value("document.querySelector('#error').textContent") == ""
    (tmp_path / "note.png").write_text("hello")
    browser("DOM.setFileInputFiles", files=[str(tmp_path / "note.png")], nodeId=node)
    assert "cannot be read" in browser.until("document.querySelector('#error').textContent")
    assert browser.value("document.querySelector('#student .answer').textContent") == ""
    browser.close()
