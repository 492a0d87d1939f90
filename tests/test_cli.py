"""The command line: what it prints where, and how it refuses what it cannot use."""

import fcntl
import inspect
import json
import os
import pickle
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gankd.cli
import gankd.recipes.teacher
from gankd.cli import main
from gankd.cli import recipe as opened
from gankd.cli.command import ENGINES, PROCESSES, TABLE, THREADS, TRACK, Command
from gankd.cli.options import RECIPE
from gankd.cli.parser import COMMANDS
from gankd.config import override
from gankd.console import Console
from gankd.recipes import RECIPES, Recipe
from gankd.recipes.config import DataConfig
from gankd.storage import load_state, save_state
from gankd.text import columns

Outcome = tuple[int, str, str]
Gankd = Callable[..., Outcome]
Refused = Callable[..., str]
SOURCE = str(Path(gankd.cli.__file__).parents[2])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def copied(digits_run: tuple[Recipe, Path]) -> Path:
    """A finished run to change at will."""
    return Path(shutil.copytree(digits_run[1], "runs/digits"))


# --- help, words, options -----------------------------------------------------------------------------------


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
    )


def test_help_comes_without_the_heavy_libraries() -> None:
    heavy = ("torch", "numpy", "pydantic", "sklearn", "scipy", "PIL", "matplotlib")
    ran = python(
        "import sys\nfrom gankd.cli import main\n"
        "for words in (['--help'], ['run', '--help'], ['--version'], ['rnu'], []):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert ran.stdout.splitlines()[-1] == "[]"
    assert "gankd run digits" in ran.stdout


@pytest.mark.parametrize("command", ["run", "teach", "eval", "sample", "resume", "demo", "evidence"])
def test_every_command_explains_itself(command: str, gankd: Gankd) -> None:
    code, out, err = gankd(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: gankd {command} ")
    assert "--json" in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_options_of_a_command_are_what_its_function_takes(command: Command) -> None:
    """With all options, and with no more than the command line asks for."""
    signature = inspect.signature(command.function)
    takes = signature.parameters
    by_itself = {"workers", "console"} & set(takes)
    if command.opens:
        by_itself |= {"folder"} | ({"recipe"} & set(takes))
    to_prepare = set(opened.NAMES) - set(takes) if command.opens == "recipe" else set()
    to_prepare |= {"target", "trust", "device"} - set(takes) if command.opens == "run" else set()
    assert len({option.name for option in command.options}) == len(command.options)
    must = [option for option in command.options if option.settings.get("required") or "default" in option.settings]
    must += [option for option in command.options if not option.flags[0].startswith("-")]
    for options in (command.options, must):
        apart = (PROCESSES, TABLE, THREADS, TRACK, *ENGINES)
        names = {option.name for option in options if option not in apart} - to_prepare
        signature.bind(**dict.fromkeys(names | by_itself))


def test_what_opens_a_recipe_knows_its_options() -> None:
    of_images = {field.name for field in fields(DataConfig)}
    assert set(opened.NAMES) - of_images < set(inspect.signature(opened.prepared).parameters)
    assert {option.name for option in RECIPE if option is not THREADS} <= set(opened.NAMES)


def test_every_option_is_explained() -> None:
    for command in COMMANDS:
        for option in command.options:
            assert len(option.settings["help"]) >= 8, (command.name, option.flags)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("data", "no action; choose fetch or show; see gankd data --help"),
        ("vkd", "no action; choose train, inspect, student, self, peers or table; see gankd vkd --help"),
        ("", "no command; try: gankd run digits (all commands: gankd --help)"),
        ("rnu digits", "no command 'rnu'; did you mean run?; see gankd --help"),
        ("digits", "no command 'digits'; known: advise, bench, bench-latency, bound, clean"),
        ("run", "the following arguments are required: RECIPE; see gankd run --help"),
        ("run digit", "no recipe and no run folder 'digit'; did you mean digits"),
        ("run digits --sedes 3", "gankd run has no option --sedes; did you mean --seeds"),
        ("run digits --seed 3", "gankd run has no option --seed; did you mean --seeds"),
        ("run digits --sedes=3", "gankd run has no option --sedes; did you mean --seeds"),
        ("--quiet run digits", "write --quiet after the command: gankd run ... --quiet; see gankd run --help"),
        ("run digits gan.steps=3", "unexpected 'gan.steps' (settings are given as --set NAME=VALUE)"),
        ("run digits --seeds many", "argument --seeds: invalid int value: 'many'"),
        ("run digits --seeds 0", "seeds must lie in 1..1000, got 0"),
        ("run digits --workers 0", "--workers must be at least 1, got 0"),
        ("run digits --time soon", "--time takes a time such as 45m, 2h or 1h30m, got 'soon'"),
        ("run digits --time 1h --quality best", "give --time or --quality, not both"),
        ("run digits --workers -1", "--workers must be at least 1, got -1"),
        ("run digits --arms real,row", "no arm 'row'; did you mean raw"),
        ("run folder --data . --task regresion", "no --task 'regresion'; did you mean regression"),
        ("eval digits", "no run in digits (it has no run.json); start one with: gankd run RECIPE"),
        ("eval digits --split train", "no --split 'train'; known: test, val"),
        ("resume .", "no run in . (it has no run.json)"),
        ("resume digits --set gan.steps=3", "gankd resume has no option --set"),
        ("sample . --labels 3", "no generator.safetensors in .; train one with: gankd gan RECIPE"),
        ("sample runs/digits", "the following arguments are required: --labels"),
        ("demo --seeds 0", "seeds must lie in 1..1000, got 0"),
        ("plan turntabel", "did you mean turntable?"),
    ],
)
def test_wrong_words(line: str, said: str, refused: Refused, tmp_path: Path) -> None:
    assert refused(*line.split()).startswith(said) or said in refused(*line.split())
    assert list(tmp_path.iterdir()) == []


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.num_train=0", "data.num_train must be at least 1 or be none, got 0"),
        ("data.num_train=100000", "num_train is 100000, but there are 8"),
        ("data.per_label=0", "data.per_label must be at least 1 or be none, got 0"),
        ("data.label_noise=2", "data.label_noise must lie in [0, 1], got 2"),
        ("data.label_noise=nan", "data.label_noise must lie in [0, 1], got nan"),
        ("data.size=16", "data.size is fixed for digits, got 16"),
        ("teacher.updates=0", "teacher.updates must be at least 1, got 0"),
        ("teacher.members=-1", "teacher.members must be at least 1, got -1"),
        ("teacher.lr=-0.1", "teacher.lr must lie in (0, 10], got -0.1"),
        ("teacher.weights=absent.pt", "no weights file absent.pt"),
        ("gan.steps=-5", "gan.steps must be at least 1, got -5"),
        ("gan.steps=1e30", "gan.steps must be at most 1000000000, got 1e+30"),
        ("gan.steps=true", "gan.steps must be a whole number, got True"),
        ("gan.steps=inf", "gan.steps must be at most 1000000000, got inf"),
        ("data.high=nan", "data.high must be finite or be none, got nan"),
        ("gan.width_g=0", "gan.width_g must be at least 1, got 0"),
        ("gan.lr_d=nan", "gan.lr_d must lie in (0, 1], got nan"),
        ("gan.loss=hing", "--set: gan.loss: Input should be 'hinge', 'logistic' or 'relativistic', got 'hing'"),
        ("ratio.epochs=0", "ratio.epochs must be at least 1, got 0"),
        ("ratio.dropout=[1.5]", "ratio.dropout must lie in [0, 1), got 1.5"),
        ("ratio.head=relu", "loss=logistic learns log-ratios and needs head=log, got relu"),
        ("synth.pool=-1", "synth.pool must be at least 2, got -1"),
        ("select.rho=1.5", "select.rho must lie in (0, 1] or be none, got 1.5"),
        ("select.accept_share=0", "select.accept_share must lie in (0, 1], got 0"),
        ("select.count=0", "select.count must be at least 1 or be none, got 0"),
        ("student.batch_size=1", "student.batch_size must be at least 2, got 1"),
        ("student.fake_share=-1", "student.fake_share must lie in (0, 1], got -1"),
        ("student.loss=KD(T=0)", "KD: T must be positive, got 0"),
        ("seeds=5000", "seeds must lie in 1..1000, got 5000"),
        ("device=gpu", "device must be auto, cpu or cuda, got 'gpu'"),
        ("precision=fp16", "--set: precision: Input should be 'auto', 'fp32' or 'bf16', got 'fp16'"),
        ("gan.stepps=3", "--set: no setting gan.stepps; did you mean steps or d_steps?"),
        ("gann.steps=3", "--set: no group of settings gann in gann.steps; did you mean gan?"),
        ("gan=3", "--set: gan is a group of settings; write gan.NAME=VALUE"),
        ("gan.steps", "--set: expected NAME=VALUE, for example gan.steps=500; got 'gan.steps'"),
        ("gan.steps=many", "gan.steps must be a whole number, got 'many'"),
        ("gan.flip=3", "--set: gan.flip: Input should be a valid boolean"),
        ("teacher.model=restnet20", "no model 'restnet20'; did you mean resnet20"),
        ("teacher.model=nowhere:Net", "cannot import 'nowhere' for model nowhere:Net: No module named 'nowhere'"),
        ("student.model=cnn9", "no model 'cnn9'; did you mean cnn"),
    ],
)
def test_wrong_settings(setting: str, said: str, refused: Refused, tmp_path: Path) -> None:
    """Refused before anything is trained."""
    assert refused("run", "digits", "--set", setting).replace(f"{Path.cwd()}/", "").startswith(said)
    assert not list(tmp_path.glob("runs/digits/*-*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no settings file my.toml"),
        ("gan = {steps = 3", "my.toml: not a readable TOML file: "),
        ("[gan]\nstepps = 3", "my.toml: no setting gan.stepps; did you mean steps or d_steps?"),
        ("[gan]\nsteps = -3", "gan.steps must be at least 1, got -3"),
        ('[gan]\nsteps = "x"', "gan.steps must be a whole number, got 'x'"),
        ("gan = 3", "my.toml: gan is a group of settings"),
    ],
)
def test_settings_files(text: str | None, said: str, refused: Refused) -> None:
    if text is not None:
        Path("my.toml").write_text(text)
    assert refused("run", "digits", "--config", "my.toml").startswith(said)


# --- the user's images --------------------------------------------------------------------------------------


def paint(path: Path, size: int = 8, mode: str = "L", level: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), level if mode == "L" else (level, 0, level)).save(path)


def pets(count: int = 12) -> Path:
    """Bright and dark images of two classes."""
    for name, level in (("a dog", 30), ("катя", 220)):
        for number in range(count):
            paint(Path("my photos ü") / name / f"image {number} ß.png", level=level + number)
    return Path("my photos ü")


def table(text: str) -> Path:
    for number in range(12):
        paint(Path("angles") / f"{number}.png", level=20 * number)
    (Path("angles") / "labels.csv").write_text(text)
    return Path("angles")


def rows(*labels: object) -> str:
    return "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels))


IMAGES: dict[str, tuple[Callable[[], Path], str]] = {
    "missing path": (lambda: Path("absent"), "no folder .*absent; expected a folder with .*; check the path"),
    "a file": (lambda: paint(Path("x.png")) or Path("x.png"), "x.png is a file; expected a folder"),  # type: ignore[func-returns-value]
    "empty folder": (lambda: Path("empty").mkdir() or Path("empty"), "empty: expected .* got no images; "),  # type: ignore[func-returns-value]
    "unreadable": (lambda: changed("image 3 ß.png", b"no picture"), "1 of 24 images cannot be read, first .*image 3"),
    "truncated": (lambda: changed("image 3 ß.png", 45), "1 of 24 images cannot be read, first .*image 3"),
    "zero bytes": (lambda: changed("image 3 ß.png", b""), "image 3 ß.png: an empty file \\(0 bytes\\); replace or"),
    "mixed sizes": (lambda: repainted(size=12), "expected images of one size, got .* of 12x12 and .* of 8x8 pixels"),
    "odd size": (lambda: repainted(count=24, size=10), "expected a multiple of 4 .* of 10x10; add --size"),
    "mixed channels": (lambda: repainted(mode="RGB"), "expected all grey or all colour, got .*; add --channels rgb"),
    "one image": (lambda: pets(1), "expected at least 3 images of class a dog to share .*, got 1"),
    "no columns": (lambda: table("name,angle\n" + rows(*range(12))), "expected a column image .*, got name, angle"),
    "no label": (lambda: table("image,lable\n" + rows(*range(12))), "expected a column label .*did you mean label"),
    "nan": (lambda: table("image,angle\n" + rows(1.5, "nan", *range(10))), "labels.csv line 3: no label for 1.png"),
    "inf": (lambda: table("image,angle\n" + rows("inf", *range(11))), "line 2: expected a finite label"),
    "text": (lambda: table("image,angle\n" + rows("up", *range(11))), "line 2: expected a number as label, got 'up'"),
    "equal": (lambda: table("image,angle\n" + rows(*[4.5] * 12)), "expected different labels, got 4.5 for all of 12"),
    "no file": (lambda: table("image,angle\n" + rows(*range(13))), "line 14: no image file 12.png in .*angles"),
}


def changed(name: str, content: bytes | int) -> Path:
    folder = pets()
    path = folder / "a dog" / name
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    return folder


def repainted(count: int = 1, **options: Any) -> Path:
    folder = pets()
    for path in sorted(folder.rglob("*.png"))[:count]:
        paint(path, **options)
    return folder


@pytest.mark.parametrize("case", IMAGES)
def test_images_that_cannot_be_used(case: str, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    make, said = IMAGES[case]
    folder = make()
    monkeypatch.setattr(gankd.recipes.teacher, "train_supervised", None)
    assert re.search(said, refused("run", "folder", "--data", folder))
    assert not Path("runs").exists()


def test_a_published_table_is_no_recipe(refused: Refused) -> None:
    assert refused("run", "cifar100-table3") == (
        "cifar100-table3 is a published table; run it with: gankd bench cifar100-table3"
    )
    assert "did you mean cifar100-table3" in refused("plan", "cifar100-tabl3")


def test_data_belongs_to_the_recipe_folder(refused: Refused) -> None:
    assert refused("run", "folder") == "the recipe folder needs --data PATH, the folder of your images"
    assert refused("run", "digits", "--data", pets()) == "--data is for recipes that read files; digits is embedded"
    assert refused("run", "my photos ü") == (
        "my photos ü is not a run folder (it has no run.json); for your own images: gankd run folder --data my photos ü"
    )
    assert refused("run", "folder", "--data", pets(), "--size", 7).startswith("size must be a multiple of 4 from 8")


def test_own_images_from_any_folder(
    tiny: tuple[str, ...], gankd: Gankd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [word for setting in tiny if "num_train" not in setting for word in ("--set", setting)]
    words = ["--data", pets(), "--out", "odd name ß", "--quiet", "--set", "teacher.updates=5"]
    assert gankd("teach", "folder", *settings, *words)[0] == 0
    assert gankd("teach", "folder", *settings, *words)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    code, out, _ = gankd("plan", "../odd name ß", "--json")
    assert code == 0
    assert json.loads(out)["stages"][0]["status"] == "reuse"


# --- the user's network -------------------------------------------------------------------------------------


def test_networks_that_do_not_fit(tiny: tuple[str, ...], refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("odd_nets.py").write_text(
        "import torch\n"
        "class Narrow(torch.nn.Module):\n"
        "    def __init__(self, num_outputs): super().__init__()\n"
        "    def forward(self, x): return x.flatten(1)[:, :3]\n"
        "class Raises(Narrow):\n"
        "    def forward(self, x): raise ZeroDivisionError('by nought')\n"
        "class Unbuilt(torch.nn.Module):\n"
        "    def __init__(self): 1 / 0\n"
        "number = 3\n"
    )
    settings = [word for setting in tiny for word in ("--set", setting)]
    expected = {
        "teacher.model=odd_nets:Narrow": "teacher odd_nets:Narrow gives outputs of shape (2, 3) for 2 images; ",
        "student.model=odd_nets:Narrow": "student odd_nets:Narrow gives outputs of shape (2, 3) for 2 images; ",
        "teacher.model=odd_nets:Raises": "teacher odd_nets:Raises fails on images of shape (1, 8, 8): "
        "ZeroDivisionError by nought",
        "teacher.model=odd_nets:Unbuilt": "model odd_nets:Unbuilt cannot be built with {}: division by zero",
        "teacher.model=odd_nets:Narow": "no 'Narow' in module odd_nets; did you mean Narrow?",
        "teacher.model=odd_nets:number": "odd_nets:number is a int, expected a class or function",
    }
    for setting, said in expected.items():
        assert refused("run", "digits", *settings, "--set", setting, "--quiet").startswith(said)


def test_a_network_that_fails_later_is_told_in_one_line(tiny: tuple[str, ...], refused: Refused) -> None:
    Path("late_nets.py").write_text(
        "import torch\n"
        "class Late(torch.nn.Module):\n"
        "    def __init__(self, in_channels, image_size, num_outputs):\n"
        "        super().__init__()\n"
        "        self.layer, self.calls = torch.nn.Linear(in_channels * image_size**2, num_outputs), 0\n"
        "    def forward(self, x):\n"
        "        self.calls += self.training\n"
        "        if self.calls > 3: raise KeyError('broken at step 4')\n"
        "        return self.layer(x.flatten(1))\n"
    )
    settings = [word for setting in tiny for word in ("--set", setting)]
    for which in ("teacher", "student"):
        line = refused("run", "digits", *settings, "--set", f"{which}.model=late_nets:Late", "--quiet", "--workers", 1)
        assert line.startswith(
            f"{which} late_nets:Late fails while it is trained: KeyError 'broken at step 4' (late_nets.py, line 8); "
        )


def test_a_teacher_at_chance_level(tiny: tuple[str, ...], refused: Refused) -> None:
    settings = [word for setting in tiny for word in ("--set", setting)]
    said = refused("run", "digits", *settings, "--set", "teacher.updates=1", "--quiet")
    assert re.match("teacher cnn8 is at chance level: top1 .* a constant guess has .*; train it longer", said)


def test_memory_that_is_not_there(
    digits_run: tuple[Recipe, Path], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: Any, **__: Any) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("gankd.commands.stages.evaluate", greedy)
    assert re.match("out of memory \\(.*allocate.*\\); choose a smaller width", refused("eval", digits_run[1]))


# --- files --------------------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def stored(copied: Path, pattern: str) -> Path:
    (path,) = copied.glob(pattern)
    return path


def test_files_that_run_code_are_never_loaded(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    Path("g.safetensors").write_bytes(pickle.dumps({"a": [1]}, 4))
    assert "g.safetensors is a pickle or zip archive, which can run code" in refused(
        "sample", "g.safetensors", "--labels", 1
    )
    torch.save(Harmful(), "net.pt")
    said = refused("teach", "digits", "--set", "teacher.weights=net.pt")
    assert said.startswith(
        f"{Path.cwd()}/net.pt holds pickled code (print), which is never run; save only its state_dict"
    )
    assert "code ran" not in capsys.readouterr().out


def test_files_of_another_kind_or_version(copied: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = stored(copied, "gan-*/generator.safetensors")
    content = load_state(generator)
    with monkeypatch.context() as other:
        other.setattr("gankd.storage.FORMAT", 99)
        save_state(generator, content)
    for words in (("sample", copied, "--labels", 1), ("report", copied)):
        assert "has format 99, this version reads 1; use the gankd that wrote it" in refused(*words)
    generator.write_bytes(generator.read_bytes()[:1000])
    for words in (("sample", copied, "--labels", 1), ("report", copied)):
        assert "generator.safetensors is truncated or damaged" in refused(*words)
    assert "is not a generator" in refused("sample", stored(copied, "ratio-*/ratio.safetensors"), "--labels", 1)
    (copied / "run.json").write_text("{")
    for command in ("resume", "run", "plan", "eval"):
        assert "run.json is damaged: " in refused(command, copied)


def test_a_truncated_checkpoint(copied: Path, refused: Refused, gankd: Gankd) -> None:
    stage = stored(copied, "student-real-0-*")
    (stage / "done.json").unlink()
    save_state(stage / "checkpoint.safetensors", {"step": 3, "state": {}})
    (stage / "checkpoint.safetensors").write_bytes((stage / "checkpoint.safetensors").read_bytes()[:50])
    said = refused("resume", copied, "--workers", 1, "--quiet")
    assert re.search("student-real-0-.*/checkpoint.safetensors is truncated or damaged .*; .*delete", said)
    shutil.rmtree(stage)
    assert gankd("resume", copied, "--workers", 1, "--quiet")[0] == 0


def test_out_is_a_file(refused: Refused) -> None:
    Path("file").write_text("")
    assert refused("teach", "digits", "--out", "file") == (
        "file is a file, expected a run folder; choose another --out"
    )
    assert refused("teach", "digits", "--out", "file/run") == (
        "run folder file/run cannot be written: Not a directory; choose another --out"
    )
    long = "x" * 300
    assert refused("teach", "digits", "--out", long).startswith(f"cannot use {long}: File name too long; ")
    assert refused("teach", "file").startswith("file is not a run folder")


def test_a_disk_too_small_for_the_set(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=10**5)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = refused("run", "digits", "--quiet")
    assert re.match("runs/digits: the images need .* GB and the disk has 0.00 GB free; free some space", said)


# --- what people and scripts see ----------------------------------------------------------------------------


def test_json_is_all_that_scripts_read(copied: Path, gankd: Gankd) -> None:
    shutil.rmtree(stored(copied, "student-real-0-*"))
    code, out, err = gankd("run", copied, "--json", "--workers", 1)
    assert (code, err) == (0, "")

    def strict(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    events = [json.loads(line, parse_constant=strict) for line in out.splitlines()]
    assert {event["event"] for event in events[:-1]} == {"progress", "message"}
    assert events[-1]["event"] == "result"
    assert len(events[-1]["arms"]) == 8
    for words in (("eval",), ("report",), ("plan",), ("teach",), ("synth",), ("resume",)):
        code, out, err = gankd(*words, copied, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out.splitlines()[-1], parse_constant=strict)["event"] == "result"


def test_quiet_prints_the_result_alone(copied: Path, gankd: Gankd) -> None:
    shutil.rmtree(stored(copied, "student-real-0-*"))
    code, out, err = gankd("run", copied, "--quiet", "--workers", 1)
    assert (code, err) == (0, "")
    assert out.startswith("top-1 accuracy in %")
    assert f"report: {copied / 'report.html'}" in out.splitlines()
    assert gankd("gan", copied, "--quiet")[1].startswith("gan: folder ")
    assert gankd("report", copied, "--quiet") == (0, f"{copied / 'report.html'}\n", "")


def test_without_a_terminal_there_are_plain_lines(copied: Path, gankd: Gankd) -> None:
    shutil.rmtree(stored(copied, "student-real-0-*"))
    code, out, err = gankd("run", copied, "--workers", 1)
    assert code == 0
    assert "\r" not in out + err
    assert err.splitlines()[0] == "students           1 to train, 1 at a time"
    assert "student-real-0" in err
    assert "student-real-0" not in out


def test_demo_and_evidence(
    digits_run: tuple[Recipe, Path],
    angles_run: tuple[Recipe, Path],
    gankd: Gankd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RECIPES, "digits", lambda: digits_run[0])
    monkeypatch.setitem(RECIPES, "rotated-digits", lambda: angles_run[0])
    shutil.copytree(digits_run[1], "demo/digits")
    shutil.copytree(angles_run[1], "demo/rotated-digits")
    result = json.loads(gankd("demo", "--out", "demo", "--seeds", 2, "--json")[1].splitlines()[-1])
    assert [run["recipe"] for run in result["runs"]] == ["digits", "rotated-digits"]
    assert result["report"] == "demo/report.html"
    assert Path("demo/report.html").is_file()

    monkeypatch.setattr("gankd.commands.showcase.EVIDENCE", ("digits", "rotated-digits"))
    for name in ("report.gather.gather", "report.page.write_report"):
        monkeypatch.setattr(f"gankd.{name}", lambda *_: None)  # pages again would take seconds
    monkeypatch.setattr("gankd.commands.showcase._index", lambda *_: (Path("demo/report.html"), 83.0))
    code, out, err = gankd("evidence", "--out", "demo", "--docs", "docs", "--seeds", 2, "--pipelines", 1, "--quiet")
    assert (code, err) == (0, "")
    assert "\ndigits\ntop-1 accuracy" in out
    assert "\nrotated-digits\nmean absolute error" in out
    assert out.splitlines()[-2] == "report: docs/evidence.md"
    rows = json.loads(Path("docs/evidence.json").read_text())
    names = (
        "recipe task arm control metric higher_is_better seeds mean control_mean diff ci_low ci_high updates seconds"
    )
    assert " ".join(rows[0]) == names
    assert "## Where generated images help" in Path("docs/evidence.md").read_text()
    assert "Computing time of all stages: 1m23s." in Path("docs/evidence.md").read_text()


class Terminal:
    """A terminal of so many columns."""

    def __init__(self, width: int) -> None:
        self._reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.stream = os.fdopen(writer, "w")

    def lines(self) -> list[str]:
        """What it was sent, each line as all that was written over each other."""
        self.stream.close()
        text = b""
        with suppress(OSError):  # Linux's way to say that the other side is closed
            while chunk := os.read(self._reader, 10_000):
                text += chunk
        os.close(self._reader)
        return text.decode().replace("\r\n", "\n").split("\n")


def test_a_live_line_fits_its_terminal_and_ends_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(50)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    console = Console("auto")
    assert console.mode == "live"
    assert columns(sys.stderr) == 50
    for done in (1, 2):
        console.progress("students", done, 3, 1234.0, 100.0, {"loss": 0.5, "label": 0.25, "teacher": 0.125})
    with pytest.raises(SystemExit):
        main(["rnu"])
    console.progress("gan", 1, 3, 1.0, 1.0, {})
    console.say("a line longer than the terminal, which may well be wrapped since it stays")
    progress, error, message, end = terminal.lines()
    written = progress.split("\r")
    assert all(len(line) < 50 for line in written)
    assert written[-1].startswith("students            67%  1,234 img/s")
    assert error.startswith("gankd: no command 'rnu'")
    assert message.split("\r")[-1].startswith("a line longer")
    assert end == ""


def test_the_result_stands_on_a_line_of_its_own(copied: Path, gankd: Gankd, monkeypatch: pytest.MonkeyPatch) -> None:
    (stored(copied, "ratio-*") / "done.json").unlink()
    terminal = Terminal(80)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    code, out, _ = gankd("ratio", copied)
    assert code == 0
    assert out.startswith("ratio: folder ")
    lines = terminal.lines()
    assert lines[0].split("\r")[-1].startswith("ratio ")
    assert lines[-1] == ""


def test_a_reader_that_leaves_early_is_no_error(
    digits_run: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as leaving:
        main(["eval", str(digits_run[1])])
    assert leaving.value.code == 141
    assert capsys.readouterr().err == ""
    with suppress(BrokenPipeError):
        stream.close()


def test_paths_hold_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be gone on with in another folder than the one where it was started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakes.npz").touch()
    recipe = override(
        RECIPES["imagenet100"](),
        ["data.root=in", "data.class_list=list.txt", "teacher.weights=w.pt", "gan.external=fakes.npz"],
    )
    found = opened.with_absolute_paths(recipe)
    own = [found.data.root, found.data.class_list, found.teacher.weights, found.gan.external]
    assert own == [str(tmp_path / name) for name in ("in", "list.txt", "w.pt", "fakes.npz")]
    for external in ("my_nets:make", "diffusers:FOLDER"):
        named = override(recipe, [f"gan.external={external}"])
        assert opened.with_absolute_paths(named).gan.external == external


@pytest.mark.parametrize("end", ["SystemExit(0)", "GeneratorExit", "KeyboardInterrupt"])
def test_a_network_that_ends_the_process_when_it_is_called_is_named(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gankd: Gankd
) -> None:
    module = f"ending_{end[:6].lower()}"
    (tmp_path / f"{module}.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n"
        f"    def forward(self, x): raise {end}\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = gankd("inspect", f"{module}:Net", "cnn4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{module}.py, line 4, raises {end[:6]}" in err


def test_a_command_under_nohup_outlives_its_terminal(gankd: Callable[..., Outcome]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            main(["--version"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
