"""`gankd vkd` from the command line: each action end to end on tiny data, and with wrong values."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gankd.commands.vkd_table
from gankd.bench.results import ArmResult, Comparison, with_intervals
from gankd.bench.stats import paired_interval
from gankd.recipes.arms import Arm
from gankd.storage import NOTES
from gankd.tasks import Classification, Regression, Task
from gankd.virtual import VirtualTeacher

Outcome = tuple[int, str, str]
VIRTUAL = ("virtual.warmup=10", "virtual.every=2", "virtual.polish=15", "virtual.batch_size=32", "virtual.bins=12")


@pytest.fixture
def vkd(gankd: Callable[..., Outcome], tiny: tuple[str, ...], tmp_path: Path) -> Callable[..., str]:
    """`gankd vkd ACTION RECIPE` with tiny settings in one folder; what it prints."""

    def call(action: str, recipe: str, *words: object) -> str:
        settings = [word for change in (*tiny, *VIRTUAL) for word in ("--set", change)]
        count = ["--seeds", 2, "--workers", 1] if action in ("student", "self", "peers", "table") else []
        line = ["vkd", action, recipe, "--out", tmp_path / recipe, "--quiet", *settings, *count, *words]
        code, out, err = gankd(*line)
        assert (code, err) == (0, ""), err
        return out

    return call


def result(out: str) -> dict[str, Any]:
    """The last of the JSON lines, with what came out."""
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert found.pop("event") == "result"
    return found


def test_train_and_inspect(vkd: Callable[..., str], tmp_path: Path) -> None:
    facts = result(vkd("train", "digits", "--json"))
    file = Path(facts["file"])
    assert file.stat().st_size / 1000 == facts["kilobytes"] < 100
    virtual = VirtualTeacher.load(file)
    assert virtual.num_parameters == facts["parameters"]
    text = vkd("inspect", "digits")
    assert "VKD as reconstructed from its abstract" in text
    assert "class means, total variation" in text
    for name in ("virtual", "gauss", "bank", "table", "virtual, test images"):
        assert any(line.startswith(f"{name} ") and " of 9" in line for line in text.splitlines())
    found = result(vkd("inspect", "digits", "--json"))
    assert len(found["virtual"]["gates"]) == len(found["stand_ins"]["bank"]["gates"]) == 9


def test_resume_does_not_take_a_vkd_command_for_a_run(
    vkd: Callable[..., str], refused: Callable[..., str], tmp_path: Path
) -> None:
    vkd("train", "digits")
    line = refused("resume", tmp_path / "digits")
    assert "was last used by gankd vkd train; run that command again, and it resumes" in line
    assert list((tmp_path / "digits").glob("gan-*")) == []


def test_a_file_from_elsewhere_leaves_no_trace_in_the_run(
    vkd: Callable[..., str], gankd: Callable[..., Outcome], refused: Callable[..., str], tmp_path: Path
) -> None:
    vkd("train", "digits")
    (file,) = (tmp_path / "digits").glob("virtual-*/virtual.safetensors")
    loss = ("--loss", 'SoftTargets@virtual(draws=4, policy="hint")')
    line = refused("vkd", "student", "digits", "--from", file, "--out", tmp_path / "b", *loss, "--quiet")
    assert "only the teacher's own run keeps hints of the training images" in line  # before any training
    assert list((tmp_path / "b").glob("student-*")) == []
    file.write_bytes(file.read_bytes()[:2000])
    assert "truncated" in refused("vkd", "student", "digits", "--from", file, "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_teacher_with_its_virtual_one_in_one_command(
    gankd: Callable[..., Outcome], tiny: tuple[str, ...], tmp_path: Path
) -> None:
    settings = [word for change in (*tiny, *VIRTUAL) for word in ("--set", change)]
    code, out, err = gankd("teach", "digits", "--virtual", "--out", tmp_path, "--quiet", *settings)
    assert (code, err) == (0, "")
    assert "top1" in out
    assert "virtual.safetensors" in out
    assert len(list(tmp_path.glob("teacher-*/done.json"))) == len(list(tmp_path.glob("virtual-*/done.json"))) == 1


def test_students_stand_beside_their_controls(vkd: Callable[..., str], tmp_path: Path) -> None:
    found = result(vkd("student", "digits", "--json"))
    titles = [row["title"] for row in found["rows"]]
    controls = ["labels only", "label smoothing", "KD as in the recipe", "the teacher itself", "table"]
    assert titles == [*controls, "virtual", "virtual, best of 8"]
    rows = dict(zip(titles, found["rows"], strict=True))
    assert rows["virtual"]["loss"] == "0.1*Label + 0.9*SoftTargets(T=4)@virtual"
    assert len({row["updates"] for row in found["rows"]}) == 1
    values = {title: [metrics["top1"] for metrics in row["metrics"]] for title, row in rows.items()}
    interval = paired_interval(values["virtual"], values["table"], higher_is_better=True)
    assert rows["virtual"]["gains"]["table"] == vars(interval)
    # A loss of one's own has its table beside it; the file alone is enough, and no teacher is trained.
    (file,) = (tmp_path / "digits").glob("virtual-*/virtual.safetensors")
    loss = "Label + 0.5*DKD@virtual(draws=2)"
    own = result(vkd("student", "digits", "--from", file, "--out", tmp_path / "b", "--loss", loss, "--json"))
    assert [row["title"] for row in own["rows"]] == ["labels only", "with @table instead", loss]
    assert own["rows"][1]["loss"] == "Label + 0.5*DKD@table"
    assert list((tmp_path / "b").glob("teacher-*")) == []


def test_values(vkd: Callable[..., str]) -> None:
    text = vkd("inspect", "rotated-digits")
    assert "VKD as reconstructed" in text
    found = result(vkd("student", "rotated-digits", "--json"))
    losses = {row["title"]: row["loss"] for row in found["rows"]}
    assert losses["virtual"] == "Label + 0.001*Distribution@virtual"
    assert losses["table"] == "Label + 0.001*Distribution@table"


def test_self_and_peers(vkd: Callable[..., str]) -> None:
    found = result(vkd("self", "digits", "--json"))
    assert [row["loss"] for row in found["rows"]] == ["Label", "LS", "0.9*CE + 0.1*TfKD", "Label + SelfVKD"]
    peers = result(vkd("peers", "digits", "--networks", "cnn4,cnn8", "--json"))
    assert [(peer["network"], peer["seed"]) for peer in peers["peers"]] == [
        ("cnn4", 0),
        ("cnn8", 0),
        ("cnn4", 1),
        ("cnn8", 1),
    ]
    text = vkd("peers", "digits")  # one more of its kind
    assert "peer cnn4, seed 1: top1 " in text


def test_peers_that_exchange_files(vkd: Callable[..., str], gankd: Callable[..., Outcome], tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "broken.safetensors").write_bytes(b"half a file")
    longer = ("--set", "student.updates=130", "--exchange", shared)
    vkd("peers", "digits", *longer, "--name", "a")
    vkd("peers", "digits", *longer, "--name", "b", "--set", "student.model=cnn8")
    for name in "ab":
        assert VirtualTeacher.load(shared / f"{name}.safetensors").facts["final"]
    lines = [json.loads(line) for path in tmp_path.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    assert {line["problem"] for line in lines if "problem" in line and "broken" in line["problem"]}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "no action; choose train, inspect"),
        (["trian", "digits"], "no command|no .*'trian'; did you mean train"),
        (
            ["train", "digits", "--set", "virtual.temperature=0"],
            r"virtual.temperature must lie in \[0.01, 100\] or be none, got 0",
        ),
        (["train", "digits", "--set", "virtual.preset=fast"], "no setting virtual.preset"),
        (["train", "digits", "--preset", "fast"], "no --preset 'fast'"),
        (["student", "digits", "--loss", "KD@virtuell"], "no source @virtuell; did you mean virtual"),
        (["student", "digits", "--loss", "FitNet@virtual"], "reads teacher_features, which only the teacher"),
        (["student", "digits", "--loss", "LS@virtual"], "reads no teacher"),
        (["student", "digits", "--loss", "KD@virtual(8)"], "settings of @virtual are written NAME=VALUE"),
        (["student", "digits", "--from", "gone.safetensors"], "no virtual teacher .*gone.safetensors"),
        (["self", "rotated-digits"], "gankd vkd self is for classes"),
        (["peers", "digits", "--networks", "cnn9"], "no model 'cnn9'; did you mean"),
        (["peers", "digits", "--exchange", "shared"], "--exchange FOLDER and --name NAME go together"),
        (["peers", "digits", "--exchange", "s", "--name", "a"], "s is not a folder; create it where all peers can"),
        (["peers", "digits", "--exchange", ".", "--name", "a b"], "name of letters, digits"),
        (["peers", "rotated-digits"], "gankd vkd peers is for classes"),
        (["student", "rotated-digits", "--loss", "KD@virtual"], "write Distribution@"),
        (["student", "digits", "--loss", "KD@virtual@table"], r"reads @virtual already; one loss reads one source"),
        (["train", "digits", "--set", "virtual.width=0"], "virtual.width must be at least 1 or be none, got 0"),
        (["table", "rotated-digits"], "gankd vkd table is for classes"),
    ],
)
def test_wrong_values(
    words: list[str], problem: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("vkd", *words)
    assert re.search(problem, line), line


def test_the_table_tunes_on_validation_images_and_keeps_its_notes(
    vkd: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gankd.commands.vkd_table, "WEIGHTS", (0.5,))
    monkeypatch.setattr(gankd.commands.vkd_table, "SMOOTHING", (0.1,))
    monkeypatch.setattr(gankd.commands.vkd_table, "SET_WEIGHTS", (1.0,))
    page = tmp_path / "vkd.md"
    text = vkd("table", "digits", "--page", page)
    facts = json.loads(page.with_suffix(".json").read_text())["digits"]
    # The form with the higher validation score is chosen, by seeds that the table does not have.
    for title, loss in facts["chosen"].items():
        mine = {one["loss"]: (one["validation"], -one["nll"]) for one in facts["tried"] if one["source"] == title}
        assert loss == max(mine, key=lambda name: mine[name])
    rows = {row["title"]: row for row in facts["table"]["rows"]}
    assert set(facts["chosen"]) < set(rows)
    assert rows["KD + virtual"]["loss"].count("@") == 1  # @teacher is what a loss reads anyway
    for each in facts["contrasts"]:
        values = [[one["top1"] for one in rows[title]["metrics"]] for title in (each["first"], each["second"])]
        assert each["gain"] == vars(paired_interval(*values, higher_is_better=True)), each
    assert "A12" in text
    assert "rank of 16" in text
    page.write_text(page.read_text().split(NOTES)[0] + NOTES + "\nWhy so.\n")
    vkd("table", "digits", "--page", page)
    assert page.read_text().endswith(f"{NOTES}\nWhy so.\n")
    assert page.read_text().count("## digits") == 1


@pytest.mark.parametrize(
    ("task", "metric", "second", "better"),
    [
        (Classification(num_classes=3), "top1", "nll", "two"),
        (Regression(low=0.0, high=99.0), "mae", "rmse", "one"),
    ],
)
def test_arms_are_compared_by_seed(task: Task, metric: str, second: str, better: str) -> None:
    """The control that an arm is compared with, also by a metric of which less is better."""

    def arm(name: str, *values: tuple[float, float]) -> ArmResult:
        own = Arm(name=name, title=f"students of {name}", role="control" if name == "one" else "step")
        metrics = tuple({metric: a, second: b} for a, b in values)
        return ArmResult(arm=own, seeds=(0, 1), metrics=metrics, metric=metric, updates=10, seconds=1.5)

    both = arm("one", (90, 0.5), (92, 0.4)), arm("two", (91, 0.7), (95, 0.6))
    found = Comparison(with_intervals(both, task), task)
    sign = 1 if better == "two" else -1
    assert found.gain("two", "one").diff == 2 * sign
    assert found.gain("one", "two").diff == -2 * sign
    assert found.result("two").vs == {"one": found.gain("two", "one")}
    assert found.result("one").vs == {}
    gain = f"{2 * sign:+.2f} ["
    assert gain in found.text
    assert f"| students of two | 93.00 ± 2.00 | 0.65 ± 0.05 | {gain}" in found.markdown
    assert "against students of one" in found.text.splitlines()[2]
