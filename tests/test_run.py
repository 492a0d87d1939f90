"""Runs and stages: an interrupted stage continues to the last bit, changed settings never reuse old work, and one
process at a time holds a folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gankd.runs
import gankd.training.gan_health
from gankd.console import Console
from gankd.data.images import LabelledImages
from gankd.engine import Engine
from gankd.errors import CheckpointError, RunError, TrainingError
from gankd.models import build_net
from gankd.models.contract import ImageModel
from gankd.runs import Run, Stage, fingerprint
from gankd.seeds import rng
from gankd.storage import load_state, save_state, write_json
from gankd.subsampling.autoencoder import SparseAutoencoder
from gankd.tasks import Classification, Regression
from gankd.training.autoencoder import train_autoencoder
from gankd.training.distill import distill
from gankd.training.gan import GanConfig, train_gan
from gankd.training.lesson import DistillConfig, Fakes, Lesson
from gankd.training.supervised import SupervisedConfig, train_supervised

PLAIN = Engine(torch.device("cpu"), bf16=False, channels_last=False)
CHANNELS_LAST = Engine(torch.device("cpu"), bf16=False, channels_last=True)


class Killed(Exception):
    """Stands in for Ctrl-C or a lost machine."""


@dataclass
class Fragile(Stage):
    """A stage that is killed in the middle of a step, or, at step -1, between the last step and the end."""

    at: int | None = None
    fails: list[int] = field(default_factory=list)

    def part(self, name: str, *, counted: bool = True) -> "Fragile":
        part = super().part(name, counted=counted)
        return Fragile(part.name, part.folder, checkpoint_seconds=0.0)

    def report(self, images: int, **terms: Tensor) -> None:
        super().report(images, **terms)
        if self._step == self.at:
            raise Killed

    def log(self, **values: Any) -> None:
        super().log(**values)
        if self.at == -1 and self._step + 1 == self._total and "loss" not in values:
            raise Killed


def toy(task: Classification | Regression, count: int = 24) -> LabelledImages:
    """Brightness tells the label."""
    share = torch.rand(count, generator=rng(0, "toy"))
    noise = torch.rand((count, 1, 8, 8), generator=rng(0, "toy noise"))
    images = (255 * (0.7 * share[:, None, None, None] + 0.3 * noise)).to(torch.uint8)
    labels = (share > 0.5).long() if isinstance(task, Classification) else task.denormalise(share)
    return LabelledImages(images, labels, task)


CLASSES = toy(Classification(num_classes=2))
VALUES = toy(Regression(low=0.0, high=10.0))
Train = Callable[[Stage], nn.Module]


def cnn(data: LabelledImages, seed: int = 0) -> ImageModel:
    net = build_net("cnn4", in_channels=1, image_size=8, num_outputs=data.task.head_size, seed=seed)
    return ImageModel.for_data(net, data)


def supervised(data: LabelledImages, engine: Engine, optimizer: str) -> Train:
    config = SupervisedConfig(updates=6, batch_size=10, optimizer=optimizer, augment=("shift", "colour"))  # type: ignore[arg-type]
    return lambda stage: train_supervised(cnn(data), data, data, config, engine, 0, stage)


def distilled(data: LabelledImages, augment: tuple[str, ...]) -> Train:
    teacher = cnn(data, seed=1)
    outputs = teacher.eval()(data.images).detach()
    fakes = Fakes(data.images.flip(3), data.labels, outputs)
    config = DistillConfig(updates=6, batch_size=10, augment=augment)  # type: ignore[arg-type]
    lesson = Lesson("Label", teacher)
    return lambda stage: distill(cnn(data), data, data, config, PLAIN, 0, lesson=lesson, fakes=fakes, stage=stage)


def gan(data: LabelledImages, engine: Engine = PLAIN, **settings: Any) -> Train:
    config = GanConfig(
        **{
            "steps": 6,
            "batch_size": 8,
            "width_g": 4,
            "width_d": 4,
            "z_dim": 4,
            "d_steps": 2,
            "health_checks": 2,
            **settings,
        }
    )
    return lambda stage: train_gan(data, data, cnn(data), config, engine, 0, stage)


def autoencoder(data: LabelledImages) -> Train:
    return lambda stage: train_autoencoder(
        SparseAutoencoder(data.task, data.shape, 0, code_width=8), data, 6, PLAIN, 0, stage
    )


LOOPS = {
    "supervised": supervised(CLASSES, PLAIN, "sgd"),
    "supervised channels_last": supervised(VALUES, CHANNELS_LAST, "adamw"),
    "distill stored": distilled(CLASSES, ()),
    "distill online": distilled(VALUES, ("rotate", "flip")),
    "cgan": gan(CLASSES, diff_augment=("translation", "cutout"), flip=True),
    "cgan channels_last": gan(CLASSES, CHANNELS_LAST),
    "cgan relativistic": gan(CLASSES, loss="relativistic", penalty="r1r2", penalty_every=2, batch_norm=False),
    "ccgan ili": gan(VALUES, label_input="ili", ili_updates=2),
    "autoencoder": autoencoder(VALUES),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupted_stage_continues_to_the_last_bit(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gankd.runs, "LOG_STEPS", 1)
    monkeypatch.setattr(gankd.training.gan_health, "COLLAPSED", 0.0)  # six steps make no generator yet
    train = LOOPS[loop]
    whole = train(Stage("loop", tmp_path / "whole", checkpoint_seconds=0.0))

    for at in (0, 2, 5, -1):  # killed four times: before any checkpoint, midway, in the last step, and after it
        if loop == "autoencoder" and at == -1:
            continue  # it has no line after the last step
        with pytest.raises(Killed):
            train(Fragile("loop", tmp_path / "pieces", checkpoint_seconds=0.0, at=at))
    pieces = train(Stage("loop", tmp_path / "pieces", checkpoint_seconds=0.0))

    expected, found = whole.state_dict(), pieces.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert lines == (tmp_path / "pieces" / "metrics.jsonl").read_bytes()
    assert len(lines.splitlines()) >= 6


def test_a_checkpoint_without_learning_rates_continues_to_the_last_bit(tmp_path: Path) -> None:
    """As earlier versions wrote them: they computed learning rates from the step."""
    train = gan(CLASSES, steps=9)
    whole = train(Stage("loop", tmp_path / "whole", checkpoint_seconds=0.0))
    with pytest.raises(Killed):
        train(Fragile("loop", tmp_path / "pieces", checkpoint_seconds=0.0, at=7))  # the rates fall from step 5 on
    kept = tmp_path / "pieces" / "checkpoint.safetensors"
    content = load_state(kept)
    content["state"] = {name: value for name, value in content["state"].items() if not name.startswith("schedule")}
    for name in ("optimizer_g", "optimizer_d"):
        for group in content["state"][name]["param_groups"]:
            group["lr"] = 123.0
    save_state(kept, content)
    pieces = train(Stage("loop", tmp_path / "pieces", checkpoint_seconds=0.0))
    expected, found = whole.state_dict(), pieces.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class Counter(nn.Module):
    """Sums the steps it has seen, in an order-dependent way."""

    def __init__(self) -> None:
        super().__init__()
        self.total = nn.Parameter(torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def add(self, step: int) -> None:
        self.total.mul_(3).add_(step).remainder_(1009)


def count(stage: Stage, steps: int = 10, stop: int | None = None) -> Counter:
    counter = Counter()
    for step in stage.steps(steps, counter=counter):
        counter.add(step)
        stage.report(4, loss=torch.tensor(1.0 / (step + 1)))
        if step == stop:
            raise Killed
    return counter


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gankd.runs, "LOG_STEPS", 1)


@pytest.mark.usefixtures("every_step")
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    whole = count(Stage("s", tmp_path / "whole", checkpoint_seconds=0.0))
    with pytest.raises(Killed):
        count(Stage("s", tmp_path / "cut", checkpoint_seconds=0.0), stop=6)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    stage = Stage("s", tmp_path / "cut", checkpoint_seconds=0.0)
    assert count(stage).total == whole.total
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (tmp_path / "cut" / "metrics.jsonl").read_text() == lines
    assert stage.history == [json.loads(line) for line in lines.splitlines()]


@pytest.mark.usefixtures("every_step")
def test_only_what_follows_the_last_checkpoint_is_repeated(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        count(Stage("s", tmp_path, checkpoint_seconds=0.0), stop=6)
    assert load_state(tmp_path / "checkpoint.safetensors")["step"] == 6
    stage = Stage("s", tmp_path)
    assert list(stage.steps(10, counter=Counter())) == [6, 7, 8, 9]
    with pytest.raises(Killed):  # no checkpoint was due: all is repeated
        count(Stage("s", tmp_path / "new"), stop=6)
    assert next(Stage("s", tmp_path / "new").steps(10, counter=Counter())) == 0
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == ""


def test_time_is_counted_over_all_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def sit(stage: Stage, stop: int | None) -> None:
        for step in stage.steps(4, counter=Counter()):
            clock[0] += 10
            if step == stop:
                raise Killed

    with pytest.raises(Killed):
        sit(Stage("s", tmp_path, checkpoint_seconds=0.0), stop=2)
    clock[0] += 1000  # the machine was off
    stage = Stage("s", tmp_path, checkpoint_seconds=0.0)
    sit(stage, stop=None)
    clock[0] += 1
    stage.finish()
    assert stage.seconds == Stage("s", tmp_path).seconds == 41  # two steps kept, two after, and the end


def test_the_time_of_parts_and_of_what_comes_before_the_steps_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def sit(stop: int | None) -> Stage:
        stage = Stage("s", tmp_path, checkpoint_seconds=0.0)
        clock[0] += 1000  # between the making of a stage and its begin others may work
        stage.begin()
        clock[0] += 3
        for name, counted in (("a", True), ("b", True), ("else's", False)):
            for _ in stage.part(name, counted=counted).steps(2, counter=Counter()):
                clock[0] += 10
        clock[0] += 5
        for step in stage.steps(4, counter=Counter()):
            clock[0] += 100
            if step == stop:
                raise Killed
        return stage

    with pytest.raises(Killed):
        sit(stop=2)  # 200 seconds of steps are kept
    stage = sit(stop=None)  # the parts are there
    clock[0] += 1
    stage.finish()
    assert stage.seconds == Stage("s", tmp_path).seconds == 8 + 200 + 2 * 20 + 8 + 200 + 1


def test_a_part_that_was_not_looked_at_again_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for _ in Stage("s", tmp_path).part("a").steps(2, counter=Counter()):
        clock[0] += 10
    stage = Stage("s", tmp_path)
    stage.part("a")  # its result is a file, so that no step is taken
    stage.begin()
    clock[0] += 1
    stage.finish()
    assert stage.seconds == 21


def test_lines_are_written_every_so_often_and_at_the_end() -> None:
    stage = Stage("s")  # in memory only
    count(stage, steps=120)
    assert [line["step"] for line in stage.history] == [50, 100, 120]
    with pytest.raises(RunError, match="stage s has no folder to keep net.safetensors in; give the run a folder"):
        stage.path("net.safetensors")


class Tripwire(nn.Module):
    """Its loss becomes nan, or its weight infinite, at one step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    @torch.no_grad()
    def learn(self, step: int, poison: float, at: int) -> Tensor:
        self.weight.add_(poison if step == at else 1.0)
        return self.weight.sum()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("log_steps", [1, 1000])
def test_divergence_stops_the_stage_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float, log_steps: int
) -> None:
    monkeypatch.setattr(gankd.runs, "LOG_STEPS", log_steps)  # 1000: the loss is not read before the checkpoint
    stage, net = Stage("teacher", tmp_path, checkpoint_seconds=0.0), Tripwire()
    with pytest.raises(TrainingError, match="teacher: .* became (nan|inf|nan or inf) at step 5; ") as error:
        for step in stage.steps(10, net=net):
            stage.report(4, loss=net.learn(step, poison, at=4))
    assert "\n" not in str(error.value)
    assert "the last good checkpoint is kept" in str(error.value)
    kept = load_state(tmp_path / "checkpoint.safetensors")
    assert kept["step"] == 4
    assert kept["state"]["net"]["weight"].tolist() == [4.0] * 3


def test_the_last_loss_is_always_read() -> None:
    stage, net = Stage("teacher"), Tripwire()
    with pytest.raises(TrainingError, match="loss became nan at step 3"):
        for step in stage.steps(3, net=net):
            stage.report(4, loss=net.learn(step, float("nan"), at=2))


def test_real_training_that_diverges_is_stopped(tmp_path: Path) -> None:
    config = SupervisedConfig(updates=30, batch_size=8, optimizer="sgd", lr=10.0)
    model = cnn(VALUES)
    model.factor = 1e30  # gradients overflow at once
    with pytest.raises(TrainingError, match="the last good checkpoint is kept"):
        train_supervised(model, VALUES, VALUES, config, PLAIN, 0, Stage("s", tmp_path, checkpoint_seconds=0.0))
    kept = tmp_path / "checkpoint.safetensors"
    if kept.is_file():
        state = load_state(kept)["state"]["model"]
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


# --- runs ---------------------------------------------------------------------------------------------------


def test_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": (1, 2)}) == fingerprint({"a": [1, 2]})  # as config.json has it
    prints = {fingerprint("a", "b"), fingerprint("ab"), fingerprint("b", "a"), fingerprint(["a", "b"])}
    assert len(prints) == 4


CONFIG = SupervisedConfig(updates=3)


def test_a_finished_stage_is_reused_and_a_changed_one_starts_anew(tmp_path: Path) -> None:
    def stage(config: Any = CONFIG, name: str = "teacher", **inputs: str) -> Stage:
        return run.stage(name, config, {"data": "1", **inputs})

    with Run(tmp_path) as run:
        first = stage()
        done = [first.done]
        count(first)
        first.log(step=10, val_top1=90.0)
        write_json(first.path("extra.json"), [1])
        first.finish(top1=90.0)
        assert [*done, first.done] == [False, True]

    def content() -> dict[str, bytes]:
        assert first.folder is not None
        return {item.name: item.read_bytes() for item in first.folder.iterdir()}

    before = content()
    assert sorted(before) == ["config.json", "done.json", "extra.json", "metrics.jsonl"]
    described = json.loads(before["config.json"])
    assert described["config"]["updates"] == 3
    assert described["inputs"] == {"data": "1"}
    with Run(tmp_path) as run:
        again = stage()
        assert again.done
        assert again.result == {"top1": 90.0}
        assert again.history == first.history
        assert again.seconds == first.seconds
        others = [
            stage(SupervisedConfig(updates=4)),
            stage(data="2"),
            stage(more="3"),
            stage(name="student"),
        ]
        assert not any(other.done for other in others)
        folders = {item.folder for item in [first, *others]}
        assert len(folders) == 5
        for other in others:
            count(other)
            other.finish()
    assert content() == before


def test_a_stage_of_another_format_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Run(tmp_path) as run:
        run.stage("teacher", CONFIG, {}).finish()
        assert run.stage("teacher", CONFIG, {}).done
        monkeypatch.setattr(gankd.runs, "FORMAT", 99)
        assert not run.stage("teacher", CONFIG, {}).done


def test_a_folder_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        stage = run.stage("teacher", CONFIG, {})
        stage.begin()
        path = stage.path("config.json")
        for content, message in (
            ('{"fingerprint": "x"}', "does not describe this stage"),
            ("[]", "does not describe this stage"),
            ('{"finger', "is not readable JSON"),
        ):
            path.write_text(content)
            with pytest.raises(CheckpointError, match=message) as error:
                run.stage("teacher", CONFIG, {})
            assert str(path) in str(error.value)


def test_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        stage = run.stage("gan", CONFIG, {})
    one, two = stage.part("T1"), stage.part("T2")
    assert len({stage.folder, one.folder, two.folder}) == 3
    assert one.path("x").parent.parent == stage.path("x").parent
    assert len({stage.fingerprint, one.fingerprint, two.fingerprint}) == 3
    assert one.checkpoint_seconds == stage.checkpoint_seconds
    assert Stage("memory").part("T1").folder is None


def refused(folder: Path) -> str:
    with pytest.raises(RunError) as error, Run(folder):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with Run(tmp_path / "a"):
        expected = (
            f"run folder {tmp_path / 'a'} is in use by process {os.getpid()}; "
            "wait for it, stop it, or choose another --out"
        )
        assert refused(tmp_path / "a") == expected
        assert refused(tmp_path / "a") == expected  # the first attempt has not wiped the name
        with Run(tmp_path / "b"):
            pass
    with Run(tmp_path / "a"):
        pass
    with pytest.raises(Killed), Run(tmp_path / "a"):
        raise Killed
    with Run(tmp_path / "a"):
        pass


HOLDER = """
import sys
from pathlib import Path
from gankd.runs import Run

with Run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    source = str(Path(gankd.runs.__file__).parents[1])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"is in use by process {holder.pid}; " in refused(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with Run(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"run folder {tmp_path / 'file'} cannot be written: File exists" in refused(tmp_path / "file")


def test_work_without_training_steps_shows_progress_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    stage = Stage("synth", console=Console("json"))
    for done in (10, 20, 30, 40):
        clock[0] += 2.0
        stage.progress(done, 40)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["done"] for event in events] == [10, 40]  # one when due, and the last
    assert [event["images_per_second"] for event in events] == [5.0, 5.0]
    assert [event["seconds_left"] for event in events] == [6.0, 0.0]


def test_progress_reaches_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    count(Stage("teacher", console=Console("json")), steps=10)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["done"] == 1
    assert events[-1]["done"] == events[-1]["total"] == 10
    assert events[-1]["loss"] == pytest.approx(0.1)


def test_leftovers_of_a_kill_are_cleared(tmp_path: Path) -> None:
    stage = Stage("a", tmp_path / "a-1")
    count(stage)
    stage.finish()
    (tmp_path / "a-1" / "checkpoint.safetensors").touch()  # killed after done.json, before it was removed
    mine, left = tmp_path / ".notes.original", tmp_path / ".run.json.0a_b1c2d.part"
    mine.touch()
    left.touch()
    assert Stage("a", tmp_path / "a-1").done
    with Run(tmp_path):
        pass
    assert mine.exists()
    assert not left.exists()
    assert not (tmp_path / "a-1" / "checkpoint.safetensors").exists()


@pytest.mark.usefixtures("every_step")
def test_a_kill_while_the_log_is_rewritten_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        count(Stage("a", tmp_path, checkpoint_seconds=0.0), stop=6)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert before

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        count(Stage("a", tmp_path))
    assert (tmp_path / "metrics.jsonl").read_text() == before
