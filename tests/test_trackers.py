"""Trackers: every line of a run folder once and in order, whatever happens to the tracker; real ones read back."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gankd import trackers
from gankd.errors import ConfigError
from gankd.trackers import Kind, tracked

Outcome = tuple[int, str, str]
Line = tuple[str, int, dict[str, float]]


class Listener:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.closed = 0

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((stage, step, dict(values)))

    def close(self) -> None:
        self.closed += 1


def write(folder: Path, stage: str, *lines: dict[str, Any], end: str = "\n") -> None:
    (folder / stage).mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / stage / "metrics.jsonl").write_text(text.removesuffix("\n") + end)


def test_every_line_comes_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "SECONDS", 0.01)
    folder, heard = tmp_path / "run", Listener()
    first, second = {"step": 50, "loss": 2.0}, {"step": 100, "loss": 1.0, "val_top1": 90}
    with tracked(heard, folder):  # the folder does not exist yet
        write(folder, "gan-1/part", first, {"step": 60, "problem": "odd", "loss": float("nan"), "flag": True})
        while not heard.lines:
            pass
        write(folder, "gan-1/part", {"step": 50, "loss": 2.0}, end="")  # resumed, and being written
        write(folder, "gan-1/part", first, {"step": 60, "problem": "odd"}, second)
    assert heard.lines == [("gan-1/part", 50, {"loss": 2.0}), ("gan-1/part", 100, {"loss": 1.0, "val_top1": 90.0})]
    assert heard.closed == 1


def test_a_line_that_is_cut_short_waits(tmp_path: Path) -> None:
    heard = Listener()
    with tracked(heard, tmp_path):
        write(tmp_path, "gan-1", {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, end="")
    assert [step for _, step, _ in heard.lines] == [1]


def fake(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """TensorBoard without its package; gives what is written."""
    written: list[Line] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.stage = Path(folder).name

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((self.stage, step, {name: value}))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(trackers, "import_module", lambda name: SimpleNamespace(SummaryWriter=SummaryWriter))
    return written


def test_a_second_sitting_adds_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = fake(monkeypatch)
    first, second = {"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}
    write(tmp_path, "gan-1", first)
    for lines in ((first,), (first, second), (first, second)):
        with tracked("tensorboard", tmp_path):
            write(tmp_path, "gan-1", *lines)
    assert written == [("gan-1", 1, {"loss": 1.0}), ("gan-1", 2, {"loss": 0.5})]


def test_a_tracker_that_fails_ends_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Listener):
        def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
            raise OSError("no server")

    with tracked(Broken(), tmp_path):
        write(tmp_path, "gan-1", {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0})
    assert capsys.readouterr().err == "tracking ended, the run continues: OSError: no server\n"


def test_an_error_of_the_block_is_not_hidden(tmp_path: Path) -> None:
    heard = Listener()
    with pytest.raises(KeyboardInterrupt), tracked(heard, tmp_path):
        write(tmp_path, "gan-1", {"step": 1, "loss": 1.0})
        raise KeyboardInterrupt
    assert len(heard.lines) == heard.closed == 1


@pytest.mark.parametrize(
    ("kind", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb",) * 2, ("mlflow",) * 2]
)
def test_a_missing_package_is_named(
    kind: Kind, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"--track {kind} needs its package \(.*\): pip install 'gankd\[{kind}\]'"
    with pytest.raises(ConfigError, match=message), tracked(kind, tmp_path):
        pass
    assert f"gankd[{kind}]" in refused("teach", "digits", "--out", tmp_path / "run", "--track", kind)
    assert not list(tmp_path.iterdir())


def test_the_command_line_tracks_a_stage(
    gankd: Callable[..., Outcome], tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = fake(monkeypatch)
    settings = [word for change in tiny for word in ("--set", change)]
    code, _, err = gankd("teach", "digits", "--out", tmp_path, "--quiet", "--track", "tensorboard", *settings)
    assert code == 0, err
    names = {name for stage, _, values in written for name in values if stage.startswith("teacher-")}
    assert {"loss", "val_top1"} <= names


# --- the real ones ------------------------------------------------------------------------------------------

LINES = ({"step": 50, "loss": 2.0, "KD@virtual": 1.0}, {"step": 100, "loss": 1.5})


@pytest.mark.compat
def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracked("tensorboard", tmp_path):
        write(tmp_path, "gan-1", *LINES)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "gan-1")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(50, 2.0), (100, 1.5)]


@pytest.mark.compat
@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # restored afterwards
    with tracked("mlflow", tmp_path):
        write(tmp_path, "gan-1", *LINES)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("gankd").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "gan-1/loss")
    assert [(point.step, point.value) for point in history] == [(50, 2.0), (100, 1.5)]
    assert run.data.metrics["gan-1/KD_virtual"] == 1.0


@pytest.mark.compat
@pytest.mark.filterwarnings("ignore")
def test_wandb_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with tracked("wandb", tmp_path):
        write(tmp_path, "gan-1", *LINES)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    stored = file.read_bytes()
    assert b"gan-1/loss" in stored
    assert b"gan-1/KD@virtual" in stored
